"""Factorised steerable convolutions on a GPU: the algebra of algebra.py, in Triton, with both gradients.

    y = convolve(x, layer.weight, layer.mixing, layer.plan, padding)      # (B, F_in*G, H, W) -> (B, F_out*G, H', W')

The kernels (triton_kernels.py) transform over the group, steer a tile of pixels when the products need it, and
transform back: the steered maps, 11 times the size of the input, never reach the GPU's memory. The gradient of the
input is the same kernel, since the adjoint of a steerable convolution is one. The gradient of the weights steers
again. Sums have a fixed order: bits repeat.

Untested on hardware: run in Triton's interpreter, and compiled, only. Nothing here touches the GPU, or imports Triton,
before the first call.
"""

import contextlib
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.factorised import triton_tables
from darklens.factorised.algebra import PLANS, Factorisation, working_precision
from darklens.factorised.triton_tables import TILE, TYPES, tables

DEVICES = ("cuda",)
LARGEST = 2**28  # numbers in a lane, that 32 bits count those of its output too
FIELDS = 16  # that are steered at a time
WARPS = 4  # a program's: one for each 16 pixels, or the products' sums would be moved between warps
WIDEST = {"mix": 128, "correlate": 256}  # numbers that a program mixes to: its sums must fit into registers


def _power(number: int) -> int:
    """The least power of two, from 16 on, that is no less."""
    return max(16, 1 << (number - 1).bit_length())


