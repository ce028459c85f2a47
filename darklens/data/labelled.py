"""Which images are there to convert, of which class? Those of class folders, with splits or not, or of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from darklens.data import image
from darklens.data.labels import read_labels
from darklens.data.listing import entries, is_file, is_folder, names
from darklens.data.side_names import side_files
from darklens.data.split import SPLITS, draw_split
from darklens.errors import DataError

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
    fractions = 0 if "val" in splits else val, 0 if {"val", "test"} & splits.keys() else test
    parts = []
    for split in (split for split in SPLITS if split in splits):
        is_drawn = split == "train" and "val" not in splits  # then that is taken out of it
        part = _find_classes(src / splits[split], None if is_drawn else split, *(fractions if is_drawn else (0, 0)))
        named = [source._replace(name=f"{splits[split]}/{source.name}") for source in part.images]
        parts.append(part._replace(images=named, side_files=tuple(f"{splits[split]}/{n}" for n in part.side_files)))
    _check_classes(src, parts)
    strays = skipped + len(folders) - len(splits) + sum(part.strays for part in parts)
    joined = [source for part in parts for source in part.images]
    return Sources(joined, *fractions, strays, tuple(name for part in parts for name in part.side_files))


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
        no_images = set(side_files(files))
        files = [file for file in files if file not in no_images]
        if "train" not in draw_split(files, name, val, test, 0).values():
            needed = ", ".join([split or "train", *(part for part, share in (("val", val), ("test", test)) if share)])
            counted = _describe(folder / name, files, len(no_images))
            raise DataError(f"{folder / name}: expected images for {needed} in this class, {counted}")
        targets = zip(files, _rename(files), strict=True)
        sources += [
            Source(folder / name / file, f"{name}/{file}", name.strip(), target, file, split)
            for file, target in targets
        ]
        side += [f"{name}/{file}" for file in sorted(no_images)]
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


def _describe(folder: Path, files: Sequence[str], no_images: int) -> str:
    """How many images were found, and why others are none, for error messages."""
    unread = [entry.name for entry in entries(folder) if is_file(entry, image.unread_kind)]
    counted = f"found {len(files)}" + (f"; {unread[0]}: {image.unread_kind(unread[0])}" if unread else "")
    named = f"; {no_images} are masks, noise maps or PSFs by their names: rename them if not"
    return counted + (named if no_images else "")


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
