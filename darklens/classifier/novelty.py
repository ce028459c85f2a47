"""How unlike its training data is an image?

    novelty = fit_on(classifier, train.images, val.images)     # once, at the end of training
    score = novelty.score(parts)                              # (n,): above 1.0 unlike the training data

A network gives a class to everything, to pure noise too. Two descriptions of an image, its parts, say whether it
is of the kind that the network knows: the features that its last layer reads, and light profile and power spectrum
of the image itself, since a network is blind to what did not matter in training (three times the noise, say). Each
part has its Mahalanobis distance from the training images; the larger one counts, in units of the distance that a
known share of validation images exceeds.

Measured against 18 kinds of strange images: class-conditional means changed nothing and the relative distance (Ren et
al.) failed, so one Gaussian serves all classes; skewness, kurtosis, extremes, pixel noise, centroid and ellipticity
added nothing to profile and spectrum.

References
  Lee et al. 2018, arXiv:1807.03888 (Mahalanobis distance of features); Ren et al. 2021, arXiv:2106.09022
  Ledoit & Wolf 2004, J. Multivariate Analysis 88, 365 (shrunk covariance)
  Tipping & Bishop 1999, J. R. Stat. Soc. B 61, 611 (few principal axes, one variance for the rest)
  Bates et al. 2023, arXiv:2104.08279 (false-alarm rate of a threshold taken from validation scores)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

FALSE_ALARMS = 0.01  # share of images of the training kind that may be called unlike it
MAX_IMAGES = 1000  # of a split that are looked at
BINS = 8  # rings of the profile, and of the spectrum
NUMBERS = 40_000  # of the axes of one part: 160 kB in a checkpoint
FLOOR = 1e-3  # least variance along an axis, in that of a feature: bf16 rounds features to about 0.02


def describe(images: Tensor) -> Tensor:
    """Light profile and power spectrum, (B, C, S, S) preprocessed -> (B, C * 2 * BINS), on the same device.

    Means over rings around the centre out to the edge, and the logarithm of the mean power in rings of spatial
    frequency, evenly spaced in logarithm from 1/S to 1/2 a pixel. Any exact turn or mirror leaves them as they are.
    """
    size = images.shape[-1]
    rings, frequencies = (mask.to(images.device) for mask in _masks(size))  # (S*S, BINS) each
    profile = images.flatten(2) @ rings  # (B, C, BINS)
    waves = torch.fft.fft2(images)
    power = (waves.real.square() + waves.imag.square()) / size**2
    spectrum = (power.flatten(2) @ frequencies + 1e-6).log()
    return torch.cat((profile, spectrum), 2).flatten(1)


def _masks(size: int) -> tuple[Tensor, Tensor]:
    """Weights that average over each ring, in the image and in its Fourier transform: (size*size, BINS) each."""
    axis, frequency = torch.arange(size) - (size - 1) / 2, torch.fft.fftfreq(size) * size
    edges = torch.linspace(0, size / 2, BINS + 1)
    steps = torch.logspace(0, math.log10(size / 2), BINS + 1)
    steps[0] = 0.99  # a whole number lies there
    return _average(axis, edges), _average(frequency, steps)


def _average(axis: Tensor, edges: Tensor) -> Tensor:
    radius = torch.hypot(axis[:, None], axis[None, :]).flatten()  # (S*S,)
    inside = (radius[:, None] >= edges[:-1]) & (radius[:, None] < edges[1:])
    return inside / inside.sum(0).clamp(min=1)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian around the training images' features. All tensors float32, on the CPU.

    mean, scale: (d,); axes: (d, k) orthonormal, of the features over their scale; weight: (k,) one over the
    variance along each; rest: one over the variance in every other direction; unit: the distance that counts as 1.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor
    weight: Tensor
    rest: float
    unit: float = 1.0

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance over `unit`: (n, d) -> (n,) float64 on the CPU, infinite for NaN and infinity."""
        away = (features.detach().cpu().double() - self.mean) / self.scale
        along = (away @ self.axes.double()).square()  # (n, k)
        squared = along @ self.weight.double() + self.rest * (away.square().sum(1) - along.sum(1)).clamp(min=0)
        return (squared.sqrt() / self.unit).nan_to_num(nan=math.inf, posinf=math.inf)


