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
from darklens.data.labels import read_labels
from darklens.data.listing import entries, is_file, is_folder, names
from darklens.data.pickles import MAX_PICKLE, read_pair
from darklens.data.side_names import side_files
from darklens.data.split import SPLITS, draw_split, separate
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress

UNSORTED = "unsorted"  # folder of images that are written, but in no split yet
ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {
    name: name for name in SPLITS
}


class Source(NamedTuple):
    """An image to convert. name: below SRC; file: what it will be called; hdu: where its name asks for one.

    key: decides where it goes when that is drawn; split: where it goes; None: to be drawn.
    """

    path: Path
    name: str
    label: str
    file: str
    key: str
    split: str | None = None
    hdu: str | None = None


class Sources(NamedTuple):
    """All images to convert, in order of split, class and name. val, test: fractions that are drawn from train.

    strays: the number of other entries; side_files: names of masks, noise maps, PSFs and the like, passed over.
    """

    images: list[Source]
    val: float
    test: float
    strays: int = 0
    side_files: tuple[str, ...] = ()


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


def is_table(path: Path) -> bool:
    """Whether it is a table of labels, not a folder."""
    return path.suffix.lower() == ".csv" and path.is_file()


def find_sources(src: Path, val: float, test: float, images: str | Path | None = None) -> Sources:
    """All images under `src`. images: the folder of the files in a table of labels, which `src` may be, too."""
    if is_table(src):
        return Sources(_labelled_sources(src, images, val, test), val, test)
    folders, skipped = names(src, is_folder)
    splits = {ALIASES[folder.lower()]: folder for folder in folders if folder.lower() in ALIASES}
    if not ({"train", "val"} <= splits.keys() or (folders and len(splits) == len(folders))):
        return _find_classes(src, None, val, test)
    if "train" not in splits:
        raise DataError(f"{src}: expected train among the splits, found {', '.join(folders)}")
    drawn = 0 if "val" in splits else val, 0 if {"val", "test"} & splits.keys() else test
    parts = []
    for split in (split for split in SPLITS if split in splits):
        is_drawn = split == "train" and "val" not in splits  # then that is taken out of it
        part = _find_classes(src / splits[split], None if is_drawn else split, *(drawn if is_drawn else (0, 0)))
        named = [source._replace(name=f"{splits[split]}/{source.name}") for source in part.images]
        parts.append(part._replace(images=named, side_files=tuple(f"{splits[split]}/{n}" for n in part.side_files)))
    _check_classes(src, parts)
    strays = skipped + len(folders) - len(splits) + sum(part.strays for part in parts)
    joined = [source for part in parts for source in part.images]
    return Sources(joined, *drawn, strays, tuple(name for part in parts for name in part.side_files))


def _check_classes(src: Path, parts: Sequence[Sources]) -> None:
    """Every split must hold every class."""
    classes = {part.images[0].split or "train": {source.label for source in part.images} for part in parts}
    for split, present in classes.items():
        if lacking := sorted(set.union(*classes.values()) - present):
            raise DataError(f"{src}: expected the same classes in all splits, {split} has no {', '.join(lacking)}")


def _find_classes(folder: Path, split: str | None, val: float, test: float) -> Sources:
    """The images of the class folders in `folder`. split: where they go (None: to be drawn)."""
    classes, strays = names(folder, is_folder)
    if len(classes) < 2:
        listing = ", ".join(classes) or "none"
        raise DataError(f"{folder}: expected two or more folders, one for each class, found {listing}")
    if len({name.strip() for name in classes}) < len(classes):
        raise DataError(f"{folder}: expected folders whose names differ in more than blanks, found {classes}")
    sources, side = [], []
    for name in classes:
        files, others = names(folder / name, lambda entry: is_file(entry, image.find_extension))
        beside = set(side_files(files))
        files = [file for file in files if file not in beside]
        if "train" not in draw_split(files, name, val, test, 0).values():
            needed = ", ".join([split or "train", *(part for part, share in (("val", val), ("test", test)) if share)])
            counted = _describe(folder / name, files, len(beside))
            raise DataError(f"{folder / name}: expected images for {needed} in this class, {counted}")
        targets = zip(files, _rename(files), strict=True)
        sources += [
            Source(folder / name / file, f"{name}/{file}", name.strip(), target, file, split)
            for file, target in targets
        ]
        side += [f"{name}/{file}" for file in sorted(beside)]
        strays += others
    return Sources(sources, val, test, strays, tuple(side))


def _labelled_sources(src: Path, images: str | Path | None, val: float, test: float) -> list[Source]:
    """The images of a table of labels, by class and name."""
    labelled = sorted(read_labels(src, images), key=lambda one: (one.label, one.name))
    classes = sorted({one.label for one in labelled})
    if len(classes) < 2:
        raise DataError(f"{src}: expected two or more labels, found {', '.join(classes) or 'none'}")
    sources = []
    for name in classes:
        files = [one for one in labelled if one.label == name]
        needed = 1 + sum(map(bool, (val, test)))
        if "train" not in draw_split([one.name for one in files], name, val, test, 0).values():
            raise DataError(f"{src}: expected {needed} images or more with the label {name}, found {len(files)}")
        targets = zip(files, _rename([one.path.name for one in files]), strict=True)
        sources += [Source(one.path, one.name, name, target, one.name, hdu=one.hdu) for one, target in targets]
    return sources


def _describe(folder: Path, files: Sequence[str], beside: int) -> str:
    """How many images were found, and why others are none, for error messages."""
    unread = [entry.name for entry in entries(folder) if is_file(entry, image.unread_kind)]
    counted = f"found {len(files)}" + (f"; {unread[0]}: {image.unread_kind(unread[0])}" if unread else "")
    return counted + (f"; {beside} are masks, noise maps or PSFs by their names: rename them if not" if beside else "")


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
        drawn = draw_split(list(copies), label, sources.val, sources.test, seed, copies=copies, placed=placed)
        placed |= {mark: drawn[key] for key, mark in copies.items()}
        needed, different = 1 + sum(map(bool, (sources.val, sources.test))), len(set(copies.values()))
        if len(set(drawn.values())) < needed:
            where = images[numbers[0]].path.parent
            raise DataError(f"{where}: expected {needed} different images or more in class {label}, found {different}")
        for i in numbers:
            splits[i] = drawn[images[i].key]
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
