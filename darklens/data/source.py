"""Where do the images of a split come from? Files of a folder here; shards: packed.py; residuals made before: views.py.

source = scan("images_f").splits["train"].images
source.name(17)             # "no/000017.npy"
source.read(17).values      # (C, S, S)
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darklens.data.image import read_filled, unreadable


class Pixels(NamedTuple):
    """values: (C, S, S), native byte order, finite; filled: whether some that are looked at were NaN at the edges."""

    values: np.ndarray
    filled: bool = False


class ImageSource(ABC):
    """The images of a split, by their numbers from 0. It may be sent to other processes.

    folder: DATA_DIR/SPLIT; shape: (C, S, S), of every image; is_view: whether `read` gives what a network sees, and not
    the pixels of an image.
    """

    folder: Path
    shape: tuple[int, int, int]
    is_view = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """CLASS/FILE.npy, its place below `folder`."""

    @abstractmethod
    def read(self, index: int, window: int | None = None) -> Pixels:
        """The image; window: as of `image.make_picture`. Raises DataError, one line that names it."""

    @abstractmethod
    def stamp(self, indices: range) -> str:
        """A hash of names, and of whatever changes with the files (sizes, times, inodes); no pixel is read for it.

        Equal stamps: the same pixels. Copied or touched files have another one, although their pixels are the same.
        """

    @property
    def originals(self) -> ImageSource:
        """The images themselves, of views too."""
        return self

    def prefetch(self, indices: Sequence[int]) -> None:
        """Have the system fetch these images together; a source need not."""
        return

    def names(self) -> list[str]:
        """The names of all images, in order."""
        return [self.name(index) for index in range(len(self))]

    def path(self, index: int) -> Path:
        """What to call an image in messages. A file only where the source is `Files`."""
        return self.folder / self.name(index)


class Files(ImageSource):
    """Images in files of their own, FOLDER/CLASS/FILE.npy."""

    def __init__(self, folder: Path, files: Sequence[str], shape: tuple[int, int, int]):
        self.folder, self.files, self.shape = folder, files, shape

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int, window: int | None = None) -> Pixels:
        values, filled = read_filled(self.path(index), self.shape[0], self.shape[-1], window)
        return Pixels(values, bool(filled))

    def stamp(self, indices: range) -> str:
        digest = hashlib.sha256()
        for index in indices:
            try:
                status = os.stat(self.path(index))
            except OSError as error:
                raise unreadable(self.path(index), error) from None
            digest.update(f"{self.name(index)}\n{file_stamp(status)}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()


def file_stamp(status: os.stat_result) -> str:
    """What tells a file from what it was before: no copy that keeps the time of change keeps them all."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
