"""Layers that keep the symmetry exactly: disk mask, antialiased pooling, the block of them."""

import torch
from torch import Tensor, nn

from darklens.factorised import backend
from darklens.networks.conv import FoldedConv, SteerableConv
from darklens.networks.grid import ExactModule
from darklens.networks.norm import FieldNormRelu


class DiskMask(ExactModule):
    """Blanks what a turn of the square image would move out of it: 1 within the disk, Gaussian edge of width 2 px."""

    mask: Tensor

    def __init__(self, size: int, margin: float):
        super().__init__()
        centre = (size - 1) / 2
        axis = torch.arange(size, dtype=torch.float64) - centre
        squares = axis[:, None] ** 2 + axis[None, :] ** 2  # (S, S)
        edge = (centre * (1 - margin / 100)) ** 2
        self.constant("mask", torch.exp((edge - squares).clamp(max=0) / 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype)


class AntialiasedPool(ExactModule):
    """Gaussian blur (sigma 0.66 px) and subsampling by `stride`, centred on the map so that it commutes with turns.

    (B, C, H, H) -> (B, C, H', H'). The blur is separable: one small matrix from the left and one from the right,
    which in channels_last are two plain matrix products, forward and backward. For odd sizes this is e2cnn's
    PointwiseAvgPoolAntialiased; for even sizes with stride 2, where that one sits half a pixel off centre, the
    taps lie at half-integers.
    """

    matrix: Tensor

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
        if not plain and self.conv.algorithm(self.conv.weight) != backend.DENSE:
            conv: nn.Module = FoldedConv(self.conv, scale[:: self.norm.group], shift)
        else:
            filters = self.conv.filters() * scale.view(-1, 1, 1, 1)
            conv = nn.Conv2d(filters.shape[1], filters.shape[0], int(filters.shape[2]), padding=self.conv.padding)
            conv.weight, conv.bias = nn.Parameter(filters), nn.Parameter(shift)
        return nn.Sequential(conv, nn.ReLU(inplace=True), *([self.pool] if self.pool else []))
