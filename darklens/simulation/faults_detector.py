"""Faults of a detector and of what is made of its numbers: gains, zeros, saturation, stretches, levels."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from darklens.simulation.fault_measures import axes, sky_and_peak, sky_noise


def _times_light(image: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Light, and its noise, with another gain in places; the sky's level as it was."""
    sky, _ = sky_and_peak(image)
    return sky + (image - sky) * gain


def quadrant_gains(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Four amplifiers whose gains have a standard deviation of `strength`; the sky, too, in half of the images."""
    (y, x), gains = axes(image), 1 + strength * rng.standard_normal(4)
    offset = rng.uniform(-6, 6, 2)  # of the cross from the middle
    gain = gains[2 * (y > offset[0]).astype(int) + (x > offset[1])]
    return image * gain if rng.random() < 0.5 else _times_light(image, gain)


def gain_steps(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Four amplifiers whose gains lie `strength` apart, in any order."""
    y, x = axes(image)
    gains = 1 + strength * rng.permutation(4)
    return image * gains[2 * (y > 0).astype(int) + (x > 0)]


def half_gain(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Two halves whose gains differ by `strength`."""
    y, x = axes(image)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.3 else rng.integers(4) * np.pi / 2
    gain = 1 + strength * ((x * math.cos(angle) + y * math.sin(angle)) > rng.uniform(-6, 6))
    return image * gain if rng.random() < 0.5 else _times_light(image, gain)


def flat_gradient(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A flat field whose gain changes by `strength` over 100 pixels."""
    (y, x), angle = axes(image), rng.uniform(0, 2 * np.pi)
    return image * (1 + strength * (x * math.cos(angle) + y * math.sin(angle)) / 100)


def flat_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A gain of its own for each pixel, with a standard deviation of `strength`, smooth over 0 to 2 pixels."""
    gains = ndimage.gaussian_filter(rng.standard_normal(image.shape), rng.choice([0, 1, 2]))
    return _times_light(image, 1 + strength * gains / gains.std())


def odd_rows(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Every second row (or column) with a gain that is higher by `strength`."""
    image = image.copy()
    rows = image if rng.random() < 0.5 else image.T
    rows[::2] *= 1 + strength
    return image


def quadrant_biases(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Four amplifiers whose zeros differ by `strength` of the sky's noise."""
    y, x = axes(image)
    quadrant = 2 * (y > 0).astype(int) + (x > 0)
    return image + strength * sky_noise(image) * np.asarray(rng.standard_normal(4))[quadrant]


def striping(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Columns (or rows) with zeros of their own, `strength` of the sky's noise."""
    stripes = strength * sky_noise(image) * rng.standard_normal((image.shape[1],))
    return image + (stripes if rng.random() < 0.5 else stripes[:, None])


def fringes(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Waves of 8 to 30 pixels over the image, `strength` of the sky's noise."""
    (y, x), angle, wave = axes(image), rng.uniform(0, np.pi), rng.uniform(8, 30)
    phase = 2 * np.pi * (x * math.cos(angle) + y * math.sin(angle) + 0.003 * (x**2 + y**2)) / wave
    return image + strength * sky_noise(image) * np.sin(phase + rng.uniform(0, 6))


def charge_trails(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A share `strength` of each pixel's charge left behind along the columns, over 5 pixels."""
    taps = np.exp(-np.arange(30) / 5.0)
    kernel = np.concatenate([[1 - strength], strength * taps / taps.sum()])
    sky = float(np.median(image))
    return sky + ndimage.convolve1d(image - sky, np.concatenate([np.zeros(30), kernel]), axis=0, mode="nearest")


def saturation(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Clipped at `strength` of the range from the sky to the brightest pixel."""
    sky = float(np.median(image))
    return np.minimum(image, sky + strength * (image.max() - sky))


def full_well(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A response that falls short by `strength` at the brightest pixel, gradually."""
    sky = float(np.median(image))
    light = (image - sky) / (image.max() - sky)
    return sky + light / (1 + strength * np.maximum(light, 0)) * (image.max() - sky)


def power_stretch(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The pixels over the lowest one to the power of `strength`, as for display."""
    image = image - min(float(image.min()), 0.0) if rng.random() < 0.5 else image - image.min()
    return image**strength


def asinh_stretch(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """An inverse hyperbolic sine, linear below 1/`strength` of the brightest pixel."""
    sky = float(np.median(image))
    return np.arcsinh(strength * (image - sky) / (image.max() - sky))


def percentiles(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """256 levels between the percentiles `strength` and 100 minus between a hundredth and all of it."""
    low, high = np.percentile(image, [strength, 100 - strength * 10 ** rng.uniform(-2, 0)])
    return np.round(255 * np.clip((image - low) / max(high - low, 1e-12), 0, 1))


def coarse_levels(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Rounded to `strength` levels."""
    low, high = image.min(), image.max()
    return np.round(strength * (image - low) / max(high - low, 1e-12))


def black_level(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """All below the sky plus `strength` (-1 to 2) of its noise set to that."""
    return np.maximum(image, float(np.median(image)) + strength * sky_noise(image))


def compressed(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG's way: 8 bits, cosine transforms of 8 x 8 pixels, rounded to steps of `strength` and more at high waves."""
    from scipy.fft import dctn, idctn

    low, high = image.min(), image.max()
    levels = 255 * (image - low) / max(high - low, 1e-12)
    height, width = (-(-n // 8) * 8 for n in image.shape)
    padded = np.pad(levels, ((0, height - image.shape[0]), (0, width - image.shape[1])), mode="edge")
    blocks = padded.reshape(height // 8, 8, width // 8, 8)
    waves = dctn(blocks, axes=(1, 3), norm="ortho")
    step = strength * (1 + np.add.outer(np.arange(8), np.arange(8)))[None, :, None, :]
    levels = idctn(np.round(waves / step) * step, axes=(1, 3), norm="ortho").reshape(height, width)
    return np.round(np.clip(levels, 0, 255))[: image.shape[0], : image.shape[1]]


FAULTS = (
    quadrant_gains, gain_steps, half_gain, flat_gradient, flat_noise, odd_rows, quadrant_biases, striping,
    fringes, charge_trails, saturation, full_well, power_stretch, asinh_stretch, percentiles, coarse_levels,
    black_level, compressed,
)  # fmt: skip
