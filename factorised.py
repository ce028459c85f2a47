"""Steerable convolutions (regular to regular, 5 x 5) without their filter banks: steer, transform, mix.

All kernels of a group lie in the span of 11 circular harmonics f_j(r) exp(i m phi): three of frequency m = 0, two of
m = 1, two of m = 2. With X^ the Fourier transform over the group of each field, a layer is, exactly,

  1. X^[k] = sum_h rho_k(h) X[h]                  G x G, fixed, per pixel and field
  2. Z = (f_j exp(i m phi)) * X^                  11 fixed filters on each of the G lanes
  3. numbers of frequency m + k and m - k         sums and differences of those of 2
  4. Y^[k] = W_k Z[k]                             one matrix product per irrep: the layer's weights
  5. the transform of 1 backwards

which is derived in docs/factorised.md. Steps 1, 2, 3 and 5 are C++ loops (steering.py), compiled once per machine;
without a compiler there is no factorised layer, and the dense one does the same. For GPUs: triton_steering.py.

References
  Weiler & Cesa 2019, General E(2)-Equivariant Steerable CNNs, arXiv:1911.08251, section 2
"""

import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import triton_steering
from steering import SOURCE

FILTERS = 11  # the harmonics: three of frequency 0, then (cos, sin) twice for frequency 1 and twice for frequency 2
SLOTS = 2 * FILTERS  # what a pair of lanes gives
TILE = 2**24  # bytes of steered lanes at a time
OVERHEAD = (
    1000  # what steering and transforming a number costs, in products of the mixing: measured, docs/factorised.md
)
WIDTH = 8  # fields are padded to a multiple of it
TYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}  # stored: summed
NAMES = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float64: "double"}  # in the compiled functions
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-w"]

log = logging.getLogger(__name__)


# --- algebra ------------------------------------------------------------------------------------------------


def harmonics(kernels: Tensor) -> Tensor:
    """The circular harmonics that span `kernels` (..., 5, 5): (11, 5, 5) float64, angles from the mirror axis.

    The profiles f_j(r) are found as those whose harmonics lie in the span. Raises ValueError where there aren't
    three of frequency 0 and two of frequency 1 that, with those two at frequency 2, span the kernels.
    """
    size = kernels.shape[-1]
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    x, y = axis.expand(size, size), -axis[:, None].expand(size, size)
    squares, angle = x * x + y * y, torch.atan2(y, x) - math.pi / 2
    values, vectors = torch.linalg.svd(kernels.flatten(0, -3).flatten(1), full_matrices=False)[1:]
    span = vectors[values > 1e-8 * values[0]]  # (R, k*k)

    def waves(m: int) -> Tensor:
        """cos and sin on each ring of pixels, (1 or 2, rings, k*k)."""
        rings = torch.stack([(squares == r).double() for r in squares.unique() if m == 0 or r > 0])
        rings /= rings.sum((1, 2), keepdim=True).sqrt()
        both = (torch.cos(m * angle), torch.sin(m * angle))[: 1 + (m > 0)]
        return torch.stack([(rings * wave).flatten(1) for wave in both])

    def profiles(m: int) -> Tensor:
        outside = waves(m) - waves(m) @ span.T @ span
        distance, profile = torch.linalg.eigh((outside @ outside.mT).sum(0))
        return profile.T[distance < 1e-12]  # (found, rings)

    centre, others = profiles(0), profiles(1)
    found = [centre @ waves(0)[0], *((others @ waves(m)).transpose(0, 1).flatten(0, 1) for m in (1, 2))]
    found = torch.cat(found)
    if size != 5 or len(centre) != 3 or len(others) != 2 or _outside(span, found) > 1e-9:
        raise ValueError("the kernels are not spanned by 11 harmonics on 5 x 5 pixels")
    return found.unflatten(1, (size, size))


def _outside(vectors: Tensor, span: Tensor) -> float:
    return (vectors - vectors @ torch.linalg.pinv(span) @ span).abs().max().item()


