"""The noise of an image, measured in the image itself: its variance is v0 + k (model - sky).

Photon transfer (Janesick 2007, Photon Transfer, ch. 5): v0 is the variance of the empty sky, k the counts' variance
per unit of signal, so neither the unit nor the sky that was subtracted need be known. Both come from a high-pass of
the image or of the fit's residual, as in Immerkaer 1996 (CVIU 64, 300), whose Laplacian difference removes what a
PSF has blurred. What it removes too much of is noise: of the residual a half-band high-pass keeps more and measures
the variance 1.7 times as precisely.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.fit.blur import band

ROUNDS = 4  # of reweighting
OUTLIER = 6.0  # standard deviations: a hot pixel is not the noise


class HighPass:
    """The kernel centre * delta + sign * taps (x) taps, scaled to squared taps that sum to 1."""

    def __init__(self, taps: list[float], centre: float, sign: float) -> None:
        taps = np.array(taps)
        middle = sign * taps[len(taps) // 2] ** 2
        norm = math.sqrt((taps**2).sum() ** 2 - middle**2 + (centre + middle) ** 2)
        self.taps, self.centre, self.sign = taps, centre / norm, sign / norm
        self.square = ((centre + middle) ** 2 - middle**2) / norm**2  # of the squared kernel, at its centre
        self.norm = norm

    def filter(self, image: Tensor) -> Tensor:
        """(B, S, S) -> (B, S - k + 1, S - k + 1)."""
        return _separable(image, self.taps).mul_(self.sign).add_(self._inner(image), alpha=self.centre)

    def average(self, image: Tensor) -> Tensor:
        """The same with the squared kernel."""
        return _separable(image, self.taps**2 / self.norm).add_(self._inner(image), alpha=self.square)

    def response(self, width: float) -> float:
        """Its expected square on noise of variance 1 that was smoothed by a Gaussian of standard deviation `width`
        pixels, as drizzled images are (`detector.correlate`); 1 on white noise."""
        if width <= 0:
            return 1.0
        reach = max(int(6 * width + 0.5), 1)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
        kernel /= np.sqrt(np.square(kernel).sum())
        both = np.convolve(self.taps, kernel)
        same = both[len(self.taps) // 2 :][: len(kernel)] @ kernel
        return self.centre**2 + 2 * self.centre * self.sign * same**2 + self.sign**2 * (both @ both) ** 2

    def _inner(self, image: Tensor) -> Tensor:
        edge = len(self.taps) // 2
        return image[:, edge:-edge, edge:-edge]


def _separable(image: Tensor, taps: np.ndarray) -> Tensor:
    """(B, S, S) convolved with taps along rows and columns -> (B, S - k + 1, S - k + 1)."""
    matrix = band(image.new_tensor(taps), image.shape[-1] - len(taps) + 1)
    return matrix @ image @ matrix.T


HIGH_PASS = {
    "data": HighPass([1.0, -2.0, 1.0], 0.0, 1.0),
    "residual": HighPass([-1 / 32, 0.0, 9 / 32, 16 / 32, 9 / 32, 0.0, -1 / 32], 1.0, -1.0),  # exact for cubics
}


def measure(
    image: Tensor, level: Tensor, good: Tensor, floor: Tensor, kind: str, correlation: float = 0.0
) -> tuple[Tensor, Tensor]:
    """v0 (B,) and k (B,) such that the variance is v0 + k level.

    image: (B, S, S) data with its gaps filled smoothly, or residual of a fit, 0 in the gaps. level: (B, S, S) the
    signal, 0 or more. good: (B, S, S) bool, False in the gaps. floor: (B,) the least v0. kind: "data" or "residual".
    correlation: pixels, the standard deviation of the Gaussian that the noise was smoothed with.

    A high-pass with squared taps that sum to 1 has the expected square v0 + k (level averaged with the squared taps),
    without what lies in gaps: both follow by least squares weighted with the squares' own variance, by iteration.
    """
    high, there = HIGH_PASS[kind], good.to(image.dtype)
    square, mean = (
        high.filter(image).square_().div_(high.response(correlation)).flatten(1),
        high.average(level * there).flatten(1),
    )
    share = high.average(there).clamp_(min=0).flatten(1)
    powers = torch.stack((share * share, share * mean, mean * mean, share * square, mean * square), 2)  # (B, N, 5)
    v0, k = square.sum(1).double() / share.sum(1).double().clamp(min=1e-30), torch.zeros_like(floor)
    for _ in range(ROUNDS):
        v0 = torch.maximum(v0, floor)
        size = v0 + k * mean.amax(1)
        expected = share * (v0 / size)[:, None].to(mean.dtype) + mean * (k / size)[:, None].to(mean.dtype)
        counts = (share > 0.1) & (square < (OUTLIER**2 * size)[:, None] * expected)
        weight = torch.where(counts, expected.square_().reciprocal_(), 0.0)
        s, sm, smm, sy, smy = (weight[:, None] @ powers)[:, 0].double().unbind(1)
        determinant = s * smm - sm * sm
        flat = determinant <= 1e-9 * s * smm  # no signal: nothing to tell k from
        k = torch.where(flat, 0.0, (s * smy - sm * sy) / torch.where(flat, 1.0, determinant)).clamp(min=0)
        v0 = (sy - k * sm) / s.clamp(min=1e-30)
    return torch.maximum(v0, floor), k


def smooth(image: Tensor, good: Tensor) -> Tensor:
    """(B, S, S) averaged with a binomial of 9 x 9 pixels, without gaps: what stands for the model at first."""
    taps = np.convolve([1.0, 4.0, 6.0, 4.0, 1.0], [1.0, 4.0, 6.0, 4.0, 1.0]) / 256
    there = good.to(image.dtype)

    def average(values: Tensor) -> Tensor:
        return _separable(F.pad(values[:, None], (4, 4, 4, 4), mode="replicate")[:, 0], taps)

    if good.all():
        return average(image)
    return average(image * there) / average(there).clamp(min=1e-6)
