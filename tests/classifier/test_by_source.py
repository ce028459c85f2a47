"""Images whose source has structure are answered by the network for such, the others as before."""

import csv

import numpy as np
import pytest
import torch

import darklens
from darklens.classifier.by_source import View, predict_by_source
from darklens.classifier.predictions import Predictor
from darklens.commands.run import main
from darklens.errors import ResultsError, UsageError
from darklens.survey.items import STRUCTURED_NOTE
from darklens.survey.predict import predict_folder

PROBABILITIES = ["p_no", "p_sphere", "p_vort"]


@pytest.fixture(scope="module")
def usual():
    return darklens.load("compact-wide")


@pytest.fixture(scope="module")
def flexible():
    return darklens.load("compact-j_sources")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(2, H, W) of a Sersic source and of a clumpy one."""
    return np.concatenate([darklens.simulate("j", "no", [0]), darklens.simulate("j_sources", "no", [3])]).astype("f4")


@pytest.fixture(scope="module")
def table(usual, flexible, images):
    return usual.with_structured(flexible).classify(images)


def assert_same(table: dict[str, np.ndarray], row: int, alone: dict[str, np.ndarray], columns) -> None:
    for name in columns:
        one, other = table[name][row], alone[name][0]
        assert one == (other if name in ("class", "flag") else pytest.approx(other, rel=1e-3, abs=1e-5, nan_ok=True)), (
            name
        )


def test_a_sersic_source_is_left_to_the_network_as_it_is(usual, images, table):
    alone = usual.classify(images[:1])
    assert_same(table, 0, alone, alone)
    assert np.isnan(table["log_bayes_factor"][0])


def test_a_source_with_structure_is_fitted_again(usual, flexible, images, table):
    assert "its source may have structure" in usual.classify(images[1:])["flag"][0]
    alone = flexible.classify(images[1:])
    assert "structure" not in table["flag"][1]
    columns = "class", "novelty", "chi_square", "log_bayes_factor", "einstein_radius", "flag", *PROBABILITIES
    assert_same(table, 1, alone, columns)
    assert list(table) == usual.columns_with("flexible")


def test_networks_that_do_not_belong_together_are_refused(usual, flexible):
    with pytest.raises(UsageError, match="expected networks of the views residual and flexible"):
        usual.with_structured(usual)
    with pytest.raises(UsageError, match="expected networks of the views residual and flexible"):
        flexible.with_structured(flexible)


def test_predict_does_both(images, table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenses").mkdir()
    for number, image in enumerate(images):
        np.save(tmp_path / "lenses" / f"{number}.npy", image)
    assert main(["--mode", "Predict", "--data_dir", "lenses", "--num_workers", "0", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "sources with structure: 1 images, fitted again with such a source; class by compact-j_sources" in text
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        assert row["class"] == table["class"][number]
        np.testing.assert_allclose(
            [float(row[p]) for p in PROBABILITIES], [table[p][number] for p in PROBABILITIES], atol=0.01
        )
    assert [STRUCTURED_NOTE in row["note"] for row in rows] == [False, True]
    assert [bool(row["log_bayes_factor"]) for row in rows] == [False, True]


def test_a_named_network_is_not_helped(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "1.npy", images[1])
    main(["--mode", "Predict", "--data_dir", "1.npy", "--weights", "compact-wide", "--num_workers", "0", "--quiet"])
    assert "1 images may have them; --weights compact-j_sources fits such sources" in capsys.readouterr().out
    with open("predictions.csv", newline="") as file:
        assert "log_bayes_factor" not in next(csv.reader(file))


def test_a_part_of_another_pair_is_refused_and_features_too(usual, flexible, images, tmp_path):
    np.save(tmp_path / "0.npy", images[0])
    options = {"part": (1, 1), "workers": 0, "quiet": True}
    predict_folder(usual, tmp_path / "0.npy", tmp_path / "out.csv", **options)
    both = usual.with_structured(flexible)
    with pytest.raises(ResultsError):
        predict_folder(both, tmp_path / "0.npy", tmp_path / "out.csv", **options)
    with pytest.raises(UsageError, match="features of two networks"):
        predict_folder(both, tmp_path / "0.npy", tmp_path / "new.csv", embeddings=tmp_path / "f.npy", quiet=True)


def test_each_image_is_seen_by_its_own_predictor():
    def predictor(shift: float) -> Predictor:
        return Predictor(
            lambda views: (views.flatten(1)[:, :2] + shift, [views.flatten(1), views.flatten(1)]), ["a", "b"]
        )

    views = torch.arange(12.0).view(3, 1, 2, 2).numpy()
    seen = [
        View(view, {}, [str(n)], {}, source)
        for n, (view, source) in enumerate(zip(views, ("x", "y", "x"), strict=True))
    ]
    both = predict_by_source({"x": predictor(0), "y": predictor(0)}, seen)
    assert [p.flags for p in both] == [("0",), ("1",), ("2",)]
    assert [p.features[0] for p in both] == [0.0, 4.0, 8.0]
