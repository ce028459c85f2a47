"""What a detector makes of light: pure functions of NumPy arrays with units.

Light and sky are in electrons/s a pixel until `observe`, whose image is in counts (electrons / gain) or counts/s.
"""

import dataclasses
import math
from typing import Any

import numpy as np

Array = Any  # np.ndarray, Tensor or float: mypy cannot add the members of such a union


def flux(magnitude: np.ndarray | float, zero_point: float) -> np.ndarray:
    """electrons/s of a magnitude; zero_point: the magnitude of 1 electron/s."""
    return 10 ** (-0.4 * (np.asarray(magnitude) - zero_point))


def magnitude(rate: np.ndarray | float, zero_point: float) -> np.ndarray:
    """The magnitude of a rate in electrons/s."""
    return zero_point - 2.5 * np.log10(rate)


def sky_rate(brightness: np.ndarray | float, zero_point: float, pixel_scale: float) -> np.ndarray:
    """electrons/s a pixel of a sky in mag/arcsec^2; pixel_scale in arcsec."""
    return flux(brightness, zero_point) * pixel_scale**2


def background_rms(sky: float, exposure_time: float, read_noise: float = 0.0, exposures: int = 1) -> float:
    """Noise without a source, in electrons/s a pixel: sky (electrons/s) and `exposures` reads (electrons)."""
    return math.sqrt(sky * exposure_time + exposures * read_noise**2) / exposure_time


def peak_electrons(
    snr: np.ndarray | float, sky_fraction: np.ndarray | float, variance: np.ndarray | float
) -> np.ndarray:
    """Electrons in the brightest pixel P at which P / sqrt(P (1 + sky_fraction) + variance) = snr.

    sky_fraction: the part of the sky that grows with P; variance: electrons^2 of all else (sky, reads).
    """
    half = np.square(snr) * (1 + np.asarray(sky_fraction)) / 2
    return half + np.sqrt(half**2 + np.square(snr) * variance)


def correlate(noise: np.ndarray, width: float) -> np.ndarray:
    """(H, W) noise smoothed by a Gaussian of standard deviation `width` pixels, its variance kept.

    White noise then has the correlation exp(-d^2 / 4 width^2) at a distance of d pixels, as drizzled images have.
    """
    if width <= 0:
        return noise
    from scipy.ndimage import correlate1d

    reach = max(int(6 * width + 0.5), 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= np.sqrt(np.square(kernel).sum())
    return correlate1d(correlate1d(noise, kernel, 0, mode="wrap"), kernel, 1, mode="wrap")


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How light becomes an image. For `expected_image` the numbers may be arrays or tensors that broadcast.

    time: s, all exposures together. gain: electrons a count. read_noise: electrons, once in each of `exposures`.
    rms: counts/s a pixel, as lenstronomy's background_rms: Gaussian noise of it stands for that of sky and reads.
    correlation: pixels, see `correlate`. output: "counts" or "rate" (counts/s).
    """

    time: Array = 1.0
    gain: Array = 1.0
    read_noise: float = 0.0
    exposures: int = 1
    rms: float | None = None
    correlation: float = 0.0
    keep_sky: bool = True
    output: str = "counts"


def observe(light: np.ndarray, sky: float, rng: np.random.Generator, exposure: Exposure = Exposure()) -> np.ndarray:
    """A noisy image (H, W), float64, of light (H, W) and sky, both in electrons/s a pixel.

    Poisson noise of light and sky, plus Gaussian read noise; with `exposure.rms` Gaussian noise instead of that of
    sky and reads.
    """
    e = exposure
    counted_sky = sky if e.rms is None else 0.0
    expected = (light + counted_sky) * e.time
    electrons = rng.poisson(np.maximum(expected, 0)).astype(np.float64)
    sigma = math.sqrt(e.exposures) * e.read_noise if e.rms is None else e.rms * e.gain * e.time
    if sigma > 0:
        electrons += rng.normal(0, sigma, light.shape)
    if e.correlation > 0:
        electrons = expected + correlate(electrons - expected, e.correlation)
    electrons += ((sky if e.keep_sky else 0.0) - counted_sky) * e.time
    return electrons / (e.gain * e.time if e.output == "rate" else e.gain)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """The image as a plot has it: smallest to largest value on 0 to 255, cut down to whole levels; float64."""
    low, high = float(image.min()), float(image.max())
    return np.minimum((image - low) * (256 / max(high - low, np.finfo(float).tiny)) // 1, 255)


def expected_image(light: Array, sky: Array, exposure: Exposure) -> Array:
    """The mean of `observe`: arrays or tensors that broadcast."""
    e, total = exposure, light + sky if exposure.keep_sky else light
    return total / e.gain if e.output == "rate" else total * (e.time / e.gain)
