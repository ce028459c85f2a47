"""Images brought to another pixel scale: each new pixel is the light that falls on it.

The light up to a pixel's edge is known exactly; a spline through these sums, along rows and along columns, gives it at
the new edges (a histospline: Boneva, Kendall & Stefanov 1971, J. R. Stat. Soc. B 33, 1). So flux is conserved to the
last bit that counts, a coarser pixel averages over its area and nothing is aliased from beyond it, and a turned or
mirrored image becomes the turned or mirrored result. The noise of neighbours becomes correlated.
"""

from __future__ import annotations

import functools

import numpy as np

DEGREE = 5  # of the spline
MARGIN = 16  # pixels around what is needed: what lies beyond changes nothing


@functools.lru_cache(maxsize=64)
def _matrix(pixels: int, into: int, step: float) -> np.ndarray:
    """(into, pixels): from pixels to `into` pixels `step` times as large, about the same centre."""
    from scipy.interpolate import make_interp_spline

    sums = np.tril(np.ones((pixels + 1, pixels)), -1)  # (edges, pixels): the light of each pixel alone, summed up
    spline = make_interp_spline(np.arange(pixels + 1) - pixels / 2, sums, min(DEGREE, pixels))
    matrix = np.diff(spline((np.arange(into + 1) - into / 2) * step), axis=0)
    return (matrix + matrix[::-1, ::-1]) / 2  # mirrored to the last bit


def new_size(pixels: int, step: float, parity: int) -> int:
    """How many pixels `step` times as large fit in, odd or even as `parity` is."""
    count = int(pixels / step + 1e-6)
    return count - (count - parity) % 2


def resample(image: np.ndarray, into: tuple[int, int], step: tuple[float, float], variance: bool = False) -> np.ndarray:
    """(..., H, W) -> (..., *into) float64, of pixels `step` times as high and wide, about the same centre.

    The values are light a pixel, which is conserved. variance: they are variances of independent noise instead, whose
    covariances are then left out.
    """
    rows, columns = (_matrix(n, m, s) for n, m, s in zip(image.shape[-2:], into, step, strict=True))
    if variance:
        rows, columns = rows**2, columns**2
    return rows @ image.astype(np.float64) @ columns.T


def around_centre(image: np.ndarray, window: int, step: tuple[float, float]) -> np.ndarray:
    """(..., H, W) without what lies far from the middle `window` x `window` pixels `step` times as large."""
    sides = image.shape[-2:]
    spare = (max((n - int(window * s) - 2 * MARGIN) // 2, 0) for n, s in zip(sides, step, strict=True))
    rows, columns = (slice(margin, n - margin) for n, margin in zip(sides, spare, strict=True))
    return image[..., rows, columns]
