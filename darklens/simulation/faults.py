"""What happens to real images and not to simulated ones: neighbours, detectors, compression, one function for each.

    changes = read_changes()                                  # the table in faults.toml
    image = apply(changes["quadrant gains"], image, rng)      # (H, W) float64 -> the same with it

A change is data: its name, its family, the key of a function here (or of the recipe), and between which strengths it
lies. Each function takes an image (H, W) float64, the ring in its middle, a strength and a random generator.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

TABLE = Path(__file__).with_name("faults.toml")
PSF_SIGMA = 1.7  # pixels of 0.05": of stars
Fault = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Change:
    """name: for people; family: changes that are alike; function: a key of FAULTS, or of a recipe (with a dot).

    strengths: the weakest and the strongest; between them they are even in logarithm. What a strength is: the docstring
    of the function.
    """

    name: str
    family: str
    function: str
    strengths: tuple[float, float]

    @property
    def simulated(self) -> bool:
        """Whether it is a key of a recipe, that an image has to be simulated with."""
        return "." in self.function

    def strength(self, rng: np.random.Generator) -> float:
        """One between the weakest and the strongest."""
        low, high = self.strengths
        return float(np.exp(rng.uniform(math.log(low), math.log(high)))) if low > 0 else float(rng.uniform(low, high))


def read_changes(path: Path = TABLE) -> dict[str, Change]:
    """The changes of a TOML table by name. Raises KeyError for a function that does not exist."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    changes = [
        Change(**{**row, "strengths": tuple(row["strengths"])}) for row in tomllib.loads(path.read_text())["change"]
    ]
    for change in changes:
        if not change.simulated:
            FAULTS[change.function]
    return {change.name: change for change in changes}


