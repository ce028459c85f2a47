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

Masks, noise maps, PSFs and other files that lie beside an image by their names (side_names.py) are passed over. The
split is made class by class. What decides where an image goes is the SHA-256 of seed, class and file name, so it
depends on nothing else; equal calls give equal bytes. Copies of an image, pixel for pixel, go to one split; where the
splits were there before, what is in test is left out of val, and what is in either out of train. DST appears when it is
complete: until then the work is in a hidden folder beside it, `.DST.<random>.partial`, which goes away however the
program ends, but for SIGKILL.
"""

from __future__ import annotations

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
from darklens.data.labelled import Source, Sources, find_sources, is_table
from darklens.data.pickles import MAX_PICKLE, read_pair
from darklens.data.split import SPLITS, draw_split, separate
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress

UNSORTED = "unsorted"  # folder of images that are written, but in no split yet


class Converted(NamedTuple):
    """An image that is written. shape (C, S, S); mark: the fingerprint of its pixels; record: for convert.json."""

    shape: tuple[int, ...]
    mark: str
    record: dict[str, object]


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
    sources = find_sources(src, val, test, images)
    part = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.partial")
    try:
        converted = _write_images(sources.images, part / UNSORTED, quiet, hdu)
        targets = _targets(sources, converted, seed)
        _sort(part, targets)
        channels, size, _ = converted[0].shape
        record = {"source": str(src), "seed": seed, "val": val, "test": test, "channels": channels, "size": size}
        record |= {"hdu": hdu} if hdu else {}
        record |= {"skipped": sources.strays, **_passed_over(sources, converted, targets)}
        record["images"] = _count([target for target in targets if target])
        record["files"] = {target: one.record for target, one in zip(targets, converted, strict=True) if target}
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


def _count(targets: Sequence[str]) -> dict[str, dict[str, int]]:
    """{split: {class: images}}, of SPLIT/CLASS/FILE."""
    counts: dict[str, dict[str, int]] = {}
    for split, name in (target.split("/")[:2] for target in targets):
        counts.setdefault(split, {}).setdefault(name, 0)
        counts[split][name] += 1
    return {split: counts[split] for split in SPLITS if split in counts}


def _write_images(sources: Sequence[Source], folder: Path, quiet: bool, hdu: str | None) -> list[Converted]:
    """Write every image into `folder`, under its number."""
    folder.mkdir(parents=True)
    converted: list[Converted] = []
    for source in progress(len(sources), "converting", "img", quiet, leave=True).over(sources):
        picture, mass = read_source(source.path, source.hdu or hdu)
        pixels, shape = image.as_square(picture.pixels), picture.pixels.shape
        expected = converted[0].shape if converted else pixels.shape
        if pixels.shape != expected:
            raise DataError(f"{source.path}: expected {expected} in its middle, like {sources[0].name}, found {shape}")
        np.save(folder / f"{len(converted)}.npy", pixels[0] if len(pixels) == 1 else pixels)
        cropped = "" if pixels.shape == shape else f"the middle of {shape[1]} x {shape[2]} pixels"
        note = "; ".join(filter(None, (picture.note, cropped)))
        entry = {"source": source.name, "mass": mass, "unit": picture.unit, "note": note}
        record = {key: value for key, value in entry.items() if value not in (None, "")}
        converted.append(Converted(pixels.shape, image.fingerprint(pixels), record))
    return converted


def _targets(sources: Sources, converted: Sequence[Converted], seed: int) -> list[str | None]:
    """SPLIT/CLASS/FILE of each image; None where it is left out, since it is in another split too."""
    images, marks = sources.images, [one.mark for one in converted]
    splits = [source.split or "train" for source in images]
    placed: dict[str, str] = {}
    for label in sorted({source.label for source in images if source.split is None}):
        numbers = [i for i, source in enumerate(images) if source.split is None and source.label == label]
        copies = {images[i].key: marks[i] for i in numbers}
        chosen = draw_split(list(copies), label, sources.val, sources.test, seed, copies=copies, placed=placed)
        placed |= {mark: chosen[key] for key, mark in copies.items()}
        needed, different = 1 + sum(map(bool, (sources.val, sources.test))), len(set(copies.values()))
        if len(set(chosen.values())) < needed:
            where = images[numbers[0]].path.parent
            raise DataError(f"{where}: expected {needed} different images or more in class {label}, found {different}")
        for i in numbers:
            splits[i] = chosen[images[i].key]
    stay = separate(splits, [source.label for source in images], marks)
    return [
        f"{split}/{source.label}/{source.file}" if stays else None
        for source, split, stays in zip(images, splits, stay, strict=True)
    ]


def _sort(part: Path, targets: Sequence[str | None]) -> None:
    """Put the images where they belong."""
    for folder in {(part / target).parent for target in targets if target}:
        folder.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        if target:
            (part / UNSORTED / f"{number}.npy").rename(part / target)
    shutil.rmtree(part / UNSORTED)


def _passed_over(
    sources: Sources, converted: Sequence[Converted], targets: Sequence[str | None]
) -> dict[str, list[str] | int]:
    """What convert.json says of files beside images, and of copies; nothing where there are none."""
    labels: dict[str, set[str]] = {}
    for source, one in zip(sources.images, converted, strict=True):
        labels.setdefault(one.mark, set()).add(source.label)
    values: dict[str, list[str] | int] = {
        "side_files": list(sources.side_files),
        "copies": len(converted) - len(labels),
        "left_out": [source.name for source, target in zip(sources.images, targets, strict=True) if target is None],
        "in_several_classes": sum(len(classes) > 1 for classes in labels.values()),
    }
    return {name: value for name, value in values.items() if value}


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
