"""Turn class folders of images into a data set: the later DeepLense data (Models I to IV), or one's own.

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

import argparse
import hashlib
import json
import math
import os
import pickletools
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import images
from images import DataError, Picture

SPLITS = ("train", "val", "test")


class UsageError(DataError):
    """A call that can't be meant: DST in use, no SRC, fractions that leave nothing to train on."""


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
        if dst.is_dir():
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


# --- find and split -----------------------------------------------------------------------------------------


def find_sources(src: Path, val: float, test: float, seed: int) -> tuple[list[Source], int]:
    """All images under `src` in order of class and name, with their splits, and the number of strays passed over."""
    names, skipped = _list(src, lambda entry: entry.is_dir() and not entry.name.startswith("__"))
    if len(names) < 2:
        raise DataError(f"{src}: expected two or more folders, one for each class, found {', '.join(names) or 'none'}")
    if set(names) <= set(SPLITS):
        raise DataError(f"{src}: expected folders named after classes, found {', '.join(names)}: it is split already")
    sources = []
    for name in names:
        files, strays = _list(src / name, lambda entry: entry.is_file() and bool(images.find_extension(entry.name)))
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
        stem, number = file[: -len(images.find_extension(file))], 1
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


# --- read and write -----------------------------------------------------------------------------------------


def _write_images(sources: Sequence[Source], part: Path, quiet: bool) -> tuple[int, int, dict[str, dict]]:
    """Write every image below `part`; (channels, size, {target: its record})."""
    for folder in {(part / source.target).parent for source in sources}:
        folder.mkdir(parents=True, exist_ok=True)
    expected, records = None, {}
    for source in tqdm(sources, desc="converting", unit="img", disable=quiet or None):  # None: quiet if no terminal
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
    if images.find_extension(path) == ".npy":
        try:
            with images.open_file(path) as file:
                if images.read_header(path, file).descr == "|O":
                    return _read_pair(path, file.read(MAX_PICKLE + 1))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return images.read_picture(path), None


# --- pickles, read but never run ----------------------------------------------------------------------------

MAX_PICKLE = 8 * images.MAX_PIXELS + 2**16  # bytes
MAX_STEPS = 10_000  # an `[image, mass]` pair takes about 70
NAMES = {  # all that a pickled array needs; a name that isn't here ends the reading
    **{f"numpy{dot}core.multiarray {name}": name for dot in (".", "._") for name in ("_reconstruct", "scalar")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
VALUES = ["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"]
VALUES += ["SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"]
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


class Refused(Exception):
    """A pickle that is more, or less, than an array of arrays and numbers; says why."""


@dataclass
class Name:
    """A name that a pickle mentions. It stays a name: nothing is imported."""

    name: str


@dataclass
class Made:
    """What a pickle asks to be made, by which function of which arguments, with which state. It isn't made."""

    function: str
    arguments: tuple
    state: object = None


def _read_pair(path: str | Path, data: bytes) -> tuple[Picture, float]:
    """The `[image, mass]` in a pickled object array. data: what follows the .npy header."""
    if len(data) > MAX_PICKLE:
        raise DataError(f"{path}: expected an [image, mass] pair of at most {MAX_PICKLE} bytes")
    try:
        shape, number_type, items = _array_parts(parse_pickle(data))
        if number_type != "O" or math.prod(shape) != 2 or type(items) is not list or len(items) != 2:
            raise Refused(f"it holds an array {shape}")
        image, mass = _array(items[0]), _number(items[1])
    except Refused as error:
        raise DataError(f"{path}: expected a pickled [image, mass], refused: {error}; nothing was run") from None
    return images.make_picture(path, image), mass


def parse_pickle(data: bytes) -> object:
    """What a pickle describes, as lists, tuples, values and `Made`; nothing is imported, called or executed.

    Only the operations that NumPy's arrays are written with are known (protocols 2 to 4). Memory stays below a
    small multiple of len(data): nothing is copied or repeated. Raises Refused.
    """
    machine = Machine()
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(_known(data))):
            if step == MAX_STEPS:
                raise Refused(f"it takes more than {MAX_STEPS} steps")
            machine.step(operation.name, argument)
        (result,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"it is damaged ({' '.join(str(error).split())[:80]})") from None
    return result
