"""Turn class folders of images into a data set: the later DeepLense data (Models I to III), or one's own.

    python dataset.py convert Model_I lenses                        # or: python convert.py Model_I lenses
    python dataset.py convert survey lenses --val 0.2 --test 0.2 --seed 1
    python dataset.py convert labels.csv lenses --images survey         # labels exported by the page of predictions

SRC holds a folder for each class, two or more, of images whose central squares are alike in size: .npy, FITS, PNG, TIFF
(see image.py), and DeepLense's `[image, mass]` pairs, which are pickled. Or it holds train/, val/ and test/ with such
folders in them: this split is kept, and only what is missing is taken out of train. Or it is a table of labels (see
labels.py) of images in a folder, its own unless --images names one. DST, which must not exist yet or be
empty, receives DST/{train,val,test}/CLASS/*.npy, plain arrays in their own number type, and DST/convert.json: where
each came from, its mass, and what was done. SRC is only read.

The split is made class by class. What decides where an image goes is the SHA-256 of seed, class and file name, so it
depends on nothing else; equal calls give equal bytes. DST appears when it is complete: until then the work is in a
hidden folder beside it, `.DST.<random>.partial`, which goes away however the program ends, but for SIGKILL.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darklens.data import image, npy
from darklens.data.image import Picture
from darklens.data.labels import read_labels
from darklens.data.listing import entries, is_file, is_folder, names
from darklens.data.pickles import MAX_PICKLE, read_pair
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress

SPLITS = ("train", "val", "test")
ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {
    name: name for name in SPLITS
}


class Source(NamedTuple):
    """An image to convert, and where to: `target` is SPLIT/CLASS/NAME.npy. hdu: where its own name asks for one."""

    path: Path
    name: str
    target: str
    hdu: str | None = None


def convert(
    src: str | Path,
    dst: str | Path,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    *,
    quiet: bool = False,
    hdu: str | None = None,
    images: str | Path | None = None,
) -> dict:
    """Convert the class folders under `src` into the data set `dst`; returns the contents of its convert.json.

    val, test: the fractions of each class that go there, rounded, at least one image unless the fraction is 0.
    hdu: name or number, of FITS files. images: the folder of the files in a table of labels.
    Raises UsageError, DataError for an image or folder that can't be used, OSError if `dst` can't be written.
    """
    src, dst = Path(src), Path(os.path.realpath(dst))
    _check_call(src, dst, val, test, images)
    sources, skipped = find_sources(src, val, test, seed, images)
    part = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.partial")
    try:
        channels, size, files = _write_images(sources, part, quiet, hdu)
        record = {"source": str(src), "seed": seed, "val": val, "test": test, "channels": channels, "size": size}
        record |= {"hdu": hdu} if hdu else {}
        record |= {"skipped": skipped, "images": _count(sources), "files": files}
        (part / "convert.json").write_text(json.dumps(record, indent=1) + "\n")
        if os.name == "nt" and dst.is_dir():  # elsewhere an empty folder gives way
            dst.rmdir()
        part.rename(dst)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return record


def _check_call(src: Path, dst: Path, val: float, test: float, images: str | Path | None) -> None:
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise UsageError(f"expected 0 < val, 0 <= test and val + test < 1, found val {val}, test {test}")
    if not (src.is_dir() or is_table(src)):
        raise UsageError(f"{src}: no such folder")
    if images is not None and not (is_table(src) and os.path.isdir(images)):
        raise UsageError(f"--images {images}: expected the folder of the images in a table of labels, {src} being it")
    for folder in (src, images or src):
        if dst.is_relative_to(os.path.realpath(folder)):
            raise UsageError(f"{dst} lies in {folder}, which is only read: choose another folder")
    if not dst.parent.is_dir():
        raise UsageError(f"{dst.parent}: no such folder to make {dst.name} in")
    if os.path.lexists(dst) and not (dst.is_dir() and not os.listdir(dst)):
        raise UsageError(f"{dst}: expected no such folder yet, or an empty one: choose another, or remove it")


def is_table(path: Path) -> bool:
    """Whether it is a table of labels, not a folder."""
    return path.suffix.lower() == ".csv" and path.is_file()


def find_sources(
    src: Path, val: float, test: float, seed: int, images: str | Path | None = None
) -> tuple[list[Source], int]:
    """All images under `src` in order of split, class and name, with their splits, and the number of strays.

    images: the folder of the files in a table of labels, which `src` may be, too.
    """
    if is_table(src):
        return _labelled_sources(src, images, val, test, seed), 0
    folders, skipped = names(src, is_folder)
    splits = {ALIASES[folder.lower()]: folder for folder in folders if folder.lower() in ALIASES}
    if not ({"train", "val"} <= splits.keys() or (folders and len(splits) == len(folders))):
        return _find_classes(src, "train", val, test, seed)
    if "train" not in splits:
        raise DataError(f"{src}: expected train among the splits, found {', '.join(folders)}")
    skipped, sources = skipped + len(folders) - len(splits), []
    for split in (split for split in SPLITS if split in splits):
        alone = split == "train" and "val" not in splits  # then that is taken out of it
        parts = val if alone else 0, test if alone and "test" not in splits else 0
        in_split, strays = _find_classes(src / splits[split], split, *parts, seed)
        sources += [source._replace(name=f"{splits[split]}/{source.name}") for source in in_split]
        skipped += strays
    _check_classes(src, sources)
    return sources, skipped


def _check_classes(src: Path, sources: Sequence[Source]) -> None:
    """Every split must hold every class."""
    classes = {split: set(counts) for split, counts in _count(sources).items()}
    for split, present in classes.items():
        if lacking := sorted(set.union(*classes.values()) - present):
            raise DataError(f"{src}: expected the same classes in all splits, {split} has no {', '.join(lacking)}")


def _find_classes(folder: Path, split: str, val: float, test: float, seed: int) -> tuple[list[Source], int]:
    """The images of the class folders in `folder`. split: where they go but for the fractions val and test."""
    classes, skipped = names(folder, is_folder)
    if len(classes) < 2:
        listing = ", ".join(classes) or "none"
        raise DataError(f"{folder}: expected two or more folders, one for each class, found {listing}")
    sources = []
    for name in classes:
        files, strays = names(folder / name, lambda entry: is_file(entry, image.find_extension))
        splits = _split(files, name, val, test, seed)
        if "train" not in splits.values():
            needed = ", ".join([split, *(part for part, share in (("val", val), ("test", test)) if share)])
            counted = _describe(folder / name, files)
            raise DataError(f"{folder / name}: expected images for {needed} in this class, {counted}")
        places = [split if splits[file] == "train" else splits[file] for file in files]
        sources += [
            Source(folder / name / file, f"{name}/{file}", f"{place}/{name}/{target}")
            for file, place, target in zip(files, places, _rename(files), strict=True)
        ]
        skipped += strays
    return sources, skipped


def _labelled_sources(src: Path, images: str | Path | None, val: float, test: float, seed: int) -> list[Source]:
    """The images of a table of labels, by class and name."""
    labelled = sorted(read_labels(src, images), key=lambda one: (one.label, one.name))
    classes = sorted({one.label for one in labelled})
    if len(classes) < 2:
        raise DataError(f"{src}: expected two or more labels, found {', '.join(classes) or 'none'}")
    sources = []
    for name in classes:
        files = {one.name: one for one in labelled if one.label == name}
        splits = _split(list(files), name, val, test, seed)
        if "train" not in splits.values():
            needed = 1 + sum(map(bool, (val, test)))
            raise DataError(f"{src}: expected {needed} images or more with the label {name}, found {len(files)}")
        targets = _rename([one.path.name for one in files.values()])
        sources += [
            Source(one.path, one.name, f"{splits[one.name]}/{name}/{target}", one.hdu)
            for one, target in zip(files.values(), targets, strict=True)
        ]
    return sources


def _describe(folder: Path, files: Sequence[str]) -> str:
    """How many images were found, and why others are none, for error messages."""
    unread = [entry.name for entry in entries(folder) if is_file(entry, image.unread_kind)]
    return f"found {len(files)}" + (f"; {unread[0]}: {image.unread_kind(unread[0])}" if unread else "")


def _split(files: Sequence[str], class_name: str, val: float, test: float, seed: int) -> dict[str, str]:
    """File name -> split."""

    def key(file: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{class_name}/{file}")).digest()

    counts = {name: max(1, round(part * len(files))) if part else 0 for name, part in (("val", val), ("test", test))}
    splits = [name for name, count in counts.items() for _ in range(count)]
    splits += ["train"] * max(0, len(files) - len(splits))
    return dict(zip(sorted(files, key=key), splits, strict=False))


def _rename(files: Sequence[str]) -> list[str]:
    """a.npy, b.fits -> a.npy, b.npy; where a name is taken, capitals or not, the next free of a-2.npy, a-3.npy, ..."""
    taken, names = set(), []
    for file in files:
        stem, number = file[: -len(image.find_extension(file) or "")], 1
        while (name := f"{stem}.npy" if number == 1 else f"{stem}-{number}.npy").casefold() in taken:
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _count(sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """{split: {class: images}}"""
    counts: dict[str, dict[str, int]] = {}
    for split, name in (source.target.split("/")[:2] for source in sources):
        counts.setdefault(split, {}).setdefault(name, 0)
        counts[split][name] += 1
    return {split: counts[split] for split in SPLITS if split in counts}


def _write_images(
    sources: Sequence[Source], part: Path, quiet: bool, hdu: str | None
) -> tuple[int, int, dict[str, dict]]:
    """Write every image below `part`; (channels, size, {target: its record})."""
    for folder in {(part / source.target).parent for source in sources}:
        folder.mkdir(parents=True, exist_ok=True)
    expected: tuple[int, ...] = ()
    records = {}
    for source in progress(len(sources), "converting", "img", quiet, leave=True).over(sources):
        picture, mass = read_source(source.path, source.hdu or hdu)
        pixels, shape = image.as_square(picture.pixels), picture.pixels.shape
        expected = expected or pixels.shape
        if pixels.shape != expected:
            raise DataError(f"{source.path}: expected {expected} in its middle, like {sources[0].name}, found {shape}")
        np.save(part / source.target, pixels[0] if len(pixels) == 1 else pixels)
        cropped = "" if pixels.shape == shape else f"the middle of {shape[1]} x {shape[2]} pixels"
        note = "; ".join(filter(None, (picture.note, cropped)))
        entry = {"source": source.name, "mass": mass, "unit": picture.unit, "note": note}
        records[source.target] = {key: value for key, value in entry.items() if value not in (None, "")}
    return expected[0], expected[1], records


def read_source(path: str | Path, hdu: str | None = None) -> tuple[Picture, float | None]:
    """An image of any kind that is known, and its mass where it's an `[image, mass]` pair. hdu: of FITS files.

    Raises DataError.
    """
    if image.find_extension(path) == ".npy":
        try:
            with image.open_file(path) as file:
                if npy.read_header(path, file).descr == "|O":
                    return read_pair(path, file.read(MAX_PICKLE + 1))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return image.read_picture(path, hdu), None
