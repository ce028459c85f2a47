"""Lenses whose galaxy is no single Sersic, drawn by lenstronomy: two Sersics, twisted or boxy, neighbours, noise."""

import dataclasses

import numpy as np
from lenstronomy.Util.param_util import phi_q2_ellipticity
from scipy import ndimage


@dataclasses.dataclass
class Truth:
    """What was drawn: arcsec, electrons/s."""

    image: np.ndarray
    noise: np.ndarray  # standard deviation that was drawn
    psf: np.ndarray
    arcs: np.ndarray
    einstein_radius: float
    galaxy: np.ndarray


def psf_kernel(width: float = 0.9, size: int = 15) -> np.ndarray:
    """A Gaussian core of so many pixels with faint wings."""
    steps = np.arange(size) - size // 2
    r2 = steps**2 + steps[:, None] ** 2
    kernel = np.exp(-0.5 * r2 / width**2) + 0.02 * np.exp(-0.5 * r2 / (3 * width) ** 2)
    return kernel / kernel.sum()


def draw(
    seed: int,
    *,
    pixels: int = 141,
    pixel_scale: float = 0.05,
    radius: float | None = None,
    axis_ratio: float | None = None,
    shear: float = 0.04,
    twist: float = 0.3,
    boxy: float = 0.0,
    brightness: float | None = None,
    correlation: float = 0.0,
    no_source: bool = False,
    no_galaxy: bool = False,
    clumps: int = 0,
) -> Truth:
    """An elliptical of two Sersics, twisted by `twist` radians, in front of a Sersic source.

    brightness: of the source, in the noise's standard deviations at its effective radius. correlation: pixels of the
    Gaussian that the noise is smoothed with. boxy: of the outer isophotes, a4 as a share of the radius. clumps: bright
    knots of the source.
    """
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    rng = np.random.default_rng(seed)
    radius = radius or rng.uniform(0.9, 1.7)
    axis_ratio = axis_ratio or rng.uniform(0.65, 0.95)
    brightness = brightness or rng.uniform(3, 10)
    angle, shear_angle = rng.uniform(0, np.pi, 2)
    s = 3
    steps = (np.arange(pixels * s) - (pixels * s - 1) / 2) * pixel_scale / s
    x, y = (v.ravel() for v in np.meshgrid(steps, -steps))
    e1, e2 = phi_q2_ellipticity(angle, axis_ratio)
    lens = LensModel(["SIE", "SHEAR"])
    kwargs = [
        {"theta_E": radius, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0},
        {"gamma1": shear * np.cos(2 * shear_angle), "gamma2": shear * np.sin(2 * shear_angle)},
    ]
    bx, by = lens.ray_shooting(x, y, kwargs)
    spread, phi = radius * 0.2 * np.sqrt(rng.uniform(0.02, 1)), rng.uniform(0, 2 * np.pi)
    place = spread * np.cos(phi), spread * np.sin(phi)
    size, flat, index = rng.uniform(0.08, 0.3), rng.uniform(0.5, 0.95), rng.uniform(0.7, 2)
    s1, s2 = phi_q2_ellipticity(rng.uniform(0, np.pi), flat)
    sersic = LightModel(["SERSIC_ELLIPSE"])

    def light(x, y, r, n, e, centre=(0.0, 0.0), amp=1.0):
        part = {"amp": amp, "R_sersic": r, "n_sersic": n, "e1": e[0], "e2": e[1]}
        return sersic.surface_brightness(x, y, [{**part, "center_x": centre[0], "center_y": centre[1]}])

    def bins(values):
        return values.reshape(pixels, s, pixels, s).mean((1, 3))

    source = light(bx, by, size, index, (s1, s2), place, brightness)
    for _ in range(clumps):
        cx, cy = np.array(place) + rng.normal(0, size, 2)
        source = source + 3 * brightness * np.exp(-0.5 * ((bx - cx) ** 2 + (by - cy) ** 2) / (0.15 * size) ** 2)
    inner, outer = phi_q2_ellipticity(angle, axis_ratio), phi_q2_ellipticity(angle + twist, axis_ratio * 0.9)
    px, py = x, y
    if boxy:
        t = np.arctan2(y, x) - angle - twist
        px, py = x * (1 - boxy * np.cos(4 * t)), y * (1 - boxy * np.cos(4 * t))
    galaxy = light(px, py, 0.5, 4.0, inner, amp=30.0) + light(px, py, 2.2, 1.2, outer, amp=6.0)
    kernel = psf_kernel()
    blurred = [ndimage.convolve(bins(each), kernel, mode="nearest") for each in (source, galaxy)]
    arcs, galaxy = blurred[0] * (not no_source), blurred[1] * (not no_galaxy)
    noise = np.sqrt(1 + 0.05 * (arcs + galaxy).clip(min=0))
    white = rng.normal(size=(pixels, pixels))
    if correlation:
        white = ndimage.gaussian_filter(white, correlation)
        white /= white.std()
    return Truth(arcs + galaxy + 2.0 + noise * white, noise, kernel, arcs, radius, galaxy)
