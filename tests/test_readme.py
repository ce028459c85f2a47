"""README.md: every command in it is run, on toy data; its table of flags is the parser's, its files exist."""

import re
import shlex

import dataset
import endless
import flags
import main
import numpy as np
import pytest
import simulate
from astropy.io import fits
from conftest import ROOT, write_images

TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (?:bash create_env\.sh )?python (\w+\.py) (.*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)
STAMPS = "2026-11-22-10-30-00", "2026-11-22-11-30-00"
TOY = ["--batch_size", "8", "--quiet", "--use_cuda", "False"]


def commands(script: str) -> list[str]:
    return [arguments for name, arguments in COMMANDS if name == script]


def test_table_of_flags_is_the_parsers():
    table = TEXT.split("<!-- flags -->")[1].split("<!-- /flags -->")[0].strip()
    assert table == flags.markdown(), 'write it again: python -c "import flags; print(flags.markdown())"'


def test_every_script_and_picture_it_names_is_there():
    assert len(COMMANDS) > 15
    named = {script for script, _ in COMMANDS}
    named |= {a or b for a, b in re.findall(r"\]\((docs/\S+?)\)|`((?:benchmarks|docs)/[\w.]+)`", TEXT)}
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A folder with data and two finished runs, under the README's names."""
    here = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr("report._draw", lambda *_: None)
        for name, size in {"images_f": 60, "images_j": 60, "images_large": 120}.items():
            write_images(here / name, size=size)
        assert dataset.main(["pack", "images_f", "shards_f"]) == 0
        (here / "survey").mkdir()
        lens = np.random.default_rng(0).poisson(30.0, (120, 120))
        np.save(here / "survey" / "lens.npy", lens)
        fits.writeto(here / "lens.fits", lens.astype("float32"))
        for stamp in STAMPS:
            command = ["--data_dir", "images_j", "--arch", "compact", "--epochs", "1", *TOY]
            assert main.main(command) == 0
            (new,) = (run for run in here.glob("images_j_C_4/*") if run.name not in STAMPS)
            new.rename(new.parent / stamp)
        yield here


@pytest.mark.parametrize("command", commands("main.py"))
def test_commands_of_main(toys, monkeypatch, command):
    monkeypatch.setattr("report._draw", lambda *_: None)
    monkeypatch.setattr(flags, "DEMO_IMAGES", {"train": 6, "val": 3})
    monkeypatch.setattr(endless, "HELD", {"train": 6, "val": 3})
    monkeypatch.setattr("explain.RESAMPLES", 10)
    monkeypatch.setattr("modes.sample_size", lambda _: 2)
    command = command.replace("RUN RUN RUN", " ".join(STAMPS)).replace("latest", STAMPS[1])
    data = "images_large" if "--weights" in command else "images_f"
    command = command.replace("images_j ", f"{data} ") if "--crop" in command else command
    typed = shlex.split(command.replace("images_demo", data))
    training = not {"--mode", "--test_time", "--weights", "--resume", "--list"} & set(typed)
    small = ["--epochs", "1", *([] if "--use_CNN" in typed else ["--arch", "compact"])] if training else []
    small += ["--epoch_images", "12"] if "--simulate" in typed else []
    machine = ["--quiet"] if {"--resume", "--list"} & set(typed) else TOY
    assert main.main([*typed, *small, *machine]) == 0


@pytest.mark.parametrize("command", commands("simulate.py"))
def test_commands_of_simulate(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    small = re.sub(r"--(train|val) \d+", r"--\1 2", command)
    assert simulate.main([*shlex.split(small), "--quiet"]) == 0


@pytest.mark.parametrize("command", commands("dataset.py"))
def test_commands_of_dataset(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    images = write_images(tmp_path / "images", classes=("axion", "cdm", "no_sub"), counts={"train": 8})
    (images / "train").rename(tmp_path / "Model_I")
    write_images(tmp_path / "images_f")
    kind, source, target = shlex.split(command)
    assert dataset.main([kind, source, target]) == 0
    if kind == "convert":
        assert len(list((tmp_path / target).glob("*/*/*.npy"))) == 24
    else:
        assert len(dataset.scan(target).splits["train"].paths) == 24
