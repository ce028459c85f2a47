"""Faults of filters and of resampling: blurred, moved, sharpened, stacked, noisier."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from darklens.simulation.fault_measures import random_place, sky_noise


def blurred(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Smoothed by a Gaussian of `strength` pixels: image and noise."""
    return ndimage.gaussian_filter(image, strength)


def shifted(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Moved by `strength` pixels in a direction of its own, bilinear or cubic."""
    return ndimage.shift(image, random_place(rng, strength, strength), order=int(rng.choice([1, 3])), mode="nearest")


def resampled(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Enlarged by a factor of `strength` and brought back, bilinear, as by a plot."""
    larger = ndimage.zoom(image, strength, order=1)
    return ndimage.zoom(larger, [n / m for n, m in zip(image.shape, larger.shape, strict=True)], order=1)


def sharpened(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """An unsharp mask of 1.5 pixels, of weight `strength`."""
    return image + strength * (image - ndimage.gaussian_filter(image, 1.5))


def median_filtered(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The median of 3 x 3 pixels, mixed in with weight `strength`."""
    return (1 - strength) * image + strength * ndimage.median_filter(image, 3)


def added_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """White noise of `strength` of the sky's: what photons do not explain."""
    return image + strength * sky_noise(image) * rng.standard_normal(image.shape)


def stacked(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The mean of the image and itself moved by `strength` pixels: exposures that were not registered."""
    return (image + ndimage.shift(image, random_place(rng, strength, strength), order=1, mode="nearest")) / 2


def stretched_pixels(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Pixels that are not square: one axis longer by `strength`, the other shorter."""
    factor = 1 + strength * rng.choice([-1, 1])
    middle = (np.array(image.shape) - 1) / 2
    matrix = np.array([factor, 1 / factor])
    return ndimage.affine_transform(image, matrix, middle - matrix * middle, order=3, mode="nearest")


FAULTS = (
    blurred, shifted, resampled, sharpened, median_filtered, added_noise, stacked, stretched_pixels,
)  # fmt: skip