def fourier(N: int, mirrored: bool) -> tuple[Tensor, list[int]]:
    """The orthogonal transform over the group, (G, G) float64, and the frequency of each pair of its rows.

    Rows come in pairs, real and imaginary part of a number that a turn by a multiplies with exp(i k a) and a mirror
    conjugates: for D_N each frequency 0 < k < N/2 twice, frequencies 0 and N/2 as the two irreps that they split
    into. For C_N the first pair is the two real irreps, 0 and N/2.
    """
    turns = torch.arange(N, dtype=torch.float64) * 2 * math.pi / N
    cos, sin = (lambda k: torch.cos(k * turns)), (lambda k: torch.sin(k * turns))
    if not mirrored:
        rows, pairs = [cos(0) / math.sqrt(2), cos(N // 2) / math.sqrt(2)], [0]
        for k in range(1, N // 2):
            rows, pairs = [*rows, cos(k), sin(k)], [*pairs, k]
        return torch.stack(rows) * math.sqrt(2 / N), pairs
    rows, pairs = [], []
    for k in range(N // 2 + 1):
        c, s = cos(k), sin(k)
        if k in (0, N / 2):
            rows, pairs = [*rows, torch.cat((c, c)) / math.sqrt(2), torch.cat((c, -c)) / math.sqrt(2)], [*pairs, k]
        else:
            rows += [torch.cat(two) for two in ((c, c), (s, s), (-s, s), (c, -c))]
            pairs += [k, k]
    return torch.stack(rows) / math.sqrt(N), pairs


class _Slots:
    """Gives each steered number its place: (irrep, row, column) in that irrep's matrix."""

    def __init__(self, N: int, mirrored: bool):
        self.N, self.mirrored, self.used = N, mirrored, {}

    def irrep(self, k: int, imaginary: bool) -> tuple[int, int]:
        """(frequency, which of the two that it splits into for a mirrored group)."""
        return (k, int(imaginary and self.mirrored and k in (0, self.N / 2)))

    def real(self, irrep: tuple[int, int], rows: int = 1) -> list[tuple]:
        column = self.used.get(irrep, 0)
        self.used[irrep] = column + 1
        return [(irrep, row, column) for row in range(rows)]

    def complex(self, k: int) -> tuple[list[tuple], int]:
        """The places of both parts of a number of frequency k, and the sign of the second."""
        k, sign = k % self.N, 1
        if 2 * k > self.N:
            k, sign = self.N - k, -1
        if self.mirrored and k not in (0, self.N / 2):
            return self.real((k, 0), rows=2), sign  # both parts share the weights: an irrep of real type
        return self.real(self.irrep(k, False)) + self.real(self.irrep(k, True)), sign


@dataclass
class Factorisation:
    """How the kernels of one group factorise.

    filters: (11, 5, 5); transform: (G, G); signs: (G/2, 2, 2) of the imaginary parts, per frequency m and product;
    raw: (G/2,) whether the two lanes of a pair are irreps of their own; slots: SLOTS places per pair of lanes;
    lanes: G places; irreps: {(frequency, which): (rows, columns per input field, columns per output field)};
    mixing: (b, sum over irreps of columns in x out), which maps coefficients of the basis to entries.
    """

    filters: Tensor
    transform: Tensor
    signs: Tensor
    raw: Tensor
    slots: list
    lanes: list
    irreps: dict
    mixing: Tensor

    def __post_init__(self):
        self.key = triton_steering.register(self)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def order(self) -> int:
        return len(self.transform)

    @property
    def products(self) -> int:
        """Products of the mixing per pixel and pair of fields."""
        return sum(rows * wide * out for rows, wide, out in self.irreps.values())

    def __deepcopy__(self, memo: dict) -> "Factorisation":
        return self  # nothing in it changes: the layers of a network, and its copies, share it


def factorise(kernels: Tensor, N: int, mirrored: bool) -> Factorisation | None:
    """The factorisation of a basis (b, G, G_in, k, k) float64 of C_N or D_N.

    None where there is none: trivial input, kernels of another size, C_N of odd N. Raises ValueError for kernels that
    don't commute with the group.
    """
    order = (1 + mirrored) * N
    if kernels.shape[1:] != (order, order, 5, 5) or order % 2:
        return None
    filters, (transform, pairs) = harmonics(kernels), fourier(N, mirrored)
    raw = [not mirrored and k == 0 for k in pairs]
    places = _Slots(N, mirrored)
    slots, signs, products = [], torch.ones(len(pairs), 2, 2, dtype=torch.float64), []
    for pair, k in enumerate(pairs):
        mine, signs[pair], table = _products(places, k, raw[pair])
        slots.append(mine)
        products.append(torch.zeros(SLOTS, FILTERS, order, dtype=torch.float64))
        products[-1][:, :, 2 * pair : 2 * pair + 2] = table
    lanes = _lanes(N, mirrored, pairs)
    coefficients = kernels.flatten(3) @ torch.linalg.pinv(filters.flatten(1))  # (b, G, G, 11)
    mixing = torch.einsum("lg,bghs,kh->blsk", transform, coefficients, transform).flatten(2)  # (b, G, 11*G)
    mixing = mixing @ torch.linalg.inv(torch.cat(products).flatten(1))  # (b, G, slots)
    irreps = {}
    for irrep, width in sorted(places.used.items()):
        own = [place for place in lanes if place[0] == irrep]
        irreps[irrep] = (1 + max(row for _, row, _ in own), width, 1 + max(column for _, _, column in own))
    entries = _entries(mixing, lanes, [place for mine in slots for place in mine], irreps)
    return Factorisation(filters, transform, signs, torch.tensor(raw), slots, lanes, irreps, entries)


def _products(places: _Slots, k: int, raw: bool) -> tuple[list, Tensor, Tensor]:
    """Places, signs (2, 2) and table (SLOTS, 11, 2 lanes) of the products that a pair of frequency k gives."""
    half, mine = places.N // 2, []
    signs, table = torch.ones(2, 2, dtype=torch.float64), torch.zeros(SLOTS, FILTERS, 2, dtype=torch.float64)
    for i in range(3):
        mine += places.real((0, 0)) + places.real((half, 0)) if raw else places.complex(k)[0]
        table[2 * i, i, 0] = table[2 * i + 1, i, 1] = 1
    for j in range(4):
        m, cos, sin, slot = 1 + j // 2, 3 + 2 * j, 4 + 2 * j, 6 + 4 * j
        first, s1 = places.complex(m + k)
        second, s2 = places.complex(m + half if raw else m - k)
        mine += first + second
        signs[m - 1] = torch.tensor([s1, s2])
        rows = table[slot : slot + 4]
        if raw:  # z a and z b of real a and b
            rows[0, cos, 0], rows[1, sin, 0], rows[2, cos, 1], rows[3, sin, 1] = 1, s1, 1, s2
        else:  # z w and z conj(w)
            rows[0, cos, 0], rows[0, sin, 1], rows[1, cos, 1], rows[1, sin, 0] = 1, -1, s1, s1
            rows[2, cos, 0], rows[2, sin, 1], rows[3, sin, 0], rows[3, cos, 1] = 1, 1, s2, -s2
    return mine, signs, table


def _lanes(N: int, mirrored: bool, pairs: list[int]) -> list[tuple]:
    """The place (irrep, row, column) of each row of the transform."""
    places, lanes = _Slots(N, mirrored), []
    for k in pairs:
        raw = not mirrored and k == 0
        lanes += places.real((0, 0)) + places.real((N // 2, 0)) if raw else places.complex(k)[0]
    return lanes


def _entries(mixing: Tensor, lanes: list, slots: list, irreps: dict) -> Tensor:
    """The independent entries of the block-diagonal `mixing` (b, G, slots), (b, sum of columns in x out)."""
    blocks = {irrep: mixing.new_zeros(len(mixing), wide, out) for irrep, (_, wide, out) in irreps.items()}
    for lane, (irrep, row, column) in enumerate(lanes):
        for slot, place in enumerate(slots):
            if place[:2] == (irrep, row) and row == 0:
                blocks[irrep][:, place[2], column] = mixing[:, lane, slot]
    again = torch.zeros_like(mixing)
    for lane, (irrep, row, column) in enumerate(lanes):
        for slot, place in enumerate(slots):
            if place[:2] == (irrep, row):
                again[:, lane, slot] = blocks[irrep][:, place[2], column]
    if (again - mixing).abs().max() > 1e-9 * mixing.abs().max():
        raise ValueError("the kernels do not commute with the group")
    return torch.cat([block.flatten(1) for block in blocks.values()], 1)


# --- the compiled loops -------------------------------------------------------------------------------------


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n", "y0", "y1", "width", "rows", "columns", "fields", "pairs")]


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled loops, built on first use into the user's cache folder; None where that isn't possible."""
    try:
        path = _cached()
        if not path.exists():
            _build(path)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # damaged
            _build(path)
            return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.debug("convolutions stay dense: %s", error)
        return None


def _compiler() -> list[str]:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not found or sys.platform == "win32":
        raise OSError("no C++ compiler was found")
    return found.split()


def _cached() -> Path:
    """Where the library is kept: its name tells source, compiler, flags and processor."""
    target = [SOURCE, platform.machine(), _processor(), *_compiler(), *FLAGS]
    name = hashlib.sha256("\n".join(target).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lens-darkmatter"
    return folder / f"steering-{name}.so"


def _build(path: Path) -> None:
    """Two processes may do so at once: each in a folder of its own, moved into place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        source, built = Path(scratch) / "steering.cpp", Path(scratch) / "steering.so"
        source.write_text(SOURCE)
        subprocess.run([*_compiler(), *FLAGS, str(source), "-o", str(built)], check=True, capture_output=True)
        os.replace(built, path)


def _processor() -> str:
    """What the processor can do: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


# --- the layer ----------------------------------------------------------------------------------------------


def _padded(fields: int) -> int:
    return -(-fields // WIDTH) * WIDTH


def blocks(weight: Tensor, mixing: Tensor, plan: Factorisation) -> list[Tensor]:
    """The matrix of each irrep, (columns in * padded fields in, columns out * padded fields out), from the
    coefficients (F_out, F_in, b). Differentiable."""
    fields_out, fields_in, b = weight.shape
    entries = (weight.reshape(-1, b) @ mixing).view(fields_out, fields_in, -1)
    margins = (0, _padded(fields_out) - fields_out, 0, 0, 0, _padded(fields_in) - fields_in)
    shapes = [(wide, out) for _, wide, out in plan.irreps.values()]
    pieces = entries.split([wide * out for wide, out in shapes], 2)
    # (F_out, F_in, wide * out) -> (wide, F_in, out, F_out)
    pieces = [piece.unflatten(2, shape).permute(2, 1, 3, 0) for piece, shape in zip(pieces, shapes, strict=True)]
    return [F.pad(piece, margins).flatten(2).flatten(0, 1) for piece in pieces]


class _Lanes:
    """Where steered (or transformed) numbers of a tile of `pixels` lie: one matrix per irrep in one buffer."""

    def __init__(self, plan: Factorisation, which: str, pixels: int, fields: int):
        places = plan.lanes if which == "lanes" else [place for mine in plan.slots for place in mine]
        base, self.shapes, total = {}, [], 0
        for irrep, (rows, wide, out) in plan.irreps.items():
            width = (out if which == "lanes" else wide) * fields
            base[irrep] = total, rows, width
            self.shapes.append((pixels * rows, width))
            total += pixels * rows * width
        self.total = total
        self.base = _table([base[i][0] + row * base[i][2] + column * fields for i, row, column in places])
        self.stride = _table([base[i][1] * base[i][2] for i, _, _ in places])

    def split(self, buffer: Tensor) -> list[Tensor]:
        pieces = buffer[: self.total].split([rows * width for rows, width in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]


def _table(values: list[int]) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class Work:
    """One layer on inputs (n, F_in*G, H, W) of one type: calls the loops tile by tile."""

    def __init__(self, plan: Factorisation, x: Tensor, matrices: list[Tensor], fields_out: int, padding: int):
        self.plan, self.padding, self.matrices = plan, padding, matrices
        self.dtype, self.sums = x.dtype, TYPES[x.dtype]
        self.batch, channels, self.height, self.width = x.shape
        self.fields_in, self.fields_out = channels // plan.order, fields_out
        self.rows_out, self.columns_out = self.height + 2 * padding - 4, self.width + 2 * padding - 4
        self.grid = self.height + 2 * padding, self.width + 2 * padding
        self.wide, self.wide_out = _padded(self.fields_in), _padded(fields_out)
        self.pairs, self.threads = plan.order // 2, torch.get_num_threads()
        self.transform = plan.transform.to(self.sums).contiguous()
        self.filters = _packed(plan.filters).to(self.sums)
        self.signs, self.raw = plan.signs.to(self.sums).contiguous(), plan.raw.to(torch.int64)
        pixel = FILTERS * plan.order * self.wide * x.element_size()  # bytes of one steered pixel
        pixels = max(1, TILE // pixel)
        self.group = max(1, min(self.batch, pixels // (self.rows_out * self.columns_out)))  # images at once
        self.tile = max(1, min(self.rows_out, pixels // (self.group * self.columns_out)))  # their rows at once
        self.cache = {}

    def images(self) -> list[tuple[int, int]]:
        """(first, count) of the images worked on together."""
        return [(first, min(self.group, self.batch - first)) for first in range(0, self.batch, self.group)]

    def rows(self) -> list[tuple[int, int]]:
        """(first, last + 1) of the output rows of these images worked on together."""
        return [(first, min(first + self.tile, self.rows_out)) for first in range(0, self.rows_out, self.tile)]

    def lanes(self, which: str, n: int, rows: int) -> _Lanes:
        fields = self.wide if which == "slots" else self.wide_out
        key = which, n, rows
        if key not in self.cache:
            self.cache[key] = _Lanes(self.plan, which, n * rows * self.columns_out, fields)
        return self.cache[key]

    def spectrum(self, n: int) -> Tensor:
        """Transformed images with their border: (pairs, n, H + 2p, W + 2p, 2, padded F_in), zero."""
        return torch.zeros(self.pairs, n, *self.grid, 2, self.wide, dtype=self.sums)

    def call(self, name: str, types: tuple[torch.dtype, ...], *arguments: object) -> None:
        """One of the compiled functions."""
        suffix = "_".join(NAMES[dtype] for dtype in types)
        getattr(library(), f"{name}_{suffix}")(*arguments, ctypes.c_int(self.threads))

    def _transform(self, name, source, target, base, stride, n, size, rows, grid, padding, fields):
        """analyse or synthesise: n images of `size`, rows from to, lanes on a grid of (rows, columns)."""
        whole = [n, *size, *rows, *grid, padding, fields, _padded(fields), self.plan.order]
        self.call(
            name, (source.dtype, target.dtype), _pointer(source), _pointer(target), _pointer(self.transform),
            base, stride, *map(ctypes.c_int64, whole),
        )  # fmt: skip

    def _between(self, name, source, target, n):
        """Between images of the input's size and their spectrum."""
        area = n * self.grid[0] * self.grid[1] * 2 * self.wide
        base = _table([p * area + lane * self.wide for p in range(self.pairs) for lane in range(2)])
        stride = _table([2 * self.wide] * self.plan.order)
        size = self.height, self.width
        rows = 0, self.height
        self._transform(name, source, target, base, stride, n, size, rows, self.grid, self.padding, self.fields_in)

    def analyse(self, x: Tensor, spectrum: Tensor) -> None:
        """Step 1: images to the inside of their spectrum."""
        self._between("analyse", x, spectrum, len(x))

    def synthesise(self, spectrum: Tensor, x: Tensor) -> None:
        """Its transpose, which is its inverse."""
        self._between("synthesise", spectrum, x, len(x))

    def outputs(self, name: str, y: Tensor, buffer: Tensor, rows: tuple[int, int]) -> list[Tensor]:
        """Between rows of output images and their lanes, whose matrices it returns."""
        lanes, n = self.lanes("lanes", len(y), rows[1] - rows[0]), len(y)
        source, target = (y, buffer) if name == "analyse" else (buffer, y)
        size = self.rows_out, self.columns_out
        grid = rows[1] - rows[0], self.columns_out
        self._transform(name, source, target, lanes.base, lanes.stride, n, size, rows, grid, 0, self.fields_out)
        return lanes.split(buffer)

    def steer(self, name: str, first: Tensor, second: Tensor, n: int, rows: tuple[int, int]) -> None:
        """steer (spectrum to slots) or unsteer (slots added to spectrum)."""
        slots = self.lanes("slots", n, rows[1] - rows[0])
        shape = _Shape(n, *rows, self.columns_out, *self.grid, self.wide, self.pairs)
        constants = _pointer(self.filters), slots.base, slots.stride, _pointer(self.signs), _pointer(self.raw)
        self.call(name, (self.dtype,), _pointer(first), _pointer(second), *constants, shape)

    def buffer(self, which: str) -> Tensor:
        """For the "slots" or the "lanes" of the largest tile."""
        return torch.empty(self.lanes(which, self.group, self.tile).total, dtype=self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Steps 1 to 5, tile by tile: (B, F_in*G, H, W) -> (B, F_out*G, H', W')."""
        y = torch.empty(
            self.batch, self.fields_out * self.plan.order, self.rows_out, self.columns_out,
            dtype=self.dtype, memory_format=torch.channels_last,
        )  # fmt: skip
        steered, mixed = self.buffer("slots"), self.buffer("lanes")
        spectrum = self.spectrum(self.group)
        for first, n in self.images():
            spectrum = spectrum if n == self.group else self.spectrum(n)
            self.analyse(x[first : first + n], spectrum)
            for rows in self.rows():
                self.steer("steer", spectrum, steered, n, rows)
                slots = self.lanes("slots", n, rows[1] - rows[0]).split(steered)
                lanes = self.lanes("lanes", n, rows[1] - rows[0]).split(mixed)
                for z, w, out in zip(slots, self.matrices, lanes, strict=True):
                    torch.mm(z, w, out=out)
                self.outputs("synthesise", y[first : first + n], mixed, rows)
        return y

    def backward(self, x: Tensor, dy: Tensor, need_dx: bool, need_dw: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of x and of the matrices (none where not needed). The steered tiles are computed again."""
        dx = torch.empty_like(x) if need_dx else None
        sums = [torch.zeros(w.shape, dtype=self.sums) for w in self.matrices] if need_dw else []
        parts = [torch.empty_like(w) for w in self.matrices] if need_dw else []
        steered, mixed = self.buffer("slots"), self.buffer("lanes")
        for first, n in self.images():
            spectrum, dspectrum = self.spectrum(n), self.spectrum(n)
            self.analyse(x[first : first + n], spectrum)
            for rows in self.rows():
                slots = self.lanes("slots", n, rows[1] - rows[0]).split(steered)
                dlanes = self.outputs("analyse", dy[first : first + n], mixed, rows)
                if need_dw:
                    self.steer("steer", spectrum, steered, n, rows)
                    for z, dl, part, total in zip(slots, dlanes, parts, sums, strict=True):
                        total += torch.mm(z.T, dl, out=part)
                if need_dx:
                    for dl, w, dz in zip(dlanes, self.matrices, slots, strict=True):
                        torch.mm(dl, w.T, out=dz)
                    self.steer("unsteer", steered, dspectrum, n, rows)
            if need_dx:
                self.synthesise(dspectrum, dx[first : first + n])
        return dx, sums


def _packed(filters: Tensor) -> Tensor:
    """The independent numbers of the harmonics on symmetrised taps, in the order of steering.py's Filters: (54,)."""
    quadrant = filters[:, 2:, 2:]  # (11, 3, 3): the centre and what is below and right of it
    zero, one, two = quadrant[:3], quadrant[3:7], quadrant[7:]
    c, s = one[0::2], one[1::2]
    return torch.cat(
        [
            zero[:, [0, 0, 1, 0, 1, 2], [0, 1, 1, 2, 2, 2]].flatten(),  # (3, 6)
            torch.stack((c[:, 1:].flatten(1), s[:, :, 1:].mT.flatten(1)), 1).flatten(),  # (2, 2, 6)
            torch.stack(
                (two[0::2][:, [0, 0, 1], [1, 2, 2]], two[1::2][:, [1, 1, 2], [1, 2, 2]]), 1
            ).flatten(),  # (2, 2, 3)
        ]
    )


def faster(plan: Factorisation, fields_in: int, fields_out: int) -> bool:
    """Whether the factorised layer is expected to take less time than the dense one: products per number read.

    It depends on neither batch nor image, so that a network adds in the same order whatever it is given.
    """
    dense = plan.filters[0].numel() * plan.order * fields_out
    mixing = 1.5 * plan.products / plan.order * _padded(fields_out)  # small matrices: two thirds of the rate
    return dense * fields_in > 1.1 * (mixing + OVERHEAD) * _padded(fields_in)


def precision(x: Tensor) -> torch.dtype:
    """What a convolution of x works in here, which autocast decides."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def possible(x: Tensor) -> bool:
    """Whether `convolve` can be called with x as it is here: a CPU's numbers, not a tracer's, and a compiler exists."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in (Tensor, torch.nn.Parameter)
    return not traced and x.device.type == "cpu" and precision(x) in TYPES and len(x) > 0 and library() is not None


CHOICES = {
    "auto": lambda plan, fields: plan is not None and faster(plan, *fields),
    "dense": lambda plan, fields: False,
    "factorised": lambda plan, fields: plan is not None,
}


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, plan, fields_out, padding, *matrices):
        ctx.save_for_backward(x, *matrices)
        ctx.options = plan, fields_out, padding
        return Work(plan, x, matrices, fields_out, padding).forward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, *matrices = ctx.saved_tensors
        plan, fields_out, padding = ctx.options
        dy = dy.contiguous(memory_format=torch.channels_last)
        need_dw = any(ctx.needs_input_grad[4:])
        dx, dws = Work(plan, x, matrices, fields_out, padding).backward(x, dy, ctx.needs_input_grad[0], need_dw)
        return (dx, None, None, None, *([dw.to(dy.dtype) for dw in dws] or [None] * len(matrices)))


def convolve(x: Tensor, matrices: list[Tensor], plan: Factorisation, fields_out: int, padding: int) -> Tensor:
    """The layer with the irreps' `matrices` (see `blocks`): (B, F_in*G, H, W) -> (B, F_out*G, H', W').

    Works in `precision(x)`; once differentiable. Raises ValueError for maps that the filters don't fit on.
    """
    if min(x.shape[2:]) + 2 * padding < 5:
        raise ValueError(f"a map of {x.shape[2]} x {x.shape[3]} pixels is too small for 5 x 5 filters")
    dtype = precision(x)
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    return _Convolution.apply(x, plan, fields_out, padding, *(w.to(dtype).contiguous() for w in matrices))