@functools.cache
def _constant(key: str, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    return getattr(tables(key), name).to(device, dtype).contiguous()


class Launch:
    """The kernels for maps of one size: F_in fields of H x W pixels, to F_out fields."""

    def __init__(self, x: Tensor, key: str, fields_out: int, padding: int):
        self.key, self.tables, self.padding, self.input = key, tables(key), padding, x
        self.order, self.batch = self.tables.order, len(x)
        self.fields_in, self.fields_out = x.shape[1] // self.order, fields_out
        self.height, self.width = (size + 2 * padding - 4 for size in x.shape[2:])
        self.outputs = self.tables.entries.shape[1]
        self.total = self.outputs * fields_out
        self.chunks = -(-self.fields_in // FIELDS)
        self.rows, self.columns = TILE
        self.across, down = -(-self.width // self.columns), -(-self.height // self.rows)
        self.tiles = self.across * down
        self.grid = down * self.rows + 4, self.across * self.columns + 4
        self.sums = torch.promote_types(x.dtype, torch.float32)

    def constant(self, name: str, dtype: torch.dtype = torch.int32) -> Tensor:
        """One of the tables, on the device."""
        return _constant(self.key, name, self.input.device, dtype)

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Of a spectrum: from row to row, image to image, chunk to chunk, lane to lane."""
        line = self.grid[1] * FIELDS
        image = self.grid[0] * line
        return line, image, self.batch * image, self.chunks * self.batch * image

    def blocks(self, name: str) -> tuple[int, int]:
        """How many times how many outputs of an irrep the programs of `mix` or `correlate` work on."""
        width = min(_power(self.total), WIDEST[name])
        return -(-self.total // width), width

    def options(self, name: str) -> dict:
        """What `mix` or `correlate` is specialised to."""
        import triton.language as tl

        names = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float64: tl.float64}
        exact = self.input.device.type == "cpu"  # Triton's interpreter can't multiply bf16
        blocks, width = self.blocks(name)
        return {
            "CHUNKS": self.chunks, "COEFFICIENTS": self.tables.coefficients, "ROWS": self.rows,
            "COLUMNS": self.columns, "FIELDS": FIELDS, "BLOCKS": blocks, "WIDTH": width,
            "SUM": names[self.sums], "DOT": names[self.sums if exact else self.input.dtype],
            "num_warps": WARPS, "num_stages": 1,
        }  # fmt: skip

    @property
    def place(self) -> tuple[int, ...]:
        """Where the pixels of a tile are."""
        return self.height, self.width, self.across, self.tiles, self.batch * self.height * self.width, self.fields_out

    def analyse(self, x: Tensor) -> Tensor:
        """The spectrum of maps (B, F_in*G, H, W)."""
        x = x.contiguous(memory_format=torch.channels_last)
        spectrum = x.new_zeros(self.order, self.chunks, self.batch, *self.grid, FIELDS)
        size = x.numel() // self.order, self.fields_in, *x.shape[2:], self.padding, *self.strides
        self._transform("analyse", x, spectrum, *size, FIELDS=FIELDS)
        return spectrum

    def lanes(self, dy: Tensor) -> Tensor:
        """Maps (B, F_out*G, H', W') transformed: (G, B * H' * W' * F_out)."""
        dy = dy.contiguous(memory_format=torch.channels_last)
        lanes = dy.new_empty(self.order, dy.numel() // self.order)
        size, pixels, fields = dy.shape[2:], self.batch * dy[0, 0].numel(), self.fields_out
        strides = size[1] * fields, dy[0, 0].numel() * fields, pixels * fields, pixels * fields
        self._transform("analyse", dy, lanes, dy.numel() // self.order, fields, *size, 0, *strides, FIELDS=fields)
        return lanes

    def synthesise(self, lanes: Tensor) -> Tensor:
        """Maps (B, F_out*G, H', W') of their transform."""
        y = _maps(self.input, self.order * self.fields_out, (self.height, self.width))
        self._transform("synthesise", lanes, y, y.numel() // self.order)
        return y

    def _transform(self, name: str, source: Tensor, target: Tensor, count: int, *rest: int, **options: int) -> None:
        import triton.language as tl

        sums = tl.float64 if self.sums == torch.float64 else tl.float32
        block = 256 if self.input.is_cuda else 2**16
        constants = {"ORDER": self.order, "WIDE": _power(self.order), "BLOCK": block, "SUM": sums, **options}
        matrix = self.constant("transform", self.sums)
        self._run(name, (-(-count // block),), source, target, matrix, count, *rest, **constants)

    def _run(self, name: str, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
        from darklens.factorised import triton_kernels  # takes Triton along

        on_device = torch.cuda.device(self.input.device) if self.input.is_cuda else contextlib.nullcontext()
        with on_device:
            getattr(triton_kernels, name)[grid](*arguments, **options)

    def weights(self, entries: Tensor) -> Tensor:
        """Entries (F_out, F_in, E) as `mix` reads them: (columns, chunks * FIELDS, outputs)."""
        table = self.constant("entries", torch.int64)
        picked = F.pad(entries.to(self.input.dtype), (0, 1))[..., table]  # (F_out, F_in, columns, outputs)
        picked = picked.permute(2, 1, 3, 0).flatten(2)  # (columns, F_in, outputs * F_out)
        margins = 0, math.prod(self.blocks("mix")) - self.total, 0, self.chunks * FIELDS - self.fields_in
        return F.pad(picked, margins).contiguous()

    def mix(self, spectrum: Tensor, entries: Tensor) -> Tensor:
        """The lanes of the outputs."""
        lanes = spectrum.new_empty(self.order, self.batch * self.height * self.width * self.fields_out)
        programs = len(self.tables.programs)
        grid = self.batch * self.tiles * programs * self.blocks("mix")[0]
        self._run(
            "mix", (grid,), spectrum, self.weights(entries), lanes, self.constant("units"),
            self.constant("programs"), *self.strides, *self.place, PROGRAMS=programs, **self.options("mix"),
        )  # fmt: skip
        return lanes

    def correlate(self, spectrum: Tensor, dlanes: Tensor) -> Tensor:
        """The gradient of the entries, (F_out, F_in, E)."""
        tiles, slots = self.batch * self.tiles, 3 * len(self.tables.units)
        splits = max(1, min(8, tiles // 8))
        share = -(-tiles // splits)
        blocks, width = self.blocks("correlate")
        sums = spectrum.new_empty(splits, slots, self.chunks, blocks * width, FIELDS, dtype=self.sums)
        for order, (first, stop) in enumerate(self.tables.orders):
            grid = (stop - first) * self.chunks * blocks, splits
            self._run(
                "correlate", grid, spectrum, dlanes, sums, self.constant("units"), self.constant("programs"), first,
                share, *self.strides, *self.place, tiles, sums[0].numel(), ORDER=order, **self.options("correlate"),
            )  # fmt: skip
        return self._entries(sums.sum(0))

    def _entries(self, sums: Tensor) -> Tensor:
        """Sums (slots, chunks, WIDTH, FIELDS) gathered by entry: (F_out, F_in, E)."""
        sums = sums.transpose(1, 2).flatten(2)[:, : self.total, : self.fields_in]
        sums = sums.unflatten(1, (self.outputs, self.fields_out))  # (slots, outputs, F_out, F_in)
        slots, outputs = self.constant("slots", torch.int64), self.constant("outputs", torch.int64)
        second = torch.where((slots[:, 1] >= 0)[:, None, None], sums[slots[:, 1], outputs], 0)  # some aren't written
        return (sums[slots[:, 0], outputs] + second).permute(1, 2, 0)


def _maps(template: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    shape = len(template), channels, *size
    return torch.empty(shape, dtype=template.dtype, device=template.device, memory_format=torch.channels_last)


def _size(x: Tensor, padding: int) -> tuple[int, int]:
    return x.shape[2] + 2 * padding - 4, x.shape[3] + 2 * padding - 4


def _apply(x: Tensor, entries: Tensor, key: str, padding: int) -> Tensor:
    work = Launch(x, key, len(entries), padding)
    return work.synthesise(work.mix(work.analyse(x), entries))


@torch.library.custom_op("lens::steer", mutates_args=())
def steer(x: Tensor, entries: Tensor, key: str, padding: int) -> Tensor:
    """The layer of a plan with these entries (F_out, F_in, E): (B, F_in*G, H, W) -> (B, F_out*G, H', W')."""
    return _apply(x, entries, key, padding)


@torch.library.custom_op("lens::steer_input", mutates_args=())
def steer_input(dy: Tensor, entries: Tensor, key: str, padding: int) -> Tensor:
    """The gradient of `steer` by its x, (B, F_in*G, H, W), of one by its result."""
    turned = entries.transpose(0, 1) @ _constant(key, "adjoint", entries.device, entries.dtype)
    return _apply(dy, turned, key, 4 - padding)


@torch.library.custom_op("lens::steer_weights", mutates_args=())
def steer_weights(x: Tensor, dy: Tensor, key: str, padding: int) -> Tensor:
    """The gradient of `steer` by its entries, (F_out, F_in, E) in float32 or better, of one by its result."""
    work = Launch(x, key, dy.shape[1] // tables(key).order, padding)
    return work.correlate(work.analyse(x), work.lanes(dy)).contiguous()


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    x, entries, ctx.key, ctx.padding = inputs
    ctx.save_for_backward(x, entries)


def _backward(ctx, dy: Tensor) -> tuple:
    x, entries = ctx.saved_tensors
    dx = steer_input(dy, entries, ctx.key, ctx.padding) if ctx.needs_input_grad[0] else None
    dw = steer_weights(x, dy, ctx.key, ctx.padding) if ctx.needs_input_grad[1] else None
    return dx, None if dw is None else dw.to(entries.dtype), None, None


@steer.register_fake
def _(x, entries, key, padding):
    return _maps(x, x.shape[1] // entries.shape[1] * entries.shape[0], _size(x, padding))


@steer_input.register_fake
def _(dy, entries, key, padding):
    return _maps(dy, dy.shape[1] // entries.shape[0] * entries.shape[1], _size(dy, 4 - padding))


@steer_weights.register_fake
def _(x, dy, key, padding):
    order, count = PLANS[key].order, PLANS[key].mixing.shape[1]
    shape = dy.shape[1] // order, x.shape[1] // order, count
    return x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))


steer.register_autograd(_backward, setup_context=_keep)


def convolve(x: Tensor, weight: Tensor, mixing: Tensor, plan: Factorisation, padding: int) -> Tensor:
    """The layer with coefficients `weight` (F_out, F_in, b) and `plan`, whose mixing is (b, E), in the precision that
    autocast or else x asks for: (B, F_in*G, H, W) -> (B, F_out*G, H', W'). Once differentiable.

    Raises ValueError for maps that the filters don't fit on.
    """
    if min(_size(x, padding)) < 1:
        raise ValueError(f"a map of {x.shape[2]} x {x.shape[3]} pixels is too small for 5 x 5 filters")
    x = x.to(working_precision(x))
    with torch.autocast(x.device.type, enabled=False):
        entries = (weight.reshape(-1, weight.shape[2]) @ mixing).view(*weight.shape[:2], -1)
        return steer(x, entries, plan.key, padding)


def possible(x: Tensor, plan: Factorisation | None) -> bool:
    """Whether `convolve` can be called with x: a GPU's numbers in one of TYPES, Triton, a map that is not empty."""
    if plan is None or not triton_tables.INSTALLED or x.device.type not in DEVICES or len(x) == 0:
        return False
    return working_precision(x) in TYPES and x.numel() < plan.order * LARGEST
