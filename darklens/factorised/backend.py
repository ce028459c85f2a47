"""Which way a steerable convolution is computed: dense, in C++ on a CPU, or by Triton on a GPU."""

import torch
from torch import Tensor

from darklens.factorised import library
from darklens.factorised.algebra import OVERHEAD, Factorisation, padded
from darklens.factorised.cpu import TYPES, Work


def faster(plan: Factorisation, fields_in: int, fields_out: int) -> bool:
    """Whether the factorised layer is expected to take less time than the dense one: products per number read.

    It depends on neither batch nor image, so that a network adds in the same order whatever it is given.
    """
    dense = plan.filters[0].numel() * plan.order * fields_out
    mixing = 1.5 * plan.products / plan.order * padded(fields_out)  # small matrices: two thirds of the rate
    return dense * fields_in > 1.1 * (mixing + OVERHEAD) * padded(fields_in)


def precision(x: Tensor) -> torch.dtype:
    """What a convolution of x works in here, which autocast decides."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def possible(x: Tensor) -> bool:
    """Whether `convolve` can be called with x as it is here: a CPU's numbers, not a tracer's, and a compiler exists."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in (Tensor, torch.nn.Parameter)
    here = not traced and x.device.type == "cpu" and precision(x) in TYPES and len(x) > 0
    return here and library.library() is not None


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
