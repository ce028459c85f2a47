// The C++ of cpu.py: steering, Fourier transforms over the group, and their transposes, for channels-last maps.
//
// Plain loops over fixed-size vectors (GCC's and Clang's vector extensions), OpenMP over rows; no library, no header of
// PyTorch. Sums run in float32 (float64 for float64), in an order that does not depend on the number of threads.

#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

typedef int64_t i64;
struct bf16 { uint16_t bits; };

template <class A, int V> struct Pack { typedef A type __attribute__((vector_size(V * sizeof(A)))); };
template <class A, int V> using vec = typename Pack<A, V>::type;

template <class A, int V> static inline vec<A, V> load(const A* p) {
  vec<A, V> v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class A, int V> static inline vec<A, V> load(const bf16* p) {
  typedef vec<uint16_t, V> half;
  typedef vec<uint32_t, V> word;
  half h;
  memcpy(&h, p, sizeof h);
  return (vec<A, V>)(__builtin_convertvector(h, word) << 16);
}
template <class A, int V> static inline void store(A* p, vec<A, V> v) { memcpy(p, &v, sizeof v); }
template <class A, int V> static inline void store(bf16* p, vec<A, V> v) {  // rounds to nearest, ties to even
  typedef vec<uint16_t, V> half;
  typedef vec<uint32_t, V> word;
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
  if constexpr (V == 16) {
    auto h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &h, sizeof h);
    return;
  } else if constexpr (V == 8) {
    auto h = _mm256_cvtneps_pbh((__m256)v);
    memcpy(p, &h, sizeof h);
    return;
  }
#endif
  word w = (word)v;
  w += 0x7fffu + ((w >> 16) & 1u);
  half h = __builtin_convertvector(w >> 16, half);
  memcpy(p, &h, sizeof h);
}
static inline float widen(float x) { return x; }
static inline double widen(double x) { return x; }
static inline float widen(bf16 x) {
  uint32_t w = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &w, 4);
  return f;
}
static inline void narrow(float x, float* p) { *p = x; }
static inline void narrow(double x, double* p) { *p = x; }
static inline void narrow(float x, bf16* p) {
  uint32_t w;
  memcpy(&w, &x, 4);
  p->bits = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
}

// x (n, H, W, F*G), rows y0 to y1, to lanes: out[base[l] + stride[l] * pixel + f] = sum_h U[l][h] x[f*G + h];
// pixel counts on a grid of (n, rows, Wp) with an offset of pad rows and columns. F is padded with zeros to Fp.
template <class T, class S, class A, int V, int GT>
static void analyse(const T* x, S* out, const A* U, const i64* base, const i64* stride, i64 n, i64 H, i64 W, i64 y0,
                    i64 y1, i64 rows, i64 Wp, i64 pad, i64 F, i64 Fp, i64 g, int threads) {
  const i64 G = GT ? GT : g;
#pragma omp parallel num_threads(threads)
  {
    std::vector<A> buffer(G * Fp, A(0));
    A* t = buffer.data();
#pragma omp for collapse(2) schedule(static)
    for (i64 i = 0; i < n; i++)
      for (i64 y = y0; y < y1; y++)
        for (i64 c = 0; c < W; c++) {
          const T* from = x + ((i * H + y) * W + c) * F * G;
          const i64 pixel = (i * rows + y - y0 + pad) * Wp + c + pad;
          for (i64 f = 0; f < F; f++)
            for (i64 h = 0; h < G; h++) t[h * Fp + f] = widen(from[f * G + h]);
          for (i64 f = 0; f < Fp; f += V)
            for (i64 l = 0; l < G; l++) {
              vec<A, V> sum = U[l * G] * load<A, V>(t + f);
              for (i64 h = 1; h < G; h++) sum += U[l * G + h] * load<A, V>(t + h * Fp + f);
              store<A, V>(out + base[l] + stride[l] * pixel + f, sum);
            }
        }
  }
}

