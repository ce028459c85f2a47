"""Are the images still those that a run began with? Their files are compared, and where those have changed, pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from darklens import machine
from darklens.data.folder import LensFolder
from darklens.data.source import ImageSource

PIXEL = 4  # bytes of a pixel in memory
UNREAD = "-"  # instead of a hash of pixels
SAMPLE = 2000  # images of a split whose pixels are read, evenly taken; of a smaller one, all


def fingerprints(folder: LensFolder) -> dict[str, str]:
    """Of each split: hashes of its files (names, sizes, times) and of the pixels of its images, or of some of them.

    Pixels of data sets that do not fit in memory are left alone: training begins before all of them are read. Raises
    DataError for a bad image.
    """
    count = sum(len(split.labels) for split in folder.splits.values())
    fits = count * folder.size**2 * PIXEL <= machine.available_memory() // 2
    splits = {name: split.images for name, split in folder.splits.items()}
    return {name: f"{_files(images)} {_pixels(images) if fits else UNREAD}" for name, images in splits.items()}


def compare(recorded: dict[str, str], folder: LensFolder) -> tuple[list[str], list[str]]:
    """The splits whose images are others than before, and those whose files alone have changed, as by copying."""
    touched = [
        name
        for name, split in folder.splits.items()
        if name in recorded and _files(split.images) != recorded[name].split(" ")[0]
    ]
    hashes = {name: recorded[name].split(" ")[-1] for name in touched}
    replaced = [name for name in touched if hashes[name] not in (UNREAD, _pixels(folder.splits[name].images))]
    return replaced, [name for name in touched if name not in replaced]


def _files(images: ImageSource) -> str:
    return images.stamp(range(len(images)))


def _pixels(images: ImageSource) -> str:
    digest = hashlib.sha256()
    for index in np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int):
        digest.update(np.ascontiguousarray(images.read(int(index)).values).data)
    return digest.hexdigest()
