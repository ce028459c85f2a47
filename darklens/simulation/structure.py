"""Galaxies with structure: bulge and disc, spiral arms, clumps and a rough surface, drawn on a lattice.

Lengths are in effective radii of the disc, surface brightness is a density: its sum over the lattice is 1. A source of
such structure is lensed as a stamp of a real galaxy is (`stamps.stamp_light`).

References: Sersic 1963, BAAA 6, 41; logarithmic spirals: Binney & Tremaine 2008, Galactic Dynamics, section 6.1.3;
clumps in distant galaxies: Guo et al. 2015, ApJ 800, 39; power-law power spectra of flocculent discs: Elmegreen,
Elmegreen & Leitner 2003, ApJ 590, 271. `benchmarks/structure.py` compares them with real galaxies.
"""

import dataclasses

import numpy as np

from darklens.simulation.physics import sersic_b

EXTENT = 5.0  # half the lattice's side
TAPER = 4.0  # from here to EXTENT the light falls to nothing
SIZE = 240  # pixels of the lattice on a side
MOST_CLUMPS = 60
LARGEST = 3.0  # wavelength up to which the rough surface's power rises: what is larger is the disc
FADING = 0.5  # power of the disc's brightness that a clump's light follows
SOFT = 0.3  # radius within which spiral arms fade


@dataclasses.dataclass(frozen=True)
class Galaxy:
    """One galaxy's structure. Lengths in effective radii of its disc, fractions of its whole light."""

    sersic_index: float = 1.0  # of the disc
    axis_ratio: float = 1.0
    bulge_fraction: float = 0.0
    bulge_radius: float = 0.3  # effective
    bulge_index: float = 2.5
    arms: float = 2.0  # their number
    arm_contrast: float = 0.0  # amplitude of the logarithm of the brightness
    pitch: float = 20.0  # degrees, of the arms
    clumps: float = 0.0  # their number
    clump_fraction: float = 0.0
    clump_radius: float = 0.1  # standard deviation of a Gaussian
    roughness: float = 0.0  # standard deviation of the logarithm of the brightness
    slope: float = 3.0  # of the roughness's power spectrum, P(k) ~ k^-slope


def lattice(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """x (1, size) and y (size, 1) of the lattice's pixels; y falls with the row."""
    steps = (np.arange(size) + 0.5) * (2 * EXTENT / size) - EXTENT
    return steps[None], -steps[:, None]


def draw_galaxy(galaxy: Galaxy, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """(size, size) surface brightness of sum 1 on the lattice, the major axis along x.

    The same generator gives the same phases, places and surface, whatever the galaxy's numbers are.
    """
    phase, surface, places = rng.random(), rng.normal(size=(2, size, size // 2 + 1)), rng.random((5, MOST_CLUMPS))
    x, y = lattice(size)
    root = np.sqrt(galaxy.axis_ratio)
    u, v = x * root, y / root  # in the disc's plane, where it is round
    r = np.hypot(u, v)
    disc = sersic(r, galaxy.sersic_index) * np.exp(spiral(u, v, galaxy, phase) + rough(surface, galaxy))
    clump_light, clump_share = clumps(x, y, galaxy, places), galaxy.clump_fraction if round(galaxy.clumps) else 0.0
    parts = [
        (max(1 - galaxy.bulge_fraction - clump_share, 0.0), disc),
        (galaxy.bulge_fraction, sersic(np.hypot(x, y) / galaxy.bulge_radius, galaxy.bulge_index)),
        (clump_share, clump_light),
    ]
    edge = np.clip((EXTENT - np.hypot(x, y)) / (EXTENT - TAPER), 0, 1)
    fade = edge**2 * (3 - 2 * edge)
    light = sum(share * part * fade / (part * fade).sum() for share, part in parts if share > 0)
    return light / light.sum()


def sersic(r: np.ndarray, n: float) -> np.ndarray:
    """Sersic light over its value at the effective radius; r in effective radii."""
    return np.exp(-sersic_b(n) * (r ** (1 / n) - 1))


def spiral(u: np.ndarray, v: np.ndarray, galaxy: Galaxy, phase: float) -> np.ndarray:
    """Logarithm of the arms' brightness at u, v in the disc's plane: cos(m (theta - ln r / tan pitch) + phase)."""
    r, m = np.hypot(u, v), max(round(galaxy.arms), 1)
    winding = np.log(np.maximum(r, 1e-6)) / np.tan(np.radians(galaxy.pitch))
    wave = np.cos(m * (np.arctan2(v, u) - winding) + 2 * np.pi * phase)
    return galaxy.arm_contrast * wave * r / (r + SOFT)


def rough(surface: np.ndarray, galaxy: Galaxy) -> np.ndarray:
    """Logarithm of the rough surface: a Gaussian random field of P(k) ~ k^-slope; surface: (2, size, size // 2 + 1).

    Its standard deviation is that asked for on average; wavelengths above LARGEST have no more power than that.
    """
    size = surface.shape[1]
    k = np.hypot(np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]) * size / (2 * EXTENT)  # cycles a radius
    power = np.maximum(k, 1 / LARGEST) ** -galaxy.slope
    power[0, 0] = 0
    weight = np.full(k.shape, 2.0)  # the half of the spectrum that isn't written stands beside it
    weight[:, [0, -1]] = 0.5  # of these only the real part counts (size is even)
    amplitude = galaxy.roughness * np.sqrt(power / (weight * power).sum() / 2) * size**2
    return np.fft.irfft2(amplitude * (surface[0] + 1j * surface[1]), s=(size, size))


def clumps(x: np.ndarray, y: np.ndarray, galaxy: Galaxy, places: np.ndarray) -> np.ndarray:
    """Light of Gaussian clumps, strewn as an exponential disc is; places: (5, MOST_CLUMPS) random numbers.

    Their light is log-normal with a scatter of 0.8, their size with one of 0.3.
    """
    number = min(round(galaxy.clumps), MOST_CLUMPS)
    light = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    if number == 0:
        return light
    places = np.maximum(places[:, :number], 1e-12)
    r = -np.log(places[0] * places[1]) / 1.678  # an exponential disc's radii: the sum of two exponential numbers
    theta, root = 2 * np.pi * places[2], np.sqrt(galaxy.axis_ratio)
    normal = np.sqrt(-2 * np.log(places[3])) * np.stack([f(2 * np.pi * places[4]) for f in (np.cos, np.sin)])
    flux = np.exp(0.8 * normal[0]) * sersic(r, 1.0) ** FADING  # as much of the disc's light everywhere, nearly
    radius = galaxy.clump_radius * np.exp(0.3 * normal[1])
    for px, py, one, width in zip(r * np.cos(theta) / root, r * np.sin(theta) * root, flux, radius, strict=True):
        along, across = (np.exp(-0.5 * ((steps - at) / width) ** 2) for steps, at in ((x, px), (y, py)))
        light += one / width**2 * along * across
    return light
