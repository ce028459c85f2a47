"""Convolution with a PSF, one for all images or one for each: products with banded matrices on either side, or FFTs."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.fit.parameters import Column, Parameter
from darklens.fit.settings import ModelSettings
from darklens.simulation.psf import FWHM, fast_length, gaussian_taps, moffat_alpha, moffat_kernel, moffat_size

WIDEST = 1.3  # a fitted PSF is cut as one this much wider than `psf_sigma` is
WIDTH = "log_psf"
PARAMETERS = (Parameter(WIDTH, "ln", initial=0.0, low=-0.6, high=0.6, largest_step=0.2, group="psf"),)
COLUMNS = (Column("psf_fwhm", (WIDTH,), ("psf_fwhm",), "psf"),)

PRODUCTS = 3  # up to so many products of a column and a row a kernel is applied as these, above by FFT
BLOCK = 36  # rows of a banded matrix at a time: fewer zeros to multiply, still large enough for BLAS


def band(kernel: Tensor, size: int) -> Tensor:
    """The convolution with kernels (..., taps) as matrices (..., size, size + taps - 1)."""
    width = size + kernel.shape[-1] - 1
    row = F.pad(kernel.flip(-1), (0, size))  # (..., taps + size): read `width` at a time, it moves on by one a row
    rows = row.repeat(*[1] * (kernel.ndim - 1), size)[..., : size * width]  # (..., size (taps + size)), cut
    return rows.unflatten(-1, (size, width))


def separable(kernel: np.ndarray, tolerance: float = 1e-6) -> list[tuple[np.ndarray, np.ndarray]]:
    """A 2-D kernel as a sum of products of columns and rows (singular values), to `tolerance` of the largest."""
    u, s, vt = np.linalg.svd(kernel / kernel.sum())
    keep = int((s > tolerance * s[0]).sum())
    return [(u[:, i] * s[i], vt[i]) for i in range(keep)]


class Blur:
    """Images of `size` pixels from planes of size + taps - 1."""

    def __init__(self, taps: int, size: int) -> None:
        edges = np.linspace(0, size, -(-size // BLOCK) + 1).astype(int).tolist()
        self.size, self.h = size, size + taps - 1
        self.slices = [(slice(a, b + taps - 1), b - a) for a, b in zip(edges, edges[1:], strict=False)]

    def bands(self, kernel: Tensor) -> list[Tensor]:
        """What `__call__` multiplies by, for a kernel (taps,) or a kernel for each image (B, taps)."""
        return [band(kernel, n) for _, n in self.slices]

    def __call__(self, planes: Sequence[Tensor], pairs: Sequence[Sequence[list[Tensor]]]) -> Tensor:
        """K planes (B, h, h) -> (B, K, size, size), convolved with the sum of products of columns and rows (bands)."""
        stack = torch.stack(tuple(planes), 2)  # (B, h, K, h)
        b, h, k, _ = stack.shape
        flat, total = stack.reshape(b, h, k * h), None  # (B, h, K, h) -> (B, h, K h)
        for down, across in pairs:
            rows = [m @ flat[:, part] for (part, _), m in zip(self.slices, down, strict=True)]
            wide = torch.cat(rows, 1).reshape(b, self.size * k, h)  # (B, size, K h) -> (B, size K, h)
            out = torch.cat([wide[..., part] @ m.mT for (part, _), m in zip(self.slices, across, strict=True)], 2)
            total = out if total is None else total.add_(out)
        assert total is not None  # a kernel has at least one pair
        return total.reshape(b, self.size, k, self.size).transpose(1, 2)


def psf_kernel(model: ModelSettings) -> np.ndarray:
    """(k, k) the PSF that a model assumes, at its pixel scale."""
    if model.psf_kernel is not None:
        return np.asarray(model.psf_kernel, dtype=float)
    sigma = model.psf_sigma / model.pixel_scale
    if model.psf_beta is not None:
        return moffat_kernel(FWHM * sigma, model.psf_beta)
    taps = gaussian_taps(sigma, model.psf_truncate)
    return np.outer(taps, taps)


def psf_pairs(model: ModelSettings, binning: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A held PSF as products of columns and rows, (taps,) each; on binned pixels a Gaussian of the same width."""
    if model.psf_kernel is None:
        kernel = gaussian_taps(model.psf_sigma / (model.pixel_scale * binning), model.psf_truncate)
        return [(kernel, kernel)]
    kernel = np.asarray(model.psf_kernel, dtype=float)
    if binning == 1:
        return separable(kernel)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    shares = kernel.sum(0) / kernel.sum(), kernel.sum(1) / kernel.sum()
    variance = sum((share * steps**2).sum() - (share * steps).sum() ** 2 for share in shares) / 2
    kernel = gaussian_taps(math.sqrt(max(variance, 0.01)) / binning, model.psf_truncate)
    return [(kernel, kernel)]


class HeldPsf:
    """The PSF that the model says, for all images."""

    def __init__(self, model: ModelSettings, size: int, binning: int, reference: Tensor) -> None:
        pairs = psf_pairs(model, binning)
        self.blur = Blur(len(pairs[0][0]), size)
        self.h = self.blur.h
        self.pairs = [[self.blur.bands(reference.new_tensor(kernel)) for kernel in pair] for pair in pairs]

    def __call__(self, planes: Sequence[Tensor], log_width: Tensor, lights: int = 0) -> Tensor:
        """K planes (B, h, h) -> (B, K, size, size)."""
        return self.blur(planes, self.pairs)


