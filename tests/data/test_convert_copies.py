"""`convert` passes over what lies beside images, and keeps copies of an image on one side of the split."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from image_files import scene

from darklens.commands import data as command
from darklens.data.convert import convert
from darklens.data.split import draw_split
from darklens.errors import DataError

CLASSES = ("no", "sphere")


def write(folder: Path, copies: int = 1, images: int = 3, first: int = 0, shared: bool = False) -> Path:
    """Class folders with `copies` files of each of so many images. shared: the classes have the same ones."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(first, first + images):
            for copy in range(copies):
                np.save(folder / name / f"{i}_{copy}.npy", scene((40, 40), 100 * number * (not shared) + i))
    return folder


def marks(folder: Path) -> dict[str, set[str]]:
    """{split: hashes of its images}"""
    return {
        split.name: {hashlib.sha256(np.load(path).tobytes()).hexdigest() for path in split.rglob("*.npy")}
        for split in sorted(folder.iterdir())
        if split.is_dir()
    }


def disjoint(folder: Path) -> bool:
    sets = list(marks(folder).values())
    return sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize(("copies", "images"), [(4, 3), (2, 10), (3, 7), (7, 4)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_copies_go_to_one_split(tmp_path, copies, images, shared, seed):
    src = write(tmp_path / "src", copies, images, shared=shared)
    record = convert(src, tmp_path / "dst", 0.25, 0.25, seed, quiet=True)
    assert disjoint(tmp_path / "dst") and all(marks(tmp_path / "dst").values())
    assert record["copies"] == len(CLASSES) * images * (copies - 1) + images * shared
    assert len(record["files"]) == len(CLASSES) * images * copies
    assert {len(classes) for classes in record["images"].values()} == {len(CLASSES)}


def test_one_copy_among_many_images_moves_alone(tmp_path):
    """The others go where they went without it."""
    files = [f"{i}.npy" for i in range(40)]
    plain = draw_split(files, "no", 0.2, 0.2, 0)
    first, other = next(f for f in files if plain[f] == "val"), next(f for f in files if plain[f] == "train")
    copies = {file: file for file in files} | {other: first}
    drawn = draw_split(files, "no", 0.2, 0.2, 0, copies=copies)
    assert drawn[first] == drawn[other]
    assert sum(plain[file] != drawn[file] for file in files) <= 3  # it joins val, which gives one up, as then does test


def test_it_is_said(tmp_path, capsys):
    write(tmp_path / "src", 4)
    for word in ("noise_map", "mask", "psf"):
        np.save(tmp_path / "src" / "no" / f"0_0_{word}.npy", np.ones((40, 40)))
    words = ["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--val", "0.25", "--test", "0.25", "--quiet"]
    assert command.main(words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "3 masks, noise maps, PSFs or the like passed over by their names (no/0_0_mask.npy, no/0_0_noise_map" in line
    assert "18 images are copies of others, kept on one side of the split" in line
    assert not list((tmp_path / "dst").rglob("*mask*"))


def test_nothing_is_said_of_plain_images(tmp_path, capsys):
    write(tmp_path / "src", images=5)
    assert command.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "copies" not in out and "passed over" not in out and "several" not in out


def test_of_splits_that_were_there_copies_leave_train(tmp_path, capsys):
    for split, first in (("train", 0), ("val", 4), ("test", 6)):  # train 0..5, val 4..7, test 6..8
        write(tmp_path / "src" / split, images={"train": 6, "val": 4, "test": 3}[split], first=first)
    assert command.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "train: 4 no, 4 sphere; val: 2 no, 2 sphere; test: 3 no, 3 sphere" in out
    assert "8 images are copies of others, kept on one side of the split, 8 of them left out" in out
    assert disjoint(tmp_path / "dst")


def test_the_same_image_under_two_labels_is_counted(tmp_path, capsys):
    write(tmp_path / "src", images=6, shared=True)
    assert command.main(["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--quiet"]) == 0
    assert "6 images are in several classes" in capsys.readouterr().out and disjoint(tmp_path / "dst")


def test_too_few_different_images(tmp_path):
    write(tmp_path / "src", 5, 2)
    with pytest.raises(DataError, match="expected 3 different images or more in class no, found 2"):
        convert(tmp_path / "src", tmp_path / "dst", quiet=True)
    assert not (tmp_path / "dst").exists()
    convert(tmp_path / "src", tmp_path / "dst", test=0, quiet=True)
    assert disjoint(tmp_path / "dst")


def test_a_class_of_nothing_but_masks(tmp_path):
    write(tmp_path / "src")
    for path in (tmp_path / "src" / "no").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.npy"))
    with pytest.raises(DataError, match="found 0; 3 are masks, noise maps or PSFs by their names: rename them if not"):
        convert(tmp_path / "src", tmp_path / "dst", quiet=True)


@pytest.mark.parametrize("kind", ["float32", ">f8", "int32"])
def test_number_types_do_not_hide_a_copy(tmp_path, kind):
    write(tmp_path / "src", images=6)
    for path in list((tmp_path / "src").rglob("*.npy")):
        np.save(path.with_name(f"other_{path.name}"), np.load(path).astype(kind))
    record = convert(tmp_path / "src", tmp_path / "dst", quiet=True)
    assert record["copies"] == 12


def test_a_blank_at_the_end_of_a_class_is_left_out(tmp_path):
    write(tmp_path / "src", images=4)
    (tmp_path / "src" / "no").rename(tmp_path / "src" / "no ")
    assert set(convert(tmp_path / "src", tmp_path / "dst", quiet=True)["images"]["train"]) == {"no", "sphere"}
    write(tmp_path / "other", images=4)
    (tmp_path / "other" / "sphere").rename(tmp_path / "other" / "no ")
    with pytest.raises(DataError, match="differ in more than blanks"):
        convert(tmp_path / "other", tmp_path / "dst2", quiet=True)
