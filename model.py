"""The E(2)-equivariant network on plain tensors.

A feature map of F regular fields of a group of order G is an ordinary tensor (B, F*G, H, W), channel f*G + g.
Steerable weights are expanded to ordinary filters once per call, so everything PyTorch offers works unchanged:
autocast, channels_last, `torch.compile(fullgraph=True)`, deepcopy, `torch.export`.

    network = build_network({"sym_group": "Dihyderal", "N": 8})
    logits = network(images)                  # images: (B, 1, 129, 129) -> (B, 3)
    plain = network.eval().folded()           # the same map as plain convolutions, for evaluation and export

References
  Weiler & Cesa 2019, General E(2)-Equivariant Steerable CNNs, arXiv:1911.08251
  Zhang 2019, Making Convolutional Networks Shift-Invariant Again, arXiv:1904.11486 (antialiased pooling)
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import factorised
import triton_steering
from steerable import SteerableBasis, Symmetry, regular_permutation, steerable_basis, transform


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    fields: regular fields after each block; kernels, paddings: of each block's convolution; pools: (block, stride)
    of the antialiased poolings (stride 1 pools without padding); reduce: stride of the pooling before the first
    block, left out where the image would become too small; margin: width of the masked border in percent of the
    image's radius; hidden: features between the head's linear layers; head: the one to take if none is asked for.
    """

    fields: tuple[int, ...]
    head: str = "orbit"
    kernels: tuple[int, ...] = (7, 5, 5, 5, 5, 5)
    paddings: tuple[int, ...] = (1, 2, 2, 2, 2, 1)
    pools: tuple[tuple[int, int], ...] = ((1, 2), (3, 2), (5, 1))
    reduce: int = 1
    margin: float = 1.0
    hidden: int = 64


SMALLEST = 29  # pixels that the blocks need to end with a map of at least one

ARCHITECTURES = {
    "full": Architecture(fields=(24, 48, 48, 96, 96, 64)),  # the original's
    "compact": Architecture(  # for CPUs and quick looks: half the resolution, pooled early
        fields=(8, 12, 16, 24, 24, 16), head="lifted", pools=((0, 2), (2, 2), (5, 1)), reduce=2
    ),
}


class ExactModule(nn.Module):
    """A module whose constant tensors follow `.to()`, `.half()` and `.double()` from a float64 source.

    Rounding a basis to float32 and back would leave a float64 network equivariant to 1e-7 only. Constants are
    derived data: they are not in the state_dict.
    """

    def __init__(self):
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def constant(self, name: str, value: Tensor) -> None:
        self._exact[name] = value.to(torch.float64)
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            like = getattr(self, name)
            if not like.is_meta:
                setattr(self, name, value.to(device=like.device, dtype=like.dtype))
        return self


