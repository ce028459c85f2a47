"""Residuals of sources with structure are told from those of substructure."""

import numpy as np
import pytest
import torch

from darklens.fit import SmoothModel, fit
from darklens.fit import result as results
from darklens.fit.batch import prepare
from darklens.fit.source_test import structure_share
from darklens.fit.window import as_images
from darklens.simulation.recipes import RECIPES
from darklens.simulation.render import simulate

MODEL = SmoothModel(free_centre=True, free_halo=True)


def flags(name: str, class_name: str, count: int) -> np.ndarray:
    """Of lenses of a recipe."""
    return fit(simulate(RECIPES[name], class_name, range(count), 7).astype(float), MODEL, pictures=False).flag


def test_sources_with_structure_are_flagged():
    every = flags("j_sources", "no", 8)
    assert (every != "").all() and (every == results.STRUCTURED).sum() >= 4


@pytest.mark.parametrize("class_name", ["sphere", "vort"])
def test_substructure_of_smooth_sources_is_not(class_name):
    assert (flags("j", class_name, 10) == results.STRUCTURED).sum() == 0


def test_without_tests_nothing_is_flagged():
    images = simulate(RECIPES["j_sources"], "no", range(4), 7).astype(float)
    assert results.STRUCTURED not in fit(images, MODEL, pictures=False, score_test=False).flag


def test_the_share_turns_and_mirrors_with_the_image():
    image = simulate(RECIPES["j_sources"], "no", [4], 7).astype(float)
    shares = []
    for turned in (image, np.rot90(image, axes=(1, 2)).copy(), image[:, :, ::-1].copy()):
        fits = fit(turned, MODEL)
        shares.append(structure_share(prepare(as_images(turned, torch.device("cpu")), fits.model), fits, 0))
    assert shares[0] > 0.8 and np.ptp(shares) < 1e-2