// The transpose: y[f*G + h] = sum_l U[l][h] lanes[l][f].
template <class S, class T, class A, int V, int GT>
static void synthesise(const S* in, T* y, const A* U, const i64* base, const i64* stride, i64 n, i64 H, i64 W, i64 y0,
                       i64 y1, i64 rows, i64 Wp, i64 pad, i64 F, i64 Fp, i64 g, int threads) {
  const i64 G = GT ? GT : g;
#pragma omp parallel num_threads(threads)
  {
    std::vector<A> buffer(G * Fp, A(0)), lanes(G * V);
    A *t = buffer.data(), *v = lanes.data();
#pragma omp for collapse(2) schedule(static)
    for (i64 i = 0; i < n; i++)
      for (i64 r = y0; r < y1; r++)
        for (i64 c = 0; c < W; c++) {
          T* to = y + ((i * H + r) * W + c) * F * G;
          const i64 pixel = (i * rows + r - y0 + pad) * Wp + c + pad;
          for (i64 f = 0; f < Fp; f += V) {
            for (i64 l = 0; l < G; l++)
              store<A, V>(v + l * V, load<A, V>(in + base[l] + stride[l] * pixel + f));
            for (i64 h = 0; h < G; h++) {
              vec<A, V> sum = U[h] * load<A, V>(v);
              for (i64 l = 1; l < G; l++) sum += U[l * G + h] * load<A, V>(v + l * V);
              store<A, V>(t + h * Fp + f, sum);
            }
          }
          for (i64 f = 0; f < F; f++)
            for (i64 h = 0; h < G; h++) narrow(t[h * Fp + f], to + f * G + h);
        }
  }
}

// Filter values on the symmetrised taps (see steer): three of frequency 0, two of frequency 1, two of frequency 2.
template <class A> struct Filters {
  A zero[3][6], one[2][2][6], two[2][2][3];
};

template <class A, int V> struct Taps {  // of one lane: T[v][h], v, h = centre, even 1, even 2, odd 1, odd 2
  vec<A, V> t[5][5];
};

template <class A, int V> static inline void filter(const Taps<A, V>& T, const Filters<A>& c, vec<A, V>* out) {
  typedef vec<A, V> v;
  const auto& t = T.t;
  const v s[6] = {t[0][0], t[0][1] + t[1][0], t[1][1], t[0][2] + t[2][0], t[1][2] + t[2][1], t[2][2]};
  const v d[3] = {t[0][1] - t[1][0], t[0][2] - t[2][0], t[1][2] - t[2][1]};
  const v o[3] = {t[3][3], t[3][4] + t[4][3], t[4][4]};
  for (int i = 0; i < 3; i++) {
    v sum = c.zero[i][0] * s[0];
    for (int k = 1; k < 6; k++) sum += c.zero[i][k] * s[k];
    out[i] = sum;
  }
  for (int r = 0; r < 2; r++) {  // v odd and h even, then v even and h odd
    v a = c.one[r][0][0] * t[3][0], b = c.one[r][1][0] * t[0][3];
    for (int k = 1; k < 6; k++) {
      a += c.one[r][0][k] * t[3 + k / 3][k % 3];
      b += c.one[r][1][k] * t[k % 3][3 + k / 3];
    }
    out[3 + 2 * r] = a, out[4 + 2 * r] = b;
    v e = c.two[r][0][0] * d[0], f = c.two[r][1][0] * o[0];
    for (int k = 1; k < 3; k++) e += c.two[r][0][k] * d[k], f += c.two[r][1][k] * o[k];
    out[7 + 2 * r] = e, out[8 + 2 * r] = f;
  }
}

template <class A, int V> static inline void unfilter(const vec<A, V>* in, const Filters<A>& c, Taps<A, V>& T) {
  typedef vec<A, V> v;
  auto& t = T.t;
  v s[6], d[3], o[3];
  for (int k = 0; k < 6; k++) s[k] = c.zero[0][k] * in[0] + c.zero[1][k] * in[1] + c.zero[2][k] * in[2];
  for (int k = 0; k < 3; k++) {
    d[k] = c.two[0][0][k] * in[7] + c.two[1][0][k] * in[9];
    o[k] = c.two[0][1][k] * in[8] + c.two[1][1][k] * in[10];
  }
  for (int k = 0; k < 6; k++) {
    t[3 + k / 3][k % 3] = c.one[0][0][k] * in[3] + c.one[1][0][k] * in[5];
    t[k % 3][3 + k / 3] = c.one[0][1][k] * in[4] + c.one[1][1][k] * in[6];
  }
  t[0][0] = s[0], t[1][1] = s[2], t[2][2] = s[5];
  t[0][1] = s[1] + d[0], t[1][0] = s[1] - d[0];
  t[0][2] = s[3] + d[1], t[2][0] = s[3] - d[1];
  t[1][2] = s[4] + d[2], t[2][1] = s[4] - d[2];
  t[3][3] = o[0], t[3][4] = t[4][3] = o[1], t[4][4] = o[2];
}

struct Shape {
  i64 n, y0, y1, W, Hp, Wp, Fp, pairs;
};

