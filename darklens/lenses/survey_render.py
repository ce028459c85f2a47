"""Render the lenses of a survey's recipe: rays, light, PSF, in electrons/s, in torch.

Conventions: x grows with the column, y falls with the row; the lens sits amid the image, or scattered about it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from darklens.lenses import detector, profiles, stamps
from darklens.lenses.drawn import Lenses, mass_scale, subhalo_mass, tnfw_parameters
from darklens.lenses.physics import external_shear, gaussian_blur, point_masses, rod
from darklens.lenses.psf import FWHM, Kernel, load_kernel, moffat_kernel
from darklens.lenses.recipe_tables import SurveyRecipe


def _columns(values: np.ndarray, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    if values.shape == (1,):
        return torch.full((1, 1, 1), float(values[0]), dtype=like.dtype, device=like.device)  # the fastest way
    return torch.as_tensor(np.ascontiguousarray(values.T), device=like.device).to(like.dtype)[..., None, None]


def grid(
    recipe: SurveyRecipe, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """x (1, 1, n) and y (1, n, 1) in arcsec of the supersampled rays from the image's middle."""
    n = recipe.image.pixels * recipe.image.supersample
    steps = torch.arange(n, device=device, dtype=dtype) - (n - 1) / 2
    steps = steps * (recipe.image.pixel_scale / recipe.image.supersample)
    return steps.reshape(1, 1, n), -steps.reshape(1, n, 1)


def substructure_mass(lenses: Lenses) -> np.ndarray:
    """(B,) Msun of subhalos and vortex, summed in a fixed order so that padding doesn't matter."""
    return sum(subhalo_mass(lenses).T, start=lenses["vortex.mass"])


def prepare(lenses: Lenses, recipe: SurveyRecipe) -> Lenses:
    """The lenses with what follows from their values, worked out for all of them at once."""
    if "derived.theta_e" in lenses.values:
        return lenses
    v, square = lenses.values, mass_scale(recipe, lenses.values)
    taken = v["lens.conserve_mass"] * substructure_mass(lenses)
    derived = {
        "derived.mass_scale": square,
        "derived.theta_e": np.sqrt(square * np.maximum(v["lens.total_mass"] - taken, 0)),
        "derived.source": _source_scale(lenses, recipe),
        "derived.lens_light": _lens_light_scale(lenses, recipe),
    }
    return dataclasses.replace(lenses, values=v | derived)


