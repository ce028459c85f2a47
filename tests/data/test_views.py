"""The views of a data set: made once, kept beside it, made again where they can't be trusted."""

import json
import os

import numpy as np
import pytest
import torch
from data_sets import paths

from darklens.data import views
from darklens.data.batches import open_batches
from darklens.data.folder import scan
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.fit import SmoothModel, score
from darklens.simulation.recipes import RECIPES
from darklens.simulation.writer import write_dataset

PREPROCESS = Preprocess(105, view="residual", smooth_model=SmoothModel())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views") / "images_f"
    write_dataset(folder, RECIPES["f"], {"train": 2, "val": 1}, seed=5, quiet=True)
    return folder


@pytest.fixture
def data(made, tmp_path):
    """A data set of nine lenses, whose views are not made yet."""
    os.system(f"cp -r {made} {tmp_path}/images_f")
    return scan(tmp_path / "images_f")


def batches(data, **options):
    return open_batches(data, ("train", "val"), PREPROCESS, 4, workers=0, progress=False, **options)


def test_batches_have_the_view_of_each_image(data):
    val = batches(data)["val"]
    ((images, labels, indices),) = val.epoch()
    raw = torch.stack([torch.from_numpy(np.load(path).astype(float)) for path in paths(data.splits["val"])])
    assert labels.tolist() == [0, 1, 2] and torch.equal(images, PREPROCESS(raw[:, None])[indices])


def test_training_turns_and_mirrors_them(data):
    train = batches(data, seed=3)["train"]
    plain = torch.stack([torch.from_numpy(train.split.images.read(i).values).float() for i in range(6)])
    for batch in train.epoch(1):
        for image, index in zip(batch.images, batch.indices, strict=True):
            poses = [x.rot90(k, (1, 2)) for x in (plain[index], plain[index].flip(2)) for k in range(4)]
            assert sum(torch.equal(image, pose) for pose in poses) == 1


def test_they_are_made_once(data, monkeypatch):
    batches(data)
    folder = views.view_folder(data.root, PREPROCESS)
    first = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(views, "read_ahead", lambda *_: pytest.fail("made again"))
    batches(data)
    assert first == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert np.load(folder / "train-00000.npy").shape == (6, 1, 105, 105)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm", [flip, os.remove, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 999)]
)
@pytest.mark.parametrize("ending", ["npy", "json"])
def test_what_is_damaged_is_made_again(data, harm, ending):
    batches(data)
    folder = views.view_folder(data.root, PREPROCESS)
    before = (folder / "val-00000.npy").read_bytes()
    harm(folder / f"val-00000.{ending}")
    batches(data)
    assert (folder / "val-00000.npy").read_bytes() == before


def test_another_image_has_another_view(data):
    before = batches(data)["val"].split.images.read(0).values
    path = paths(data.splits["val"])[0]
    np.save(path, np.load(path).T.copy())
    after = batches(scan(data.root))["val"].split.images.read(0).values
    assert not np.array_equal(before, after)


def test_parts_in_order(data, monkeypatch):
    whole = [batches(data)["train"].split.images.read(i).values for i in range(6)]
    os.system(f"rm -r {data.root}/views")
    monkeypatch.setitem(views.SIZES, "sersic", views.Sizes(part=4, chunk=3))
    split = batches(data)["train"].split
    assert len(split.images.parts) == 2
    assert all(np.allclose(split.images.read(i).values, view, rtol=1e-3, atol=2e-3) for i, view in enumerate(whole))


def test_the_fits_lie_beside_them(data):
    fits = views.fit_table(batches(data)["train"].split)
    assert len(fits["einstein_radius"]) == 6 and np.allclose(fits["einstein_radius"], 1.28, atol=0.1)
    assert "einstein_radius_sd" in fits and "flag" in fits


@pytest.mark.parametrize("freed", [False, True])
def test_only_images_to_train_with_are_not_scored(data, monkeypatch, freed):
    scored, test = [], score.score_test
    monkeypatch.setattr(score, "score_test", lambda *given: scored.append(len(given[1])) or test(*given))
    lens = SmoothModel(refit_flagged=freed)  # where the score test decides what is seen, it is made everywhere
    views.open_views(data, ("train", "val"), Preprocess(105, view="residual", smooth_model=lens), workers=0, show=False)
    assert sum(scored) == 3 + 6 * freed


def test_other_smooth_lenses_have_a_folder_of_their_own(data):
    other = Preprocess(95, view="residual", smooth_model=SmoothModel(window=95))
    assert views.view_folder(data.root, other) != views.view_folder(data.root, PREPROCESS)


def test_a_bad_image_is_named(data):
    path = paths(data.splits["val"])[1]
    np.save(path, np.full((150, 150), np.nan, np.float32))
    with pytest.raises(DataError, match=path.name):
        batches(scan(data.root))


def test_filled_borders_are_remembered(data):
    path = paths(data.splits["train"])[4]
    image = np.load(path).astype("f4")
    image[:30] = np.nan  # the window begins in row 22
    np.save(path, image)
    for _ in range(2):  # made, and read again
        found = batches(scan(data.root))
        (line,) = found["train"].warnings
        assert line.startswith(f"{path}: NaN at the edges, filled") and line.endswith("as in 1 of 6 train images")
        assert found["val"].warnings == []


def test_record_is_plain_json(data):
    batches(data)
    part = next(views.view_folder(data.root, PREPROCESS).glob("val-*.json"))
    assert set(json.loads(part.read_text())) == {"sha256", "stamp", "pixels", "filled", "fits"}
