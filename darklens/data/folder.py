"""Lens images: find, check, normalise, augment; `images` reads the single file.

    folder = scan("images_f")                                  # train/<class>/*.npy, val/<class>/*.npy
    batches = Batches(folder.splits["train"], folder, default_preprocess(folder.size), 64, train=True)
    for images, labels, indices in batches.epoch(3):           # (B, C, S, S) float32, (B,), (B,)
        ...

Every problem is a `DataError` of one line that names the file or folder. Images in other formats, or in class
folders that are not split yet, such as the later DeepLense data sets, become such a folder by

    python dataset.py convert SRC DST

and a data set of very many images is packed into a few large files (see packed.py), which `scan` takes as well, by

    python dataset.py pack SRC DST

Training cuts a random window of whole pixels and turns and flips it, so that no pixel is ever resampled and
the noise stays what it was; evaluation always takes the same central window. What happens to image i in epoch
e depends on (seed, e, i) alone: not on the batch size, the number of workers, or whether the images come from
memory or from disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darklens.data.image import find_extension, read_shape
from darklens.data.listing import contents, entries, is_file, is_folder, is_npy, names
from darklens.data.packed import is_packed, open_shards
from darklens.data.side_names import side_files
from darklens.data.source import Files, ImageSource
from darklens.errors import DataError

SPLITS = {"train": True, "val": True, "test": False}  # name -> required
LAYOUT = "train/<class>/*.npy and val/<class>/*.npy with the same classes, two or more"


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in alphabetical order of class, then of name."""

    name: str
    images: ImageSource
    labels: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LensFolder:
    """A data set on disk: what `scan` found.

    skipped: the number of stray files and folders; side_files: SPLIT/CLASS/FILE of masks, noise maps, PSFs and such,
    which are no images by their names (side_names.py).
    """

    root: Path
    classes: tuple[str, ...]
    channels: int
    size: int  # pixels along a side
    splits: dict[str, Split]
    skipped: int
    side_files: tuple[str, ...] = ()


def scan(data_dir: str | Path) -> LensFolder:
    """Find the images under `data_dir`; reads one header, no pixels, and lists each folder once. Takes shards too.

    Raises DataError when a folder is missing or empty, or when the splits hold different classes.
    """
    root = Path(data_dir)
    if not os.path.exists(root):
        if root.suffix:
            raise DataError(f"{root}: no such folder; expected the one with train/ and val/ in it")
        raise DataError(
            f"{root}: no such folder. Make one with `python simulate.py --model f --out {root} --train 25000 "
            f"--val 2500`, or download the published images, see README.md"
        )
    if is_packed(root):
        return _scan_shards(root)
    folders, _ = names(root, is_folder)
    missing = [name for name, required in SPLITS.items() if required and name not in folders]
    if missing:
        hint = f"; `python dataset.py convert {root} DST` makes them from class folders"
        raise DataError(f"{root}: expected {LAYOUT}; no folder {' or '.join(missing)} here, {contents(root)}{hint}")
    listings = {name: names(root / name, is_folder) for name in SPLITS if name in folders}
    classes = _common_classes(root, {name: listing[0] for name, listing in listings.items()})
    files = {name: _find_files(root / name, classes) for name in listings}
    channels, size = read_shape(root / "train" / files["train"].names[0])
    splits = {
        name: Split(name, Files(root / name, of_split.names, (channels, size, size)), of_split.labels)
        for name, of_split in files.items()
    }
    strays = sum(count for _, count in listings.values()) + sum(of_split.strays for of_split in files.values())
    no_images = tuple(f"{name}/{file}" for name, of_split in files.items() for file in of_split.side_files)
    return LensFolder(root, classes, channels, size, splits, strays, no_images)


def _scan_shards(root: Path) -> LensFolder:
    classes, channels, size, shards = open_shards(root)
    splits = {name: Split(name, images, images.labels) for name, images in shards.items()}
    return LensFolder(root, classes, channels, size, splits, 0)


def _common_classes(root: Path, classes: dict[str, list[str]]) -> tuple[str, ...]:
    """The class names, once all splits agree on them. classes: split name -> its class folders."""
    train = classes["train"]
    for name, folders in classes.items():
        if not folders:
            raise DataError(f"{root / name}: expected {LAYOUT}; no class folders here, {contents(root / name)}")
        if padded := [folder for folder in folders if folder != folder.strip()]:
            raise DataError(
                f"{root / name}: its class folder {padded[0]!r} begins or ends with a blank: rename it to "
                f"{padded[0].strip()!r}"
            )
        if folders != train:
            train_only = ", ".join(sorted(set(train) - set(folders))) or "none"
            other = ", ".join(sorted(set(folders) - set(train))) or "none"
            raise DataError(
                f"{root}: train and {name} must hold the same classes; only in train: {train_only}; only in {name}: "
                f"{other}"
            )
    if len(train) < 2:
        raise DataError(f"{root / 'train'}: expected two or more class folders, found one: {train[0]}")
    return tuple(train)


class _Files(NamedTuple):
    """names: CLASS/FILE; labels (n,) int64; strays: the number of other entries; side_files: by their names."""

    names: tuple[str, ...]
    labels: np.ndarray
    strays: int
    side_files: tuple[str, ...]


def _find_files(folder: Path, classes: Sequence[str]) -> _Files:
    """The image files of a split. Raises DataError for a class without any."""
    files: list[str] = []
    side: list[str] = []
    counts, strays = [], 0
    for name in classes:
        images, others = names(folder / name, is_npy)
        no_images = set(side_files(images))
        images = [file for file in images if file not in no_images]
        side += [f"{name}/{file}" for file in sorted(no_images)]
        if not images:
            readable = any(is_file(entry, find_extension) for entry in entries(folder / name))
            hint = f"; `python dataset.py convert {folder.parent} DST` reads these" if readable else ""
            hint = "; by their names these are masks, noise maps or PSFs" if no_images else hint
            raise DataError(
                f"{folder / name}: expected .npy images in this class folder, {contents(folder / name)}{hint}"
            )
        files += [f"{name}/{file}" for file in images]
        counts.append(len(images))
        strays += others
    labels = np.repeat(np.arange(len(classes)), counts).astype(np.int64)
    return _Files(tuple(files), labels, strays, tuple(side))
