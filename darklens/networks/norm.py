"""Batch norm per regular field with ReLU, and the plain one of the heads."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _NormRelu(torch.autograd.Function):
    """relu(scale * (x - mean) + shift) with batch statistics shared by the G channels of a field.

    Made of PyTorch's own per-channel batch-norm kernels (float32 statistics whatever the input's precision), with
    the sums of the G channels joined in between. Only x is kept; the backward pass computes the rest again, on a CPU
    a few images at a time, so that it stays in the cache and needs one new tensor of the size of x.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, group, eps):
        unused = torch.zeros(2, x.shape[1], dtype=weight.dtype, device=x.device)  # asks for float32 statistics
        mean, var = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)  # (F*G,), biased
        mean, var = mean.view(-1, group), var.view(-1, group)
        field_mean = mean.mean(1)
        field_var = (var + (mean - field_mean[:, None]).square()).mean(1)
        channels = [t.repeat_interleave(group) for t in (field_mean, field_var, weight, bias)]
        ctx.save_for_backward(x, *channels)
        ctx.group, ctx.eps = group, eps
        ctx.mark_non_differentiable(field_mean, field_var)
        return F.batch_norm(x, *channels, False, 0.0, eps).relu_(), field_mean, field_var

    @staticmethod
    def backward(ctx, grad, *_):
        x, mean, var, weight, bias = ctx.saved_tensors
        invstd, n = (var + ctx.eps).rsqrt(), _images_at_once(x)

        def through_relu(x, grad):
            return torch.ops.aten.threshold_backward(grad, F.batch_norm(x, mean, var, weight, bias, eps=ctx.eps), 0)

        def sums(x, grad):
            weight_and_bias = [False, True, True]
            statistics = (None, None, mean, invstd, True, ctx.eps)
            gradients = torch.ops.aten.native_batch_norm_backward(
                through_relu(x, grad), x, weight, *statistics, weight_and_bias
            )
            return gradients[1:]

        pieces = list(zip(x.split(n), grad.split(n), strict=True))
        parts = [sums(*piece) for piece in pieces]
        d_weight, d_bias = (sum(part).view(-1, ctx.group).sum(1) for part in zip(*parts, strict=True))  # per field
        count = x.numel() // d_bias.numel()
        # dx = scale * (grad - mean(grad) - xhat * mean(grad * xhat)), the last two as one affine map of x
        slope = -(weight * invstd) * (d_weight / count).repeat_interleave(ctx.group)
        offset = -(weight * invstd) * (d_bias / count).repeat_interleave(ctx.group)
        scale, dx = (weight * invstd).to(grad.dtype).view(1, -1, 1, 1), torch.empty_like(x)
        for (some, its), out in zip(pieces, dx.split(n), strict=True):
            affine = F.batch_norm(some, mean, var, slope, offset, eps=ctx.eps)
            torch.addcmul(affine, through_relu(some, its), scale, out=out)
        return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None


def _images_at_once(x: Tensor) -> int:
    """Images of x (B, C, H, W) that a CPU should work on together; all of them elsewhere."""
    budget = 2**23 if x.device.type == "cpu" else x.numel()  # numbers
    return max(1, min(len(x), budget // max(x[0].numel(), 1)))


class FieldNormRelu(nn.Module):
    """Batch norm with one mean, variance, weight and bias per regular field, then ReLU.

    (B, F*G, H, W) -> same. Statistics run over batch, group and pixels, as e2cnn's InnerBatchNorm.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, fields: int, group: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.group, self.eps, self.momentum = group, eps, momentum
        self.shared: Callable | None = None  # the same over the images of several processes, see training/sync_norm.py
        self.weight, self.bias = nn.Parameter(torch.ones(fields)), nn.Parameter(torch.zeros(fields))
        self.register_buffer("running_mean", torch.zeros(fields))
        self.register_buffer("running_var", torch.ones(fields))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            mean, var, weight, bias = (t.repeat_interleave(self.group) for t in self._statistics())
            return torch.relu(F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps))
        count = x.numel() // len(self.weight)
        if self.shared:
            y, mean, var, count = self.shared(x, self.weight, self.bias, self.group, self.eps)
        elif torch.compiler.is_compiling():
            y, mean, var = self._fused(x)
        else:
            y, mean, var = _NormRelu.apply(x, self.weight, self.bias, self.group, self.eps)
        self._track(mean.detach(), var.detach(), count)
        return y

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel from the running statistics: two (F*G,)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return scale.repeat_interleave(self.group), shift.repeat_interleave(self.group)

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.running_mean, self.running_var, self.weight, self.bias  # (F,) each

    def _fused(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same in elementary operations, which the compiler fuses."""
        # (B, F*G, H, W) -> (B, F, G, H, W)
        values = x.unflatten(1, (-1, self.group)).to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(values, dim=(0, 2, 3, 4), correction=0)
        scale = self.weight * (var + self.eps).rsqrt()
        scale, shift = (t.view(1, -1, 1, 1, 1) for t in (scale, self.bias - mean * scale))
        return torch.relu(values * scale + shift).to(x.dtype).flatten(1, 2), mean, var

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var * (count / max(count - 1, 1))).to(self.running_var.dtype), self.momentum)


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that falls back on its running statistics for a batch of one image, which has no spread."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)
