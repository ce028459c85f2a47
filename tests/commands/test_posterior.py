"""--infer and --mode Infer: the posterior of the dark matter in checkpoints, reports, tables and Python."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import darklens
from darklens.commands.run import main
from darklens.errors import UsageError
from darklens.posterior import training as inference
from darklens.reports import equivariance
from darklens.simulation.recipes import RECIPES
from darklens.simulation.writer import write_dataset
from darklens.storage import checkpoint
from darklens.training import posterior as heads

SMALL = "--arch compact --sym_group Dihyderal --N 4 --recipe fast --batch_size 8 --precision fp32 --quiet".split()
COLUMNS = [
    f"{name}{end}"
    for name in ("sphere_log_mass_fraction", "sphere_log_mass_near_ring", "vort_mass_fraction", "vort_length")
    for end in ("", "_16", "_84")
]


def small(patch):
    """Few lenses will do, and nothing is drawn but the coverage."""
    for module in (heads, inference):
        patch.setattr(module, "LEAST", 4)
    patch.setenv("LENS_PICTURES", "coverage")
    patch.setattr(equivariance, "FITTED", dict.fromkeys(equivariance.FITTED, 1))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder with images_f, 30 + 12 lenses, and a run of one epoch with --infer in it."""
    here = tmp_path_factory.mktemp("infer")
    write_dataset(here / "images_f", RECIPES["f"], {"train": 10, "val": 4}, seed=2, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        small(patch)
        assert main(["--data_dir", "images_f", "--epochs", "1", "--infer", *SMALL]) == 0
    return here


@pytest.fixture
def here(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    small(monkeypatch)
    return run_folder


@pytest.fixture
def finished(here):
    return next((here / "images_f_D_4").iterdir())


@pytest.fixture
def network(finished):
    return darklens.load(finished / "best-model-parameters.pt")


def test_training_ends_with_a_posterior_and_its_coverage(finished, network):
    assert network.inference.columns() == [*COLUMNS[:6], "sphere_above_limit", *COLUMNS[6:]]
    found = json.loads((finished / "metrics.json").read_text())["inference"]
    assert set(found) == {"sphere", "vort"} and set(found["vort"]) == {"mass_fraction", "length"}
    one = found["sphere"]["log_mass_fraction"]
    assert one["images"] == 4 and set(one["coverage"]) == {"0.5", "0.68", "0.9", "0.95"}
    assert (finished / "coverage.png").stat().st_size > 10_000
    assert json.loads((finished / "run.json").read_text())["arguments"]["infer"] is True


def test_test_mode_measures_it_again(here, finished, capsys):
    assert main("--mode Test --test_time latest --precision fp32 --quiet".split()) == 0
    assert "vort length" in capsys.readouterr().out
    found = json.loads((finished / "metrics.json").read_text())
    assert found["inference"]["vort"]["length"]["images"] == 4


def test_predictions_are_what_python_gives(here, network):
    (here / "table").mkdir(exist_ok=True)
    shutil.copy(here / "images_f/val/vort/000001.npy", here / "table/a.npy")
    shutil.copy(here / "images_f/val/sphere/000002.npy", here / "table/b.npy")
    np.save(here / "table" / "c.npy", np.zeros((20, 20)))
    assert main("--mode Predict --test_time latest --data_dir table --precision fp32 --quiet".split()) == 0
    rows = list(csv.DictReader(open(here / "predictions.csv")))
    assert [row[name] for name in COLUMNS for row in rows[2:]] == [""] * len(COLUMNS)
    found = network.infer(np.stack([np.load(here / "table" / f"{name}.npy") for name in "ab"]))
    above = found["sphere"]["log_mass_near_ring"].above(network.inference.limit)
    assert [float(row["sphere_above_limit"]) for row in rows[:2]] == pytest.approx(above, rel=1e-4)
    for level, end in ((0.16, "_16"), (0.5, ""), (0.84, "_84")):
        values = [float(row[f"vort_length{end}"]) for row in rows[:2]]
        assert values == pytest.approx(found["vort"]["length"].quantile(level), rel=1e-4)
        values = [float(row[f"sphere_log_mass_fraction{end}"]) for row in rows[:2]]
        assert values == pytest.approx(found["sphere"]["log_mass_fraction"].quantile(level), rel=1e-4)


def test_the_posterior_of_a_turned_image_is_the_same(network):
    image = darklens.simulate("f", "sphere", [3], seed=4)[0].astype(float)
    turned = np.stack([image, np.rot90(image), image[:, ::-1], image.T])
    found = network.infer(turned)["sphere"]["log_mass_fraction"].probabilities
    assert np.abs(found - found[0]).max() < 1e-4 * found.max() + 1e-6


def test_the_classifier_stays_as_it_was(here, finished):
    """--mode Infer on a copy of a network that has none: the same weights, bit for bit, and the same posterior."""
    path = here / "plain.pt"
    payload = checkpoint.load(finished / "best-model-parameters.pt")
    with_heads = payload.pop("inference")
    checkpoint.save(payload, path)
    assert darklens.load(path).inference is None
    assert main(["--mode", "Infer", "--weights", "plain.pt", "--data_dir", "images_f", "--quiet"]) == 0
    again = checkpoint.load(next((here / "weights_plain").glob("*/best-model-parameters.pt")))
    assert all(torch.equal(again["state"][key], value) for key, value in payload["state"].items())
    first, second = (found["heads"]["vort"]["length"] for found in (with_heads, again["inference"]))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_network_without_a_posterior_says_so():
    network = darklens.load("compact-f")
    network.inference = None
    with pytest.raises(UsageError, match="--infer"):
        network.infer(np.zeros((150, 150)))


def test_the_limit_is_what_smooth_lenses_stay_below(here, network):
    """Of the four smooth lenses that it was taken from, the highest median, nearly (the 99% quantile)."""
    smooth = np.stack([np.load(path) for path in sorted(Path("images_f/val/no").glob("*.npy"))])
    medians = network.infer(smooth)["sphere"]["log_mass_near_ring"].quantile(0.5)
    assert network.inference.limit == pytest.approx(np.quantile(medians, 0.99), abs=1e-4)


def test_images_whose_truth_is_not_known_are_refused_before_training(here, capsys):
    shutil.copytree(here / "images_f", here / "found", ignore=shutil.ignore_patterns("manifest.json", "views"))
    with pytest.raises(SystemExit) as error:
        main(["--data_dir", "found", "--infer", *SMALL])
    assert error.value.code == 2
    assert "--infer: the dark matter in found is not known; simulate" in capsys.readouterr().err.splitlines()[-1]
    assert not (here / "found_D_4").exists()


@pytest.mark.parametrize(
    "words",
    [
        "--infer --mode Test --test_time latest",
        "--infer --simulate f",
        "--mode Infer",
        "--infer --data_dir images_f --view image",
        "--infer --data_dir images_f --use_CNN True --view residual",
    ],
)
def test_what_cannot_be_is_said_in_one_line(here, words, capsys):
    with pytest.raises(SystemExit) as error:
        main([*words.split(), "--arch", "compact", "--quiet"])
    assert error.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_damaged_posterior_is_refused(here, finished):
    payload = checkpoint.load(finished / "best-model-parameters.pt")
    payload["inference"]["heads"]["vort"]["length"]["edges"] *= float("nan")
    checkpoint.save(payload, here / "damaged.pt")
    with pytest.raises(RuntimeError, match=r"damaged\.pt: not a usable network: inference: expected finite"):
        darklens.load(here / "damaged.pt")
