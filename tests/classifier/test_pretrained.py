"""The networks that come with the program: they load, their cards are true, they know lenses they never saw."""

import hashlib
import re

import numpy as np
import pytest
from conftest import ROOT

from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import load_model
from darklens.simulation import recipes, render

FOLDER = ROOT / "darklens" / "pretrained"
NETWORKS = sorted(FOLDER.glob("*.pt"))
BETTER_THAN = {
    "f": 0.94,
    "j": 0.94,
    "wide": 0.85,
    "j_sources": 0.6,
}  # accuracy on images drawn here; guessing has a third
FLEXIBLE = {"compact-j_sources"}  # whose fits take seconds
MEASURED = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in FLEXIBLE), id=path.stem) for path in NETWORKS]


def test_every_network_has_a_card_and_every_card_a_network():
    assert NETWORKS
    cards = {path.stem for path in FOLDER.glob("*.md")} - {"README"}
    assert cards == {path.stem for path in NETWORKS}


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_card_is_of_this_file(path):
    assert path.stat().st_size < 20e6
    card = path.with_suffix(".md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    model = load_model(path)
    count = sum(weights.numel() for weights in model.network.parameters())
    assert f"{count:,} parameters" in card and model.novelty is not None and model.temperature
    for heading in ("Data", "Recipe", "Figures", "Symmetry", "Limits"):
        assert re.search(rf"^## {heading}$", card, re.MULTILINE)


@pytest.mark.parametrize("path", MEASURED)
def test_knows_lenses_it_never_saw(path):
    model, kind = load_model(path), path.stem.split("-")[1]
    assert right(model, recipes.RECIPES[kind], 2 if path.stem in FLEXIBLE else 30) > BETTER_THAN[kind]


@pytest.mark.parametrize("path", [path for path in NETWORKS if path.stem not in FLEXIBLE], ids=lambda path: path.stem)
def test_an_elliptical_halo_is_no_substructure(path):
    """The fit that is tested for it sets the halo's axis ratio free."""
    recipe = recipes.changed(recipes.RECIPES["j"], {"lens.axis_ratio": 0.8, "lens.angle": [0, 360]})
    assert right(load_model(path), recipe, 12) > 0.8


def right(model: Classifier, recipe: recipes.SimulationConfig, count: int) -> float:
    """The share of right answers on `count` lenses of each class, of a seed and split that nothing was trained on."""
    images = [render.simulate(recipe, name, range(count), seed=987, split="test") for name in model.classes]
    found = model.predict(np.concatenate(images).astype(np.float32)).argmax(1)
    return (found == np.repeat(range(3), count)).mean()
