"""Simulated training batches: the same whatever happens around them, never the same twice, resumable to the bit."""

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from data_sets import paths
from programs import final, start, wait_for

from darklens.commands import run
from darklens.data import endless, folder, transforms
from darklens.data import image as data_image
from darklens.data.endless import Endless
from darklens.errors import DataError
from darklens.simulation import draw, recipes, render, writer


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a small simulated data set in it."""
    here = tmp_path_factory.mktemp("endless")
    writer.write_dataset(here / "images", recipes.RECIPES["f"], {"train": 1, "val": 2}, seed=0, quiet=True)
    return here


def batches(here: Path, images: int = 12, batch_size: int = 5, model: str = "f", **options) -> Endless:
    data = folder.scan(here / "images")
    options = {"seed": 7, "workers": 0} | options
    return Endless(model, images, data, transforms.default_preprocess(data.size), batch_size, **options)


def gather(found: Endless, epoch: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.cat(parts) for parts in zip(*found.epoch(epoch, start), strict=True))


def test_images_are_those_of_the_simulator(here):
    """Image i is number i // 3 of class i % 3 of the training images of the same seed."""
    reader = batches(here)._reader
    counts, constant = reader[np.arange(4, 10)]
    assert counts.shape == (6, 1, 150, 150) and counts.dtype == np.uint16 and constant == []
    for k, i in enumerate(range(4, 10)):
        expected = render.simulate(recipes.RECIPES["f"], recipes.CLASSES[i % 3], [i // 3], seed=7)
        np.testing.assert_array_equal(counts[k], expected)


def test_labels_are_balanced_and_right(here):
    images, labels, indices = gather(batches(here), epoch=2)
    assert images.shape == (12, 1, 129, 129) and torch.isfinite(images).all()
    assert indices.tolist() == list(range(24, 36)) and labels.tolist() == [i % 3 for i in range(24, 36)]


@pytest.mark.parametrize("options", [{"batch_size": 7}, {"workers": 1}])
def test_batch_size_and_processes_change_nothing(here, options):
    expected, found = gather(batches(here), 1), gather(batches(here, **options), 1)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_starts_anywhere(here):
    expected, found = gather(batches(here), 1), gather(batches(here), 1, start=1)
    torch.testing.assert_close(expected[0][5:], found[0], rtol=0, atol=0)


def test_never_the_same_twice(here):
    """Neither in another epoch, nor with another seed, nor among the images validated on, if the seed is the same."""
    seen = [batches(here)._reader[np.arange(12)], batches(here)._reader[np.arange(12, 24)]]
    seen.append(batches(here, seed=8)._reader[np.arange(12)])
    seen.append([np.stack([data_image.read_image(p) for p in paths(folder.scan(here / "images").splits["val"])])])
    pixels = np.concatenate([one[0] for one in seen])
    assert len({image.tobytes() for image in pixels}) == len(pixels) == 42
    same_seed = render.simulate(recipes.RECIPES["f"], "no", range(2), 7, "val")
    assert not any((image == pixels[:, 0]).all((1, 2)).any() for image in same_seed)


def test_processes_share_a_batch(here):
    whole = gather(batches(here), 0)[0]
    parts = [gather(batches(here, share=lambda n, k=k: slice(k, n, 2)), 0) for k in range(2)]
    joined = torch.cat([part[0] for part in parts])
    order = torch.cat([part[2] for part in parts]).argsort()
    torch.testing.assert_close(joined[order], whole, rtol=0, atol=0)


def test_recipes_differ_and_an_epoch_has_as_many_of_each_class(here):
    found = batches(here, images=10, model="j")
    assert len(found.labels) == 12 and len(found) == 3 and found.count(2) == 2 and not found.in_memory
    assert not torch.equal(gather(found, 0)[0], gather(batches(here), 0)[0])
    assert str(found.path(4)) == "images_j/train/sphere/000001.npy"


def test_noise_on_a_device_is_poisson_and_in_the_order_asked_for(here):
    """The path of a GPU, on this device: the same lenses, noise of the right size."""
    indices, recipe = np.array([5, 0, 1, 9, 2]), recipes.RECIPES["f"]
    drawn, _ = endless._Draw(recipe, 7)[indices]
    noisy = endless.render_noisy(drawn, indices, recipe, 7, torch.device("cpu"))
    again = endless.render_noisy(drawn, indices, recipe, 7, torch.device("cpu"))
    assert noisy.shape == (5, 1, 150, 150) and torch.equal(noisy, again)
    for image, i in zip(noisy[:, 0], indices, strict=True):
        rate = render.render(draw.draw(recipe, recipes.CLASSES[i % 3], 7, "train", [i // 3]), recipe)[0]
        pulls = (image - rate) / rate.sqrt()
        assert abs(float(pulls.mean())) < 0.05 and 0.95 < float(pulls.std()) < 1.05


@pytest.mark.parametrize("name", ["ii", "hst"])
def test_any_recipe_is_drawn_without_end(tmp_path, name):
    """Two classes of one's own, float32; on this device, and as a GPU does it."""
    recipe = recipes.changed(recipes.RECIPES[name], {"image.pixels": 32, "classes.vort": None})
    writer.write_dataset(tmp_path / "images", recipe, {"train": 1, "val": 1}, quiet=True)
    data = folder.scan(tmp_path / "images")
    found = Endless(recipe, 8, data, transforms.default_preprocess(data.size), 4, seed=7, workers=0)
    images, labels, _ = gather(found, 0)
    assert images.shape == (8, 1, 31, 31) and labels.tolist() == [0, 1] * 4 and torch.isfinite(images).all()
    expected = render.simulate(recipe, "sphere", [2], seed=7)
    np.testing.assert_array_equal(found._reader[np.array([5])][0][0], expected)
    drawn, _ = endless._Draw(recipe, 7)[np.arange(4)]
    on_device = endless.render_noisy(drawn, np.arange(4), recipe, 7, torch.device("cpu"))
    assert on_device.shape == (4, 1, 32, 32) and torch.isfinite(on_device).all()
    other = recipes.changed(recipe, {"image.pixel_scale": 0.09})
    assert found.identity != Endless(other, 8, data, found.preprocess, 4, seed=7, workers=0).identity


def test_other_images_to_validate_on_are_refused(tmp_path):
    small = folder.scan(write_images(tmp_path / "small"))
    with pytest.raises(DataError, match="expected classes no, sphere, vort and images of 1 x 150 x 150"):
        endless.check_folder(small, recipes.RECIPES["f"])


# --- the whole program ----------------------------------------------------------------------------------------


def train(here: Path, name: str) -> subprocess.Popen:
    (here / name).mkdir()
    network = "--arch compact --N 2 --head pooled --recipe fast --epochs 3 --batch_size 4".split()
    data = "--simulate f --epoch_images 24 --data_dir ../images".split()
    return start(here / name, "--use_cuda", "False", *network, *data)


@pytest.mark.slow
def test_resumed_run_is_the_unbroken_one(here):
    """SIGTERM to the whole group, its rendering processes among it, in the middle of an epoch."""
    whole = train(here, "whole")
    output, _ = whole.communicate(timeout=280)
    assert whole.returncode == 0, output
    assert "training images: 24 to the epoch, simulated (Model F)" in output
    broken = train(here, "broken")
    state = wait_for("broken/*/*/last-state.pt", here, broken)
    os.killpg(broken.pid, signal.SIGTERM)
    output, _ = broken.communicate(timeout=280)
    assert broken.returncode == 143, output
    resumed = start(here / "broken", "--use_cuda", "False", "--resume", "latest")
    output, _ = resumed.communicate(timeout=280)
    assert resumed.returncode == 0 and "going on at epoch" in output, output
    assert final(state.parent) == final(next(here.glob("whole/*/*")))
    assert json.loads((state.parent / "run.json").read_text())["arguments"]["simulate"] == "f"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--simulate", "f", "--demo"], "--simulate: not with --demo"),
        (["--simulate", "x"], "no recipe 'x'; known: euclid, euclid_sky, f,"),
        (["--simulate", "f", "--test_time", "latest"], "not with --mode Test"),
        (["--epoch_images", "300"], "goes with --simulate"),
        (["--simulate", "f", "--epoch_images", "2"], "from 3"),
    ],
)
def test_contradictions(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(flags)
    assert stop.value.code == 2 and message in capsys.readouterr().err
