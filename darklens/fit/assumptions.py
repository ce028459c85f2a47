"""What a fit of the smooth lens may assume of a recipe's images."""

from typing import Any

import numpy as np

from darklens.fit.model import SmoothModel
from darklens.simulation.draw import LensSample
from darklens.simulation.priors import Prior
from darklens.simulation.psf import FWHM, moffat_kernel
from darklens.simulation.recipe_inputs import measured_kernel
from darklens.simulation.recipe_tables import SimulationConfig

WINDOW = 105  # pixels on a side, or what the image has


def smooth_model(recipe: SimulationConfig) -> SmoothModel:
    """The smooth lens of a recipe: its pixels, PSF, source and lens galaxy, each by the middle of its prior.

    Ellipticity is free, the Sersic index where the recipe varies it or has stamps, the centre where it scatters it,
    the width of a Gaussian or Moffat PSF where it varies it, the halo's axis ratio where it isn't 1, the lens galaxy's
    light where there is such; what [robust] varies is what a fit doesn't know.
    Raises ValueError or OSError where the PSF's file can't be used.
    """
    image, source, galaxy = recipe.image, recipe.source, recipe.lens_light
    return SmoothModel(
        pixel_scale=image.pixel_scale,
        window=min(WINDOW, image.pixels - 1 + image.pixels % 2),
        supersample=image.supersample,
        **_psf(recipe),
        sersic_index=_middle(source.sersic_index),
        free_index=source.stamps is not None or not source.sersic_index.is_fixed,
        free_centre=image.centre_scatter > 0,
        free_halo=not _is_round(recipe),
        free_light=galaxy is not None,
        light_index=_middle(galaxy.sersic_index) if galaxy else SmoothModel.light_index,
        free_light_index=galaxy is None or not galaxy.sersic_index.is_fixed,
        noise_correlation=_middle(recipe.noise.correlation) if recipe.noise.kind == "ccd" else 0.0,
    )


def is_smooth(recipe: SimulationConfig) -> bool:
    """Whether the fit's lens is all that the recipe has but substructure: a folder of stamps is more."""
    return recipe.source.stamps is None and recipe.source.structure is None


def true_parameters(lenses: LensSample, model: SmoothModel) -> np.ndarray:
    """(B, P) the free parameters of a fit, `model.names`, of drawn lenses: where it may start.

    The shear is about the lens's centre in the simulator, about the image's in the fit: its source lies elsewhere.
    What substructure does to the light is left out.
    """
    v, x, y = lenses.values, lenses["image.x"], lenses["image.y"]
    shear = _axis(v["lens.shear"], v["lens.shear_angle"])
    truth = {
        "einstein_radius": v["halo.einstein_radius"],
        "source_x": v["source.x"] + (1 - shear[0]) * x - shear[1] * y,
        "source_y": v["source.y"] + (1 + shear[0]) * y - shear[1] * x,
        "log_radius": np.log(v["source.effective_radius"]),
        "log_index": np.log(v["source.sersic_index"]),
        "centre_x": x,
        "centre_y": y,
        "log_psf": _log_psf(lenses, model),
    }
    truth |= _pair("shear", shear) | _pair("ellipticity", _axis(-np.log(v["source.axis_ratio"]), v["source.angle"]))
    truth |= _pair("halo", _axis(-np.log(v["lens.axis_ratio"]), v["lens.angle"]))
    if model.free_light:
        truth["light_log_radius"] = np.log(v["lens_light.effective_radius"])
        truth["light_log_index"] = np.log(v["lens_light.sersic_index"])
        angle = v["lens.angle"] + v["lens_light.angle"]
        truth |= _pair("light", _axis(-np.log(v["lens_light.axis_ratio"]), angle))
    values = np.tile(model.held(), (len(lenses), 1))
    for name, column in truth.items():
        values[:, model.table.index[name]] = column
    return values[:, list(model.free)]


def _pair(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}_1": values[0], f"{name}_2": values[1]}


def _axis(size: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(2, B) size times cosine and sine of twice an angle in degrees."""
    return size * np.stack([np.cos(2 * np.radians(angle)), np.sin(2 * np.radians(angle))])


def _log_psf(lenses: LensSample, model: SmoothModel) -> np.ndarray:
    if not model.free_psf:
        return np.zeros(len(lenses))
    return np.log(lenses["psf.fwhm"] * lenses["robust.psf_width"] / (FWHM * model.psf_sigma))


def _is_round(recipe: SimulationConfig) -> bool:
    return recipe.lens.axis_ratio.bounds == (1, 1)


def _middle(prior: Prior | None) -> float:
    if prior is None:  # the recipe was checked: a kind of PSF has what it needs
        raise ValueError("the recipe lacks a value that its kind needs")
    return float(prior.quantile(0.5))


def _psf(recipe: SimulationConfig) -> dict[str, Any]:
    """The PSF's fields of SmoothModel."""
    psf, scale = recipe.psf, recipe.image.pixel_scale
    if psf.kind == "none":
        return {"psf_sigma": 0.0}
    if psf.kind == "gaussian":
        free = psf.fwhm is not None and not psf.fwhm.is_fixed
        return {"psf_sigma": _middle(psf.fwhm) / FWHM, "psf_truncate": psf.truncate, "free_psf": free}
    if psf.kind == "moffat" and psf.fwhm is not None and not psf.fwhm.is_fixed:
        return {"psf_sigma": _middle(psf.fwhm) / FWHM, "psf_beta": _middle(psf.beta), "free_psf": True}
    if psf.kind == "file":
        kernel = measured_kernel(psf)
    else:
        kernel = moffat_kernel(_middle(psf.fwhm) / scale, _middle(psf.beta))
    return {"psf_kernel": tuple(map(tuple, kernel.tolist()))}
