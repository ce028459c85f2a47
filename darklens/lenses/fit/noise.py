"""The noise of an image, measured in the image itself: its variance is v0 + k (model - sky).

Photon transfer (Janesick 2007, Photon Transfer, ch. 5): v0 is the variance of the empty sky, k the counts' variance
per unit of signal, so neither the unit nor the sky that was subtracted need be known. Both come from a high-pass of
the image or of the fit's residual, as in Immerkaer 1996 (CVIU 64, 300), whose Laplacian difference removes what a
PSF has blurred. What it removes too much of is noise: of the residual a half-band high-pass keeps more and measures
the variance 1.7 times as precisely.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SECOND = np.array([1.0, -2.0, 1.0])
_HALF = np.array([-1.0, 0.0, 9.0, 16.0, 9.0, 0.0, -1.0]) / 32  # half-band low-pass, exact for cubic polynomials


def _laplacian() -> np.ndarray:
    return np.outer(_SECOND, _SECOND) / 6


def _half_band() -> np.ndarray:
    kernel = -np.outer(_HALF, _HALF)
    kernel[3, 3] += 1
    return kernel / np.sqrt((kernel**2).sum())


HIGH_PASS = {"data": _laplacian(), "residual": _half_band()}


def _convolve(image: Tensor, kernel: np.ndarray) -> Tensor:
    """(B, S, S) -> (B, S - k + 1, S - k + 1); the kernels are symmetric."""
    return F.conv2d(image[:, None], torch.as_tensor(kernel, dtype=image.dtype, device=image.device)[None, None])[:, 0]


def measure(image: Tensor, level: Tensor, good: Tensor, floor: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """v0 (B,) and k (B,) such that the variance is v0 + k level.

    image: (B, S, S) data, or residual of a fit. level: (B, S, S) the signal, 0 or more. good: (B, S, S) bool, pixels
    that count. floor: (B,) the least v0. kind: "data" or "residual", what `image` is.

    A high-pass with squared taps that sum to 1 has the expected square v0 + k (level averaged with the squared taps):
    both follow by least squares weighted with the squares' own variance, found by iteration.
    """
    kernel = HIGH_PASS[kind]
    square = _convolve(image, kernel).square().flatten(1)
    mean = _convolve(level, kernel**2).flatten(1)
    count = (_convolve((~good).to(image.dtype), np.ones_like(kernel)) == 0).to(image.dtype).flatten(1)
    v0, k = (square * count).sum(1) / count.sum(1).clamp(min=1), torch.zeros_like(floor)
    for _ in range(6):
        v0 = torch.maximum(v0, floor)
        weight = count / (v0[:, None] + k[:, None] * mean + 1e-30).square()
        weight = weight / weight.amax(1, keepdim=True).clamp(min=1e-30)
        s, sm, smm = weight.sum(1), (weight * mean).sum(1), (weight * mean * mean).sum(1)
        sy, smy = (weight * square).sum(1), (weight * mean * square).sum(1)
        determinant = s * smm - sm * sm
        flat = determinant <= 1e-9 * s * smm  # no signal: nothing to tell k from
        k = torch.where(flat, 0.0, (s * smy - sm * sy) / torch.where(flat, 1.0, determinant)).clamp(min=0)
        v0 = (sy - k * sm) / s.clamp(min=1e-30)
    return torch.maximum(v0, floor), k


def lattice_floor(image: Tensor) -> Tensor:
    """(B,) step^2 / 12 of the smallest step between two values of (B, N): the noise of rounding to it, 0 if constant."""
    step = image.sort(1).values.diff(dim=1)
    span = image.amax(1, keepdim=True) - image.amin(1, keepdim=True)
    step = torch.where(step > 1e-9 * span, step, torch.inf).amin(1)
    return torch.where(step.isfinite(), step.square() / 12, 0.0)


def smooth(image: Tensor) -> Tensor:
    """(B, S, S) averaged with a binomial of 5 x 5 pixels twice: what stands for the model before there is one."""
    taps = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = np.outer(taps, taps)
    for _ in range(2):
        image = _convolve(F.pad(image[:, None], (2, 2, 2, 2), mode="replicate")[:, 0], kernel)
    return image
