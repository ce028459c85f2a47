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


def contrast(psf: np.ndarray) -> float:
    """How far the middle of a star exceeds the median 2 pixels away, over how far that exceeds the one 4 away."""
    middle = len(psf) // 2
    padded = np.pad(psf, max(OUTER - middle, 0))
    middle = len(padded) // 2
    near, far = (_ring_median(padded, reach)[middle, middle] for reach in (INNER, OUTER))
    return float((padded[middle, middle] - near) / max(near - far, 1e-6 * padded[middle, middle]))


def cosmic_rays(image: np.ndarray, noise: np.ndarray, psf: np.ndarray, good: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels struck.

    image, noise: (H, W) and its standard deviations; psf: (k, k), odd; good: (H, W) bool, pixels that count.
    """
    limit = SLACK * contrast(psf)
    struck = np.zeros(image.shape, dtype=bool)
    for _ in range(ROUNDS):
        values = np.where(good & ~struck, image, np.nan)
        near, far = _ring_median(values, INNER), _ring_median(values, OUTER)
        excess = image - near - limit * np.maximum(near - far, 0.0)
        new = good & ~struck & (excess > THRESHOLD * noise)  # False where it is not a number
        if not new.any():
            break
        struck |= new
    return struck


def _ring_median(values: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) median of the edge of the square of 2 reach + 1 pixels about each, without what is not a number."""
    padded = np.pad(values, reach, mode="reflect")
    height, width = values.shape
    side = range(2 * reach + 1)
    edge = [(dy, dx) for dy in side for dx in side if {dy, dx} & {0, 2 * reach}]
    stack = np.stack([padded[dy : dy + height, dx : dx + width] for dy, dx in edge])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of edges without any number
        return np.nanmedian(stack, 0)
