"""How bright a drawn lens is: scales of its light and its sky, (B,) in electrons/s a pixel, in NumPy."""

import numpy as np

from darklens.errors import RecipeError
from darklens.simulation import detector, profiles
from darklens.simulation.draw import LensSample, light_name
from darklens.simulation.recipe_tables import SimulationConfig


def _zero_point(recipe: SimulationConfig) -> float:
    """Magnitude of 1 electron/s; `recipe_checks` has made sure that it is there where a magnitude needs it."""
    assert recipe.noise.zero_point is not None
    return recipe.noise.zero_point


def source_scale(lenses: LensSample, recipe: SimulationConfig) -> np.ndarray:
    """(B,) electrons/s a pixel of the source's model light 1 (Sersic: at the effective radius); 1 if S/N sets it."""
    v, s, area = lenses.values, recipe.source, recipe.image.pixel_scale**2
    if s.brightness is not None:
        return v["source.brightness"]
    if s.magnitude is None:
        return np.ones(len(lenses))
    profile_area = (
        1 if s.stamps or s.structure else profiles.sersic_area(v["source.sersic_index"], v["source.effective_radius"])
    )
    return detector.flux(v["source.magnitude"], _zero_point(recipe)) * area / profile_area


def lens_light_scales(lenses: LensSample, recipe: SimulationConfig) -> list[np.ndarray]:
    """Electrons/s a pixel, (B,), of model light 1 of each component of the lens galaxy.

    With a flux ratio times the source's flux.
    """
    v, area, first = lenses.values, recipe.image.pixel_scale**2, np.zeros(len(lenses))
    scales = []
    for number, light in enumerate(recipe.lens_lights):
        name = light_name(number)
        if light.magnitude is not None:
            flux = detector.flux(v[f"{name}.magnitude"], _zero_point(recipe))
        else:
            flux = v[f"{name}.relative_flux"] * first if number else v[f"{name}.flux_ratio"]
        first = first if number else flux
        shape = v[f"{name}.sersic_index"], v[f"{name}.effective_radius"], v.get(f"{name}.a4", 0.0)
        scales.append(flux * area / profiles.sersic_area(*shape))
    return scales


def sky_rate(lenses: LensSample, recipe: SimulationConfig) -> np.ndarray:
    """(B,) electrons/s a pixel, without what grows with the source."""
    n = recipe.noise
    if n.sky_magnitude is not None:
        return detector.sky_rate(lenses["noise.sky_magnitude"], _zero_point(recipe), recipe.image.pixel_scale)
    return np.nan_to_num(lenses["noise.sky"])


def brighten(lenses: LensSample, recipe: SimulationConfig, peak: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """(B,) factor on all light that gives the source's brightest pixel, `peak` electrons/s, the recipe's S/N.

    Raises RecipeError where there is no light of a source to brighten.
    """
    if not (peak > 0).all():
        raise RecipeError(
            f"noise.peak_snr: no light of the source of lens {int(np.argmin(peak > 0))} falls on the image: check "
            "source.offset, source.effective_radius and lens.einstein_radius (all in arcsec)"
        )
    v, n = lenses.values, recipe.noise
    time, fraction, rms = v["noise.exposure_time"], v["noise.sky_fraction"], v["noise.background_rms"]
    counted = sky * time + n.exposures * v["noise.read_noise"] ** 2
    variance = np.where(np.isnan(rms), counted, (rms * n.gain * time) ** 2)
    electrons = detector.peak_electrons(v["noise.peak_snr"], np.nan_to_num(fraction), variance)
    return electrons / (time * peak)