def fit_gaussian(features: Tensor) -> Gaussian:
    """The Gaussian of (n, d) features, n at least 2, its covariance shrunk after Ledoit & Wolf.

    Where d is large, only as many axes as NUMBERS allows are told apart.
    """
    from sklearn.covariance import ledoit_wolf

    x = features.detach().cpu().double()
    mean, scale = x.mean(0), x.std(0)
    scale = torch.where(scale > 1e-6 * mean.abs().clamp(min=1e-6), scale, torch.ones_like(scale))
    covariance, _ = ledoit_wolf(((x - mean) / scale).numpy(), assume_centered=True)  # (d, d)
    variances, axes = torch.linalg.eigh(torch.from_numpy(covariance))  # ascending
    variances, count = variances.clamp(min=FLOOR), min(len(mean), max(1, NUMBERS // len(mean)))
    others, variances = variances[:-count], variances[-count:]
    rest = 1 / others.mean().item() if len(others) else 0.0
    mean, scale, axes, weight = (t.float().contiguous() for t in (mean, scale, axes[:, -count:], 1 / variances))
    return Gaussian(mean, scale, axes, weight, rest)


@dataclass(frozen=True, eq=False)
class Novelty:
    """Scores in which 1.0 is the threshold: above it an image is unlike the training data.

    parts: one Gaussian a description; false_alarms: the share of images of the training kind that exceed 1.0, at most
    0.01 unless there were fewer than 99 validation images; images: how many of train and val it was fitted to.
    """

    parts: tuple[Gaussian, ...]
    false_alarms: float
    images: tuple[int, int]

    def score(self, parts: Sequence[Tensor]) -> Tensor:
        """(n, d) features of each part -> (n,) float64 on the CPU: the largest of the parts' distances."""
        return self.distances(parts).amax(1)

    def distances(self, parts: Sequence[Tensor]) -> Tensor:
        """Of each part: (n, parts) float64 on the CPU."""
        distances = [gaussian.distance(part) for gaussian, part in zip(self.parts, parts, strict=True)]
        return torch.stack(distances, 1)

    def to_dict(self) -> dict:
        """Tensors and plain numbers, for checkpoints."""
        parts = [{field.name: getattr(gaussian, field.name) for field in fields(Gaussian)} for gaussian in self.parts]
        return {"parts": parts, "false_alarms": self.false_alarms, "images": list(self.images)}

    @classmethod
    def from_dict(cls, values: dict, sizes: Sequence[int]) -> Novelty:
        """The inverse of `to_dict`. sizes: the d of each part. Raises ValueError for anything inconsistent."""
        if set(values) != {field.name for field in fields(cls)} or len(values["parts"]) != len(sizes):
            raise ValueError(f"novelty: expected {len(sizes)} parts, rate and images, found {sorted(map(str, values))}")
        parts = tuple(_checked(Gaussian(**part), size) for part, size in zip(values["parts"], sizes, strict=True))
        rate, images = values["false_alarms"], values["images"]
        if not _is_positive(rate) or rate > 1 or [type(n) for n in images] != [int, int]:
            raise ValueError(f"novelty: expected a rate and two numbers of images, found {rate!r} and {images!r}")
        return cls(parts, rate, tuple(images))


def _checked(gaussian: Gaussian, size: int) -> Gaussian:
    """The Gaussian, if it can be used on (n, size) features."""
    count = gaussian.axes.shape[-1] if isinstance(gaussian.axes, Tensor) and gaussian.axes.ndim else 0
    shapes = {"mean": (size,), "scale": (size,), "axes": (size, count), "weight": (count,)}
    for name, shape in shapes.items():
        value = getattr(gaussian, name)
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.shape != shape:
            raise ValueError(f"novelty: expected {name} of {size} features, found {getattr(value, 'shape', value)!r}")
        if not value.isfinite().all() or (name in ("scale", "weight") and not (value > 0).all()):
            raise ValueError(f"novelty: expected finite {name}, above 0 where it divides")
    if not _is_positive(gaussian.unit) or not (gaussian.rest == 0 or _is_positive(gaussian.rest)):
        raise ValueError(f"novelty: expected a unit above 0, found {gaussian.unit!r} and {gaussian.rest!r}")
    return gaussian


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def fit_novelty(train: Sequence[Tensor], val: Sequence[Tensor], rate: float = FALSE_ALARMS) -> Novelty:
    """Fit to the parts, (n, d) each, of training images, two or more, and set the threshold by validation images.

    Of new images like the validation images, at most a share of `rate` is expected to exceed the threshold; one over
    their number plus one where that is more. Raises ValueError for features that are not finite or too few.
    """
    if not all(part.isfinite().all() for part in (*train, *val)):
        raise ValueError("novelty: the network's features are not finite")
    if len(train[0]) < 2 or len(val[0]) < 1:
        raise ValueError(f"novelty: expected 2 training images and 1 other, found {len(train[0])} and {len(val[0])}")
    gaussians = []
    for part, others in zip(train, val, strict=True):
        gaussian = fit_gaussian(part)
        gaussians.append(_rescaled(gaussian, _threshold(gaussian.distance(others), rate)))
    n, images = len(val[0]), (len(train[0]), len(val[0]))
    threshold = _threshold(Novelty(tuple(gaussians), rate, images).score(val), rate)
    return Novelty(tuple(_rescaled(c, threshold) for c in gaussians), (n + 1 - _rank(n, rate)) / (n + 1), images)


def _rank(n: int, rate: float) -> int:
    """Which of n sorted scores a new one exceeds with probability `rate` (or 1 / (n + 1), if that is more)."""
    return min(n, math.ceil((n + 1) * (1 - rate)))


def _threshold(scores: Tensor, rate: float) -> float:
    return max(scores.sort().values[_rank(len(scores), rate) - 1].item(), 1e-12)


def _rescaled(gaussian: Gaussian, factor: float) -> Gaussian:
    return replace(gaussian, unit=gaussian.unit * factor)
