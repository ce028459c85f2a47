"""The noise of an image, measured in the image itself: its variance is v0 + k (model - sky).

Photon transfer (Janesick 2007, Photon Transfer, ch. 5): v0 is the variance of the empty sky, k the counts' variance
per unit of signal, so neither the unit nor the sky that was subtracted need be known. Both come from a high-pass of
the image or of the fit's residual, as in Immerkaer 1996 (CVIU 64, 300), whose Laplacian difference removes what a
PSF has blurred. What it removes too much of is noise: of the residual a half-band high-pass keeps more and measures
the variance 1.7 times as precisely.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.fit.blur import band
from darklens.fit.window import Window

ROUNDS = 4  # of reweighting
OUTLIER = 6.0  # standard deviations: a hot pixel is not the noise
FINEST = 1e-5  # of the image's range: less noise than that counts as that


@dataclasses.dataclass(frozen=True)
class Variance:
    """The noise of B windows in the data's unit: the variance is v0 + k signal."""

    pixels: Tensor  # (B, S, S)
    v0: Tensor  # (B,) of the empty sky
    k: Tensor  # (B,) per unit of signal

    def scaled(self, factor: Tensor) -> "Variance":
        """So many times (B,) as large."""
        return Variance(self.pixels * factor[:, None, None].to(self.pixels.dtype), self.v0 * factor, self.k * factor)


class NoiseModel(Protocol):
    """Says the variance of each pixel, given what is known of the signal."""

    def variance(self, window: Window, signal: Tensor, sky: Tensor, image: Tensor, kind: str) -> Variance:
        """signal: (B, S, S) 0 or more; sky: (B,) above the window's background; image and kind: as in `measure`."""


@dataclasses.dataclass(frozen=True)
class GivenNoise:
    """A standard deviation for each pixel, which the caller says."""

    pixels: Tensor  # (B, S, S) variance in the data's unit

    def variance(self, window: Window, signal: Tensor, sky: Tensor, image: Tensor, kind: str) -> Variance:
        return Variance(self.pixels, self.pixels.flatten(1).median(1).values, torch.zeros_like(sky))


@dataclasses.dataclass(frozen=True)
class PoissonNoise:
    """Counts, sky included: the variance is the expected count."""

    dtype: torch.dtype

    def variance(self, window: Window, signal: Tensor, sky: Tensor, image: Tensor, kind: str) -> Variance:
        v0 = ((window.background + window.scale * sky) / window.scale.square()).clamp(min=1e-12)
        return _linear(v0, 1 / window.scale, signal, self.dtype)


@dataclasses.dataclass(frozen=True)
class MeasuredNoise:
    """Measured in the image itself, whose noise was smoothed by a Gaussian of `correlation` pixels."""

    dtype: torch.dtype
    correlation: float = 0.0

    def variance(self, window: Window, signal: Tensor, sky: Tensor, image: Tensor, kind: str) -> Variance:
        floor = (window.step.square() / 12).clamp(min=FINEST**2)  # rounding to steps is noise too
        arrays = image.to(self.dtype), signal.to(self.dtype), window.good, floor
        return _linear(*measure(*arrays, kind=kind, correlation=self.correlation), signal, self.dtype)


def _linear(v0: Tensor, k: Tensor, signal: Tensor, dtype: torch.dtype) -> Variance:
    return Variance(torch.addcmul(v0[:, None, None], k[:, None, None], signal).to(dtype), v0, k)


def given_noise(deviation: Tensor, window: Window, dtype: torch.dtype) -> tuple[GivenNoise, Window]:
    """The noise model of standard deviations (B, S, S) in the image's unit, and the window without pixels whose
    deviation is 0, negative, infinite or not a number."""
    variance = (deviation / window.scale[:, None, None]).square().to(dtype)
    usable = variance.isfinite() & (variance > 0) & (deviation > 0)
    good = window.good & usable
    return GivenNoise(torch.where(usable, variance, 1.0)), dataclasses.replace(window, good=good)


class HighPass:
    """The kernel centre * delta + sign * taps (x) taps, scaled to squared taps that sum to 1."""

    def __init__(self, weights: list[float], centre: float, sign: float) -> None:
        taps = np.array(weights)
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
        return float(self.centre**2 + 2 * self.centre * self.sign * same**2 + self.sign**2 * (both @ both) ** 2)

    def _inner(self, image: Tensor) -> Tensor:
        edge = len(self.taps) // 2
        return image[:, edge:-edge, edge:-edge]


def _separable(image: Tensor, taps: np.ndarray) -> Tensor:
    """(B, H, W) convolved with taps along rows and columns -> (B, H - k + 1, W - k + 1)."""
    rows, columns = (band(image.new_tensor(taps), side - len(taps) + 1) for side in image.shape[-2:])
    return rows @ image @ columns.T


HIGH_PASS = {
    "data": HighPass([1.0, -2.0, 1.0], 0.0, 1.0),
    "residual": HighPass([-1 / 32, 0.0, 9 / 32, 16 / 32, 9 / 32, 0.0, -1 / 32], 1.0, -1.0),  # exact for cubics
}


def measure(
    image: Tensor, level: Tensor, good: Tensor, floor: Tensor, *, kind: str, correlation: float = 0.0
) -> tuple[Tensor, Tensor]:
    """v0 (B,) and k (B,) such that the variance is v0 + k level.

    image: (B, S, S) data with its gaps filled smoothly, or residual of a fit, 0 in the gaps. level: (B, S, S) the
    signal, 0 or more. good: (B, S, S) bool, False in the gaps. floor: (B,) the least v0. kind: "data" or "residual".
    correlation: pixels, the standard deviation of the Gaussian that the noise was smoothed with.

    A high-pass with squared taps that sum to 1 has the expected square v0 + k (level averaged with the squared taps),
    without what lies in gaps: both follow by least squares weighted with the squares' own variance, by iteration.
    """
    high, unmasked = HIGH_PASS[kind], good.to(image.dtype)
    square, mean = (
        high.filter(image).square_().div_(high.response(correlation)).flatten(1),
        high.average(level * unmasked).flatten(1),
    )
    share = high.average(unmasked).clamp_(min=0).flatten(1)
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
    unmasked = good.to(image.dtype)

    def average(values: Tensor) -> Tensor:
        return _separable(F.pad(values[:, None], (4, 4, 4, 4), mode="replicate")[:, 0], taps)

    if good.all():
        return average(image)
    return average(image * unmasked) / average(unmasked).clamp(min=1e-6)