// lanes xh (pairs, n, Hp, Wp, 2, Fp) to the 22 products of each pair of lanes with the harmonics.
template <class T, class A, int V>
static void steer(const A* xh, T* z, const Filters<A>& c, const i64* base, const i64* stride, const A* sign,
                  const i64* raw, Shape s, int threads) {
  typedef vec<A, V> v;
  const i64 nf = s.Fp / V, rows = s.y1 - s.y0, line = s.Wp * 2 * s.Fp;
#pragma omp parallel num_threads(threads)
  {
    std::vector<A> ring(nf * 50 * V);
#pragma omp for collapse(3) schedule(static)
    for (i64 i = 0; i < s.n; i++)
      for (i64 y = s.y0; y < s.y1; y++)
        for (i64 p = 0; p < s.pairs; p++) {
          const A* from = xh + ((p * s.n + i) * s.Hp + y) * line;
          const i64 *b = base + 22 * p, *st = stride + 22 * p;
          const A* sg = sign + 4 * p;
          for (i64 x = 0; x < s.Wp; x++) {
            const i64 pixel = (i * rows + y - s.y0) * s.W + x - 4;
            for (i64 f = 0; f < nf; f++) {
              v out[2][11];
              for (int lane = 0; lane < 2; lane++) {
                A* mine = ring.data() + (2 * f + lane) * 25 * V;
                const A* q = from + (2 * x + lane) * s.Fp + f * V;
                v a[5];
                for (int k = 0; k < 5; k++) a[k] = load<A, V>(q + k * line);
                A* column = mine + x % 5 * 5 * V;
                store<A, V>(column, a[2]);
                store<A, V>(column + V, a[3] + a[1]);
                store<A, V>(column + 2 * V, a[4] + a[0]);
                store<A, V>(column + 3 * V, a[3] - a[1]);
                store<A, V>(column + 4 * V, a[4] - a[0]);
                if (x < 4) continue;
                const A* at[5];
                for (int k = 0; k < 5; k++) at[k] = mine + (x + k + 1) % 5 * 5 * V;
                Taps<A, V> taps;
                for (int k = 0; k < 5; k++) {
                  v l2 = load<A, V>(at[0] + k * V), l1 = load<A, V>(at[1] + k * V), m = load<A, V>(at[2] + k * V),
                    r1 = load<A, V>(at[3] + k * V), r2 = load<A, V>(at[4] + k * V);
                  taps.t[k][0] = m, taps.t[k][1] = r1 + l1, taps.t[k][2] = r2 + l2;
                  taps.t[k][3] = r1 - l1, taps.t[k][4] = r2 - l2;
                }
                filter<A, V>(taps, c, out[lane]);
              }
              if (x < 4) continue;
              auto put = [&](int slot, v value) { store<A, V>(z + b[slot] + st[slot] * pixel + f * V, value); };
              for (int k = 0; k < 3; k++) put(2 * k, out[0][k]), put(2 * k + 1, out[1][k]);
              for (int j = 0; j < 4; j++) {
                const v wc = out[0][3 + 2 * j], ws = out[0][4 + 2 * j], uc = out[1][3 + 2 * j], us = out[1][4 + 2 * j];
                const A s1 = sg[j / 2 * 2], s2 = sg[j / 2 * 2 + 1];
                const int k = 6 + 4 * j;
                if (raw[p])
                  put(k, wc), put(k + 1, s1 * ws), put(k + 2, uc), put(k + 3, s2 * us);
                else
                  put(k, wc - us), put(k + 1, s1 * (uc + ws)), put(k + 2, wc + us), put(k + 3, s2 * (ws - uc));
              }
            }
          }
        }
  }
}

