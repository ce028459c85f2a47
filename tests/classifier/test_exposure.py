"""The detector of outliers: figures, threshold, checkpoints, and what it flags with the shipped networks."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import ROOT

import darklens
from darklens.classifier import saved
from darklens.classifier.changed_lenses import changed_images, observe, training_plan
from darklens.classifier.exposure import Exposure, OutlierDetector, fit_detector, threshold
from darklens.classifier.figures import image_figures
from darklens.errors import CheckpointError, UsageError
from darklens.simulation.faults import read_changes
from darklens.simulation.recipes import RECIPES

SHIPPED = {"compact-f": "f", "compact-j": "j", "compact-wide": "wide"}


@pytest.fixture(scope="module")
def network():
    return darklens.load("compact-f")


def made(count: int, seed: int = 0) -> Exposure:
    """Images whose figure `a` says whether they were changed so that the network is wrong."""
    rng = np.random.default_rng(seed)
    kinds = np.where(np.arange(count) % 2, "a change", "").astype(object)
    wrong = (kinds != "") & (rng.random(count) < 0.5)
    figures = {"a": rng.normal(size=count) + 6 * wrong, "b": rng.normal(size=count)}
    return Exposure(figures, wrong, np.zeros(count, dtype=bool), kinds)


def test_detector_tells_wrong_images_at_the_rate_of_clean_ones():
    clean, other = (part[part.kinds == ""] for part in (made(4000, 1), made(4000, 2)))
    detector = fit_detector(made(2000), clean, rate=0.02)
    assert detector.images == (1000, 1000, 2000)
    assert (detector.score(clean.figures) > 1).mean() <= 0.02
    assert (detector.score(other.figures) > 1).mean() == pytest.approx(0.02, abs=0.012)
    tested = made(2000, 3)
    caught = detector.score(tested.figures) > 1
    assert caught[tested.wrong].mean() > 0.95 and caught[~tested.wrong].mean() < 0.05


def test_threshold_counts_what_the_fit_flags():
    scores, flagged = np.arange(1000.0), np.arange(1000) < 15
    limit = threshold(scores, flagged, 0.02)
    assert ((scores > limit) | flagged).sum() == 20
    many = np.arange(1000) < 40  # the fit alone flags more: 1% besides
    assert ((scores > threshold(scores, many, 0.02)) & ~many).sum() == 10


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="expected 20 changed wrong and 100 clean"):
        fit_detector(made(30), made(30))


@pytest.mark.parametrize("change", [{"limit": float("nan")}, {"rate": 2.0}, {"images": [1, 2]}, {"more": 1}])
def test_damaged_detectors_are_refused(change):
    values = fit_detector(made(300), made(400)).to_dict()
    assert OutlierDetector.from_dict(values).limit == values["limit"]
    with pytest.raises(ValueError, match="outliers: expected"):
        OutlierDetector.from_dict(values | change)


def test_a_checkpoint_keeps_the_detector(network, tmp_path):
    detector = fit_detector(made(300), made(400))
    saved.save_model(dataclasses.replace(network, outliers=detector), tmp_path / "with.pt")
    saved.save_model(dataclasses.replace(network, outliers=None), tmp_path / "without.pt")
    loaded = saved.load_model(tmp_path / "with.pt").outliers
    assert loaded is not None and np.array_equal(loaded.score(made(50).figures), detector.score(made(50).figures))
    old = saved.load_model(tmp_path / "without.pt")
    assert old.outliers is None and "outlier" not in old.columns


def test_figures_that_are_missing_are_one_line(network, tmp_path):
    other = dataclasses.replace(network, outliers=fit_detector(made(300), made(400)))
    with pytest.raises(CheckpointError, match="figures that this program does not know: a, b"):
        other.classify(darklens.simulate("f", "no", range(1)))


def test_figures_turn_and_scale_with_the_image(network):
    """No turn, mirror or unit changes them; of fits that end at the same minimum up to 1e-3."""
    image = darklens.simulate("f", "sphere", [3])[0].astype(float)
    variants = [image, np.rot90(image), image[:, ::-1], 1e-3 * image + 2]
    figures = [
        image_figures(network.preprocess.with_fit(torch.tensor(v.copy())[None, None])[1], v[None]) for v in variants
    ]
    for other in figures[1:]:
        for name, values in figures[0].items():
            assert other[name] == pytest.approx(values, rel=0.02, abs=0.05), name


def test_a_constant_image_has_finite_figures(network):
    image = np.full((1, 150, 150), 7.0)
    fit = network.preprocess.with_fit(torch.from_numpy(image)[:, None])[1]
    assert all(np.isfinite(values).all() for values in image_figures(fit, image).values())


def test_examples_repeat_and_are_what_was_planned(network):
    plan = training_plan(read_changes(), 10, np.random.default_rng(0))
    assert sum(change is None for change in plan) == 4
    first, second = (observe(network, RECIPES["f"], plan, first=5, seed=1) for _ in range(2))
    assert list(first.kinds) == [change.name if change else "" for change in plan]
    assert np.array_equal(first.matrix, second.matrix) and np.isfinite(first.matrix).all()
    with pytest.raises(UsageError, match="sees residuals"):
        observe(dataclasses.replace(network, novelty=None), RECIPES["f"], plan, first=0, seed=0)


# --- the networks that come with the program ------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_have_a_detector_whose_figures_are_known(name):
    network = darklens.load(name)
    assert network.outliers is not None and network.outliers.rate <= 0.02
    table = network.classify(darklens.simulate(SHIPPED[name], "no", range(2)))
    assert list(table).index("outlier") == list(table).index("novelty") + 1 and np.isfinite(table["outlier"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_wrong_answers_of_faults_are_flagged(name):
    """Lenses that trained nothing: at least 80% of the wrong ones (measured: see docs/residual.md), few clean ones."""
    network, recipe = darklens.load(name), RECIPES["f"]
    changes = [None, *read_changes(ROOT / "benchmarks" / "faults.toml").values()]
    wrong, flagged, clean = [], [], []
    for row, change in enumerate(changes):
        numbers = np.arange(90 if change is None else 6) + 1000
        labels = np.array(network.classes)[numbers % 3]
        rng = np.random.default_rng(row)
        table = network.classify(changed_images(recipe, [change] * len(numbers), list(labels), numbers, 5, rng))
        flags = table["flag"] != ""
        if change is None:
            clean.append(flags)
        else:
            wrong.append(table["class"] != labels)
            flagged.append(flags)
    wrong, flagged = np.concatenate(wrong), np.concatenate(flagged)
    assert wrong.sum() > 27 and flagged[wrong].mean() > 0.8
    assert np.concatenate(clean).mean() < 0.08
