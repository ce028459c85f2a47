"""How bright a drawn lens is: scales of its light and its sky, (B,) in electrons/s a pixel, in NumPy."""

import numpy as np

from darklens.simulation import detector, profiles
from darklens.simulation.draw import LensSample
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
    profile_area = 1 if s.stamps else profiles.sersic_area(v["source.sersic_index"], v["source.effective_radius"])
    return detector.flux(v["source.magnitude"], _zero_point(recipe)) * area / profile_area


def lens_light_scale(lenses: LensSample, recipe: SimulationConfig) -> np.ndarray:
    """(B,) electrons/s a pixel of the lens light's model light 1; with a flux ratio times that of the source."""
    v, table = lenses.values, recipe.lens_light
    if table is None:
        return np.zeros(len(lenses))
    flux = v["lens_light.flux_ratio"]
    if table.magnitude is not None:
        flux = detector.flux(v["lens_light.magnitude"], _zero_point(recipe))
    profile_area = profiles.sersic_area(v["lens_light.sersic_index"], v["lens_light.effective_radius"])
    return flux * recipe.image.pixel_scale**2 / profile_area


def sky_rate(lenses: LensSample, recipe: SimulationConfig) -> np.ndarray:
    """(B,) electrons/s a pixel, without what grows with the source."""
    n = recipe.noise
    if n.sky_magnitude is not None:
        return detector.sky_rate(lenses["noise.sky_magnitude"], _zero_point(recipe), recipe.image.pixel_scale)
    return np.nan_to_num(lenses["noise.sky"])


def brighten(lenses: LensSample, recipe: SimulationConfig, peak: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """(B,) factor on all light that gives the source's brightest pixel, `peak` electrons/s, the recipe's S/N."""
    v, n = lenses.values, recipe.noise
    time, fraction, rms = v["noise.exposure_time"], v["noise.sky_fraction"], v["noise.background_rms"]
    counted = sky * time + n.exposures * v["noise.read_noise"] ** 2
    variance = np.where(np.isnan(rms), counted, (rms * n.gain * time) ** 2)
    electrons = detector.peak_electrons(v["noise.peak_snr"], np.nan_to_num(fraction), variance)
    return electrons / (time * peak)