def apply(change: Change, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image (H, W) with the change, at a strength of its range."""
    return FAULTS[change.function](image.astype(np.float64), change.strength(rng), rng)


def _light(image: np.ndarray) -> tuple[float, float]:
    """Level of the sky, and the peak of the ring above it."""
    sky = float(np.median(image))
    return sky, max(float(np.quantile(ndimage.gaussian_filter(image, 1.0), 0.9995)) - sky, 1e-12)


def _noise(image: np.ndarray) -> float:
    """Standard deviation of the empty sky, from differences of pixels near the edge."""
    edge = np.concatenate([image[:15].ravel(), image[-15:].ravel()])
    return float(1.4826 * np.median(np.abs(np.diff(edge))) / math.sqrt(2)) or 1e-12


def _axes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, 1) and columns (1, W), pixels from the middle."""
    height, width = image.shape
    return np.arange(height)[:, None] - (height - 1) / 2, np.arange(width)[None] - (width - 1) / 2


def _place(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    radius, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
    return radius * math.sin(angle), radius * math.cos(angle)


def _poisson_like(image: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with light added, which brings noise along as the ring's does: sky and peak say how much."""
    sigma = _noise(image)
    sky, _ = _light(image)
    per_unit = sigma**2 / abs(sky) if abs(sky) > 1e-12 else 0.0  # of counts, the variance of one of them
    return image + light + rng.normal(size=image.shape) * np.sqrt(np.maximum(light, 0) * per_unit)


def star(image: np.ndarray, strength: float, rng: np.random.Generator, radii: tuple = (4, 48)) -> np.ndarray:
    """A point source between 0.2" and 2.4" off, its peak `strength` of the ring's."""
    (y, x), (row, column) = _axes(image), _place(rng, *radii)
    light = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * PSF_SIGMA**2))
    return _poisson_like(image, strength * _light(image)[1] * light, rng)


def galaxy(image: np.ndarray, strength: float, rng: np.random.Generator, radii: tuple = (8, 50)) -> np.ndarray:
    """An exponential disk of any shape between 0.4" and 2.5" off, its peak `strength` of the ring's."""
    (y, x), (row, column) = _axes(image), _place(rng, *radii)
    angle, ratio, scale = rng.uniform(0, np.pi), rng.uniform(0.4, 1), rng.uniform(1.5, 6)
    u = (x - column) * math.cos(angle) + (y - row) * math.sin(angle)
    v = ((y - row) * math.cos(angle) - (x - column) * math.sin(angle)) / ratio
    light = ndimage.gaussian_filter(np.exp(-np.hypot(u, v) / scale), PSF_SIGMA)
    return _poisson_like(image, strength * _light(image)[1] * light / light.max(), rng)


def central_galaxy(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """What a lens galaxy leaves in the middle: a concentrated light, its peak `strength` of the ring's, of any sign."""
    y, x = _axes(image)
    radius = np.hypot(x, y / rng.uniform(0.6, 1)) + 0.5
    light = ndimage.gaussian_filter(np.exp(-((radius / rng.uniform(1, 6)) ** rng.uniform(0.4, 1))), PSF_SIGMA)
    return image + rng.choice([1, 1, 1, -1]) * strength * _light(image)[1] * light / light.max()


def dipole(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A galaxy that was subtracted off its place: a positive and a negative spot, `strength` of the ring's peak."""
    y, x = _axes(image)
    angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 5)
    u = (x * math.cos(angle) + y * math.sin(angle)) / width
    return image + strength * _light(image)[1] * 1.65 * u * np.exp(-(x**2 + y**2) / (2 * width**2))


def cosmic_rays(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`strength` tracks of up to 8 pixels anywhere, each 0.1 to 2 times the ring's peak."""
    image, (_, peak) = image.copy(), _light(image)
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
    image, (_, peak) = image.copy(), _light(image)
    for _ in range(max(1, round(strength))):
        row, column = (round(n / 2 + rng.uniform(-50, 50)) for n in image.shape)
        image[row, column] += rng.choice([-1, 1]) * peak * np.exp(rng.uniform(-2.3, 0.7))
    return image


def dead_lines(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`strength` columns (or rows) that read zero, the sky, or a multiple of the sky's noise too much."""
    turned = rng.random() < 0.5
    image = image.T.copy() if turned else image.copy()
    sky, _ = _light(image)
    for _ in range(max(1, round(strength))):
        column, kind = round(image.shape[1] / 2 + rng.uniform(-40, 40)), rng.integers(3)
        image[:, column] = (0.0, sky, image[:, column] + rng.uniform(2, 10) * _noise(image))[kind]
    return image.T.copy() if turned else image


def dead_block(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A square of `strength` pixels a side within 1.5" that reads the sky's level, or zero."""
    image, side = image.copy(), max(2, round(strength))
    row, column = (round(n / 2 + offset) for n, offset in zip(image.shape, _place(rng, 5, 30), strict=True))
    image[row : row + side, column : column + side] = rng.choice([0.0, _light(image)[0]])
    return image


def bright_halo(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The wings of a bright object outside of the image, `strength` of the ring's peak where it is nearest."""
    (y, x), (row, column) = _axes(image), _place(rng, 60, 100)
    light = 1 / (1 + ((y - row) ** 2 + (x - column) ** 2) / rng.uniform(8, 30) ** 2) ** rng.uniform(1, 2)
    return image + strength * _light(image)[1] * light / light.max()


def _times_light(image: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Light, and its noise, with another gain in places; the sky's level as it was."""
    sky, _ = _light(image)
    return sky + (image - sky) * gain


def quadrant_gains(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Four amplifiers whose gains have a standard deviation of `strength`; the sky, too, in half of the images."""
    (y, x), gains = _axes(image), 1 + strength * rng.standard_normal(4)
    offset = rng.uniform(-6, 6, 2)  # of the cross from the middle
    gain = gains[2 * (y > offset[0]).astype(int) + (x > offset[1])]
    return image * gain if rng.random() < 0.5 else _times_light(image, gain)


def half_gain(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Two halves whose gains differ by `strength`."""
    y, x = _axes(image)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.3 else rng.integers(4) * np.pi / 2
    gain = 1 + strength * ((x * math.cos(angle) + y * math.sin(angle)) > rng.uniform(-6, 6))
    return image * gain if rng.random() < 0.5 else _times_light(image, gain)


def flat_gradient(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A flat field whose gain changes by `strength` over 100 pixels."""
    (y, x), angle = _axes(image), rng.uniform(0, 2 * np.pi)
    return image * (1 + strength * (x * math.cos(angle) + y * math.sin(angle)) / 100)


def flat_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A gain of its own for each pixel, with a standard deviation of `strength`, smooth over 0 to 2 pixels."""
    gains = ndimage.gaussian_filter(rng.standard_normal(image.shape), rng.choice([0, 1, 2]))
    return _times_light(image, 1 + strength * gains / gains.std())


def sky_gradient(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A sky that changes by `strength` of its noise over 100 pixels."""
    (y, x), angle = _axes(image), rng.uniform(0, 2 * np.pi)
    return image + strength * _noise(image) * (x * math.cos(angle) + y * math.sin(angle)) / 100


def quadrant_biases(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Four amplifiers whose zeros differ by `strength` of the sky's noise."""
    y, x = _axes(image)
    return image + strength * _noise(image) * rng.standard_normal(4)[2 * (y > 0).astype(int) + (x > 0)]


def striping(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Columns (or rows) with zeros of their own, `strength` of the sky's noise."""
    stripes = strength * _noise(image) * rng.standard_normal(image.shape[1])
    return image + (stripes if rng.random() < 0.5 else stripes[:, None])


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
    return np.maximum(image, float(np.median(image)) + strength * _noise(image))


def blurred(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Smoothed by a Gaussian of `strength` pixels: image and noise."""
    return ndimage.gaussian_filter(image, strength)


def shifted(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Moved by `strength` pixels in a direction of its own, bilinear or cubic."""
    return ndimage.shift(image, _place(rng, strength, strength), order=int(rng.choice([1, 3])), mode="nearest")


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
    return image + strength * _noise(image) * rng.standard_normal(image.shape)


def stacked(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The mean of the image and itself moved by `strength` pixels: exposures that were not registered."""
    return (image + ndimage.shift(image, _place(rng, strength, strength), order=1, mode="nearest")) / 2


def stretched_pixels(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Pixels that are not square: one axis longer by `strength`, the other shorter."""
    factor = 1 + strength * rng.choice([-1, 1])
    middle = (np.array(image.shape) - 1) / 2
    matrix = np.array([factor, 1 / factor])
    return ndimage.affine_transform(image, matrix, middle - matrix * middle, order=3, mode="nearest")


def odd_rows(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Every second row (or column) with a gain that is higher by `strength`."""
    image = image.copy()
    rows = image if rng.random() < 0.5 else image.T
    rows[::2] *= 1 + strength
    return image


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


def charge_trails(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A share `strength` of each pixel's charge left behind along the columns, over 5 pixels."""
    taps = np.exp(-np.arange(30) / 5.0)
    kernel = np.concatenate([[1 - strength], strength * taps / taps.sum()])
    sky = float(np.median(image))
    return sky + ndimage.convolve1d(image - sky, np.concatenate([np.zeros(30), kernel]), axis=0, mode="nearest")


def ghost(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A mirrored copy of the ring, `strength` of its light, blurred and off by up to 15 pixels."""
    light = ndimage.gaussian_filter(image - float(np.median(image)), 3.0)[::-1, ::-1]
    return image + strength * ndimage.shift(light, rng.uniform(-15, 15, 2), order=1, mode="nearest")


def fringes(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Waves of 8 to 30 pixels over the image, `strength` of the sky's noise."""
    (y, x), angle, wave = _axes(image), rng.uniform(0, np.pi), rng.uniform(8, 30)
    phase = 2 * np.pi * (x * math.cos(angle) + y * math.sin(angle) + 0.003 * (x**2 + y**2)) / wave
    return image + strength * _noise(image) * np.sin(phase + rng.uniform(0, 6))


def satellite(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A straight trail across the image, `strength` of the ring's peak."""
    (y, x), angle = _axes(image), rng.uniform(0, np.pi)
    across = x * math.sin(angle) - y * math.cos(angle) - rng.uniform(-35, 35)
    return _poisson_like(image, strength * _light(image)[1] * np.exp(-(across**2) / (2 * PSF_SIGMA**2)), rng)


FAULTS: dict[str, Fault] = {
    function.__name__: function
    for function in (
        star, galaxy, central_galaxy, dipole, cosmic_rays, hot_pixels, dead_lines, dead_block, bright_halo,
        quadrant_gains, half_gain, flat_gradient, flat_noise, sky_gradient, quadrant_biases, striping, saturation,
        full_well, power_stretch, asinh_stretch, percentiles, coarse_levels, black_level, blurred, shifted, resampled,
        sharpened, median_filtered, added_noise, stacked, stretched_pixels, odd_rows, compressed, charge_trails, ghost,
        fringes, satellite,
    )
}  # fmt: skip
