"""The Triton kernels that triton.py calls: what they compute is derived in docs/factorised.md, how they are called is
told there. Imported on first use only; without Triton the names are there, but nothing can be called.

Transformed maps ("spectra") lie as (G lanes, chunks of FIELDS fields, B, rows, columns, FIELDS), with a border of zeros
and room for whole tiles, so that steering needs no masks; outputs as (G lanes, B * H * W, F).
"""

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None


def _jit(function):
    return triton.jit(function) if triton else function


@_jit
def analyse(
    x, spectrum, matrix, count, fields, height, width, padding, line, image, plane, lane,
    ORDER: tl.constexpr, WIDE: tl.constexpr, FIELDS: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Fourier transform over the group: x (B, H, W, F, G) to the inside of its spectrum. count: B * H * W * F."""
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = tl.arange(0, WIDE)
    inside, member = r < count, g < ORDER
    values = tl.load(x + r.to(tl.int64)[:, None] * ORDER + g[None, :], mask=inside[:, None] & member[None, :], other=0)
    values = values.to(SUM)
    field, pixel = r % fields, r // fields
    column, row, n = pixel % width, pixel // width % height, pixel // (width * height)
    offset = (row + padding) * line + (column + padding) * FIELDS + field % FIELDS
    target = spectrum + (field // FIELDS).to(tl.int64) * plane + n.to(tl.int64) * image + offset
    for k in tl.static_range(ORDER):
        phases = tl.load(matrix + k * ORDER + g, mask=member, other=0)
        mixed = tl.sum(values * phases[None, :], axis=1)
        tl.store(target, mixed.to(spectrum.dtype.element_ty), mask=inside)
        target += lane


@_jit
def synthesise(
    lanes, y, matrix, count,
    ORDER: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The transform backwards: lanes (G, B * H * W * F) to y (B, H, W, F, G). count: B * H * W * F."""
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = tl.arange(0, WIDE)
    inside, member = r < count, g < ORDER
    values = tl.full([BLOCK, WIDE], 0, SUM)
    source = lanes + r  # from lane to lane by steps that 32 bits hold
    for k in tl.static_range(ORDER):
        phases = tl.load(matrix + k * ORDER + g, mask=member, other=0)
        part = tl.load(source, mask=inside, other=0).to(SUM)
        values += part[:, None] * phases[None, :]
        source += count
    target = y + r.to(tl.int64)[:, None] * ORDER + g[None, :]
    tl.store(target, values.to(y.dtype.element_ty), mask=inside[:, None] & member[None, :])


@_jit
def _filter(taps, line, HARMONICS: tl.constexpr, ODD: tl.constexpr, STEERING: tl.constexpr):
    """The harmonics of three numbers (the last one unless it is negative) of the maps whose upper left taps are
    pointed at.

    All of them are even in x, or ODD. STEERING: coefficients [harmonic][row][column - 2], flat; FIELDS; SUM.
    """
    A: tl.constexpr = HARMONICS[0]
    B: tl.constexpr = HARMONICS[1]
    C: tl.constexpr = HARMONICS[2]
    COEFFICIENTS: tl.constexpr = STEERING[0]
    FIELDS: tl.constexpr = STEERING[1]
    SUM: tl.constexpr = STEERING[2]
    a = tl.full(taps.shape, 0, SUM)
    b = tl.full(taps.shape, 0, SUM)
    c = tl.full(taps.shape, 0, SUM)
    for y in tl.static_range(5):
        row = taps + y * line
        inner, outer = tl.load(row + 3 * FIELDS).to(SUM), tl.load(row + 4 * FIELDS).to(SUM)
        middle = tl.load(row + 2 * FIELDS).to(SUM)  # unused, and so not compiled, where filters are odd
        if ODD:
            inner -= tl.load(row + FIELDS).to(SUM)
            outer -= tl.load(row).to(SUM)
        else:
            inner += tl.load(row + FIELDS).to(SUM)
            outer += tl.load(row).to(SUM)
        values = (middle, inner, outer)
        for k in tl.static_range(3):
            if COEFFICIENTS[A * 15 + y * 3 + k] != 0:
                a += COEFFICIENTS[A * 15 + y * 3 + k] * values[k]
            if COEFFICIENTS[B * 15 + y * 3 + k] != 0:
                b += COEFFICIENTS[B * 15 + y * 3 + k] * values[k]
            if C >= 0:
                c += COEFFICIENTS[C * 15 + y * 3 + k] * values[k]
    return a, b, c


@_jit
def _steer(taps, lane, line, unit, ORDER: tl.constexpr, STEERING: tl.constexpr):
    """The steered numbers of one unit (see triton_tables.Unit) of frequency ORDER: two, or for ORDER 0 three."""
    first = taps + tl.load(unit).to(tl.int64) * lane
    if ORDER == 0:
        a, b, c = _filter(first, line, (0, 1, 2), False, STEERING)
    else:
        second = taps + tl.load(unit + 1).to(tl.int64) * lane
        J: tl.constexpr = 4 * ORDER - 1
        a, b, c = _filter(first, line, (J, J + 2, -1), False, STEERING)
        d, e, c = _filter(second, line, (J + 1, J + 3, -1), True, STEERING)
        SUM: tl.constexpr = STEERING[2]
        cos, sin = tl.load(unit + 2).to(SUM), tl.load(unit + 3).to(SUM)
        a = cos * a + sin * d
        b = cos * b + sin * e
    return a, b, c


@_jit
def _accumulate(
    total, taps, weights, lane, line, plane, units, start, end, ORDER: tl.constexpr, CHUNKS: tl.constexpr,
    TOTAL: tl.constexpr, COEFFICIENTS: tl.constexpr, FIELDS: tl.constexpr, SUM: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """total (pixels, outputs) and what the units start ... end - 1, all of frequency ORDER, give when mixed."""
    kind = weights.dtype.element_ty
    for u in range(start, end):
        unit = units + 8 * u
        for chunk in range(CHUNKS):
            size: tl.constexpr = FIELDS * TOTAL
            w0 = tl.load(weights + (tl.load(unit + 4) * CHUNKS + chunk).to(tl.int64) * size)
            w1 = tl.load(weights + (tl.load(unit + 5) * CHUNKS + chunk).to(tl.int64) * size)
            chunk_taps = taps + tl.cast(plane, tl.int64) * chunk
            a, b, c = _steer(chunk_taps, lane, line, unit, ORDER, (COEFFICIENTS, FIELDS, SUM))
            total = tl.dot(a.to(kind).to(DOT), w0.to(DOT), total, input_precision="ieee", out_dtype=SUM)
            total = tl.dot(b.to(kind).to(DOT), w1.to(DOT), total, input_precision="ieee", out_dtype=SUM)
            if ORDER == 0:
                w2 = tl.load(weights + (tl.load(unit + 6) * CHUNKS + chunk).to(tl.int64) * size)
                total = tl.dot(c.to(kind).to(DOT), w2.to(DOT), total, input_precision="ieee", out_dtype=SUM)
    return total


@_jit
def _pixels(tile, across, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Image, rows and columns of a tile's pixels."""
    p = tl.arange(0, ROWS * COLUMNS)
    number = tile % tiles
    return tile // tiles, number // across * ROWS + p // COLUMNS, number % across * COLUMNS + p % COLUMNS


@_jit
def mix(
    spectrum, weights, lanes, units, programs, line, image, plane, lane, height, width, across, tiles, pixels, fields,
    PROGRAMS: tl.constexpr, CHUNKS: tl.constexpr, COEFFICIENTS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, FIELDS: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """lanes (G, pixels, fields) of a spectrum: one program for each tile, row of an irrep, and WIDTH of its outputs.

    A tile's numbers are steered when they are needed and go from registers through shared memory into the products
    with the irrep's matrix; weights: (column, chunk, FIELDS, BLOCKS * WIDTH).
    """
    number = tl.program_id(0) % (PROGRAMS * BLOCKS)
    program = programs + number // BLOCKS * 16
    n, row, column = _pixels(tl.program_id(0) // (PROGRAMS * BLOCKS), across, tiles, ROWS, COLUMNS)
    k, j = tl.arange(0, FIELDS), number % BLOCKS * WIDTH + tl.arange(0, WIDTH)
    TOTAL: tl.constexpr = BLOCKS * WIDTH
    taps = spectrum + n.to(tl.int64) * image + ((row * line + column * FIELDS)[:, None] + k[None, :])
    w = weights + k[:, None] * TOTAL + j[None, :]
    total = tl.full([ROWS * COLUMNS, WIDTH], 0, SUM)
    for ORDER in tl.static_range(3):
        start, end = tl.load(program + 2 * ORDER), tl.load(program + 2 * ORDER + 1)
        total = _accumulate(
            total, taps, w, lane, line, plane, units, start, end, ORDER, CHUNKS, TOTAL, COEFFICIENTS, FIELDS, SUM, DOT
        )
    out = tl.where(j < fields, tl.load(program + 6), tl.load(program + 7)).to(tl.int64) * pixels
    pixel = (n * height + row) * width + column
    target = lanes + (out[None, :] + pixel[:, None]) * fields + (j % fields)[None, :]
    inside = ((row < height) & (column < width))[:, None] & (j < fields * tl.load(program + 8))[None, :]
    tl.store(target, total.to(lanes.dtype.element_ty), mask=inside)


@_jit
def correlate(
    spectrum, dlanes, sums, units, programs, first, share, line, image, plane, lane,
    height, width, across, tiles, pixels, fields, all_tiles, split_size,
    ORDER: tl.constexpr, CHUNKS: tl.constexpr, COEFFICIENTS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, FIELDS: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Gradient of the weights: for each unit of frequency ORDER, chunk, WIDTH of the outputs and share of the tiles,
    the product of what is steered (again) and dlanes (G, pixels, fields), in
    sums (share, slot, chunk, BLOCKS * WIDTH, FIELDS)."""
    number = first + tl.program_id(0) // (CHUNKS * BLOCKS)
    chunk = tl.program_id(0) // BLOCKS % CHUNKS
    unit = units + number * 8
    program = programs + tl.load(unit + 7) * 16
    k, j = tl.arange(0, FIELDS), tl.program_id(0) % BLOCKS * WIDTH + tl.arange(0, WIDTH)
    kind = dlanes.dtype.element_ty
    out = tl.where(j < fields, tl.load(program + 6), tl.load(program + 7)).to(tl.int64) * pixels
    used = j < fields * tl.load(program + 8)
    a_sum = tl.full([WIDTH, FIELDS], 0, SUM)
    b_sum = tl.full([WIDTH, FIELDS], 0, SUM)
    c_sum = tl.full([WIDTH, FIELDS], 0, SUM)
    first_tile = tl.program_id(1) * share
    for tile in range(first_tile, tl.minimum(first_tile + share, all_tiles)):
        n, row, column = _pixels(tile, across, tiles, ROWS, COLUMNS)
        pixel = (n * height + row) * width + column
        inside = ((row < height) & (column < width))[:, None] & used[None, :]
        source = dlanes + (out[None, :] + pixel[:, None]) * fields + (j % fields)[None, :]
        d = tl.trans(tl.load(source, mask=inside, other=0)).to(DOT)
        taps = spectrum + n.to(tl.int64) * image + ((row * line + column * FIELDS)[:, None] + k[None, :])
        a, b, c = _steer(taps + tl.cast(plane, tl.int64) * chunk, lane, line, unit, ORDER, (COEFFICIENTS, FIELDS, SUM))
        a_sum = tl.dot(d, a.to(kind).to(DOT), a_sum, input_precision="ieee", out_dtype=SUM)
        b_sum = tl.dot(d, b.to(kind).to(DOT), b_sum, input_precision="ieee", out_dtype=SUM)
        if ORDER == 0:
            c_sum = tl.dot(d, c.to(kind).to(DOT), c_sum, input_precision="ieee", out_dtype=SUM)
    size: tl.constexpr = FIELDS * BLOCKS * WIDTH
    slot = (3 * number * CHUNKS + chunk).to(tl.int64) * size
    target = sums + tl.program_id(1).to(tl.int64) * split_size + slot + j[:, None] * FIELDS + k[None, :]
    tl.store(target, a_sum)
    tl.store(target + CHUNKS * size, b_sum)
    if ORDER == 0:
        tl.store(target + 2 * CHUNKS * size, c_sum)
