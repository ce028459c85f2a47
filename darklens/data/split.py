"""Which images go to train, val and test? Class by class, and copies of an image to one of them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence

SPLITS = ("train", "val", "test")


def draw_split(
    files: Sequence[str],
    class_name: str,
    val: float,
    test: float,
    seed: int,
    *,
    copies: Mapping[str, str] | None = None,
    placed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """File name -> split. val, test: fractions, rounded, at least one image unless the fraction is 0.

    The order in which images are taken is that of the SHA-256 of seed, class and file name. copies: file name -> a mark
    that copies of an image share; they go where the first of them goes, so a split may have fewer or more images.
    placed: mark -> split, of images that are in other classes too. Where there are too few files, none is in train.
    """

    def key(file: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{class_name}/{file}")).digest()

    groups: dict[str, list[str]] = {}
    for file in sorted(files, key=key):
        groups.setdefault(copies[file] if copies else file, []).append(file)
    splits = {file: split for mark, split in (placed or {}).items() for file in groups.pop(mark, ())}
    for name, share in (("val", val), ("test", test)):
        count = max(1, round(share * len(files))) - list(splits.values()).count(name) if share else 0
        for mark in _take(groups, count):
            splits |= dict.fromkeys(groups.pop(mark), name)
    return splits | dict.fromkeys((file for group in groups.values() for file in group), "train")


def _take(groups: Mapping[str, list[str]], count: int) -> list[str]:
    """The first groups with `count` files in all; where every group has more, the smallest one."""
    chosen, room = [], count
    for mark, files in groups.items():
        if len(files) <= room:
            chosen.append(mark)
            room -= len(files)
    if count > 0 and groups and not chosen:
        chosen = [min(groups, key=lambda mark: len(groups[mark]))]
    return chosen


def separate(splits: Sequence[str], labels: Sequence[str], marks: Sequence[str]) -> list[bool]:
    """Which of the images stay, so that none is in two splits: what is in test leaves val, what is in either, train.

    A class that would be left without images in a split keeps them. splits, labels, marks: of each image.
    """
    sides: dict[str, set[str]] = {}
    for split, mark in zip(splits, marks, strict=True):
        sides.setdefault(mark, set()).add(split)
    last = {mark: max(present, key=SPLITS.index) for mark, present in sides.items()}
    stay = [split == last[mark] for split, mark in zip(splits, marks, strict=True)]
    counts = Counter(place for place, stays in zip(zip(splits, labels, strict=True), stay, strict=True) if stays)
    return [stays or not counts[place] for place, stays in zip(zip(splits, labels, strict=True), stay, strict=True)]
