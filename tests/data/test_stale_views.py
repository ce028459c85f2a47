"""Views know the pixels that they are views of: replaced images never pass for those that were there before."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from darklens.data import pack, views
from darklens.data.folder import scan
from darklens.data.transforms import Preprocess
from darklens.errors import DataError, ResultsError
from darklens.fit import SmoothModel
from darklens.simulation.recipes import RECIPES
from darklens.simulation.writer import write_dataset

PREPROCESS = Preprocess(105, view="residual", smooth_model=SmoothModel())
TIME = 1_700_000_000  # of every file: what cp -p, rsync -t, tar and zip keep


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Data sets a and b of the same names, sizes and times, and shards of them."""
    root = tmp_path_factory.mktemp("sets")
    for name, seed in (("a", 1), ("b", 2)):
        write_dataset(root / name, RECIPES["f"], {"train": 2, "val": 1}, seed=seed, quiet=True)
        pack.pack(root / name, root / f"shards_{name}", quiet=True)
    for path in root.rglob("*"):
        os.utime(path, (TIME, TIME))
    return root


@pytest.fixture(scope="module")
def truth(sets) -> dict[str, np.ndarray]:
    """The views of the training images of a and of b."""
    return {name: made(shutil.copytree(sets / name, sets / f"truth_{name}")) for name in "ab"}


def made(folder: Path) -> np.ndarray:
    """The views (6, 1, 105, 105) of the training images, made or kept."""
    data = views.open_views(scan(folder), ("train",), PREPROCESS, workers=0, show=False)
    images = data.splits["train"].images
    return np.stack([images.read(i).values for i in range(len(images))])


def images_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and "views" not in path.parts]


def copied(old: Path, new: Path) -> None:
    shutil.copy2(new, old)


def renamed(old: Path, new: Path) -> None:
    """As rsync and editors replace a file."""
    shutil.copy2(new, old.with_name("temporary"))
    os.replace(old.with_name("temporary"), old)


def written(old: Path, new: Path) -> None:
    """In place, and the time set back."""
    with open(old, "r+b") as file:
        file.write(new.read_bytes())
        file.truncate()
    os.utime(old, (TIME, TIME))


def linked(old: Path, new: Path) -> None:
    old.unlink()
    old.symlink_to(new)


@pytest.mark.parametrize("replace", [copied, renamed, written, linked])
@pytest.mark.parametrize("kind", ["", "shards_"])
def test_replaced_files_have_views_of_their_own(sets, truth, tmp_path, kind, replace):
    if kind and replace is linked:
        pytest.skip("shards are no links")
    folder = shutil.copytree(sets / f"{kind}a", tmp_path / "data")
    assert np.array_equal(made(folder), truth["a"])
    for path in images_of(folder):
        replace(path, sets / f"{kind}b" / path.relative_to(folder))
    assert np.array_equal(made(folder), truth["b"])


def test_one_image_of_many(sets, truth, tmp_path):
    folder = shutil.copytree(sets / "a", tmp_path / "data")
    made(folder)
    path = images_of(folder / "train")[3]
    copied(path, sets / "b" / path.relative_to(folder))
    (changed,) = np.flatnonzero((made(folder) != truth["a"]).any((1, 2, 3)))
    assert np.array_equal(made(folder)[changed], truth["b"][changed])


def test_classes_that_change_places(sets, truth, tmp_path):
    """The same files under other names."""
    folder = shutil.copytree(sets / "a", tmp_path / "data")
    made(folder)
    os.rename(folder / "train" / "no", folder / "train" / "x")
    os.rename(folder / "train" / "vort", folder / "train" / "no")
    os.rename(folder / "train" / "x", folder / "train" / "vort")
    expected = truth["a"][[4, 5, 2, 3, 0, 1]]
    assert np.allclose(made(folder), expected, rtol=1e-3, atol=2e-3) and not np.allclose(truth["a"], expected, atol=0.1)


@pytest.mark.parametrize("kind", ["", "shards_"])
@pytest.mark.parametrize("where", ["XDG_CACHE_HOME", "LENS_VIEWS_DIR"])
def test_a_data_set_made_anew_at_the_same_path(sets, truth, tmp_path, monkeypatch, kind, where):
    monkeypatch.setenv(where, str(tmp_path / "cache"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))  # a read-only disk
    for name in "ab":
        folder = shutil.copytree(sets / f"{kind}{name}", tmp_path / "data")
        assert np.array_equal(made(folder), truth[name]) and not (folder / "views").exists()
        shutil.rmtree(folder)
    assert list((tmp_path / "cache").rglob("train-00000.npy"))


def never_again(monkeypatch) -> None:
    monkeypatch.setattr(views, "read_ahead", lambda *_: pytest.fail("made again"))


@pytest.mark.parametrize("kind", ["", "shards_"])
@pytest.mark.parametrize("touch", [False, True])
def test_a_copied_or_touched_data_set_keeps_its_views(sets, tmp_path, monkeypatch, kind, touch):
    folder = shutil.copytree(sets / f"{kind}a", tmp_path / "data")
    first = made(folder)
    never_again(monkeypatch)
    if touch:
        for path in images_of(folder):
            os.utime(path)
    else:
        folder = shutil.copytree(folder, tmp_path / "copy")
    assert np.array_equal(made(folder), first)
    monkeypatch.setattr(views, "_pixels", lambda *_: pytest.fail("compared again"))
    assert np.array_equal(made(folder), first)


def test_views_carried_over_to_other_images(sets, truth, tmp_path):
    """The views of a, copied into b."""
    first, second = (shutil.copytree(sets / name, tmp_path / name) for name in "ab")
    made(first)
    shutil.copytree(first / "views", second / "views")
    assert np.array_equal(made(second), truth["b"])


def test_records_of_before_are_not_trusted(sets, truth, tmp_path):
    """They knew names, sizes and times alone."""
    folder = shutil.copytree(sets / "a", tmp_path / "data")
    made(folder)
    (path,) = (folder / "views").rglob("train-*.json")
    record = json.loads(path.read_text())
    stamp, _ = record.pop("stamp"), record.pop("pixels")
    path.write_text(json.dumps(record | {"images": stamp}))
    before = path.stat().st_mtime_ns
    assert np.array_equal(made(folder), truth["a"]) and path.stat().st_mtime_ns > before


def test_shards_without_their_index_are_damaged(sets, tmp_path):
    folder = shutil.copytree(sets / "shards_a", tmp_path / "data")
    made(folder)
    copied(folder / "train-00000.npy", sets / "shards_b" / "train-00000.npy")
    with pytest.raises(DataError, match="does not match its checksum"):
        made(folder)


def test_without_a_home_folder_the_message_says_what_to_set(sets, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(ResultsError, match="LENS_VIEWS_DIR, or XDG_CACHE_HOME, to a folder") as error:
        made(shutil.copytree(sets / "a", tmp_path / "data"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("blocked", ["views", "views/{key}", "elsewhere"])
def test_where_nothing_can_be_written_the_message_names_the_variable(sets, tmp_path, monkeypatch, blocked):
    folder = shutil.copytree(sets / "a", tmp_path / "data")
    if blocked == "elsewhere":
        monkeypatch.setenv("LENS_VIEWS_DIR", str(folder / "manifest.json"))
    else:
        path = folder / blocked.format(key=views.view_folder(folder, PREPROCESS).name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a file")
    with pytest.raises(ResultsError, match="set LENS_VIEWS_DIR to a folder") as error:
        made(folder)
    assert len(str(error.value).splitlines()) == 1
