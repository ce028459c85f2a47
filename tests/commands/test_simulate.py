"""The command line of the simulator."""

import json

import numpy as np
import pytest
import torch
from simulated import contents, refusal, run

from darklens.commands import simulate
from darklens.simulation import render
from darklens.simulation.recipes import load_recipe
from darklens.simulation.truth import read_truth


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--train", "-1"], "--train"),
        (["--train", "1.5"], "--train"),
        (["--train", "0", "--val", "0"], "nothing to simulate"),
        (["--seed", "x"], "--seed"),
        (["--model", "k"], "--model"),
        (["--subhalo_slope", "nan"], "classes.sphere.subhalos.slope = nan"),
        (["--typo"], "--typo"),
        (["--distances", "parallax"], "--distances"),
    ],
)
def test_bad_flags_exit_2_with_the_reason(tmp_path, capsys, flags, reason):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", *flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("usage: simulate.py") and reason in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_exits_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "file" / "out", "--train", 1)
    assert stop.value.code == 2 and "cannot write to" in refusal(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_exits_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", "--device", "cuda")
    assert stop.value.code == 2 and "no CUDA device" in refusal(capsys)


def test_sheet(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    assert simulate.main(["--model", "f", "--sheet", str(tmp_path / "sheet.png"), "--device", "cpu"]) == 0
    picture = matplotlib_image.imread(tmp_path / "sheet.png")
    assert picture.shape[:2] == (900, 900) and picture[..., :3].std() > 0.2
    assert [*contents(tmp_path)] == ["sheet.png"]


def test_a_recipe_of_ones_own(tmp_path, capsys):
    """A file on the base of another, with a class of its own; parameters and manifest know it."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\nbase = "hst"\n[image]\npixels = 32\n[classes.no]\n[classes.warm.subhalos]\ncount = 9\n'
        "mass = [1e8, 1e10]\nradius = [0, 2]\nhalf_mode_mass = 1e9\n"
    )
    out = tmp_path / "images"
    flags = ["--out", str(out), "--train", "3", "--val", "1", "--device", "cpu"]
    assert simulate.main(["--recipe", str(recipe), *flags]) == 0
    assert capsys.readouterr().out.strip() == f"{out}: 6 train, 2 val images of mine"
    image = np.load(out / "train" / "warm" / "000002.npy")
    assert image.dtype == np.float32 and image.shape == (32, 32)
    assert np.array_equal(image, render.simulate(load_recipe(recipe), "warm", [2])[0])
    assert json.loads((out / "manifest.json").read_text())["recipe"]["classes"]["warm"]["subhalos"]["count"] == 9
    truth = read_truth(out, "train", ["warm/000001.npy", "no/000000.npy"])
    assert truth.parameters["substructure.mass"][0] > 0 == truth.parameters["substructure.mass"][1]
    recipe.write_text('name = "mine"\nbase = "hst"\n[psf]\nfwmh = 0.1\n')
    with pytest.raises(SystemExit):
        simulate.main(["--recipe", str(recipe), *flags])
    assert refusal(capsys) == "simulate.py: error: unknown key psf.fwmh; did you mean 'fwhm'?"


def test_published_form(tmp_path):
    run(tmp_path / "plain", "--train", 2, "--val", 0)
    run(tmp_path / "published", "--train", 2, "--val", 0, "--published")
    counts = np.load(tmp_path / "plain" / "train" / "vort" / "000001.npy").astype(float)
    image = np.load(tmp_path / "published" / "train" / "vort" / "000001.npy")
    assert image.dtype == np.float64 and image.shape == (1, 150, 150) and image.min() == 0 and image.max() == 1
    np.testing.assert_allclose(image[0], (counts - counts.min()) / np.ptp(counts), rtol=1e-15)
    assert run(tmp_path / "published", "--train", 2, "--val", 0) == 2  # not the same images


def test_robust(tmp_path):
    run(tmp_path / "out", "--train", 12, "--val", 0, "--robust")
    images = [np.load(path) for path in sorted((tmp_path / "out" / "train").rglob("*.npy"))]
    assert {image.dtype for image in images} == {np.dtype(np.float32)}
    whole = [image.max() == 255 and (image == image.round()).all() for image in images]
    assert 0 < sum(whole) < len(images) / 2


@pytest.mark.parametrize(
    "sheet", ["images_f/train/no/000000.npy", "images_f/sheet.png", "images_f/val/no/x.PNG", "new.npy", "new.fits"]
)
def test_a_sheet_replaces_no_image_and_lies_among_none(tmp_path, monkeypatch, capsys, sheet):
    """With the data set that is being made, and with one that is there."""
    monkeypatch.chdir(tmp_path)
    numbers = ["--train", "1", "--val", "1", "--device", "cpu", "--quiet"]
    assert simulate.main(["--model", "f", "--out", "images_f", *numbers]) == 0
    before = contents(tmp_path)
    for out in ([], ["--out", "images_f", *numbers]):
        with pytest.raises(SystemExit) as stop:
            simulate.main(["--model", "f", "--sheet", sheet, *out])
        assert stop.value.code == 2 and "--sheet" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("flag", ["--out", "--sheet"])
def test_a_home_folder(tmp_path, monkeypatch, flag):
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "images" if flag == "--out" else "sheet.png"
    numbers = ["--train", "1", "--val", "1"] if flag == "--out" else []
    assert simulate.main(["--model", "f", f"{flag}=~/{name}", *numbers, "--device", "cpu", "--quiet"]) == 0
    assert (tmp_path / name).exists()
