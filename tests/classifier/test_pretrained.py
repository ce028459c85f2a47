"""The networks that come with the program: they load, their cards are true, they know lenses they never saw."""

import hashlib
import re

import numpy as np
import pytest
from conftest import ROOT

from darklens.classifier.saved import load_model
from darklens.lenses import recipes, render

FOLDER = ROOT / "darklens" / "pretrained"
NETWORKS = sorted(FOLDER.glob("*.pt"))
BETTER_THAN = {"f": 0.85, "j": 0.40, "wide": 0.8}  # accuracy on images drawn here; guessing has a third


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


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_knows_lenses_it_never_saw(path):
    """30 lenses of each class, of another seed and split than any that it was trained on."""
    model, kind = load_model(path), path.stem.split("-")[1]
    recipe = recipes.RECIPES[kind]
    images = [render.simulate(recipe, name, range(30), seed=987, split="test") for name in model.classes]
    found = model.predict(np.concatenate(images).astype(np.float32)).argmax(1)
    assert (found == np.repeat(range(3), 30)).mean() > BETTER_THAN[kind]
