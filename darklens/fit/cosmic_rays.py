"""Pixels struck by cosmic rays: sharper than the PSF lets anything be.

Light has gone through the PSF, so a pixel cannot exceed the pixels about it by more than the peak of a star does
(after the edge test of van Dokkum 2001, PASP 113, 1420, with the known PSF for the sampling-dependent limit).
"""

import warnings

import numpy as np

THRESHOLD = 6.0  # standard deviations above what the pixels about it allow
SLACK = 1.5  # times the contrast of a star: PSFs are not known exactly
ROUNDS = 3  # a strike is often several pixels long, whose brightest hide the next
INNER, OUTER = 2, 4  # pixels: the squares about a pixel that it is compared with


def contrast(psf: np.ndarray) -> tuple[float, float]:
    """How far a pixel of a star exceeds its surroundings at most: over the median 2 pixels away, as a share of what
    that exceeds the one 4 away by; and over the lower of both, as a share of what its neighbours exceed that by."""
    padded = np.pad(psf, OUTER)
    adjacent, inner, outer = (_edge_median(padded, reach) for reach in (1, INNER, OUTER))
    base, epsilon = np.minimum(inner, outer), 1e-6 * padded.max()
    bright = padded > 0.05 * padded.max()
    wide = (padded - inner) / np.maximum(inner - outer, epsilon)
    sharp = (padded - base) / np.maximum(adjacent - base, epsilon)
    return float(wide[bright].max()), float(sharp[bright].max())


def cosmic_rays(image: np.ndarray, noise: np.ndarray, psf: np.ndarray, good: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels struck.

    image, noise: (H, W) and its standard deviations; psf: (k, k), odd; good: (H, W) bool, pixels that count.
    """
    wide, sharp = (SLACK * limit for limit in contrast(psf))
    struck = np.zeros(image.shape, dtype=bool)
    for _ in range(ROUNDS):
        values = np.where(good & ~struck, image, np.nan)
        adjacent, inner, outer = (_edge_median(values, reach) for reach in (1, INNER, OUTER))
        base = np.minimum(inner, outer)
        excess = image - inner - wide * np.maximum(inner - outer, 0.0)
        excess = np.minimum(excess, image - base - sharp * np.maximum(adjacent - base, 0.0))
        new = good & ~struck & (excess > THRESHOLD * noise)  # False where it is not a number
        if not new.any():
            break
        struck |= new
    return struck


def _edge_median(values: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) median of the edge of the square of 2 reach + 1 pixels about each, without what is not a number."""
    padded = np.pad(values, reach, mode="reflect")
    height, width = values.shape
    side = range(2 * reach + 1)
    edge = [(dy, dx) for dy in side for dx in side if {dy, dx} & {0, 2 * reach}]
    stack = np.stack([padded[dy : dy + height, dx : dx + width] for dy, dx in edge])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of edges without any number
        return np.nanmedian(stack, 0)
