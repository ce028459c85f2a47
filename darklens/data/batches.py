"""Batches of images for training and evaluation, from memory or from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens import machine
from darklens.data.folder import LensFolder, Split
from darklens.data.reader import Reader, Remark, read_ahead
from darklens.data.transforms import Preprocess, augment, draw_augmentation, hash_words
from darklens.data.views import open_views
from darklens.errors import DataError
from darklens.storage.progress import progress as progress_bar

THREADS = 16  # readers that fill the memory: they wait for the disk, not for the processor


class Batch(NamedTuple):
    """Images (B, C, S, S) float32, labels (B,) int64, both on the device; indices (B,) int64, on the CPU."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class Batches:
    """The batches of one split, shuffled and augmented for training, in file order and as they are otherwise.

    Images that fit in `memory_limit` bytes (default: half of what is available) are read once, by threads;
    others are streamed from disk in every epoch by `workers` processes (0: in this one). Same bits in both.

    Of a split of views (`views.open_views`) nothing is left to do but to turn and mirror them.

    shift: pixels by which a training crop may be off centre in x and y (None: as far as the image goes).
    share: which of a batch's images this process takes, by their number, where there are others (None: all).

    labels: (n,) int64, of the whole split; in_memory: whether the images are; warnings: a line each if some of the
    images read so far are constant, or had NaN at the edges. Raises DataError, here or in `epoch`, for a bad file.
    """

    def __init__(
        self,
        split: Split,
        folder: LensFolder,
        preprocess: Preprocess,
        batch_size: int,
        device: str | torch.device = "cpu",
        *,
        train: bool = False,
        seed: int = 0,
        workers: int | None = None,
        memory_limit: int | None = None,
        progress: bool = True,
        shift: int | None = None,
        share: Callable[[int], slice] | None = None,
    ):
        self.is_view = split.images.is_view
        window = folder.size if self.is_view else preprocess.window
        if folder.size < window:
            raise DataError(f"{folder.root}: expected images of {window} pixels or more, found {folder.size}")
        self.split, self.labels, self.preprocess = split, split.labels, preprocess
        self.batch_size, self.train, self.seed = batch_size, train, seed
        self.device, self.share = torch.device(device), share
        self.workers = min(8, machine.usable_cores()) if workers is None else workers
        self.spare = folder.size - window
        self.span = self.spare if shift is None else min(self.spare, 2 * shift)
        reader = Reader(split.images, window + self.span if train else window)
        self._reader: Dataset = reader
        self._remarks: set[Remark] = set()
        limit = machine.available_memory() // 2 if memory_limit is None else memory_limit
        self._store = self._load(reader, limit, progress)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    @property
    def in_memory(self) -> bool:
        return self._store is not None

    @property
    def warnings(self) -> list[str]:
        images: dict[str, list[int]] = {}
        for remark, index in sorted(self._remarks):
            images.setdefault(remark, []).append(index)
        total = f"{len(self.split)} {self.split.name} images"
        return [f"{self.path(i[0])}: {remark}, as in {len(i)} of {total}" for remark, i in images.items()]

    def path(self, index: int) -> Path:
        """What to call an image, by its number in the split."""
        return self.split.images.path(int(index))

    @property
    def identity(self) -> dict[str, str | int]:
        """What decides the images, beside the names of the files and the seed."""
        return {}

    def count(self, number: int) -> int:
        """Images in the batch of that number, those that other processes take among them."""
        return min(self.batch_size, len(self.labels) - number * self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on, those before it not even read."""
        order = self._order(epoch)
        starts = range(start * self.batch_size, len(order), self.batch_size)
        chunks = [order[i : i + self.batch_size] for i in starts]
        if self.share:
            chunks = [chunk[self.share(len(chunk))] for chunk in chunks]
        pieces = self._stream(chunks) if self._store is None else _take(self._store, chunks)
        for indices, pixels in zip(chunks, pieces, strict=True):
            labels = torch.from_numpy(self.labels[indices % len(self.labels)]).to(self.device)
            images = self._prepare(pixels.to(self.device), epoch, indices)
            yield Batch(images, labels, torch.from_numpy(indices))

    def _order(self, epoch: int) -> np.ndarray:
        """(n,) int64: the order of the images; in training, that of the hashes of (seed, epoch, index)."""
        indices = np.arange(len(self.labels), dtype=np.int64)
        return np.argsort(hash_words(self.seed, epoch, indices, 0), kind="stable") if self.train else indices

    def _prepare(self, pixels: torch.Tensor, epoch: int, indices: np.ndarray) -> torch.Tensor:
        """(B, C, H, W) as read -> (B, C, S, S) float32, augmented in training."""
        if not self.train:
            return pixels.float() if self.is_view else self.preprocess(pixels)
        offsets, turns, flips = draw_augmentation(self.seed, epoch, indices, self.span)
        offsets = offsets + (self.spare - self.span) // 2
        return augment(pixels.float() if self.is_view else self.preprocess(pixels, offsets), turns, flips)

    def _load(self, reader: Reader, limit: int, progress: bool) -> torch.Tensor | None:
        """All images (n, C, H, W) in the first one's number type, else in float32; None if too large."""
        first, _ = reader.read(0)
        for dtype in dict.fromkeys([first.dtype, np.dtype(np.float32)]):
            if len(self.split) * first.size * dtype.itemsize > limit:
                return None
            store = np.empty((len(self.split), *first.shape), dtype)
            if self._fill(reader, store, progress):
                return _place(torch.from_numpy(store), self.device)
        return None

    def _fill(self, reader: Reader, store: np.ndarray, progress: bool) -> bool:
        """Read every image into `store`, in parallel; False if its number type can't hold one exactly."""

        def read(indices: range) -> bool:
            for index in indices:
                image, remarks = reader.read(index)
                if not np.can_cast(image.dtype, store.dtype):
                    return False
                store[index] = image
                self._remarks.update(remarks)
            return True

        blocks = [range(i, min(i + 32, len(store))) for i in range(0, len(store), 32)]
        bar = progress_bar(len(store), f"reading {self.split.name}", "img", not progress, leave=True)
        with bar, ThreadPoolExecutor(THREADS) as pool:
            tasks = [pool.submit(read, block) for block in blocks]
            try:
                for task, block in zip(tasks, blocks, strict=True):
                    if not task.result():
                        return False
                    bar.update(len(block))
                return True
            finally:
                pool.shutdown(cancel_futures=True)

    def _stream(self, chunks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """(B, C, H, W) from disk, for each chunk of indices."""
        for pixels in self._ahead(chunks):
            yield torch.from_numpy(pixels)

    def _ahead(self, chunks: Sequence[np.ndarray]) -> Iterator:
        """What the reader has for each chunk of indices, read ahead by worker processes."""
        for result, remarks in read_ahead(self._reader, chunks, self.workers, self.split.name):
            self._remarks.update(remarks)
            yield result


def _take(store: torch.Tensor, chunks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
    """(B, C, H, W) from memory, for each chunk of indices."""
    indexable = store.view(torch.int16) if store.dtype == torch.uint16 else store
    for indices in chunks:
        yield indexable[torch.from_numpy(indices).to(store.device)].view(store.dtype)


def _place(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a GPU if they leave three quarters of its free memory to the network, else where they are."""
    if device.type == "cuda" and images.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
        return images.to(device)
    return images


def open_batches(
    data: LensFolder,
    splits: tuple[str, ...],
    preprocess: Preprocess,
    batch_size: int,
    device: str | torch.device = "cpu",
    *,
    seed: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool = True,
    shift: int | None = None,
    share: Callable[[int], slice] | None = None,
) -> dict[str, Batches]:
    """The batches of those of the folder's splits that are asked for; other arguments are those of `Batches`.

    Where `preprocess` has another view than the image, the views are made first, or found beside the images.
    Raises DataError for a bad image.
    """
    if preprocess.view != "image":
        data = open_views(data, splits, preprocess, workers, progress)
    return {
        name: Batches(
            split,
            data,
            preprocess,
            batch_size,
            device,
            train=name == "train",
            seed=seed,
            workers=workers,
            memory_limit=memory_limit,
            progress=progress,
            shift=shift,
            share=share,
        )
        for name, split in data.splits.items()
        if name in splits
    }