// The transpose of steer, added to dxh.
template <class T, class A, int V>
static void unsteer(const T* dz, A* dxh, const Filters<A>& c, const i64* base, const i64* stride, const A* sign,
                    const i64* raw, Shape s, int threads) {
  typedef vec<A, V> v;
  const i64 nf = s.Fp / V, rows = s.y1 - s.y0, line = s.Wp * 2 * s.Fp;
#pragma omp parallel for collapse(3) schedule(static) num_threads(threads)
  for (i64 i = 0; i < s.n; i++)
    for (i64 p = 0; p < s.pairs; p++)
      for (i64 f = 0; f < nf; f++) {
        const i64 *b = base + 22 * p, *st = stride + 22 * p;
        const A* sg = sign + 4 * p;
        v ring[2][5][5];
        for (i64 y = s.y0; y < s.y1; y++) {
          A* to = dxh + ((p * s.n + i) * s.Hp + y) * line + f * V;
          memset(ring, 0, sizeof ring);
          for (i64 x = 0; x < s.Wp; x++) {
            if (x < s.W) {
              const i64 pixel = (i * rows + y - s.y0) * s.W + x;
              auto get = [&](int slot) { return load<A, V>(dz + b[slot] + st[slot] * pixel + f * V); };
              v in[2][11];
              for (int k = 0; k < 3; k++) in[0][k] = get(2 * k), in[1][k] = get(2 * k + 1);
              for (int j = 0; j < 4; j++) {
                const int k = 6 + 4 * j;
                const A s1 = sg[j / 2 * 2], s2 = sg[j / 2 * 2 + 1];
                const v r1 = get(k), i1 = s1 * get(k + 1), r2 = get(k + 2), i2 = s2 * get(k + 3);
                v &wc = in[0][3 + 2 * j], &ws = in[0][4 + 2 * j], &uc = in[1][3 + 2 * j], &us = in[1][4 + 2 * j];
                if (raw[p])
                  wc = r1, ws = i1, uc = r2, us = i2;
                else
                  wc = r1 + r2, us = r2 - r1, uc = i1 - i2, ws = i1 + i2;
              }
              for (int lane = 0; lane < 2; lane++) {
                Taps<A, V> taps;
                unfilter<A, V>(in[lane], c, taps);
                for (int k = 0; k < 5; k++) {
                  const auto& t = taps.t[k];
                  ring[lane][x % 5][k] += t[2] - t[4];
                  ring[lane][(x + 1) % 5][k] += t[1] - t[3];
                  ring[lane][(x + 2) % 5][k] += t[0];
                  ring[lane][(x + 3) % 5][k] += t[1] + t[3];
                  ring[lane][(x + 4) % 5][k] = t[2] + t[4];
                }
              }
            }
            for (int lane = 0; lane < 2; lane++) {
              v* done = ring[lane][x % 5];
              A* q = to + (2 * x + lane) * s.Fp;
              const v add[5] = {done[2] - done[4], done[1] - done[3], done[0], done[1] + done[3], done[2] + done[4]};
              for (int k = 0; k < 5; k++) store<A, V>(q + k * line, load<A, V>(q + k * line) + add[k]);
            }
          }
        }
      }
}

#define ALL(NAME, G, ...)                                    \
  switch (G) {                                               \
    case 4: return NAME<__VA_ARGS__, 4> CALL;                \
    case 8: return NAME<__VA_ARGS__, 8> CALL;                \
    case 16: return NAME<__VA_ARGS__, 16> CALL;              \
    default: return NAME<__VA_ARGS__, 0> CALL;               \
  }
#define TRANSFORM(NAME, NAME2, T, S, A)                                                                              \
  extern "C" void NAME2(const T* in, S* out, const A* U, const i64* base, const i64* stride, i64 n, i64 H, i64 W,     \
                        i64 y0, i64 y1, i64 rows, i64 Wp, i64 pad, i64 F, i64 Fp, i64 G, int threads) {              \
    if (Fp % 16 == 0 && sizeof(A) == 4) ALL(NAME, G, T, S, A, 16) else ALL(NAME, G, T, S, A, 8)                      \
  }
#define CALL (in, out, U, base, stride, n, H, W, y0, y1, rows, Wp, pad, F, Fp, G, threads)
TRANSFORM(analyse, analyse_float_float, float, float, float)
TRANSFORM(analyse, analyse_bfloat16_float, bf16, float, float)
TRANSFORM(analyse, analyse_bfloat16_bfloat16, bf16, bf16, float)
TRANSFORM(analyse, analyse_double_double, double, double, double)
TRANSFORM(synthesise, synthesise_float_float, float, float, float)
TRANSFORM(synthesise, synthesise_float_bfloat16, float, bf16, float)
TRANSFORM(synthesise, synthesise_bfloat16_bfloat16, bf16, bf16, float)
TRANSFORM(synthesise, synthesise_double_double, double, double, double)
#define STEER(SUFFIX, T, A)                                                                                          \
  extern "C" void steer_##SUFFIX(const A* xh, T* z, const Filters<A>* c, const i64* base, const i64* stride,          \
                                 const A* sign, const i64* raw, Shape s, int threads) {                              \
    if (s.Fp % 16 == 0 && sizeof(A) == 4) steer<T, A, 16>(xh, z, *c, base, stride, sign, raw, s, threads);           \
    else steer<T, A, 8>(xh, z, *c, base, stride, sign, raw, s, threads);                                             \
  }                                                                                                                  \
  extern "C" void unsteer_##SUFFIX(const T* dz, A* dxh, const Filters<A>* c, const i64* base, const i64* stride,      \
                                   const A* sign, const i64* raw, Shape s, int threads) {                            \
    if (s.Fp % 16 == 0 && sizeof(A) == 4) unsteer<T, A, 16>(dz, dxh, *c, base, stride, sign, raw, s, threads);       \
    else unsteer<T, A, 8>(dz, dxh, *c, base, stride, sign, raw, s, threads);                                         \
  }
STEER(float, float, float)
STEER(bfloat16, bf16, float)
STEER(double, double, double)
