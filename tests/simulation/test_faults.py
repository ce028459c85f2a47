"""Faults of real images: the table can be read, each does what it says, and the same generator gives the same bits."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from darklens.simulation import faults, render
from darklens.simulation.faults import FAULTS, read_changes
from darklens.simulation.recipes import RECIPES, changed


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return render.simulate(RECIPES["j"], "sphere", [0])[0].astype(np.float64)


@pytest.mark.parametrize("name", FAULTS)
def test_each_changes_the_image_and_repeats_itself(name, image):
    first, second = (FAULTS[name](image, 0.4, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second) and first.shape == image.shape and np.isfinite(first).all()
    assert not np.array_equal(first, image)


@pytest.mark.parametrize("path", [faults.TABLE, ROOT / "benchmarks" / "faults.toml"])
def test_tables_can_be_applied(path, image):
    rng = np.random.default_rng(0)
    for change in read_changes(path).values():
        low, high = change.strengths
        assert low * (1 - 1e-12) <= change.strength(rng) <= high * (1 + 1e-12)
        if change.simulated:
            changed(RECIPES["j"], change.recipe_keys(rng))
        else:
            assert not np.array_equal(faults.apply(change, image, rng), image), change.name


def test_new_kinds_are_in_no_training_list():
    trained = {change.function for change in read_changes().values()}
    tested = read_changes(ROOT / "benchmarks" / "faults.toml").values()
    new = {change.function for change in tested if change.family == "new"}
    assert len(new) == 5 and not new & trained


def test_unknown_functions_are_named(tmp_path: Path):
    table = tmp_path / "table.toml"
    table.write_text('[[change]]\nname = "a"\nfamily = "b"\nfunction = "no_such"\nstrengths = [1, 2]\n')
    with pytest.raises(KeyError, match="no_such"):
        read_changes(table)


def test_what_they_say(image):
    """Against what can be counted in the image."""
    rng = np.random.default_rng(0)
    sky = np.median(image)
    clipped = FAULTS["saturation"](image, 0.7, rng)
    assert clipped.max() == pytest.approx(sky + 0.7 * (image.max() - sky)) and (clipped == clipped.max()).sum() > 1
    gains = FAULTS["gain_steps"](np.ones_like(image), 0.05, rng)
    half = image.shape[0] // 2
    corners = [gains[:half, :half], gains[:half, half:], gains[half:, :half], gains[half:, half:]]
    assert sorted(float(c.mean()) for c in corners) == pytest.approx([1.0, 1.05, 1.1, 1.15])
    assert all(np.ptp(c) == 0 for c in corners)
    assert len(np.unique(FAULTS["percentiles"](image, 1.0, rng))) <= 256
    star = FAULTS["star"](image, 0.5, rng, radii=(20, 20)) - image
    row, column = np.unravel_index(star.argmax(), star.shape)
    assert np.hypot(row - 74.5, column - 74.5) == pytest.approx(20, abs=2.5)
    dead = FAULTS["dead_lines"](image, 1, np.random.default_rng(5)) != image
    assert max(dead.any(0).sum(), dead.any(1).sum()) >= 100 and min(dead.any(0).sum(), dead.any(1).sum()) == 1
