"""The noise of an image without a noise map, of which nothing is known yet: no model, and a galaxy with a sharp core.

The variance is v0 + k (light - sky), as in `noise`, from a high-pass of the image. Where a galaxy is thousands of times
brighter than the noise its core goes through the high-pass, and a line through all pixels would follow that. So pixels
are sorted by light into bins of equal counts, each bin's variance is by its median, v0 that of the fainter half and k
the median over the brighter half: a core is in few bins. What smoothed the noise (drizzling) takes more of it from the
finest detail than from all: that factor comes from two high-passes of the fainter half (`correlation`).
"""

import numpy as np
import torch

from darklens.fit.correlation import measure_correlation
from darklens.fit.noise import FINEST, HIGH_PASS, smooth

BINS, LEAST = 24, 50  # by light; pixels a bin at least
MEDIAN = 0.4549  # of a squared standard normal number


def image_noise(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """(H, W) standard deviations for an image (H, W) and the pixels that count (bool); 1 where nothing varies."""
    if not good.any() or min(image.shape) < 9:
        return np.ones(image.shape)
    pixels, used = torch.from_numpy(np.where(good, image, 0.0))[None], torch.from_numpy(good)[None]
    light = smooth(pixels, used)
    level = (light[0].numpy() - np.median(image[good])).clip(min=0)
    v0, k = _by_light(_squares(torch.where(used, pixels, light)), level[1:-1, 1:-1], _complete(used))
    floor = max(FINEST * np.ptp(image[good]), _step(image[good])) ** 2 / 12
    if not floor > 0:
        return np.ones(image.shape)
    sigma = torch.from_numpy(np.sqrt(max(v0, floor) + k * level))[None]
    faint = used & (light <= light[used].median())
    scale = float(measure_correlation((pixels - light) / sigma, faint).scale)
    return np.maximum(scale * sigma[0].numpy(), np.sqrt(floor))


def _squares(filled: torch.Tensor) -> np.ndarray:
    """(H - 2, W - 2) the squared high-pass of an image (1, H, W)."""
    return HIGH_PASS["data"].filter(filled).square()[0].numpy()


def _complete(used: torch.Tensor) -> np.ndarray:
    """(H - 2, W - 2) bool: whose neighbours count, too."""
    return HIGH_PASS["data"].average(used.double())[0].numpy() > 1 - 1e-6


def _by_light(square: np.ndarray, level: np.ndarray, complete: np.ndarray) -> tuple[float, float]:
    """v0 and k; 0 where too few pixels tell."""
    square, level = square[complete], level[complete]
    number = min(BINS, len(square) // LEAST)
    if number < 2:
        return float(np.median(square) / MEDIAN) if len(square) else 0.0, 0.0
    bins = np.array_split(np.argsort(level, kind="stable"), number)
    variance = np.array([np.median(square[rows]) for rows in bins]) / MEDIAN
    lights = np.array([np.median(level[rows]) for rows in bins])
    half = number // 2
    v0 = float(np.median(variance[:half]))
    bright = lights[half:] > 0
    slopes = (variance[half:] - v0)[bright] / lights[half:][bright]
    return v0, max(float(np.median(slopes)), 0.0) if bright.any() else 0.0


def _step(values: np.ndarray) -> float:
    """The least difference of two values: rounding to steps is noise too."""
    steps = np.diff(np.unique(values))
    return float(steps.min()) if len(steps) else 0.0
