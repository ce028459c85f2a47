"""Simulate the images of a survey's recipe: drawn, rendered, with the detector's noise.

recipe = load_recipe("euclid")
images = simulate(recipe, "sphere", range(8))       # (8, pixels, pixels)
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from darklens.lenses import detector
from darklens.lenses.drawn import Lenses, draw, generator, stream
from darklens.lenses.recipe_tables import SurveyRecipe
from darklens.lenses.survey_render import light_and_sky


def _settings(recipe: SurveyRecipe, values: dict[str, np.ndarray], i: int) -> dict:
    """Keyword arguments of `detector.observe` for lens i, but for its light and sky."""
    n, rms = recipe.noise, values["noise.background_rms"][i]
    return {
        "exposure_time": values["noise.exposure_time"][i],
        "gain": n.gain,
        "read_noise": values["noise.read_noise"][i],
        "exposures": n.exposures,
        "rms": None if np.isnan(rms) else rms,
        "correlation": values["noise.correlation"][i],
        "keep_sky": n.keep_sky,
        "output": n.output,
    }


def is_counts(recipe: SurveyRecipe) -> bool:
    """Whether the images are whole counts (uint16); else they are float32."""
    n = recipe.noise
    plain = n.read_noise.bounds[1] == n.correlation.bounds[1] == 0 and n.background_rms is None and n.gain == 1
    return n.kind == "twice" or (n.kind == "ccd" and n.output == "counts" and n.keep_sky and plain)


def add_noise(recipe: SurveyRecipe, lenses: Lenses, light: Tensor, sky: np.ndarray, rngs: list) -> np.ndarray:
    """Noisy images (B, n, n), float64, of light (B, n, n) and sky (B,), both in electrons/s a pixel."""
    images = np.empty(light.shape)
    for i, (one, rng) in enumerate(zip(light.cpu().numpy().astype(np.float64), rngs, strict=True)):
        settings = _settings(recipe, lenses.values, i)
        if recipe.noise.kind == "none":
            del settings["read_noise"], settings["exposures"], settings["rms"], settings["correlation"]
            images[i] = detector.expected_image(one, sky[i], **settings)
        else:
            images[i] = detector.observe(one, sky[i], rng, **settings)
        if recipe.noise.kind == "twice":
            images[i] = rng.poisson(np.maximum(images[i], 0))
    return images


def simulate(
    recipe: SurveyRecipe,
    class_name: str,
    indices: Iterable[int],
    seed: int = 0,
    split: str = "train",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Noisy images `indices` of a class, (B, pixels, pixels): uint16 if they are whole counts, else float32.

    Counts above 65535 are cut to it. Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    indices = [int(i) for i in indices]
    lenses = draw(recipe, class_name, seed, split, indices)
    light, sky = light_and_sky(lenses, recipe, device)
    rngs = [generator(stream(recipe, class_name, seed, split, i, 1)) for i in indices]
    images = add_noise(recipe, lenses, light, sky, rngs)
    return np.minimum(images, 65535).astype(np.uint16) if is_counts(recipe) else images.astype(np.float32)
