"""Turn class folders of images into a data set: the later DeepLense data (Models I to III), or one's own.

    python dataset.py convert Model_I lenses                        # or: python convert.py Model_I lenses
    python dataset.py convert survey lenses --val 0.2 --test 0.2 --seed 1

SRC holds a folder for each class, two or more, of square images that are all alike in size: .npy, FITS, PNG, TIFF
(see images.py), and DeepLense's `[image, mass]` pairs, which are pickled. DST, which must not exist yet or be
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darklens.data import image, npy
from darklens.data.image import Picture
from darklens.data.pickles import MAX_PICKLE, read_pair
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress

SPLITS = ("train", "val", "test")


class Source(NamedTuple):
    """An image to convert, and where to: `target` is SPLIT/CLASS/NAME.npy."""

    path: Path
    name: str
    target: str


def convert(
    src: str | Path, dst: str | Path, val: float = 0.1, test: float = 0.1, seed: int = 0, quiet: bool = False
) -> dict:
    """Convert the class folders under `src` into the data set `dst`; returns the contents of its convert.json.

    val, test: the fractions of each class that go there, rounded, at least one image unless the fraction is 0.
    Raises UsageError, DataError for an image or folder that can't be used, OSError if `dst` can't be written.
    """
    src, dst = Path(src), Path(os.path.realpath(dst))
    _check_call(src, dst, val, test)
    sources, skipped = find_sources(src, val, test, seed)
    part = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.partial")
    try:
        channels, size, files = _write_images(sources, part, quiet)
        record = {"source": str(src), "seed": seed, "val": val, "test": test, "channels": channels, "size": size}
        record |= {"skipped": skipped, "images": _count(sources), "files": files}
        (part / "convert.json").write_text(json.dumps(record, indent=1) + "\n")
        if os.name == "nt" and dst.is_dir():  # elsewhere an empty folder gives way
            dst.rmdir()
        part.rename(dst)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return record


def _check_call(src: Path, dst: Path, val: float, test: float) -> None:
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise UsageError(f"expected 0 < val, 0 <= test and val + test < 1, found val {val}, test {test}")
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    if dst.is_relative_to(os.path.realpath(src)):
        raise UsageError(f"{dst} lies in {src}, which is only read: choose another folder")
    if not dst.parent.is_dir():
        raise UsageError(f"{dst.parent}: no such folder to make {dst.name} in")
    if os.path.lexists(dst) and not (dst.is_dir() and not os.listdir(dst)):
        raise UsageError(f"{dst}: expected no such folder yet, or an empty one: choose another, or remove it")


def find_sources(src: Path, val: float, test: float, seed: int) -> tuple[list[Source], int]:
    """All images under `src` in order of class and name, with their splits, and the number of strays passed over."""
    names, skipped = _list(src, lambda entry: entry.is_dir() and not entry.name.startswith("__"))
    if len(names) < 2:
        raise DataError(f"{src}: expected two or more folders, one for each class, found {', '.join(names) or 'none'}")
    if set(names) <= set(SPLITS):
        raise DataError(f"{src}: expected folders named after classes, found {', '.join(names)}: it is split already")
    sources = []
    for name in names:
        files, strays = _list(src / name, lambda entry: entry.is_file() and bool(image.find_extension(entry.name)))
        skipped += strays
        splits = _split(files, name, val, test, seed)
        targets = [f"{splits[file]}/{name}/{target}" for file, target in zip(files, _rename(files), strict=True)]
        if "train" not in splits.values():
            raise DataError(f"{src / name}: expected images for train, val and test in this class, found {len(files)}")
        sources += [Source(src / name / file, f"{name}/{file}", t) for file, t in zip(files, targets, strict=True)]
    return sources, skipped


def _list(folder: Path, keep: Callable[[os.DirEntry], bool]) -> tuple[list[str], int]:
    """Sorted names of the entries to keep, none of them hidden, and the number of the others."""

    def kept(entry: os.DirEntry) -> bool:
        try:
            return not entry.name.startswith(".") and keep(entry)
        except OSError:  # a link to itself
            return False

    try:
        with os.scandir(folder) as entries:
            verdicts = [(entry.name, kept(entry)) for entry in entries]
    except OSError as error:
        raise DataError(f"{folder}: cannot list this folder ({error.strerror or error})") from None
    names = sorted(name for name, verdict in verdicts if verdict)
    return names, len(verdicts) - len(names)


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
        stem, number = file[: -len(image.find_extension(file))], 1
        while (name := f"{stem}.npy" if number == 1 else f"{stem}-{number}.npy").casefold() in taken:
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _count(sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """{split: {class: images}}"""
    found: dict[str, dict[str, int]] = {}
    for split, name in (source.target.split("/")[:2] for source in sources):
        found.setdefault(split, {}).setdefault(name, 0)
        found[split][name] += 1
    return {split: found[split] for split in SPLITS if split in found}


def _write_images(sources: Sequence[Source], part: Path, quiet: bool) -> tuple[int, int, dict[str, dict]]:
    """Write every image below `part`; (channels, size, {target: its record})."""
    for folder in {(part / source.target).parent for source in sources}:
        folder.mkdir(parents=True, exist_ok=True)
    expected, records = None, {}
    for source in progress(len(sources), "converting", "img", quiet, leave=True).over(sources):
        picture, mass = read_source(source.path)
        expected = expected or picture.pixels.shape
        if picture.pixels.shape != expected or expected[1] != expected[2]:
            like = f"like {sources[0].name}" if expected[1] == expected[2] else "which is square"
            raise DataError(f"{source.path}: expected (channels, height, width) {like}, found {picture.pixels.shape}")
        np.save(part / source.target, picture.pixels[0] if len(picture.pixels) == 1 else picture.pixels)
        entry = {"source": source.name, "mass": mass, "unit": picture.unit, "note": picture.note}
        records[source.target] = {key: value for key, value in entry.items() if value not in (None, "")}
    return expected[0], expected[1], records


def read_source(path: str | Path) -> tuple[Picture, float | None]:
    """An image of any kind that is known, and its mass where it's an `[image, mass]` pair. Raises DataError."""
    if image.find_extension(path) == ".npy":
        try:
            with image.open_file(path) as file:
                if npy.read_header(path, file).descr == "|O":
                    return read_pair(path, file.read(MAX_PICKLE + 1))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return image.read_picture(path), None
