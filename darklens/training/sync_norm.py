"""Batch norm over all processes."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darklens.training.ranks import Ranks


def synchronise(network: nn.Module, ranks: Ranks) -> None:
    """Make the batch norms of a network in training mode see all images of the batch; no name of its state changes."""
    if ranks.single_process:
        return
    for module in list(network.modules()):
        if hasattr(module, "shared"):  # the field batch norm
            setattr(module, "shared", functools.partial(_shared_norm, ranks))  # noqa: B010  # typed as any attribute
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, SharedBatchNorm(child, ranks))


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of PyTorch's, (N, C, ...) -> same, over the images of all processes.

    A single row, which has no spread, is normalised by the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, ranks: Ranks):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias, self.training, self.ranks = norm.weight, norm.bias, norm.training, ranks
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self._is_single_row(x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        y, mean, var, count = _shared_norm(self.ranks, x, self.weight, self.bias, 1, self.eps, relu=False)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        return y

    def _is_single_row(self, x: Tensor) -> bool:
        """One number per channel in all: only possible where the batch has one image."""
        if self.ranks.batch_size != 1:
            return False
        return int(self.ranks.total(torch.tensor([x.numel() // self.num_features], device=x.device))) == 1


def _shared_norm(
    ranks: Ranks, x: Tensor, weight: Tensor, bias: Tensor, group: int, eps: float, *, relu: bool = True
) -> tuple[Tensor, Tensor, Tensor, int]:
    """scale * (x - mean) + shift, then ReLU if asked for, with statistics of all images and of the G channels of a
    field: (B, F*G, ...) -> the same, mean (F,), biased variance (F,), and the count of numbers they are of."""
    y, mean, var, count = _SharedNorm.apply(x, weight, bias, group, eps, (relu, ranks))
    return y, mean, var, int(count)


class _SharedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, group: int, eps: float, mode: tuple[bool, Ranks]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        relu, ranks = mode
        count, mean, var = _join_moments(ranks.gather(_moments(x, len(weight), group, weight)), weight.dtype)
        channels = [t.repeat_interleave(group) for t in (mean, var, weight, bias)]
        ctx.save_for_backward(x, count, *channels)
        ctx.group, ctx.eps, ctx.relu, ctx.ranks = group, eps, relu, ranks
        ctx.mark_non_differentiable(mean, var, count)
        y = F.batch_norm(x, channels[0], channels[1], channels[2], channels[3], False, 0.0, eps)
        return y.relu_() if relu else y, mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, count, mean, var, weight, bias = ctx.saved_tensors
        invstd = (var + ctx.eps).rsqrt()
        if ctx.relu:
            grad = torch.ops.aten.threshold_backward(grad, F.batch_norm(x, mean, var, weight, bias, eps=ctx.eps), 0)
        d_weight, d_bias = sums = _gradient_sums(x, grad, weight, mean, invstd, ctx)  # added up with other gradients
        # dx = scale * (grad - mean(grad) - xhat * mean(grad * xhat)), the last two as one affine map of x
        means = ctx.ranks.total(sums) / count  # (2, F)
        slope, offset = (-(weight * invstd) * part.repeat_interleave(ctx.group) for part in means)
        affine = F.batch_norm(x, mean, var, slope.to(weight.dtype), offset.to(weight.dtype), eps=ctx.eps)
        scale = (weight * invstd).to(grad.dtype).view(1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul(affine, grad, scale), d_weight, d_bias, None, None, None


def _gradient_sums(x: Tensor, grad: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, ctx: Any) -> Tensor:
    """Sums over this process's images of grad * xhat and of grad, by field: (2, F)."""
    if not len(x):
        return weight.new_zeros(2, len(weight) // ctx.group)
    statistics = (None, None, mean, invstd, True, ctx.eps)
    parts = torch.ops.aten.native_batch_norm_backward(grad, x, weight, *statistics, [False, True, True])[1:]
    return torch.stack([part.view(-1, ctx.group).sum(1) for part in parts]).to(weight.dtype)


def _moments(x: Tensor, fields: int, group: int, weight: Tensor) -> Tensor:
    """Count, means and biased variances of the fields of x (B, F*G, ...): (1 + 2F,) float64."""
    if not len(x):
        return weight.new_zeros(1 + 2 * fields, dtype=torch.float64)
    unused = torch.zeros(2, x.shape[1], dtype=weight.dtype, device=x.device)  # asks for float32 statistics
    mean, var = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)  # (F*G,)
    mean, var = mean.view(-1, group).double(), var.view(-1, group).double()
    field_mean = mean.mean(1)
    field_var = (var + (mean - field_mean[:, None]).square()).mean(1)
    return torch.cat((field_mean.new_tensor([x.numel() // fields]), field_mean, field_var))


def _join_moments(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Those of all processes, from each one's (P, 1 + 2F): Chan, Golub & LeVeque 1983, doi:10.2307/2683386."""
    counts, (means, variances) = rows[:, :1], rows[:, 1:].chunk(2, 1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean).square())).sum(0) / count
    return count, mean.to(dtype), var.to(dtype)
