"""The factorised convolution on a CPU: the loops of cpu.cpp and PyTorch's matrix products, with both gradients."""

import ctypes

import torch
from torch import Tensor

from darklens.factorised import algebra, library
from darklens.factorised.algebra import FILTERS, Factorisation, Shape, padded, working_precision

TYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}  # stored: summed
NAMES = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float64: "double"}  # in the compiled functions


class _Lanes:
    """Where steered (or transformed) numbers of a tile of `pixels` lie: one matrix per irrep in one buffer."""

    def __init__(self, plan: Factorisation, which: str, pixels: int, fields: int):
        places = plan.lanes if which == "lanes" else [place for pair in plan.slots for place in pair]
        base, total = {}, 0
        self.shapes: list[tuple[int, int]] = []
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
        self.wide, self.wide_out = padded(self.fields_in), padded(fields_out)
        self.pairs, self.threads = plan.order // 2, torch.get_num_threads()
        self.transform = plan.transform.to(self.sums).contiguous()
        self.filters = _packed(plan.filters).to(self.sums)
        self.signs, self.raw = plan.signs.to(self.sums).contiguous(), plan.raw.to(torch.int64)
        pixel = FILTERS * plan.order * self.wide * x.element_size()  # bytes of one steered pixel
        pixels = max(1, algebra.TILE // pixel)
        self.group = max(1, min(self.batch, pixels // (self.rows_out * self.columns_out)))  # images at once
        self.tile = max(1, min(self.rows_out, pixels // (self.group * self.columns_out)))  # their rows at once
        self.cache: dict[tuple[str, int, int], _Lanes] = {}

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
        getattr(library.library(), f"{name}_{suffix}")(*arguments, ctypes.c_int(self.threads))

    def _transform(self, name: str, source: Tensor, target: Tensor, lanes: tuple, geometry: list[int]) -> None:
        """analyse or synthesise.

        lanes: base and stride of each in its buffer; geometry: images, their rows and columns, first and last row + 1,
        rows and columns of the grid, padding, fields.
        """
        fields = geometry[-1]
        numbers = map(ctypes.c_int64, [*geometry, padded(fields), self.plan.order])
        pointers = _pointer(source), _pointer(target), _pointer(self.transform)
        self.call(name, (source.dtype, target.dtype), *pointers, *lanes, *numbers)

    def _between(self, name: str, source: Tensor, target: Tensor, n: int) -> None:
        """Between images of the input's size and their spectrum."""
        area = n * self.grid[0] * self.grid[1] * 2 * self.wide
        base = _table([p * area + lane * self.wide for p in range(self.pairs) for lane in range(2)])
        stride = _table([2 * self.wide] * self.plan.order)
        geometry = [n, self.height, self.width, 0, self.height, *self.grid, self.padding, self.fields_in]
        self._transform(name, source, target, (base, stride), geometry)

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
        grid = rows[1] - rows[0], self.columns_out
        geometry = [n, self.rows_out, self.columns_out, *rows, *grid, 0, self.fields_out]
        self._transform(name, source, target, (lanes.base, lanes.stride), geometry)
        return lanes.split(buffer)

    def steer(self, name: str, first: Tensor, second: Tensor, n: int, rows: tuple[int, int]) -> None:
        """steer (spectrum to slots) or unsteer (slots added to spectrum)."""
        slots = self.lanes("slots", n, rows[1] - rows[0])
        shape = Shape(n, *rows, self.columns_out, *self.grid, self.wide, self.pairs)
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
            if dx is not None:
                self.synthesise(dspectrum, dx[first : first + n])
        return dx, sums


def _packed(filters: Tensor) -> Tensor:
    """The independent numbers of the harmonics on symmetrised taps, in the order of cpu.cpp's Filters: (54,)."""
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


def possible(x: Tensor) -> bool:
    """Whether `convolve` can be called with x as it is now: a CPU's numbers, not a tracer's, and a compiler exists."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in (Tensor, torch.nn.Parameter)
    fits = not traced and x.device.type == "cpu" and working_precision(x) in TYPES and len(x) > 0
    return fits and library.library() is not None


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

    Works in `working_precision(x)`; once differentiable. Raises ValueError for maps that the filters don't fit on.
    """
    if min(x.shape[2:]) + 2 * padding < 5:
        raise ValueError(f"a map of {x.shape[2]} x {x.shape[3]} pixels is too small for 5 x 5 filters")
    dtype = working_precision(x)
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    return _Convolution.apply(x, plan, fields_out, padding, *(w.to(dtype).contiguous() for w in matrices))
