"""Lens images: find, check, normalise, augment; `images` reads the single file.

    folder = scan("images_f")                                  # train/<class>/*.npy, val/<class>/*.npy
    batches = Batches(folder.splits["train"], folder, default_preprocess(folder.size), 64, train=True)
    for images, labels, indices in batches.epoch(3):           # (B, C, S, S) float32, (B,), (B,)
        ...

Every problem is a `DataError` of one line that names the file or folder. Images in other formats, or in class
folders that are not split yet, such as the later DeepLense data sets, become such a folder by

    python dataset.py convert SRC DST

and a data set of very many images is packed into a few large files (see shards.py), which `scan` takes as well, by

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

import numpy as np

from darklens.data.image import find_extension, read_shape
from darklens.data.listing import contents, entries, is_file, is_folder, is_npy, names
from darklens.data.packed import is_packed, open_shards
from darklens.errors import DataError

SPLITS = {"train": True, "val": True, "test": False}  # name -> required
LAYOUT = "train/<class>/*.npy and val/<class>/*.npy with the same classes, two or more"


@dataclass(frozen=True, eq=False)
class Split:
    """The files of one split, in alphabetical order of class, then of name; `Packed` if they lie in shards."""

    name: str
    paths: Sequence[Path]
    labels: np.ndarray  # (n,) int64


@dataclass(frozen=True)
class LensFolder:
    """A data set on disk: what `scan` found. `skipped` counts the stray files and folders it passed over."""

    root: Path
    classes: tuple[str, ...]
    channels: int
    size: int  # pixels along a side
    splits: dict[str, Split]
    skipped: int


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
    found, _ = names(root, is_folder)
    missing = [name for name, required in SPLITS.items() if required and name not in found]
    if missing:
        hint = f"; `python dataset.py convert {root} DST` makes them from class folders"
        raise DataError(f"{root}: expected {LAYOUT}; no folder {' or '.join(missing)} here, {contents(root)}{hint}")
    there = [name for name in SPLITS if name in found]
    listings = {name: names(root / name, is_folder) for name in there}
    classes = _common_classes(root, {name: listing[0] for name, listing in listings.items()})
    skipped, splits = sum(strays for _, strays in listings.values()), {}
    for name in there:
        splits[name], strays = _find_images(root / name, classes)
        skipped += strays
    channels, size = read_shape(splits["train"].paths[0])
    return LensFolder(root, classes, channels, size, splits, skipped)


def _scan_shards(root: Path) -> LensFolder:
    classes, channels, size, packed = open_shards(root)
    splits = {name: Split(name, images, images.labels) for name, images in packed.items()}
    return LensFolder(root, classes, channels, size, splits, 0)


def _common_classes(root: Path, classes: dict[str, list[str]]) -> tuple[str, ...]:
    """The class names, once all splits agree on them. classes: split name -> its class folders."""
    train = classes["train"]
    for name, found in classes.items():
        if not found:
            raise DataError(f"{root / name}: expected {LAYOUT}; no class folders here, {contents(root / name)}")
        left = ", ".join(sorted(set(train) - set(found))) or "none"
        right = ", ".join(sorted(set(found) - set(train))) or "none"
        if found != train:
            raise DataError(
                f"{root}: train and {name} must hold the same classes; only in train: {left}; only in {name}: {right}"
            )
    if len(train) < 2:
        raise DataError(f"{root / 'train'}: expected two or more class folders, found one: {train[0]}")
    return tuple(train)


def _find_images(folder: Path, classes: Sequence[str]) -> tuple[Split, int]:
    """The split in `folder`, and the number of strays passed over."""
    paths, counts, skipped = [], [], 0
    for name in classes:
        files, strays = names(folder / name, is_npy)
        if not files:
            others = any(is_file(entry, find_extension) for entry in entries(folder / name))
            hint = f"; `python dataset.py convert {folder.parent} DST` reads these" if others else ""
            raise DataError(
                f"{folder / name}: expected .npy images in this class folder, {contents(folder / name)}{hint}"
            )
        paths += [folder / name / file for file in files]
        counts.append(len(files))
        skipped += strays
    return Split(folder.name, tuple(paths), np.repeat(np.arange(len(classes)), counts).astype(np.int64)), skipped
