"""The light of drawn lenses and the PSF, in torch: (B, n, n) electrons/s a pixel."""

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from darklens.simulation import profiles, stamps, structure
from darklens.simulation.brightness import lens_light_scales, source_scale
from darklens.simulation.deflect import bend, bend_terms
from darklens.simulation.draw import LensSample, generator, light_name
from darklens.simulation.physics import gaussian_blur
from darklens.simulation.psf import FWHM, Kernel, moffat_kernel
from darklens.simulation.recipe_inputs import measured_kernel, source_stamps
from darklens.simulation.recipe_tables import Psf, SimulationConfig
from darklens.simulation.terms import Terms, columns


def _stamp(recipe: SimulationConfig, x: Tensor, y: Tensor, which: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
    shelf = source_stamps(recipe.source)
    numbers = (which.flatten() * len(shelf)).long().clamp(max=len(shelf) - 1)  # (B, 1, 1) -> (B,)
    one = [slice(i, i + 1) for i in range(len(x))]
    light = [
        stamps.stamp_light(x[i], y[i], torch.as_tensor(shelf[k]), scale[i], angle[i])
        for i, k in zip(one, numbers.tolist(), strict=True)
    ]
    return torch.cat(light)


def _structures(lenses: LensSample, rays: Tensor) -> Tensor:
    """(B, SIZE, SIZE) each source's surface brightness on its lattice, of sum 1."""
    keys = [field.name for field in dataclasses.fields(structure.Galaxy)]
    tables = {key: "source" if key in ("sersic_index", "axis_ratio") else "structure" for key in keys}
    columns_of = {key: lenses[f"{table}.{key}"] for key, table in tables.items()}
    galaxies = [structure.Galaxy(**{key: float(v[i]) for key, v in columns_of.items()}) for i in range(len(lenses))]
    seeds = [generator(np.random.SeedSequence(int(seed))) for seed in lenses["structure.seed"]]
    lights = [structure.draw_galaxy(galaxy, rng) for galaxy, rng in zip(galaxies, seeds, strict=True)]
    return torch.as_tensor(np.stack(lights)).to(rays)


def _pixels(light: Tensor, s: int) -> Tensor:
    """Mean over s x s rays: (B, n s, n s) -> (B, n, n)."""
    rows = functools.reduce(torch.add, (light[:, i::s] for i in range(s)))  # (B, n s, n s) -> (B, n, n s)
    return functools.reduce(torch.add, (rows[:, :, i::s] for i in range(s))) / s**2  # -> (B, n, n)


@functools.lru_cache(maxsize=16)
def _moffat(fwhm: float, beta: float, edges: str) -> Kernel:
    return Kernel(moffat_kernel(fwhm, beta), edges)


@functools.lru_cache(maxsize=16)
def _measured(psf: Psf) -> Kernel:
    return Kernel(measured_kernel(psf), psf.edges)


def blur(image: Tensor, recipe: SimulationConfig, fwhm: float, beta: float) -> Tensor:
    """(B, n, n) convolved with the recipe's PSF; fwhm in arcsec. A Gaussian is applied along rows, then columns."""
    psf, pixels = recipe.psf, fwhm / recipe.image.pixel_scale
    if psf.kind == "none":
        return image
    if psf.kind == "gaussian":
        return gaussian_blur(image, pixels / FWHM, psf.truncate)
    return (_measured(psf) if psf.kind == "file" else _moffat(pixels, beta, psf.edges))(image)


def psf_widths(lenses: LensSample) -> list[tuple[float, float]]:
    """(FWHM in arcsec, Moffat's beta) of each lens."""
    return [*zip((lenses["psf.fwhm"] * lenses["robust.psf_width"]).tolist(), lenses["psf.beta"].tolist(), strict=True)]


def blur_each(image: Tensor, recipe: SimulationConfig, widths: list[tuple[float, float]]) -> Tensor:
    """(B, n, n) each convolved with its lens's PSF of `psf_widths`, at once where they are all the same."""
    if len({*widths}) == 1 or recipe.psf.kind in ("file", "none"):
        return blur(image, recipe, *widths[0])
    return torch.cat([blur(image[i : i + 1], recipe, *width) for i, width in enumerate(widths)])


def _sersic_terms(lenses: LensSample, table: str, angle: np.ndarray, rays: Tensor) -> tuple[Tensor, ...]:
    v, to = lenses.values, functools.partial(columns, template=rays)
    shape = to(v[f"{table}.effective_radius"]), to(v[f"{table}.axis_ratio"]), to(np.radians(angle))
    return profiles.sersic_terms(v[f"{table}.sersic_index"], *shape)


def light_terms(lenses: LensSample, recipe: SimulationConfig, x: Tensor, y: Tensor) -> Terms:
    """The terms of `source_light` and `lens_light` at the rays of `grid`."""
    v, to = lenses.values, functools.partial(columns, template=x)
    x, y = x - to(v["image.x"]), y - to(v["image.y"])
    terms = bend_terms(lenses, recipe, x, y)
    terms["source"] = x - to(v["source.x"]), y - to(v["source.y"]), to(source_scale(lenses, recipe))
    if recipe.source.structure:
        scale = v["source.effective_radius"] * (2 * structure.EXTENT / structure.SIZE)  # arcsec a pixel
        terms["structure"] = _structures(lenses, x), to(scale), to(np.radians(v["source.angle"]))
    elif recipe.source.stamps:
        terms["stamp"] = to(v["source.stamp"]), to(v["source.stamp_scale"]), to(np.radians(v["source.angle"]))
    else:
        terms["sersic"] = _sersic_terms(lenses, "source", v["source.angle"], x)
    return terms | _lens_light_terms(lenses, recipe, x, y)


def _lens_light_terms(lenses: LensSample, recipe: SimulationConfig, x: Tensor, y: Tensor) -> Terms:
    """Those of each component of the lens galaxy, and of its scale."""
    v, to = lenses.values, functools.partial(columns, template=x)
    terms: Terms = {}
    for number, scale in enumerate(lens_light_scales(lenses, recipe)):
        name = light_name(number)
        angle = v["lens.angle"] + v[f"{name}.angle"]
        if f"{name}.a4" in v:
            shape = (to(v[f"{name}.effective_radius"]), to(v[f"{name}.axis_ratio"]), to(np.radians(angle)))
            galaxy = profiles.isophote_terms(v[f"{name}.sersic_index"], *shape, to(v[f"{name}.a4"]))
            terms[f"{name}.isophotes"] = x, y, *galaxy
        else:
            terms[name] = profiles.sersic_grid_terms(x, y, *_sersic_terms(lenses, name, angle, x))
        terms[f"{name}.scale"] = (to(scale),)
    return terms


def source_light(terms: Terms, recipe: SimulationConfig) -> Tensor:
    """(B, n, n) electrons/s a pixel of the lensed source before the PSF."""
    (ax, ay), (x, y, scale) = bend(terms), terms["source"]
    u, w = torch.sub(x, ax, out=ax), torch.sub(y, ay, out=ay)
    if recipe.source.structure:
        light = stamps.stamp_light(u, w, *terms["structure"])
    elif recipe.source.stamps:
        light = _stamp(recipe, u, w, *terms["stamp"])
    else:
        light = profiles.sersic_profile(u, w, *terms["sersic"])
    return _pixels(light, recipe.image.supersample).mul_(scale)


def lens_light(terms: Terms, recipe: SimulationConfig, source: Tensor) -> Tensor:
    """(B, n, n) electrons/s a pixel before the PSF, all components; source: likewise."""
    parts = []
    for name in map(light_name, range(len(recipe.lens_lights))):
        shaped = terms.get(f"{name}.isophotes")
        light = profiles.isophote_light(*shaped) if shaped else profiles.sersic_grid(*terms[name])
        parts.append(_pixels(light, recipe.image.supersample).mul_(*terms[f"{name}.scale"]))
    light = functools.reduce(torch.Tensor.add_, parts)
    by_magnitude = recipe.lens_lights[0].magnitude is not None
    return light if by_magnitude else light.mul_(source.sum((1, 2), keepdim=True))
