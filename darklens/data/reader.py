"""Reads images by their numbers, here or in other processes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from darklens.data.source import ImageSource
from darklens.data.workers import outlive_signals, start_workers, unchanged
from darklens.errors import DataError

Remark = tuple[str, int]  # CONSTANT or FILLED, and the image's number
CONSTANT = "all pixels are equal"
FILLED = "NaN at the edges, filled with the median of the outer half"


class Reader(Dataset):
    """Reads batches of images; errors are returned, since a DataLoader makes pages of those raised."""

    def __init__(self, source: ImageSource, window: int | None = None):
        self.source, self.window = source, window

    def read(self, index: int) -> tuple[np.ndarray, list[Remark]]:
        """The image (C, S, S) in a number type of at most four bytes, and what is to be said about it."""
        image, filled = self.source.read(int(index), self.window)
        remarks = [CONSTANT] * bool(image.min() == image.max()) + [FILLED] * filled
        return _compact(image), [(remark, int(index)) for remark in remarks]

    def __getitem__(self, indices: np.ndarray) -> tuple[np.ndarray, list[Remark]] | DataError:
        """(B, C, S, S) of the indices (B,), and the remarks on them."""
        if not len(indices):
            return np.empty((0, *self.source.shape), np.float32), []
        self.source.prefetch(indices.tolist())
        try:
            images, remarks = zip(*(self.read(index) for index in indices), strict=True)
        except DataError as error:
            return error
        return np.stack(images), sum(remarks, [])


def _compact(image: np.ndarray) -> np.ndarray:
    """An image in a type that float32 holds exactly, so that it matters nowhere in which of them it's kept.

    float64 is scaled by a power of two to a maximum of about 1, since float32 ends at 1e38; to `Preprocess`
    that makes no difference.
    """
    if image.dtype.itemsize <= 2 or image.dtype == np.float32:
        return image
    if image.dtype.kind == "f":
        image = np.ldexp(image, -np.frexp(np.abs(image).max())[1])
    return image.astype(np.float32)


def read_ahead(reader: Dataset, chunks: Sequence[np.ndarray], workers: int, name: str) -> Generator[Any, None, None]:
    """reader[chunk] for each chunk of indices, in order, made by worker processes (0: in this one).

    A reader returns a DataError instead of raising it. name: of what is read. Raises DataError.
    """
    loader = DataLoader(
        reader,
        sampler=chunks,
        batch_size=None,
        num_workers=workers,
        collate_fn=unchanged,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # its own: the program's random numbers stay where they are
    )
    try:
        for result in start_workers(loader):  # no name for it: dropped, it ends its processes
            if isinstance(result, DataError):
                raise result
            yield result
    except (RuntimeError, OSError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: a process reading images died ({reason}); use fewer") from error
