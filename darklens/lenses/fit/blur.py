"""Convolution with a PSF as products with banded matrices on either side: one PSF for all images, or one for each."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.lenses.fit.model import WIDEST, SmoothModel, gaussian_kernel, separable

BLOCK = 36  # rows of a banded matrix at a time: fewer zeros to multiply, still large enough for BLAS


def band(kernel: Tensor, size: int) -> Tensor:
    """The convolution with kernels (..., taps) as matrices (..., size, size + taps - 1)."""
    width = size + kernel.shape[-1] - 1
    row = F.pad(kernel.flip(-1), (0, size))  # (..., taps + size): read `width` at a time, it moves on by one a row
    rows = row.repeat(*[1] * (kernel.ndim - 1), size)[..., : size * width]  # (..., size (taps + size)), cut
    return rows.unflatten(-1, (size, width))


class Blur:
    """Images of `size` pixels from planes of size + taps - 1."""

    def __init__(self, taps: int, size: int) -> None:
        edges = np.linspace(0, size, -(-size // BLOCK) + 1).astype(int).tolist()
        self.size, self.h = size, size + taps - 1
        self.slices = [(slice(a, b + taps - 1), b - a) for a, b in zip(edges, edges[1:], strict=False)]

    def bands(self, kernel: Tensor) -> list[Tensor]:
        """What `__call__` multiplies by, for a kernel (taps,) or a kernel for each image (B, taps)."""
        return [band(kernel, n) for _, n in self.slices]

    def __call__(self, planes: Tensor, pairs: Sequence[Sequence[list[Tensor]]]) -> Tensor:
        """(B, h, K, h) -> (B, size, K, size), convolved with the sum of products of columns and rows, their bands."""
        b, h, k, _ = planes.shape
        flat, total = planes.reshape(b, h, k * h), None  # (B, h, K, h) -> (B, h, K h)
        for down, across in pairs:
            rows = [m @ flat[:, part] for (part, _), m in zip(self.slices, down, strict=True)]
            wide = torch.cat(rows, 1).reshape(b, self.size * k, h)  # (B, size, K h) -> (B, size K, h)
            out = torch.cat([wide[..., part] @ m.mT for (part, _), m in zip(self.slices, across, strict=True)], 2)
            total = out if total is None else total.add_(out)
        return total.reshape(b, self.size, k, self.size)


def psf_pairs(model: SmoothModel, binning: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A held PSF as products of columns and rows, (taps,) each; on binned pixels a Gaussian of the same width."""
    if model.psf_kernel is None:
        kernel = gaussian_kernel(model.psf_sigma / (model.pixel_scale * binning), model.psf_truncate)
        return [(kernel, kernel)]
    kernel = np.asarray(model.psf_kernel, dtype=float)
    if binning == 1:
        return separable(kernel)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    shares = kernel.sum(0) / kernel.sum(), kernel.sum(1) / kernel.sum()
    variance = sum((share * steps**2).sum() - (share * steps).sum() ** 2 for share in shares) / 2
    kernel = gaussian_kernel(math.sqrt(max(variance, 0.01)) / binning, model.psf_truncate)
    return [(kernel, kernel)]


class HeldPsf:
    """The PSF that the model says, for all images."""

    def __init__(self, model: SmoothModel, size: int, binning: int, like: Tensor) -> None:
        pairs = psf_pairs(model, binning)
        self.blur = Blur(len(pairs[0][0]), size)
        self.pairs = [[self.blur.bands(like.new_tensor(kernel)) for kernel in pair] for pair in pairs]

    def __call__(self, planes: Tensor, q: Tensor) -> Tensor:
        """(B, h, K, h) -> (B, size, K, size)."""
        return self.blur(planes, self.pairs)


class FreePsf:
    """A Gaussian of a width of its own for each image, psf_sigma times exp(q[:, 11])."""

    def __init__(self, model: SmoothModel, size: int, binning: int, like: Tensor) -> None:
        self.sigma = model.psf_sigma / (model.pixel_scale * binning)  # pixels
        reach = int(WIDEST * model.psf_truncate * self.sigma + 0.5)
        self.blur = Blur(2 * reach + 1, size)
        self.steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=like.device)
        self.dtype = like.dtype

    def __call__(self, planes: Tensor, q: Tensor) -> Tensor:
        """(B, h, K, h) -> (B, size, K, size)."""
        kernel = self.blur.bands(self._kernels(q)[0].to(self.dtype))
        return self.blur(planes, [(kernel, kernel)])

    def derivative(self, planes: Tensor, q: Tensor) -> Tensor:
        """By q[:, 11]: (B, h, K, h) -> (B, size, K, size)."""
        kernel, slope = (self.blur.bands(each.to(self.dtype)) for each in self._kernels(q))
        return self.blur(planes, [(slope, kernel), (kernel, slope)])

    def _kernels(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised kernels (B, taps) and their derivatives by the logarithm of the width."""
        square = (self.steps / (self.sigma * q[:, 11:12].exp())).square()
        kernel = (-0.5 * square).exp()
        kernel = kernel / kernel.sum(1, keepdim=True)
        return kernel, kernel * (square - (kernel * square).sum(1, keepdim=True))
