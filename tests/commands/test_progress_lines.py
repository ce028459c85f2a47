"""Where the output is no terminal, long work says in lines how far it is: training, validation, Predict, simulating."""

import re

import pytest
from conftest import write_images
from programs import SMALL, run

from darklens.commands import data as commands_data
from darklens.commands import simulate
from darklens.storage import progress


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """A line an update instead of one a minute."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)


def titles(capsys) -> set[str]:
    """What the lines on standard error are about, each of them whole."""
    said = capsys.readouterr().err
    assert "\r" not in said and "\x1b" not in said
    found = {line.split(":")[0] for line in said.splitlines()}
    for line in said.splitlines():
        assert re.match(r"[\w/ ]+: \d+ of \d+ (steps|img)(, loss \d+\.\d+)?, \S+ (img|step)/s, [\d:]+ left$", line), (
            line
        )
    return found


def test_training_validation_and_predict(images, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    loud = [flag for flag in SMALL if flag != "--quiet"]
    assert run("--data_dir", "images_t", *loud) == 0
    said = capsys.readouterr()
    assert re.search(r"^epoch 2/2: 1 of 3 steps, loss \d\.\d+, \S+ img/s, 0:00:0\d left$", said.err, re.MULTILINE)
    assert {line.split(":")[0] for line in said.err.splitlines()} >= {
        *("reading train", "reading val", "epoch 1/2", "epoch 2/2", "validating", "novelty")
    }
    assert run("--mode", "Predict", "--test_time", "latest", "--data_dir", "images_t/val", "--batch_size", "4") == 0
    assert titles(capsys) == {"predicting"}


@pytest.mark.parametrize("quiet", [False, True])
def test_simulating_converting_and_packing(tmp_path, capsys, quiet):
    flags = ["--quiet"] if quiet else []
    numbers = ["--train", "3", "--val", "2", "--device", "cpu", "--workers", "1"]
    assert simulate.main(["--model", "f", "--out", str(tmp_path / "f"), *numbers, *flags]) == 0
    assert titles(capsys) == (set() if quiet else {"simulating"})
    assert commands_data.main(["convert", str(tmp_path / "f"), str(tmp_path / "c"), *flags]) == 0
    assert titles(capsys) == (set() if quiet else {"converting"})
    assert commands_data.main(["pack", str(tmp_path / "f"), str(tmp_path / "s"), *flags]) == 0
    assert titles(capsys) == (set() if quiet else {"packing"})


def test_a_quiet_program_says_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images_t", counts={"train": 2, "val": 1})
    assert run("--data_dir", "images_t", *SMALL, "--epochs", "1") == 0
    assert titles(capsys) == set()