def _subhalos(lenses: Lenses, square: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    to, s = functools.partial(_columns, like=x), lenses.subhalos
    if lenses.profile == "tnfw":
        return profiles.tnfw_subhalos(x, y, to(s["x"]), to(s["y"]), *map(to, tnfw_parameters(lenses)))
    theta2 = square[:, None] * s["mass"]
    if lenses.profile == "sis":
        return profiles.sis_subhalos(x, y, to(s["x"]), to(s["y"]), to(np.sqrt(theta2)))
    return point_masses(x, y, to(s["x"]), to(s["y"]), to(theta2))


def deflection(lenses: Lenses, recipe: SurveyRecipe, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec), (B, h, w) each, at x and y (arcsec from the lens; they broadcast).

    Halo (SIE) + external shear + subhalos + vortex (rod). A mass m has the squared Einstein radius theta_E^2 m /
    total mass; where lens.conserve_mass is true the halo has what the substructure leaves.
    """
    lenses = prepare(lenses, recipe)
    v, to, square = lenses.values, functools.partial(_columns, like=x), lenses["derived.mass_scale"]
    parts = [
        profiles.sie(x, y, to(v["derived.theta_e"]), to(v["lens.axis_ratio"]), to(np.radians(v["lens.angle"]))),
        external_shear(x, y, to(v["lens.shear"]), to(np.radians(v["lens.shear_angle"]))),
    ]
    if lenses.subhalos["mass"].any():
        parts.append(_subhalos(lenses, square, x, y))
    if v["vortex.mass"].any():
        dx, dy, angle = x - to(v["vortex.x"]), y - to(v["vortex.y"]), to(np.radians(v["vortex.angle"]))
        parts.append(rod(dx, dy, to(square * v["vortex.mass"]), to(v["vortex.length"]), angle))
    ax, ay = parts[0]
    for more_x, more_y in parts[1:]:
        ax, ay = ax.add_(more_x), ay.add_(more_y)
    return ax, ay


def _same(values: np.ndarray, like: Tensor) -> float | Tensor:
    """One float where all are the same (a power of one exponent is faster), else (B, 1, 1)."""
    return float(values[0]) if (values == values[0]).all() else _columns(values, like)


def _sersic(lenses: Lenses, table: str, x: Tensor, y: Tensor, angle: np.ndarray) -> Tensor:
    v, to = lenses.values, functools.partial(_columns, like=x)
    n = _same(v[f"{table}.sersic_index"], x)
    shape = to(v[f"{table}.effective_radius"]), to(v[f"{table}.axis_ratio"]), to(np.radians(angle))
    return profiles.sersic_light(x, y, n, *shape)


@functools.lru_cache(maxsize=4)
def _stamps(folder: str, cut: float) -> list[np.ndarray]:
    return stamps.load_stamps(folder, cut)


def _stamp(lenses: Lenses, recipe: SurveyRecipe, x: Tensor, y: Tensor) -> Tensor:
    v, shelf = lenses.values, _stamps(recipe.source.stamps, recipe.source.background_cut)
    scales, angles = (_columns(values, x) for values in (v["source.stamp_scale"], np.radians(v["source.angle"])))
    which = np.minimum(v["source.stamp"] * len(shelf), len(shelf) - 1).astype(int)
    light = [
        stamps.stamp_light(x[i : i + 1], y[i : i + 1], torch.as_tensor(shelf[k]), scales[i : i + 1], angles[i : i + 1])
        for i, k in enumerate(which)
    ]
    return torch.cat(light)


def _pixels(light: Tensor, s: int) -> Tensor:
    """Mean over s x s rays: (B, n s, n s) -> (B, n, n)."""
    rows = functools.reduce(torch.add, (light[:, i::s] for i in range(s)))  # (B, n s, n s) -> (B, n, n s)
    return functools.reduce(torch.add, (rows[:, :, i::s] for i in range(s))) / s**2  # -> (B, n, n)


@functools.lru_cache(maxsize=16)
def _moffat(fwhm: float, beta: float, edges: str) -> Kernel:
    return Kernel(moffat_kernel(fwhm, beta), edges)


@functools.lru_cache(maxsize=16)
def _measured(path: str, edges: str) -> Kernel:
    return Kernel(load_kernel(path), edges)


def blur(image: Tensor, recipe: SurveyRecipe, fwhm: float, beta: float) -> Tensor:
    """(B, n, n) convolved with the recipe's PSF; fwhm in arcsec. A Gaussian is applied along rows, then columns."""
    psf, pixels = recipe.psf, fwhm / recipe.image.pixel_scale
    if psf.kind == "none":
        return image
    if psf.kind == "gaussian":
        return gaussian_blur(image, pixels / FWHM, psf.truncate)
    return (_measured(psf.file, psf.edges) if psf.kind == "file" else _moffat(pixels, beta, psf.edges))(image)


def _blur_each(image: Tensor, recipe: SurveyRecipe, lenses: Lenses) -> Tensor:
    fwhm, beta = lenses["psf.fwhm"], lenses["psf.beta"]
    if len({*zip(fwhm.tolist(), beta.tolist(), strict=True)}) == 1 or recipe.psf.kind in ("file", "none"):
        return blur(image, recipe, fwhm[0], beta[0])
    return torch.cat([blur(image[i : i + 1], recipe, fwhm[i], beta[i]) for i in range(len(image))])


def _source_scale(lenses: Lenses, recipe: SurveyRecipe) -> np.ndarray:
    """(B,) electrons/s a pixel of the source's model light 1 (Sersic: at the effective radius); 1 if S/N sets it."""
    v, s, area = lenses.values, recipe.source, recipe.image.pixel_scale**2
    if s.brightness is not None:
        return v["source.brightness"]
    if s.magnitude is None:
        return np.ones(len(lenses))
    whole = 1 if s.stamps else profiles.sersic_area(v["source.sersic_index"], v["source.effective_radius"])
    return detector.flux(v["source.magnitude"], recipe.noise.zero_point) * area / whole


def _lens_light_scale(lenses: Lenses, recipe: SurveyRecipe) -> np.ndarray:
    """(B,) electrons/s a pixel of the lens light's model light 1; with a flux ratio times that of the source."""
    v, table = lenses.values, recipe.lens_light
    if table is None:
        return np.zeros(len(lenses))
    flux = v["lens_light.flux_ratio"]
    if table.magnitude is not None:
        flux = detector.flux(v["lens_light.magnitude"], recipe.noise.zero_point)
    whole = profiles.sersic_area(v["lens_light.sersic_index"], v["lens_light.effective_radius"])
    return flux * recipe.image.pixel_scale**2 / whole


def _lens_light(lenses: Lenses, recipe: SurveyRecipe, x: Tensor, y: Tensor, source: Tensor) -> Tensor:
    """(B, n, n) electrons/s a pixel before the PSF; source: likewise."""
    v = lenses.values
    light = _sersic(lenses, "lens_light", x, y, v["lens.angle"] + v["lens_light.angle"])
    light = _pixels(light, recipe.image.supersample).mul_(_columns(v["derived.lens_light"], light))
    return light if recipe.lens_light.magnitude is not None else light.mul_(source.sum((1, 2), keepdim=True))


def _brighten(lenses: Lenses, recipe: SurveyRecipe, peak: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """(B,) factor on all light that gives the source's brightest pixel, `peak` electrons/s, the recipe's S/N."""
    v, n = lenses.values, recipe.noise
    time, fraction, rms = v["noise.exposure_time"], v["noise.sky_fraction"], v["noise.background_rms"]
    own = sky * time + n.exposures * v["noise.read_noise"] ** 2
    variance = np.where(np.isnan(rms), own, (rms * n.gain * time) ** 2)
    wanted = detector.peak_electrons(v["noise.peak_snr"], np.nan_to_num(fraction), variance)
    return wanted / (time * peak)


def _sky(lenses: Lenses, recipe: SurveyRecipe) -> np.ndarray:
    """(B,) electrons/s a pixel, without what grows with the source."""
    n = recipe.noise
    if n.sky_magnitude is not None:
        return detector.sky_rate(lenses["noise.sky_magnitude"], n.zero_point, recipe.image.pixel_scale)
    return np.nan_to_num(lenses["noise.sky"])


def _source_light(lenses: Lenses, recipe: SurveyRecipe, x: Tensor, y: Tensor) -> Tensor:
    """(B, n, n) electrons/s a pixel of the lensed source before the PSF; x, y: arcsec from the lens."""
    v, to = lenses.values, functools.partial(_columns, like=x)
    ax, ay = deflection(lenses, recipe, x, y)
    u, w = torch.sub(x - to(v["source.x"]), ax, out=ax), torch.sub(y - to(v["source.y"]), ay, out=ay)
    light = _stamp(lenses, recipe, u, w) if recipe.source.stamps else _sersic(lenses, "source", u, w, v["source.angle"])
    return _pixels(light, recipe.image.supersample).mul_(to(v["derived.source"]))


def _batch(lenses: Lenses, recipe: SurveyRecipe, x: Tensor, y: Tensor) -> tuple[Tensor, np.ndarray]:
    v, n, to = lenses.values, recipe.noise, functools.partial(_columns, like=x)
    x, y = x - to(v["image.x"]), y - to(v["image.y"])
    source, sky = _source_light(lenses, recipe, x, y), _sky(lenses, recipe)
    galaxy = _lens_light(lenses, recipe, x, y, source) if recipe.lens_light is not None else None
    if n.peak_snr is None and n.sky_fraction is None:
        return _blur_each(source if galaxy is None else galaxy.add_(source), recipe, lenses), sky
    total, fraction = _blur_each(source, recipe, lenses), np.nan_to_num(v["noise.sky_fraction"])
    peak = total.amax((1, 2)).double().cpu().numpy()
    if galaxy is not None:
        total = total + _blur_each(galaxy, recipe, lenses)
    if n.peak_snr is not None:
        factor = _brighten(lenses, recipe, peak, sky)
        total, peak = total.mul_(to(factor)), peak * factor
    return total, sky + fraction * peak


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: where threads split an array decides its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def light_and_sky(
    lenses: Lenses,
    recipe: SurveyRecipe,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, np.ndarray]:
    """Light (B, pixels, pixels) and sky (B,), both in electrons/s a pixel.

    On a CPU each lens is computed by itself in one thread: its bits don't depend on the batch, and it stays in cache.
    """
    x, y = grid(recipe, device, dtype)
    lenses = prepare(lenses, recipe)
    if torch.device(device).type != "cpu":
        return _batch(lenses, recipe, x, y)
    if not len(lenses):
        return torch.zeros((0, recipe.image.pixels, recipe.image.pixels), dtype=dtype), np.zeros(0)
    torch.empty(1 << 22)  # freed at once: glibc then keeps freed memory instead of fetching it anew
    with _one_thread():
        pairs = [_batch(lenses[i : i + 1], recipe, x, y) for i in range(len(lenses))]
    images, skies = zip(*pairs, strict=True)
    return torch.cat(images), np.concatenate(skies)


def render(
    lenses: Lenses,
    recipe: SurveyRecipe,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The expected image (B, pixels, pixels) in the recipe's output unit, with its sky if it is kept, without noise."""
    light, sky = light_and_sky(lenses, recipe, device, dtype)
    to, n = functools.partial(_columns, like=light), recipe.noise
    return detector.expected_image(light, to(sky), to(lenses["noise.exposure_time"]), n.gain, n.keep_sky, n.output)
