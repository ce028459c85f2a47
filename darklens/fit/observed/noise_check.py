"""A noise map's scale and the correlation of neighbouring pixels, measured where the sky is blank."""

import dataclasses

import numpy as np

from darklens.fit.observed.cutout import Cutout

BLANK = 0.74  # of the half window: blank sky, or what comes closest, lies beyond
SCALES = 0.1, 10.0  # of the noise map: beyond, it is something else
LEAST = 200  # pixels without which the map is believed


@dataclasses.dataclass(frozen=True)
class SkyNoise:
    """What the sky says of the noise map."""

    scale: float  # standard deviation over the map's
    correlation: float  # of pixels side by side
    pixels: int


def sky_noise(cutout: Cutout, rest: np.ndarray, out: np.ndarray, centre: np.ndarray) -> SkyNoise:
    """From a residual (n, n) without the galaxy; out: (n, n) bool, what doesn't count."""
    sky = cutout.good & ~out & (cutout.radius(centre) > BLANK * cutout.half)
    number = int(sky.sum())
    if number < LEAST:
        return SkyNoise(1.0, 0.0, number)
    z = np.where(sky, rest / cutout.sigma, 0.0)
    z = np.where(sky, z - np.median(z[sky]), 0.0)
    scale = 1.4826 * float(np.median(np.abs(z[sky])))
    if not scale > 0:
        return SkyNoise(1.0, 0.0, number)
    z = np.clip(z / scale, -4, 4)
    pairs = [(z[1:] * z[:-1])[sky[1:] & sky[:-1]], (z[:, 1:] * z[:, :-1])[sky[:, 1:] & sky[:, :-1]]]
    return SkyNoise(scale, float(np.concatenate(pairs).mean() / (z[sky] ** 2).mean()), number)