class FreePsf:
    """A Gaussian of a width of its own for each image, psf_sigma times exp(log_width)."""

    def __init__(self, model: ModelSettings, size: int, binning: int, reference: Tensor) -> None:
        self.sigma = model.psf_sigma / (model.pixel_scale * binning)  # pixels
        reach = int(WIDEST * model.psf_truncate * self.sigma + 0.5)
        self.blur = Blur(2 * reach + 1, size)
        self.h = self.blur.h
        self.steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=reference.device)
        self.dtype = reference.dtype

    def __call__(self, planes: Sequence[Tensor], log_width: Tensor, lights: int = 0) -> Tensor:
        """K planes (B, h, h) -> (B, K, size, size)."""
        kernel = self.blur.bands(self._kernels(log_width)[0].to(self.dtype))
        return self.blur(planes, [(kernel, kernel)])

    def derivative(self, planes: Sequence[Tensor], log_width: Tensor) -> Tensor:
        """By the logarithm of the width (B,): K planes (B, h, h) -> (B, K, size, size)."""
        kernel, slope = (self.blur.bands(each.to(self.dtype)) for each in self._kernels(log_width))
        return self.blur(planes, [(slope, kernel), (kernel, slope)])

    def _kernels(self, log_width: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised kernels (B, taps) and their derivatives by the logarithm of the width."""
        square = (self.steps / (self.sigma * log_width[:, None].exp())).square()
        kernel = (-0.5 * square).exp()
        kernel = kernel / kernel.sum(1, keepdim=True)
        return kernel, kernel * (square - (kernel * square).sum(1, keepdim=True))


class FftPsf:
    """Any PSF, by FFT: a held kernel, or a Moffat of a width of its own for each image, exp(log_width) times."""

    def __init__(self, model: ModelSettings, size: int, reference: Tensor) -> None:
        self.model, self.size, self.dtype = model, size, reference.dtype
        if model.psf_beta is None:
            kernel = torch.as_tensor(model.psf_kernel, dtype=torch.float64, device=reference.device)
            self.taps = len(kernel)
            self.kernel: Tensor | None = (kernel / kernel.sum())[None]
        else:
            fwhm = FWHM * model.psf_sigma / model.pixel_scale
            self.alpha = moffat_alpha(fwhm, model.psf_beta)  # pixels
            self.taps, self.kernel = moffat_size(fwhm, model.psf_beta), None
        steps = torch.arange(self.taps, dtype=torch.float64, device=reference.device) - self.taps // 2
        self.r2 = steps.square() + steps[:, None].square()
        self.h = size + self.taps - 1
        self.length = fast_length(self.h)
        self.transform = None if model.free_psf else self._transform(self._moffat(self.r2.new_zeros(1))[0])

    def __call__(self, planes: Sequence[Tensor], log_width: Tensor, lights: int = 0) -> Tensor:
        """K planes (B, h, h) -> (B, K, size, size); the first are lights, which go in double precision: rounding
        spreads from their bright middle over all pixels."""
        transform = self._transform(self._moffat(log_width)[0]) if self.transform is None else self.transform
        parts = [[plane.double() for plane in planes[:lights]], planes[lights:]]
        return torch.cat([self._convolved(part, transform) for part in parts if part], 1)

    def derivative(self, planes: Sequence[Tensor], log_width: Tensor) -> Tensor:
        """By the logarithm of the width (B,): K planes (B, h, h) -> (B, K, size, size)."""
        slope = self._moffat(log_width)[1]
        if slope is None:
            raise ValueError("a held PSF has no derivative")
        return self._convolved(planes, self._transform(slope))

    def _moffat(self, log_width: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normalised kernels (B, taps, taps) and their derivatives by the logarithm of the width."""
        if self.kernel is not None:
            return self.kernel, None
        beta = self.model.psf_beta or 1.0  # which it has, without a kernel
        x = self.r2 / (self.alpha * log_width[:, None, None].double().exp()).square()
        kernel = (1 + x) ** -beta
        kernel = kernel / kernel.sum((1, 2), keepdim=True)
        slope = 2 * beta * x / (1 + x)
        return kernel, kernel * (slope - (kernel * slope).sum((1, 2), keepdim=True))

    def _transform(self, kernels: Tensor) -> Tensor:
        """(B, taps, taps) -> (B, 1, n, n / 2 + 1) complex128."""
        return torch.fft.rfft2(kernels, s=(self.length, self.length))[:, None]

    def _convolved(self, planes: Sequence[Tensor], transform: Tensor) -> Tensor:
        """What wraps around falls outside of what is kept."""
        spectrum = torch.fft.rfft2(torch.stack(tuple(planes), 1), s=(self.length, self.length))
        spectrum.mul_(transform.to(spectrum.dtype))
        inside = slice(self.taps - 1, self.taps - 1 + self.size)
        images = torch.fft.irfft2(spectrum, s=(self.length, self.length))
        return images[:, :, inside, inside].to(self.dtype)


def psf(model: ModelSettings, size: int, binning: int, reference: Tensor) -> HeldPsf | FreePsf | FftPsf:
    """What blurs the images of `size` pixels of `binning` image pixels each; `reference` has their dtype and device."""
    if binning == 1 and model.psf_beta is not None:
        return FftPsf(model, size, reference)
    if model.free_psf and model.psf_beta is None:
        return FreePsf(model, size, binning, reference)
    if binning == 1 and model.psf_kernel is not None and len(separable(np.asarray(model.psf_kernel))) > PRODUCTS:
        return FftPsf(model, size, reference)
    return HeldPsf(model, size, binning, reference)
