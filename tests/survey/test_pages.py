"""The page beside a table of predictions: the same figures, the same order, pictures of what was fitted."""

import base64
import csv
import json
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import darklens
from darklens.classifier.classifier import Classifier
from darklens.commands.run import main
from darklens.data.transforms import Preprocess, default_preprocess
from darklens.errors import UsageError
from darklens.fit import SmoothModel, fit
from darklens.networks.equivariant import build_network
from darklens.page.row import PageInfo
from darklens.page.strip import LIMIT, palette
from darklens.survey.predict import predict_folder

CLASSES = ["no", "sphere", "vort"]
SIZE = 59


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Untrained, on residuals, with a temperature."""
    torch.manual_seed(0)
    network = build_network({"arch": "compact", "head": "lifted", "size": SIZE, "sym_group": "Dihyderal"})
    model = Preprocess(SIZE, view="residual", smooth_model=SmoothModel(window=SIZE))
    return Classifier(network, CLASSES, model, temperature=1.5)


@pytest.fixture(scope="module")
def lenses() -> np.ndarray:
    """(4, 60, 60), the middles of lenses."""
    return darklens.simulate("f", "vort", range(4))[:, 45:105, 45:105].astype("f4")


@pytest.fixture
def survey(lenses, tmp_path):
    """A list of four lenses, and a file that is none."""
    for k, lens in enumerate(lenses):
        np.save(tmp_path / f"{k}.npy", lens)
    (tmp_path / "broken.npy").write_bytes(b"no image")
    lines = [f"{name},J{k}" for k, name in enumerate(["2.npy", "0.npy", "broken.npy", "1.npy", "3.npy"])]
    (tmp_path / "list.csv").write_text("\n".join(["file,id", *lines]))
    return tmp_path / "list.csv"


def data_of(path) -> tuple[dict, dict[str, str]]:
    """What the page's scripts read, and its pictures."""
    return tuple(
        json.loads(re.search(rf'id="{name}">(.*?)</script>', path.read_text())[1]) for name in ("data", "pictures")
    )


def test_has_the_rows_of_the_table(classifier, survey, tmp_path):
    predict_folder(classifier, survey, tmp_path / "t.csv", page=tmp_path / "t.html", workers=0)
    predict_folder(classifier, survey, tmp_path / "plain.csv", workers=0)
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    table, (data, pictures) = list(csv.DictReader(open(tmp_path / "t.csv"))), data_of(tmp_path / "t.html")
    assert data["listed"] == ["id"] and data["calibrated"] and data["total"] == 5
    for cells, row in zip(table, data["rows"], strict=True):
        assert row[1:3] == [cells["file"], cells["class"]] and row[5] == cells["flag"]
        assert row[4] == [float(cells[f"calibrated_{name}"]) for name in CLASSES if cells["class"]]
        figures = [cells[name] for name in ("novelty", "chi_square", "einstein_radius", "einstein_radius_sd")]
        assert row[6:10] == [float(cell) if cell else None for cell in figures]
        others = dict(zip(data["columns"], row[12], strict=True))
        assert others["id"] == cells["id"] and others["shear"] == cells["shear"]
        assert not any(name.startswith(("p_", "calibrated_")) for name in others)
    assert sorted(pictures) == ["0", "1", "3", "4"]


def test_pictures_are_those_of_the_fit(classifier, survey, lenses, tmp_path):
    predict_folder(classifier, survey, tmp_path / "t.csv", page=tmp_path / "t.html", workers=0)
    data, pictures = data_of(tmp_path / "t.html")
    found = fit(torch.from_numpy(lenses[[2]].astype(float)), classifier.preprocess.smooth_model)
    indices = np.asarray(Image.open(BytesIO(base64.b64decode(pictures["0"]))))
    image, smooth, residual = indices.reshape(3, indices.shape[1], -1)  # (3 S, S) -> (3, S, S)
    assert data["rows"][0][11] == ["image", "smooth_lens", "residual"]
    colours = palette()[residual].astype(int)
    strong = np.abs(found.residual[0]) > 1
    assert ((colours[..., 0] > colours[..., 2]) == (found.residual[0] > 0))[strong].all()  # red above zero
    assert (np.abs(found.residual[0]) < LIMIT).all() or residual.max() > residual.min()
    assert np.corrcoef(image.ravel(), lenses[2].ravel())[0, 1] > 0.9
    assert np.corrcoef(smooth.ravel(), found.image[0].ravel())[0, 1] > 0.9


def test_a_network_that_sees_the_image_shows_the_image(lenses, survey, tmp_path):
    network = build_network({"arch": "compact", "head": "lifted", "size": SIZE, "sym_group": "Circular"})
    plain = Classifier(network, CLASSES, default_preprocess(SIZE))
    predict_folder(plain, survey, tmp_path / "t.csv", page=tmp_path / "t.html", workers=0)
    data, _ = data_of(tmp_path / "t.html")
    assert data["rows"][0][11] == ["image"] and not data["calibrated"] and data["rows"][0][8] is None


def test_labels_of_a_survey_outlive_another_network(classifier, survey, tmp_path):
    for name in ("a", "b"):
        predict_folder(classifier, survey, tmp_path / f"{name}.csv", page=tmp_path / f"{name}.html", workers=0)
    keys = [data_of(tmp_path / f"{name}.html")[0]["key"] for name in "ab"]
    names = ["2.npy", "0.npy", "broken.npy", "1.npy", "3.npy"]
    assert keys[0] == keys[1] == PageInfo("", CLASSES, source=str(survey)).storage_key(names)


def test_replaces_nothing_and_is_no_image(classifier, survey, tmp_path):
    folder = survey.parent
    for page, words in (("t.png", "image"), ("t.txt", r"\.html"), ("t.html", "choose another folder")):
        with pytest.raises(UsageError, match=words):
            predict_folder(classifier, folder, tmp_path.parent / "t.csv", page=folder / page, workers=0)
    with pytest.raises(UsageError, match="--page .*is what is read"):
        predict_folder(classifier, survey, tmp_path / "t.html", page=tmp_path / "t.html", workers=0)


def test_flags_of_the_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "survey").mkdir()
    for k, lens in enumerate(darklens.simulate("f", "sphere", range(2))):
        np.save(tmp_path / "survey" / f"{k}.npy", lens)
    flags = "--mode Predict --weights compact-f --data_dir survey --quiet --use_cuda False --page look.html".split()
    assert main(flags) == 0
    assert "predictions: predictions.csv, page: look.html" in capsys.readouterr().out
    assert [row[1] for row in data_of(tmp_path / "look.html")[0]["rows"]] == ["0.npy", "1.npy"]
    assert main([*flags, "--part", "2/2"]) == 0
    assert [row[1] for row in data_of(tmp_path / "look-2-of-2.html")[0]["rows"]] == ["1.npy"]
    with pytest.raises(SystemExit):
        main(["--page", "look.html"])
    assert "--page goes with --mode Predict or Test" in capsys.readouterr().err
