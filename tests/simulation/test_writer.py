"""Data sets on the disk: what is written, extended, resumed, refused."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from simulated import F, contents, refusal, run

from darklens.commands import simulate
from darklens.simulation import draw, recipes, render
from darklens.simulation import manifest as lenses_manifest

SCRIPT = ROOT / "simulate.py"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A data set of 4 training and 2 validation images a class; tests copy it or leave it as it is."""
    folder = tmp_path_factory.mktemp("small") / "images_f"
    assert run(folder, "--train", 4, "--val", 2) == 0
    return folder


def test_files_of_a_data_set(small):
    manifest = json.loads((small / "manifest.json").read_text())
    files = {name: data for name, data in contents(small).items() if name.endswith(".npy")}
    assert manifest["complete"] and manifest["seed"] == 0
    assert manifest["recipe"] == recipes.recipe_dict(F) and manifest["simulator"] == recipes.SIMULATOR == 3
    assert manifest["images"]["train"] == {"no": 4, "sphere": 4, "vort": 4}
    assert manifest["images"]["val"] == {"no": 2, "sphere": 2, "vort": 2}
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert "train/vort/000003.npy" in files and len(files) == 18
    assert {len(data) for data in files.values()} == {45128}
    assert not (small / "journal.jsonl").exists()
    image = np.load(small / "val" / "sphere" / "000001.npy", allow_pickle=False)
    assert image.dtype == np.uint16 and image.shape == (150, 150)
    assert np.array_equal(image, render.simulate(F, "sphere", [1], 0, "val")[0])


def test_parameters_are_kept(small):
    with np.load(small / "parameters" / "train_sphere.npz") as kept:
        drawn = draw.draw(F, "sphere", 0, "train", range(4))
        assert np.array_equal(kept["index"], range(4))
        for name, values in drawn.arrays().items():
            assert np.array_equal(kept[name], values, equal_nan=True), name


def test_same_request_changes_nothing_and_more_images_extend(small, tmp_path):
    folder = copy(small, tmp_path)
    before = contents(folder)
    assert run(folder, "--train", 4, "--val", 2) == 0 and run(folder, "--train", 1, "--val", 0) == 0
    assert contents(folder) == before
    assert run(folder, "--train", 6, "--val", 2, "--test", 1) == 0
    images = {k: v for k, v in contents(folder).items() if k.endswith(".npy")}
    assert len(images) == 27 and all(images[k] == v for k, v in before.items() if k.endswith(".npy"))
    assert run(tmp_path / "anew", "--train", 6, "--val", 2, "--test", 1) == 0
    assert contents(tmp_path / "anew") == contents(folder)


def copy(source, target):
    import shutil

    return Path(shutil.copytree(source, target / "copy"))


def test_a_lost_image_comes_back(small, tmp_path):
    folder = copy(small, tmp_path)
    (folder / "train/no/000002.npy").unlink()
    (folder / "train/no/.000002.npy.1.2.tmp").write_bytes(b"half")
    assert run(folder, "--train", 4, "--val", 2) == 0
    assert contents(folder) == contents(small)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    flags = ["--model", "j", "--train", "70", "--val", "3", "--seed", "5", "--quiet", "--device", "cpu"]
    assert simulate.main([*flags, "--out", str(tmp_path / "whole"), "--workers", "1"]) == 0
    broken = tmp_path / "broken"
    command = [sys.executable, str(SCRIPT), *flags, "--out", str(broken), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(broken.glob("*/*/*.npy"))) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.5)  # its workers see that it's gone
    count = len(list(broken.glob("*/*/*.npy")))
    assert 5 <= count < 219 and not lenses_manifest.read_manifest(broken)["complete"]
    assert subprocess.run(command).returncode == 0
    assert contents(broken) == contents(tmp_path / "whole")


def test_torn_journal_is_resumed(small, tmp_path):
    folder = copy(small, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    line = json.dumps({"train/no/000000.npy": manifest["files"]["train/no/000000.npy"]})
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {}, "complete": False}))
    (folder / "journal.jsonl").write_text(line + '\n{"train/no/0000')
    assert run(folder, "--train", 4, "--val", 2) == 0
    assert contents(folder) == contents(small)


@pytest.mark.parametrize(
    "flags, difference",
    [
        (["--seed", 1], "seed is 0, not 1"),
        (["--random_shear_axis"], "recipe.lens.shear_angle is [0, 6.283185307179586], not [0, 360]"),
        (["--subhalo_slope", "-1.9"], "recipe.classes.sphere.subhalos.slope is -0.9, not -1.9"),
        (["--distances", "angular"], "recipe.lens.distances is luminosity, not angular"),
        (["--no-conserve_mass"], "recipe.lens.conserve_mass is True, not False"),
    ],
)
def test_another_data_set_is_refused(small, capsys, flags, difference):
    before = contents(small)
    assert run(small, "--train", 4, "--val", 2, *flags) == 2
    assert difference in refusal(capsys) and contents(small) == before


def test_images_without_a_manifest_are_refused(tmp_path, capsys):
    (tmp_path / "train" / "no").mkdir(parents=True)
    np.save(tmp_path / "train" / "no" / "1.npy", np.ones((150, 150)))
    assert run(tmp_path, "--train", 1) == 2
    assert "train/no/1.npy" in (line := refusal(capsys)) and "manifest.json" in line
    assert [*contents(tmp_path)] == ["train/no/1.npy"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": {}}', '{"recipe": {}, "files": []}'])
def test_a_damaged_manifest_is_refused(small, tmp_path, capsys, text):
    folder = copy(small, tmp_path)
    (folder / "manifest.json").write_text(text)
    assert run(folder, "--train", 4) == 2
    assert "manifest.json is damaged" in refusal(capsys)


def test_foreign_and_damaged_images_are_refused(small, tmp_path, capsys):
    folder = copy(small, tmp_path)
    np.save(folder / "train" / "no" / "000009.npy", np.ones((150, 150), np.uint16))
    assert run(folder, "--train", 10, "--val", 2) == 2
    assert "000009.npy is not the image" in refusal(capsys)
    (folder / "train" / "no" / "000009.npy").write_bytes(b"")
    assert run(folder, "--train", 10) == 2
    assert "000009.npy is damaged (0 bytes, expected 45128)" in refusal(capsys)
    (folder / "train" / "no" / "000009.npy").rename(folder / "train" / "no" / "mine.npy")
    assert run(folder, "--train", 10) == 2
    assert "mine.npy is not of this data set" in refusal(capsys)


def test_a_write_that_fails_exits_1_and_leaves_no_half_file(tmp_path, capsys):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # an image has 45 kB
    try:
        code = run(tmp_path / "out", "--train", 1, "--val", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "cannot write" in refusal(capsys)
    assert not [name for name in contents(tmp_path) if "npy" in name]
    assert run(tmp_path / "out", "--train", 1, "--val", 0) == 0


def test_a_full_disk_is_seen_beforehand(tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert run(tmp_path, "--train", 1, "--val", 1) == 2
    assert "6 images need" in refusal(capsys)