class DiskMask(ExactModule):
    """Blanks what a turn of the square image would move out of it: 1 within the disk, Gaussian edge of width 2 px."""

    def __init__(self, size: int, margin: float):
        super().__init__()
        centre = (size - 1) / 2
        axis = torch.arange(size, dtype=torch.float64) - centre
        squares = axis[:, None] ** 2 + axis[None, :] ** 2  # (S, S)
        edge = (centre * (1 - margin / 100)) ** 2
        self.constant("mask", torch.exp((edge - squares).clamp(max=0) / 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype)


class SteerableConv(ExactModule):
    """Convolution with a steerable filter to `out_fields` regular fields.

    weight: (F_out, F_in, b) coefficients of the basis. plan: how the basis factorises, where it does; `convolution`
    says whether that is used (a key of `factorised.CHOICES`): the same map, rounded differently. Raises nothing;
    padding is zero padding, stride 1.
    """

    convolution = "auto"
    gains = False  # by Triton's kernels, as measured at its last call on a GPU

    def __init__(
        self,
        basis: SteerableBasis,
        in_fields: int,
        out_fields: int,
        padding: int,
        plan: factorised.Factorisation | None = None,
    ):
        super().__init__()
        self.padding, self.plan = padding, plan
        self.shape = basis.kernels.shape[1:]  # (G, G_in, k, k)
        self.constant("basis", basis.kernels.flatten(1))  # (b, G*G_in*k*k)
        if plan:
            self.constant("mixing", plan.mixing)
        std = (basis.he_std / math.sqrt(in_fields)).to(torch.get_default_dtype())  # (b,)
        self.weight = nn.Parameter(torch.randn(out_fields, in_fields, len(std)) * std)

    def filters(self) -> Tensor:
        """The expanded filter bank, (F_out*G, F_in*G_in, k, k), in the precision of the weights."""
        fields_out, fields_in, b = self.weight.shape
        group, group_in, k, _ = self.shape
        with torch.autocast(self.weight.device.type, enabled=False):
            bank = self.weight.reshape(-1, b) @ self.basis
        # (F_out*F_in, G*G_in*k*k) -> (F_out, F_in, G, G_in, k, k) -> (F_out, G, F_in, G_in, k, k)
        bank = bank.view(fields_out, fields_in, group, group_in, k, k).transpose(1, 2)
        return bank.reshape(fields_out * group, fields_in * group_in, k, k)

    def matrices(self) -> list[Tensor]:
        """The factorised filters, one matrix per irrep, in the precision of the weights."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return factorised.blocks(self.weight, self.mixing, self.plan)

    @property
    def factorises(self) -> bool:
        """Whether the layer is to work without its filter bank where that is possible."""
        fields_out, fields_in, _ = self.weight.shape
        return factorised.CHOICES[self.convolution](self.plan, (fields_in, fields_out))

    def forward(self, x: Tensor) -> Tensor:
        if self.factorises and factorised.possible(x):
            return factorised.convolve(x, self.matrices(), self.plan, len(self.weight), self.padding)
        return self.steered(x) if self.steers(x, self.dense) else self.dense(x)

    def dense(self, x: Tensor) -> Tensor:
        """The layer by its filter bank."""
        return F.conv2d(x, self.filters(), padding=self.padding)

    def steered(self, x: Tensor) -> Tensor:
        """The layer by Triton's kernels."""
        return triton_steering.convolve(x, self.weight, self.mixing, self.plan, self.padding)

    def steers(self, x: Tensor, dense: Callable[[Tensor], Tensor]) -> bool:
        """Whether a GPU is to work on x without the filter bank, which `dense` does with it. Under torch.compile,
        where nothing can be measured, "auto" is what an earlier call has found."""
        if self.convolution == "dense" or not triton_steering.possible(x, self.plan):
            return False
        if self.convolution == "auto" and not torch.compiler.is_compiling():
            ways = {"dense": dense, "factorised": self.steered}
            self.gains = triton_steering.prefers(x, self.weight, self.plan, self.padding, ways)
        return self.convolution == "factorised" or self.gains

    @property
    def steerable(self) -> bool:
        """Whether it might be worked on by Triton's kernels where it is now."""
        possible = self.convolution != "dense" and triton_steering.possible(self.weight, self.plan)
        return possible and (self.convolution == "factorised" or triton_steering.promising(self.plan))


def set_convolution(network: nn.Module, kind: str) -> None:
    """How the steerable layers of a network work from now on: "auto", "dense" or "factorised" where they can.

    Raises ValueError for another `kind`. Results differ by rounding only; neither config nor state knows of it.
    """
    _choose("convolution", factorised.CHOICES, kind)
    for layer in network.modules():
        if isinstance(layer, SteerableConv):
            layer.convolution = kind


class FoldedConv(nn.Module):
    """A factorised layer for evaluation, scaled by (F_out,) and shifted by (F_out*G,), its matrices computed once."""

    def __init__(self, conv: SteerableConv, scale: Tensor, shift: Tensor):
        super().__init__()
        self.conv = copy.deepcopy(conv)
        self.conv.weight.mul_(scale[:, None, None])
        self.matrices = nn.ParameterList(self.conv.matrices())
        self.shift = nn.Parameter(shift)
        self.bank = None  # what a GPU on which this layer is no faster works with

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if factorised.possible(x):
            y = factorised.convolve(x, list(self.matrices), conv.plan, len(conv.weight), conv.padding)
        elif conv.steers(x, self._dense):
            y = conv.steered(x)
        else:  # it was moved to another device, is being traced, or is no faster
            return self._dense(x)
        return y.add_(self.shift.to(y.dtype).view(-1, 1, 1))

    def _dense(self, x: Tensor) -> Tensor:
        bank = self._kept() if x.is_cuda and not torch.compiler.is_compiling() else self.conv.filters()
        return F.conv2d(x, bank, self.shift, padding=self.conv.padding)

    def _kept(self) -> Tensor:
        """The filter bank, computed once on each device."""
        weight = self.conv.weight
        if self.bank is None or (self.bank.device, self.bank.dtype) != (weight.device, weight.dtype):
            with torch.inference_mode(False), torch.no_grad():
                self.bank = self.conv.filters()
        return self.bank


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
            wanted = [False, True, True]
            statistics = (None, None, mean, invstd, True, ctx.eps)
            return torch.ops.aten.native_batch_norm_backward(through_relu(x, grad), x, weight, *statistics, wanted)[1:]

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
    most = 2**23 if x.device.type == "cpu" else x.numel()  # numbers
    return max(1, min(len(x), most // max(x[0].numel(), 1)))


class FieldNormRelu(nn.Module):
    """Batch norm with one mean, variance, weight and bias per regular field, then ReLU.

    (B, F*G, H, W) -> same. Statistics run over batch, group and pixels, as e2cnn's InnerBatchNorm.
    """

    def __init__(self, fields: int, group: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.group, self.eps, self.momentum = group, eps, momentum
        self.shared: Callable | None = None  # the same over the images of several processes, see distributed.py
        self.weight, self.bias = nn.Parameter(torch.ones(fields)), nn.Parameter(torch.zeros(fields))
        self.register_buffer("running_mean", torch.zeros(fields))
        self.register_buffer("running_var", torch.ones(fields))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            channels = [t.repeat_interleave(self.group) for t in self._statistics()]
            return torch.relu(F.batch_norm(x, *channels, False, 0.0, self.eps))
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


class AntialiasedPool(ExactModule):
    """Gaussian blur (sigma 0.66 px) and subsampling by `stride`, centred on the map so that it commutes with turns.

    (B, C, H, H) -> (B, C, H', H'). The blur is separable: one small matrix from the left and one from the right,
    which in channels_last are two plain matrix products, forward and backward. For odd sizes this is e2cnn's
    PointwiseAvgPoolAntialiased; for even sizes with stride 2, where that one sits half a pixel off centre, the
    taps lie at half-integers.
    """

    def __init__(self, size: int, stride: int, sigma: float = 0.66):
        super().__init__()
        reach = round(3 * sigma)
        pad = reach if stride > 1 else 0
        out = (size + 2 * pad - 2 * reach - 1) // stride + 1
        if out < 1:
            raise ValueError(f"a map of {size} x {size} pixels is too small to be pooled")
        centres = (torch.arange(out, dtype=torch.float64) - (out - 1) / 2) * stride
        pixels = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        distance = centres[:, None] - pixels[None, :]  # (H', H): whole numbers, or halves where H is even
        everywhere = torch.arange(-reach - 1, reach + 2, dtype=torch.float64) + distance[0, 0] % 1
        # rows that the border cuts are not rescaled, as with zero padding
        self.constant("matrix", _taps(distance, sigma, reach) / _taps(everywhere, sigma, reach).sum())
        self.size = out

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix.to(x.dtype)
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C), contiguous in channels_last
        batch, height, width, channels = x.shape
        x = matrix @ x.reshape(batch, height, width * channels)  # (B, H', W*C)
        x = matrix @ x.view(batch * self.size, width, channels)  # (B*H', W', C)
        return x.view(batch, self.size, self.size, channels).permute(0, 3, 1, 2)


def _taps(distance: Tensor, sigma: float, reach: int) -> Tensor:
    return torch.where(distance.abs() < reach + 0.75, torch.exp(-(distance**2) / (2 * sigma**2)), 0.0)


class Block(nn.Module):
    """Steerable convolution, field batch norm, ReLU and, where asked, antialiased pooling."""

    def __init__(self, conv: SteerableConv, norm: FieldNormRelu, pool: AntialiasedPool | None):
        super().__init__()
        self.conv, self.norm, self.pool = conv, norm, pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.pool is None else self.pool(x)

    def folded(self, plain: bool = False) -> nn.Module:
        """The same map in evaluation mode with the batch norm inside the filters. plain: as a plain convolution."""
        scale, shift = self.norm.affine()
        loops = self.conv.factorises and factorised.possible(self.conv.weight)
        if not plain and (loops or self.conv.steerable):
            conv = FoldedConv(self.conv, scale[:: self.norm.group], shift)
        else:
            filters = self.conv.filters() * scale.view(-1, 1, 1, 1)
            conv = nn.Conv2d(filters.shape[1], filters.shape[0], filters.shape[2], padding=self.conv.padding)
            conv.weight, conv.bias = nn.Parameter(filters), nn.Parameter(shift)
        return nn.Sequential(conv, nn.ReLU(inplace=True), *([self.pool] if self.pool else []))


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that falls back on its running statistics for a batch of one image, which has no spread."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class Head(nn.Module):
    """From the last map of regular fields to logits: (B, F*G, H, H) -> (B, classes).

    The tail (linear, batch norm, ELU, linear) is the original's; the subclasses differ in what they feed it.
    """

    copies = 1  # feature vectors per image that the second linear layer sees

    def __init__(self, symmetry: Symmetry, fields: int, size: int, hidden: int, classes: int):
        super().__init__()
        self.symmetry, self.group = symmetry, symmetry.order
        self.squeeze = nn.Linear(self.features(fields, size), hidden)
        self.norm = BatchNorm(hidden)
        self.classify = nn.Linear(self.copies * hidden, classes)

    def features(self, fields: int, size: int) -> int:
        return fields * size * size

    def scalars(self, x: Tensor) -> Tensor:
        """Max over the group, an invariant of each field: (B, F*G, H, H) -> (B, F, H, H)."""
        return x.unflatten(1, (-1, self.group)).amax(2)

    def embed(self, features: Tensor) -> Tensor:
        return F.elu(self.norm(self.squeeze(features)))  # (B, features) -> (B, hidden)


class FlattenHead(Head):
    """The original's head. It reads absolute positions, so the network is no longer invariant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(self.scalars(x).flatten(1)))


class PooledHead(Head):
    """The spatial mean: invariant, but blind to where things are."""

    def features(self, fields: int, size: int) -> int:
        return fields

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(self.scalars(x).mean((2, 3))))


class RingsHead(Head):
    """Mean and maximum over soft rings around the centre: invariant, and knows how far out things are."""

    spacing = 1.0  # pixels

    def __init__(self, symmetry, fields, size, hidden, classes):
        super().__init__(symmetry, fields, size, hidden, classes)
        axis = torch.arange(size) - (size - 1) / 2
        radius = torch.hypot(axis[:, None], axis[None, :])  # (H, H)
        rings = torch.arange(self.rings(size))[:, None, None] * self.spacing
        weight = (1 - (radius - rings).abs() / self.spacing).clamp(min=0)  # (R, H, H), a hat of unit width
        self.register_buffer("weight", weight / weight.sum((1, 2), keepdim=True), persistent=False)

    def rings(self, size: int) -> int:
        return math.ceil(size / 2 / self.spacing)

    def features(self, fields: int, size: int) -> int:
        return 2 * fields * self.rings(size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scalars(x)
        weight = self.weight.to(x.dtype)
        mean = torch.einsum("bfhw,rhw->bfr", x, weight)
        peak = weight / weight.amax((1, 2), keepdim=True)
        most = torch.stack([(x * ring).amax((2, 3)) for ring in peak], 2)  # (B, F, R)
        return self.classify(self.embed(torch.cat((mean, most), 2).flatten(1)))


class OrbitHead(Head):
    """The flattened head, shared by every exact turn (and mirror image) of the map, then max and mean over them.

    It keeps where things are and is invariant under the exact elements by construction.
    """

    copies = 2

    def orbit(self, x: Tensor) -> Tensor:
        """(B, F*G, H, H) -> (B, E, F, H, H), the map as seen under each exact element."""
        x = self.scalars(x)
        return torch.stack([transform(x, *element) for element in self.symmetry.exact_elements()], 1)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.orbit(x)
        hidden = self.embed(turned.flatten(0, 1).flatten(1)).unflatten(0, turned.shape[:2])  # (B, E, hidden)
        return self.classify(torch.cat((hidden.amax(1), hidden.mean(1)), 1))


class LiftedHead(OrbitHead):
    """As OrbitHead, on the regular fields themselves: a steerable convolution as wide as the map.

    Each exact element turns the map and permutes the channels of its fields.
    """

    def __init__(self, symmetry, fields, size, hidden, classes):
        super().__init__(symmetry, fields, size, hidden, classes)
        elements = symmetry.exact_elements()
        permutations = torch.stack([regular_permutation(symmetry, *element) for element in elements])
        self.register_buffer("permutations", permutations, persistent=False)  # (E, G)

    def features(self, fields: int, size: int) -> int:
        return fields * self.group * size * size

    def orbit(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (-1, self.group))  # (B, F, G, H, H)
        elements = zip(self.symmetry.exact_elements(), self.permutations, strict=True)
        turned = [transform(x[:, :, permutation], *element).flatten(1, 2) for element, permutation in elements]
        return torch.stack(turned, 1)  # (B, E, F*G, H, H)


HEADS = {
    "flatten": FlattenHead,
    "pooled": PooledHead,
    "rings": RingsHead,
    "orbit": OrbitHead,
    "lifted": LiftedHead,
}


class Equivariant_Network(nn.Module):
    """Classifier of square images, equivariant under C_N ("Circular") or D_N ("Dihyderal") up to its head.

    images: (B, channels, size, size) -> logits (B, classes), float32 or better whatever the precision inside.
    `config` holds every argument, so that `build_network(network.config)` makes the same network again.
    Raises ValueError for an unknown group, architecture or head, an order below 1, or images too small for it.
    """

    def __init__(
        self,
        sym_group: str = "Circular",
        N: int = 4,
        arch: str = "full",
        head: str | None = None,
        channels: int = 1,
        classes: int = 3,
        size: int = 129,
    ):
        super().__init__()
        shape = _choose("architecture", ARCHITECTURES, arch)
        head = head or shape.head
        self.config = {"sym_group": sym_group, "N": N, "arch": arch, "head": head}
        self.config |= {"channels": channels, "classes": classes, "size": size}
        symmetry = Symmetry(sym_group, N)
        self.mask = DiskMask(size, shape.margin)
        self.reduce = nn.Identity()
        if shape.reduce > 1 and size >= shape.reduce * SMALLEST - 1:
            self.reduce = AntialiasedPool(size, shape.reduce)
            size = self.reduce.size
        self.blocks, size = _blocks(shape, symmetry, channels, size)
        self.head = _choose("head", HEADS, head)(symmetry, shape.fields[-1], size, shape.hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.reduce(self.mask(images)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return _at_least_float32(self.head(x))

    def folded(self, plain: bool = False) -> nn.Module:
        """A copy for evaluation with the batch norms inside the filters. plain: made of plain convolutions only."""
        return FoldedNetwork(self, plain)


class FoldedNetwork(nn.Module):
    """An `Equivariant_Network` in evaluation mode: the same logits, faster, free of e2cnn.

    plain: without its bases, as plain convolutions, to be exported or moved to another device.
    """

    def __init__(self, network: Equivariant_Network, plain: bool = False):
        super().__init__()
        with torch.no_grad():
            blocks = [block.folded(plain) for block in network.blocks]
        parts = nn.Sequential(network.mask, network.reduce), nn.Sequential(*blocks), network.head
        self.prepare, self.body, self.head = copy.deepcopy(parts)
        self.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prepare(images).contiguous(memory_format=torch.channels_last)
        return _at_least_float32(self.head(self.body(x)))


def build_network(config: dict) -> Equivariant_Network:
    """The network that `config` (see `Equivariant_Network.config`) describes, freshly initialised."""
    return Equivariant_Network(**config)


def _blocks(shape: Architecture, symmetry: Symmetry, channels: int, size: int) -> tuple[nn.ModuleList, int]:
    """The blocks and the size of their last map. Each basis is computed, and factorised, once."""
    bases, blocks = {}, nn.ModuleList()
    source, pools, previous = "trivial", dict(shape.pools), channels
    for i, (fields, kernel, padding) in enumerate(zip(shape.fields, shape.kernels, shape.paddings, strict=True)):
        if (source, kernel) not in bases:
            basis = steerable_basis(symmetry, source, kernel)
            bases[source, kernel] = basis, factorised.factorise(basis.kernels, symmetry.N, symmetry.mirrored)
        size += 2 * padding - kernel + 1
        pool = AntialiasedPool(size, pools[i]) if i in pools else None
        basis, plan = bases[source, kernel]
        conv = SteerableConv(basis, previous, fields, padding, plan)
        blocks.append(Block(conv, FieldNormRelu(fields, symmetry.order), pool))
        size, source, previous = pool.size if pool else size, "regular", fields
    return blocks, size


def _choose(what: str, registry: dict, name: str):
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
