"""What a fault needs to know of an image: its sky, its peak, its noise, its middle."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

PSF_SIGMA = 1.7  # pixels of 0.05": of stars


def sky_and_peak(image: np.ndarray) -> tuple[float, float]:
    """Level of the sky, and the peak of the ring above it."""
    sky = float(np.median(image))
    return sky, max(float(np.quantile(ndimage.gaussian_filter(image, 1.0), 0.9995)) - sky, 1e-12)


def sky_noise(image: np.ndarray) -> float:
    """Standard deviation of the empty sky, from differences of pixels near the edge."""
    edge = np.concatenate([image[:15].ravel(), image[-15:].ravel()])
    return float(1.4826 * np.median(np.abs(np.diff(edge))) / math.sqrt(2)) or 1e-12


def axes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, 1) and columns (1, W), pixels from the middle."""
    height, width = image.shape
    return np.arange(height)[:, None] - (height - 1) / 2, np.arange(width)[None] - (width - 1) / 2


def random_place(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    """Row and column, pixels from the middle, between two radii."""
    radius, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
    return radius * math.sin(angle), radius * math.cos(angle)
