"""Folders of images: what is found, and how bad layouts are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import SIZE, assert_one_line, make_folder, open_batches, paths

from darklens.data.checks import central
from darklens.data.folder import scan
from darklens.data.transforms import Preprocess, default_preprocess
from darklens.errors import DataError


def test_scan_finds_classes_labels_and_paths_in_order(tmp_path):
    folder = scan(make_folder(tmp_path / "images_f"))
    assert folder.classes == ("no", "sphere", "vort")
    assert (folder.channels, folder.size, folder.skipped) == (1, SIZE, 0)
    train = folder.splits["train"]
    assert train.labels.dtype == np.int64 and train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert paths(train) == sorted(paths(train))
    assert [folder.classes[label] for label in train.labels] == [path.parent.name for path in paths(train)]
    assert list(folder.splits) == ["train", "val"]


@pytest.mark.parametrize("classes", [("b", "A"), ("axion", "cdm", "no_sub", "Élan")])
def test_any_class_names_in_plain_sorted_order(tmp_path, classes):
    assert scan(make_folder(tmp_path, 1, 1, classes)).classes == tuple(sorted(classes))


def test_test_split_is_optional_and_must_match(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "test").mkdir()
    for name in ("no", "sphere"):
        (tmp_path / "test" / name).symlink_to(tmp_path / "val" / name)
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert_one_line(error, "only in train: vort", "only in test: none")
    (tmp_path / "test" / "vort").symlink_to(tmp_path / "val" / "vort")
    assert len(scan(tmp_path).splits["test"]) == 9


def test_strays_are_skipped_and_counted(tmp_path):
    clean = scan(make_folder(tmp_path))
    folder = tmp_path / "train" / "no"
    strays = [
        ".DS_Store",
        "._train_000.npy",
        "Thumbs.db",
        "manifest.json",
        "parameters.csv",
        "x.npy.part",
        "y.NPZ",
    ]
    for name in strays:
        (folder / name).write_bytes(b"stray")
    (folder / "nested.npy").mkdir()
    (folder / "loop.npy").symlink_to(folder / "loop.npy")
    (folder / "gone.npy").symlink_to(tmp_path / "nowhere.npy")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"stray")
    (tmp_path / "train" / "around").symlink_to(tmp_path / "train")
    (tmp_path / "val" / "above").symlink_to(tmp_path)
    (tmp_path / "val" / "itself").symlink_to(tmp_path / "val" / "itself")
    found = scan(tmp_path)
    assert found.classes == clean.classes
    assert paths(found.splits["train"]) == paths(clean.splits["train"])
    assert found.skipped == len(strays) + 3 + 6


@pytest.mark.parametrize("ending", [".NPY", ".Npy"])
def test_endings_in_capitals_are_found(tmp_path, ending):
    clean = scan(make_folder(tmp_path))
    for path in [path for split in clean.splits.values() for path in paths(split)][::2]:
        path.rename(path.with_suffix(ending))
    found = scan(tmp_path)
    assert found.skipped == 0
    for name, split in clean.splits.items():
        assert found.splits[name].labels.tolist() == split.labels.tolist()
        assert sorted(path.stem for path in paths(found.splits[name])) == sorted(path.stem for path in paths(split))


@pytest.mark.parametrize("shape", [(SIZE + 1, SIZE), (SIZE, SIZE + 20), (SIZE, SIZE)])
def test_oblong_images_are_trained_on_about_their_centre(tmp_path, shape):
    root = make_folder(tmp_path, shape=shape)
    assert scan(root).size == SIZE
    batch = next(iter(open_batches(root, "val", 64).epoch()))
    for row, path in zip(batch.images, paths(scan(root).splits["val"]), strict=True):
        rows, columns = central(*shape, 33)
        assert torch.equal(
            row[0], default_preprocess(SIZE)(torch.from_numpy(np.load(path)[None, None, rows, columns]))[0, 0]
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dead_pixel_that_no_window_reaches(tmp_path, value, split):
    """The window of 33 of 40 pixels, not shifted in training, does not reach the second row."""
    root = make_folder(tmp_path, shape=(40, 40), dtype="float32")
    preprocess = Preprocess(crop=33)
    before = list(open_batches(root, split, preprocess=preprocess, train=True, shift=0).epoch())
    path = paths(scan(root).splits[split])[1]
    image = np.load(path)
    image[1, 20] = value
    np.save(path, image)
    after = open_batches(root, split, preprocess=preprocess, train=True, shift=0).epoch()
    assert all(torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True))
    with pytest.raises(DataError, match="row 1, column 20"):
        open_batches(root, split, preprocess=preprocess, train=True)


def test_missing_folder_offers_both_ways_to_have_one(tmp_path):
    with pytest.raises(DataError) as error:
        scan(tmp_path / "images_f")
    command = f"python simulate.py --model f --out {tmp_path / 'images_f'} --train 25000 --val 2500"
    assert_one_line(error, command, "README.md")


def spoil_layout(root: Path, how: str) -> None:
    victim = root / "val" / "vort"
    if how == "no val":
        (root / "val").rename(root / "validation")
    elif how == "no class folders":
        for folder in (root / "train").iterdir():
            folder.rename(root / folder.name)
    elif how == "empty class":
        [path.unlink() for path in victim.iterdir()]
    elif how == "only strays":
        [path.rename(path.with_suffix(".txt")) for path in victim.iterdir()]
    elif how == "class renamed":
        victim.rename(root / "val" / "vortex")
    elif how == "one class":
        [(root / s / c).rename(root / f"{s}-{c}") for s in ("train", "val") for c in ("no", "vort")]
    elif how == "a file":
        (root / "val").rename(root / "hidden")
        (root / "val").write_text("not a folder")


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("no val", ["train/<class>/*.npy", "no folder val", "validation", "dataset.py convert"]),
        ("no class folders", ["train/<class>/*.npy", "train", "nothing"]),
        ("empty class", ["val/vort", "nothing"]),
        ("only strays", ["val/vort", "val_000.txt"]),
        ("class renamed", ["only in train: vort;", "only in val: vortex"]),
        ("one class", ["two or more", "sphere"]),
        ("a file", ["no folder val"]),
    ],
)
def test_bad_layouts_name_what_was_expected_and_found(tmp_path, how, parts):
    spoil_layout(make_folder(tmp_path), how)
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert_one_line(error, tmp_path, *parts)


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "images_f").write_text("")
    with pytest.raises(DataError) as error:
        scan(tmp_path / "images_f")
    assert_one_line(error, tmp_path / "images_f", "cannot list")


@pytest.mark.parametrize("name", ["no ", " no", "no\u00a0", "no\t"])
@pytest.mark.parametrize("splits", [("train",), ("train", "val")])
def test_a_blank_at_the_end_of_a_class_is_seen(tmp_path, name, splits):
    make_folder(tmp_path)
    for split in splits:
        (tmp_path / split / "no").rename(tmp_path / split / name)
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert_one_line(error, "begins or ends with a blank: rename it to 'no'")


def test_what_lies_beside_images_is_not_trained_on(tmp_path):
    clean = scan(make_folder(tmp_path))
    for path in paths(clean.splits["train"])[:4]:
        np.save(path.with_name(f"{path.stem}_noise_map.npy"), np.load(path))
        np.save(path.with_name(f"{path.stem}_mask.npy"), np.load(path))
    found = scan(tmp_path)
    assert found.side_files[0] == "train/no/train_000_mask.npy" and len(found.side_files) == 8 and not found.skipped
    assert all(paths(found.splits[name]) == paths(clean.splits[name]) for name in clean.splits)


def test_a_class_of_masks_only_is_said(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "val" / "no").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.npy"))
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert_one_line(error, tmp_path / "val" / "no", "expected .npy images", "val_000_mask.npy", "by their names")
