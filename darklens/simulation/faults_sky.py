"""Faults of the sky and of single pixels: neighbours, stars, trails, cosmic rays, dead columns."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from darklens.simulation.fault_measures import PSF_SIGMA, axes, random_place, sky_and_peak, sky_noise


def _poisson_like(image: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with light added, which brings noise along as the ring's does: sky and peak say how much."""
    sigma = sky_noise(image)
    sky, _ = sky_and_peak(image)
    per_unit = sigma**2 / abs(sky) if abs(sky) > 1e-12 else 0.0  # of counts, the variance of one of them
    return image + light + rng.normal(size=image.shape) * np.sqrt(np.maximum(light, 0) * per_unit)


def star(image: np.ndarray, strength: float, rng: np.random.Generator, radii: tuple = (4, 48)) -> np.ndarray:
    """A point source between 0.2" and 2.4" off, its peak `strength` of the ring's."""
    (y, x), (row, column) = axes(image), random_place(rng, *radii)
    light = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * PSF_SIGMA**2))
    return _poisson_like(image, strength * sky_and_peak(image)[1] * light, rng)


def galaxy(image: np.ndarray, strength: float, rng: np.random.Generator, radii: tuple = (8, 50)) -> np.ndarray:
    """An exponential disk of any shape between 0.4" and 2.5" off, its peak `strength` of the ring's."""
    (y, x), (row, column) = axes(image), random_place(rng, *radii)
    angle, ratio, scale = rng.uniform(0, np.pi), rng.uniform(0.4, 1), rng.uniform(1.5, 6)
    u = (x - column) * math.cos(angle) + (y - row) * math.sin(angle)
    v = ((y - row) * math.cos(angle) - (x - column) * math.sin(angle)) / ratio
    light = ndimage.gaussian_filter(np.exp(-np.hypot(u, v) / scale), PSF_SIGMA)
    return _poisson_like(image, strength * sky_and_peak(image)[1] * light / light.max(), rng)


def central_galaxy(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """What a lens galaxy leaves in the middle: a concentrated light, its peak `strength` of the ring's, of any sign."""
    y, x = axes(image)
    radius = np.hypot(x, y / rng.uniform(0.6, 1)) + 0.5
    light = ndimage.gaussian_filter(np.exp(-((radius / rng.uniform(1, 6)) ** rng.uniform(0.4, 1))), PSF_SIGMA)
    return image + rng.choice([1, 1, 1, -1]) * strength * sky_and_peak(image)[1] * light / light.max()


def dipole(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A galaxy that was subtracted off its place: a positive and a negative spot, `strength` of the ring's peak."""
    y, x = axes(image)
    angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 5)
    u = (x * math.cos(angle) + y * math.sin(angle)) / width
    return image + strength * sky_and_peak(image)[1] * 1.65 * u * np.exp(-(x**2 + y**2) / (2 * width**2))


def bright_halo(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The wings of a bright object outside of the image, `strength` of the ring's peak where it is nearest."""
    (y, x), (row, column) = axes(image), random_place(rng, 60, 100)
    light = 1 / (1 + ((y - row) ** 2 + (x - column) ** 2) / rng.uniform(8, 30) ** 2) ** rng.uniform(1, 2)
    return image + strength * sky_and_peak(image)[1] * light / light.max()


def ghost(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A mirrored copy of the ring, `strength` of its light, blurred and off by up to 15 pixels."""
    light = ndimage.gaussian_filter(image - float(np.median(image)), 3.0)[::-1, ::-1]
    return image + strength * ndimage.shift(light, rng.uniform(-15, 15, 2), order=1, mode="nearest")


def satellite(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A straight trail across the image, `strength` of the ring's peak."""
    (y, x), angle = axes(image), rng.uniform(0, np.pi)
    across = x * math.sin(angle) - y * math.cos(angle) - rng.uniform(-35, 35)
    return _poisson_like(image, strength * sky_and_peak(image)[1] * np.exp(-(across**2) / (2 * PSF_SIGMA**2)), rng)


def sky_gradient(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A sky that changes by `strength` of its noise over 100 pixels."""
    (y, x), angle = axes(image), rng.uniform(0, 2 * np.pi)
    return image + strength * sky_noise(image) * (x * math.cos(angle) + y * math.sin(angle)) / 100


def cosmic_rays(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`strength` tracks of up to 8 pixels anywhere, each 0.1 to 2 times the ring's peak."""
    image, (_, peak) = image.copy(), sky_and_peak(image)
    height, width = image.shape
    for _ in range(max(1, round(strength))):
        row, column = rng.uniform(15, height - 15), rng.uniform(15, width - 15)
        angle, length, energy = rng.uniform(0, np.pi), rng.integers(1, 9), peak * np.exp(rng.uniform(-2.3, 0.7))
        for step in range(length):
            i, j = round(row + step * math.sin(angle)), round(column + step * math.cos(angle))
            if 0 <= i < height and 0 <= j < width:
                image[i, j] += energy * rng.uniform(0.5, 1)
    return image


def hot_pixels(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`strength` single pixels within 2.5", a tenth to twice the ring's peak above or below what they were."""
    image, (_, peak) = image.copy(), sky_and_peak(image)
    for _ in range(max(1, round(strength))):
        row, column = (round(n / 2 + rng.uniform(-50, 50)) for n in image.shape)
        image[row, column] += rng.choice([-1, 1]) * peak * np.exp(rng.uniform(-2.3, 0.7))
    return image


def dead_lines(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`strength` columns (or rows) that read zero, the sky, or a multiple of the sky's noise too much."""
    turned = rng.random() < 0.5
    image = image.T.copy() if turned else image.copy()
    sky, _ = sky_and_peak(image)
    for _ in range(max(1, round(strength))):
        column, kind = round(image.shape[1] / 2 + rng.uniform(-40, 40)), rng.integers(3)
        image[:, column] = (0.0, sky, image[:, column] + rng.uniform(2, 10) * sky_noise(image))[kind]
    return image.T.copy() if turned else image


def dead_block(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A square of `strength` pixels a side within 1.5" that reads the sky's level, or zero."""
    image, side = image.copy(), max(2, round(strength))
    row, column = (round(n / 2 + offset) for n, offset in zip(image.shape, random_place(rng, 5, 30), strict=True))
    image[row : row + side, column : column + side] = rng.choice([0.0, sky_and_peak(image)[0]])
    return image


FAULTS = (
    star, galaxy, central_galaxy, dipole, bright_halo, ghost, satellite, sky_gradient, cosmic_rays,
    hot_pixels, dead_lines, dead_block,
)  # fmt: skip
