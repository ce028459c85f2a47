"""Runs of networks that see residuals: train, test, resume, predict, start from their weights, explain."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch

import darklens
from darklens.commands.run import main
from darklens.reports import equivariance, explain
from darklens.simulation.recipes import RECIPES
from darklens.simulation.writer import write_dataset
from darklens.storage import checkpoint
from darklens.storage.records import load_predictions
from darklens.training.trainer import Trainer

SMALL = "--arch compact --sym_group Dihyderal --N 4 --recipe fast --batch_size 8 --precision fp32 --quiet".split()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder with images_f, 24 + 12 lenses, and a finished run of two epochs in it."""
    here = tmp_path_factory.mktemp("residual")
    write_dataset(here / "images_f", RECIPES["f"], {"train": 8, "val": 4}, seed=2, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("LENS_PICTURES", "fits,detection")
        assert main(["--data_dir", "images_f", "--epochs", "2", *SMALL]) == 0
    return here


@pytest.fixture
def here(run_folder, tmp_path, monkeypatch):
    shutil.copytree(run_folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("LENS_PICTURES", "fits,detection")
    monkeypatch.setattr(equivariance, "FITTED", dict.fromkeys(equivariance.FITTED, 1))
    return tmp_path / "copy"


def finished(here):
    return next((here / "images_f_D_4").iterdir())


def test_compact_networks_see_residuals_of_lenses_that_are_known(here):
    record = json.loads((finished(here) / "run.json").read_text())
    assert record["arguments"]["view"] == "residual" and record["preprocess"]["view"] == "residual"
    assert record["preprocess"]["lens"]["pixel_scale"] == 0.05 and record["network"]["size"] == 105
    assert (here / "images_f" / "views").is_dir()


def test_other_networks_and_images_are_seen_as_images(here):
    assert main(["--data_dir", "images_f", "--epochs", "1", *SMALL, "--view", "image", "--results_dir", "other"]) == 0
    record = json.loads(next((here / "other").glob("*/*/run.json")).read_text())
    assert record["preprocess"] == {"crop": 129, "stretch": "sqrt", "standardise": True}


def test_both_views(here):
    assert main(["--data_dir", "images_f", "--epochs", "1", *SMALL, "--view", "both", "--results_dir", "other"]) == 0
    network = darklens.load(next((here / "other").glob("*/*/best-model-parameters.pt")))
    assert network.network.config["channels"] == 2 and network.channels == 1
    assert network.predict(darklens.simulate("f", "no", [0])).shape == (1, 3)


def test_test_mode_measures_the_fit_too(here, capsys, monkeypatch):
    """Of the images, not of the views that are kept of them."""
    measure, turned = equivariance.measure_equivariance, []
    monkeypatch.setattr(
        equivariance,
        "measure_equivariance",
        lambda run, images, group, **options: turned.append(images) or measure(run, images, group, **options),
    )
    assert main(["--mode", "Test", "--test_time", "latest", "--precision", "fp32"]) == 0
    found = json.loads((finished(here) / "metrics.json").read_text())
    assert found["symmetry"]["includes"] == "fit" and found["symmetry"]["largest_exact_change"] < 1e-2
    assert "equivariance error" in capsys.readouterr().out
    lens = np.load(here / "images_f" / "val" / "no" / "000000.npy")
    assert turned[0].shape == (1, 1, 150, 150) and np.array_equal(turned[0][0, 0].numpy(), lens)


def test_a_run_and_its_test_have_their_pages(here, capsys):
    """report.html of the run has what metrics.json has; --page has the tested images with their true classes."""
    report = (finished(here) / "report.html").read_text()
    metrics = json.loads((finished(here) / "metrics.json").read_text())
    assert f"{metrics['accuracy']:.4f}" in report and f"{metrics['auc']['macro']['value']:.4f}" in report
    assert 'href="best-model-parameters.pt"' in report
    (finished(here) / "report.html").unlink()
    assert main(["--mode", "Test", "--test_time", "latest", "--precision", "fp32", "--page", "look.html"]) == 0
    assert "page: look.html" in capsys.readouterr().out and (finished(here) / "report.html").exists()
    data = json.loads(re.search(r'id="data">(.*?)</script>', (here / "look.html").read_text())[1])
    predictions = load_predictions(finished(here))
    assert [row[1] for row in data["rows"]] == predictions.names.tolist()
    assert [row[3] for row in data["rows"]] == [predictions.classes[k] for k in predictions.labels]
    calls = [predictions.classes[k] for k in predictions.logits.argmax(1)]
    assert np.mean([row[2] == call for row, call in zip(data["rows"], calls, strict=True)]) > 0.9


def test_resumed_run_is_the_unbroken_one(here, monkeypatch):
    real, steps = Trainer._train_step, []

    def stop(self, batch):
        steps.append(1)
        if len(steps) == 5:
            self.signals.append(15)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop)
        assert main(["--data_dir", "images_f", "--epochs", "2", *SMALL, "--results_dir", "again"]) == 143
    assert main(["--resume", "latest", "--results_dir", "again", "--quiet"]) == 0
    first, second = (
        checkpoint.load(next(place.glob("*/best-model-parameters.pt")))["state"]
        for place in (here / "images_f_D_4", here / "again" / "images_f_D_4")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_predictions_have_the_smooth_lens(here):
    np.save(here / "flat.npy", np.full((150, 150), 3.0))
    shutil.copy(here / "flat.npy", here / "images_f" / "val" / "no" / "flat.npy")
    lens = np.load(here / "images_f" / "val" / "no" / "000000.npy")
    np.save(here / "images_f" / "val" / "no" / "off.npy", np.roll(lens, 2, axis=1))
    assert main("--mode Predict --test_time latest --data_dir images_f/val/no --quiet".split()) == 0
    rows = {row["file"]: row for row in csv.DictReader(open(here / "predictions.csv"))}
    lens = rows["000000.npy"]
    assert abs(float(lens["einstein_radius"]) - 1.282) < 0.05 and 0 < float(lens["einstein_radius_sd"]) < 0.01
    assert 0.9 < float(lens["chi_square"]) < 1.1 and "smooth lens" not in lens["flag"]
    assert "smooth lens: nothing to fit" in rows["flat.npy"]["flag"]
    assert "smooth lens: its centre may be off" in rows["off.npy"]["flag"]


def test_predict_is_what_python_gives(here):
    assert main("--mode Predict --test_time latest --data_dir images_f/val/vort --precision fp32 --quiet".split()) == 0
    rows = list(csv.DictReader(open(here / "predictions.csv")))
    table = np.array([[float(row[f"calibrated_{name}"]) for name in ("no", "sphere", "vort")] for row in rows])
    images = np.stack([np.load(here / "images_f" / "val" / "vort" / row["file"]) for row in rows])
    network = darklens.load(finished(here) / "best-model-parameters.pt")
    assert np.abs(network.predict(images) - table).max() < 1e-3
    assert np.abs(network.predict(images.astype(">f8") / 7 - 1e3) - table).max() < 2e-3


def test_training_goes_on_from_weights_that_see_residuals(here):
    weights = str(finished(here) / "best-model-parameters.pt")
    flags = ["--data_dir", "images_f", "--epochs", "1", *SMALL, "--weights", weights, "--mode", "Train"]
    assert main([*flags, "--results_dir", "other"]) == 0
    record = json.loads(next((here / "other").glob("*/*/run.json")).read_text())
    assert record["preprocess"]["view"] == "residual"


def test_explain_draws_the_fits(here, monkeypatch):
    """Those of the images."""
    drawn, draw = [], explain.plot_fits
    monkeypatch.setattr(explain, "MOST_ROWS", 2)  # of detection maps
    monkeypatch.setattr(explain, "plot_fits", lambda *given: drawn.append(given) or draw(*given))
    assert main("--mode Test --test_time latest --explain --precision fp32".split()) == 0
    assert (finished(here) / "fits.png").stat().st_size > 10_000
    assert (finished(here) / "detection.png").stat().st_size > 10_000
    _, images, _, titles = drawn[0]
    assert np.array_equal(images[0], np.load(here / "images_f" / "val" / titles[0]))


def test_predictions_name_the_same_images_whatever_the_view(here):
    """So that networks of both kinds can be compared."""
    flags = ["--data_dir", "images_f", "--epochs", "1", *SMALL, "--view", "image", "--results_dir", "other"]
    assert main(flags) == 0
    folders = finished(here), next((here / "other").glob("*/*/run.json")).parent
    residual, image = (load_predictions(folder) for folder in folders)
    assert residual.sample == image.sample


def test_trained_networks_know_their_view(here):
    with pytest.raises(SystemExit):
        main("--mode Test --test_time latest --view image".split())
