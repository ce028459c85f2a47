"""A run's flow: main.py's steps are Python's, it can be read in one sitting, and it knows its images."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, program_environment, write_images
from programs import SMALL, final, run, trained

import darklens
from darklens.runs import fingerprint

FLOW = "main.py", "darklens/runs/run.py", "darklens/runs/train.py", "darklens/training/trainer.py"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a data set, which is the current one; no pictures."""
    write_images(tmp_path / "images_t", size=40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENS_PICTURES", "none")
    return tmp_path


def test_a_training_run_can_be_read_in_one_sitting():
    assert sum((ROOT / name).read_text().count("\n") for name in FLOW) < 400


def test_main_and_python_train_the_same(here):
    """The steps stand in main.py, for its readers, and in darklens.runs.train."""
    flags = [*SMALL, "--data_dir", "images_t", "--results_dir", "main"]
    environment = program_environment() | {"LENS_PICTURES": "none"}
    subprocess.run([sys.executable, str(ROOT / "main.py"), *flags], env=environment, check=True, capture_output=True)
    settings = {"arch": "compact", "epochs": 2, "batch_size": 8, "use_cuda": False, "quiet": True}
    folder = darklens.train("images_t", results_dir="python", **settings)
    (other,) = (here / "main").glob("*/*")
    for name in ("train_loss.npy", "test_loss.npy"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    assert (folder / "report.html").exists()


def test_other_images_under_the_same_names_are_noticed(here, capsys):
    folder = trained(here)
    before = final(folder)
    path = here / "images_t" / "train" / "no" / "0002.npy"
    image = np.load(path)
    np.save(path, image + 1)
    with pytest.raises(SystemExit):
        run("--resume", folder.name, "--quiet")
    assert "images_t (train) are others than those that the run began with" in capsys.readouterr().err
    np.save(path, image)
    assert run("--resume", folder.name, "--quiet") == 0
    assert "files of train in images_t were written again; the pixels" in capsys.readouterr().out
    assert final(folder) == before


def test_a_copy_of_the_data_set_gives_the_same_network(here):
    folder = trained(here)
    shutil.move(here / "images_t", here / "original")
    shutil.copytree(here / "original", here / "images_t")
    assert final(trained(here)) == final(folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["fingerprints"].keys() == {"train", "val"}


def test_of_many_images_a_sample_is_compared(here, monkeypatch):
    monkeypatch.setattr(fingerprint, "SAMPLE", 2)
    folder = trained(here)
    path = here / "images_t" / "train" / "vort" / "0000.npy"  # neither the first nor the last of its split
    np.save(path, np.load(path) + 1)
    assert run("--resume", folder.name, "--quiet") == 0
    assert "files of train in images_t were written again" in next(folder.glob("log_*")).read_text()
