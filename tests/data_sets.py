"""Small data sets, their batches, and how they are compared."""

from pathlib import Path

import numpy as np
import pytest
import torch

from darklens.data.batches import Batches
from darklens.data.folder import Split, scan
from darklens.data.transforms import default_preprocess

SIZE = 34  # even, so that the crop of 33 has two places to be in


def picture(seed: int, shape: tuple[int, ...] = (SIZE, SIZE), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).poisson(300, shape).astype(dtype)


def make_folder(root: Path, train: int = 7, val: int = 3, classes=("no", "sphere", "vort"), **image) -> Path:
    """A data set of `train` and `val` images per class, each different."""
    for split, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 1000 * number + 10 * i + (split == "val")
                np.save(folder / f"{split}_{i:03}.npy", picture(seed, **image))
    return root


def open_batches(root: Path, split: str = "train", batch_size: int = 4, **options) -> Batches:
    folder = scan(root)
    options = {"preprocess": default_preprocess(folder.size), "workers": 2, "progress": False} | options
    return Batches(folder.splits[split], folder, batch_size=batch_size, **options)


def paths(split: Split) -> list[Path]:
    """The files of a split, or what its images are called in shards."""
    return [split.images.path(index) for index in range(len(split))]


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message


def assert_same(batches, others) -> None:
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
