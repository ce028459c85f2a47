"""The light of drawn lenses and the PSF, in torch: (B, n, n) electrons/s a pixel."""

import functools

import numpy as np
import torch
from torch import Tensor

from darklens.lenses import profiles, stamps
from darklens.lenses.deflect import columns, deflection
from darklens.lenses.draw import Lenses
from darklens.lenses.physics import gaussian_blur
from darklens.lenses.psf import FWHM, Kernel, load_kernel, moffat_kernel
from darklens.lenses.recipe_tables import Recipe


def _same(values: np.ndarray, like: Tensor) -> float | Tensor:
    """One float where all are the same (a power of one exponent is faster), else (B, 1, 1)."""
    return float(values[0]) if (values == values[0]).all() else columns(values, like)


def _sersic(lenses: Lenses, table: str, x: Tensor, y: Tensor, angle: np.ndarray) -> Tensor:
    v, to = lenses.values, functools.partial(columns, like=x)
    n = _same(v[f"{table}.sersic_index"], x)
    shape = to(v[f"{table}.effective_radius"]), to(v[f"{table}.axis_ratio"]), to(np.radians(angle))
    return profiles.sersic_light(x, y, n, *shape)


@functools.lru_cache(maxsize=4)
def _stamps(folder: str, cut: float) -> list[np.ndarray]:
    return stamps.load_stamps(folder, cut)


def _stamp(lenses: Lenses, recipe: Recipe, x: Tensor, y: Tensor) -> Tensor:
    v, shelf = lenses.values, _stamps(recipe.source.stamps, recipe.source.background_cut)
    scales, angles = (columns(values, x) for values in (v["source.stamp_scale"], np.radians(v["source.angle"])))
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


def blur(image: Tensor, recipe: Recipe, fwhm: float, beta: float) -> Tensor:
    """(B, n, n) convolved with the recipe's PSF; fwhm in arcsec. A Gaussian is applied along rows, then columns."""
    psf, pixels = recipe.psf, fwhm / recipe.image.pixel_scale
    if psf.kind == "none":
        return image
    if psf.kind == "gaussian":
        return gaussian_blur(image, pixels / FWHM, psf.truncate)
    return (_measured(psf.file, psf.edges) if psf.kind == "file" else _moffat(pixels, beta, psf.edges))(image)


def blur_each(image: Tensor, recipe: Recipe, lenses: Lenses) -> Tensor:
    """(B, n, n) each convolved with its lens's PSF, at once where they are all the same."""
    fwhm, beta = lenses["psf.fwhm"] * lenses["robust.psf_width"], lenses["psf.beta"]
    if len({*zip(fwhm.tolist(), beta.tolist(), strict=True)}) == 1 or recipe.psf.kind in ("file", "none"):
        return blur(image, recipe, fwhm[0], beta[0])
    return torch.cat([blur(image[i : i + 1], recipe, fwhm[i], beta[i]) for i in range(len(image))])


def source_light(lenses: Lenses, recipe: Recipe, x: Tensor, y: Tensor) -> Tensor:
    """(B, n, n) electrons/s a pixel of the lensed source before the PSF; x, y: arcsec from the lens."""
    v, to = lenses.values, functools.partial(columns, like=x)
    ax, ay = deflection(lenses, recipe, x, y)
    u, w = torch.sub(x - to(v["source.x"]), ax, out=ax), torch.sub(y - to(v["source.y"]), ay, out=ay)
    light = _stamp(lenses, recipe, u, w) if recipe.source.stamps else _sersic(lenses, "source", u, w, v["source.angle"])
    return _pixels(light, recipe.image.supersample).mul_(to(v["derived.source"]))


def lens_light(lenses: Lenses, recipe: Recipe, x: Tensor, y: Tensor, source: Tensor) -> Tensor:
    """(B, n, n) electrons/s a pixel before the PSF; source: likewise."""
    v = lenses.values
    light = _sersic(lenses, "lens_light", x, y, v["lens.angle"] + v["lens_light.angle"])
    light = _pixels(light, recipe.image.supersample).mul_(columns(v["derived.lens_light"], light))
    return light if recipe.lens_light.magnitude is not None else light.mul_(source.sum((1, 2), keepdim=True))
