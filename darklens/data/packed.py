"""Shards: a data set in a few large files, where it has too many images for files, or too many for memory.

    classes, channels, size, splits = open_shards("shards_f")     # made by `python dataset.py pack images_f shards_f`
    image = splits["train"].read(17).values                       # (C, S, S)

`--data_dir` takes a folder or its shards, with the same bits. Files: SPLIT-00000.npy, ..., plain arrays (n, C, S, S)
that NumPy opens, the images in their own number type (where it changes, a new shard begins), in order of class, then of
name; shards.json, written last: classes, and for each split the counts, the SHA-256 of its files, and the name and
CRC-32 of every image.

    images = np.load("shards_f/train-00000.npy", mmap_mode="r")
    names = json.load(open("shards_f/shards.json"))["index"]["splits"]["train"]["names"]

Shards are not trusted: nothing in them is executed, the index names no files (theirs follow from split and number), and
nothing is allocated that a file's length does not back. `open_shards` checks the index whole, and every shard's header
and length; reading an image checks its pixels. Every problem is a `DataError` of one line.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from darklens.data.checks import CHANNELS, MIN_SIZE
from darklens.data.image import open_file
from darklens.data.npy import NUMBERS, read_header
from darklens.data.source import ImageSource, Pixels, file_stamp
from darklens.errors import DataError

INDEX, FORMAT, VERSION = "shards.json", "lens-shards", 2
SPLITS = ("train", "val", "test")
MAX_OPEN = 200  # shards of a split that are kept open; others are opened for every image
NAME = re.compile(rb"(?!\.)[^/\\\0]{1,1000}\.npy", re.IGNORECASE)  # of a file that stays where it is
AGAIN = "pack the images again"


class Shard(NamedTuple):
    """A file of images. offset: of its first pixel, in bytes; end: number of the image after its last."""

    path: Path
    dtype: np.dtype
    sha256: str
    offset: int
    end: int


@dataclass(eq=False)
class Packed(ImageSource):
    """The images of a split in shards.

    folder: SHARDS/SPLIT; labels (N,) int64; shape (C, S, S); files (N,) bytes, names without class; sums (N,) uint32,
    CRC-32 of the pixels.
    """

    folder: Path
    classes: Sequence[str]
    shape: tuple[int, int, int]
    shards: list[Shard]
    labels: np.ndarray
    files: np.ndarray
    sums: np.ndarray

    def __post_init__(self) -> None:
        self._ends = [shard.end for shard in self.shards]
        self._files: dict[int, BinaryIO] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.classes[self.labels[index]]}/{self.files[index].decode('utf-8', 'surrogatepass')}"

    def prefetch(self, indices: Sequence[int]) -> None:
        """Have the system fetch these images together, which from a cold disk is faster than one by one."""
        for k, start, length in map(self._place, indices) if hasattr(os, "posix_fadvise") else ():
            with suppress(OSError):  # `read` will say it
                if file := self._open(k):
                    os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def read(self, index: int, window: int | None = None) -> Pixels:
        """The image, read-only. Raises DataError where it's not as it was packed."""
        k, start, length = self._place(index)
        path, dtype = self.shards[k][:2]
        with _readable(path):
            data = self._read(k, start, length)
        if len(data) != length or zlib.crc32(data) != self.sums[index]:
            raise DataError(f"{path}: damaged, {self.path(index)} does not match its checksum; {AGAIN}")
        image = np.frombuffer(data, dtype).reshape(self.shape)
        if dtype.kind == "f" and not np.isfinite(image).all():
            raise DataError(f"{path}: expected finite pixels, found NaN or infinity in {self.path(index)}")
        return Pixels(image.astype(dtype.newbyteorder("="), copy=False))

    def stamp(self, indices: range) -> str:
        digest = hashlib.sha256()
        for index in indices:
            digest.update(f"{self.name(index)}\n{self.sums[index]}\n".encode(errors="surrogatepass"))
        for k in sorted({self._place(index)[0] for index in indices}):
            with _readable(self.shards[k].path):
                digest.update(f"{self.shards[k].sha256} {file_stamp(os.stat(self.shards[k].path))}\n".encode())
        return digest.hexdigest()

    def _place(self, index: int) -> tuple[int, int, int]:
        """Number of the shard, and where in it the image begins; its length. In bytes."""
        k = bisect_right(self._ends, index)
        length = math.prod(self.shape) * self.shards[k].dtype.itemsize
        return k, self.shards[k].offset + (int(index) - (self._ends[k - 1] if k else 0)) * length, length

    def _open(self, k: int) -> BinaryIO | None:
        """Shard k, if it is one that stays open and any thread can read anywhere."""
        if k not in self._files and len(self._files) < MAX_OPEN and hasattr(os, "pread"):
            self._files.setdefault(k, open(self.shards[k].path, "rb", buffering=0))
        return self._files.get(k)

    def _read(self, k: int, start: int, length: int) -> bytes:
        """No memory map: there a bad sector, or a file that shrinks, would kill the program."""
        if file := self._open(k):
            return os.pread(file.fileno(), length, start)
        with open(self.shards[k].path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(length)


def is_packed(folder: str | Path) -> bool:
    """Whether a folder holds shards."""
    return os.path.lexists(Path(folder) / INDEX)


def open_shards(folder: str | Path) -> tuple[tuple[str, ...], int, int, dict[str, Packed]]:
    """Classes, channels, size (pixels) and splits. Reads no pixels. Raises DataError, one line."""
    path = Path(folder) / INDEX
    index = _read_index(path)
    try:
        classes, shape, splits = tuple(index["classes"]), (index["channels"], index["size"]), index["splits"]
        plain = all(re.fullmatch(r"(?!\.|__)[^/\\\0]+", name) for name in classes)
        _check(
            path, "two or more class names, in order", plain and len(classes) > 1 and [*classes] == sorted({*classes})
        )
        good = all(map(_is_count, shape)) and shape[0] in CHANNELS and shape[1] >= MIN_SIZE
        _check(path, f"images of 1 or 3 channels and {MIN_SIZE} pixels or more", good)
        _check(path, "splits train, val and at most test", {"train", "val"} <= splits.keys() <= {*SPLITS})
        return classes, *shape, {n: _open_split(path, n, splits[n], classes, shape) for n in SPLITS if n in splits}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged, or not of this format ({error!r}); {AGAIN}") from None


def _read_index(path: Path) -> dict[str, Any]:
    _check(path, "a file in this folder, found a link", not os.path.islink(path))
    with _readable(path), open_file(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: damaged, expected JSON; {AGAIN}") from None
    _check(path, f"format {FORMAT}", type(content) is dict and content.get("format") == FORMAT)
    if content.get("version") != VERSION:
        raise DataError(f"{path}: expected version {VERSION}, found {content.get('version')!r:.40}; {AGAIN}")
    _check(path, "an index with its own SHA-256", content.get("sha256") == seal(content.get("index")))
    return content["index"]


def _open_split(path: Path, name: str, entry: dict, classes: Sequence[str], shape: tuple[int, int]) -> Packed:
    shards, counts, end = [], entry["counts"], 0
    for k, shard in enumerate(entry["shards"]):
        file, count, dtype = path.with_name(f"{name}-{k:05}.npy"), shard["images"], shard["dtype"]
        _check(path, f"a count and a number type for {file.name}", _is_count(count) and NUMBERS.fullmatch(dtype))
        offset, end = _check_array(file, re.escape(dtype), (count, *shape, shape[1]))[0], end + count
        shards.append(Shard(file, np.dtype(dtype), shard["sha256"], offset, end))
    good = all(map(_is_count, counts)) and len(counts) == len(classes) and sum(counts) == end
    _check(path, f"counts of {name}, a class each, that add up to those of its shards", good)
    labels = np.repeat(np.arange(len(classes)), counts).astype(np.int64)
    files, sums = _names(path, entry["names"], labels), _sums(path, entry["crc32"], end)
    return Packed(path.with_name(name), classes, (*shape, shape[1]), shards, labels, files, sums)


def _names(path: Path, names: list[str], labels: np.ndarray) -> np.ndarray:
    """(N,) bytes: names that stay where they are, each there once in its class, in order."""
    _check(path, f"{len(labels)} names", type(names) is list and len(names) == len(labels))
    previous, encoded = (-1, b""), []
    for label, text in zip(labels.tolist(), names, strict=True):
        entry = label, text.encode("utf-8", "surrogatepass") if type(text) is str else b""
        _check(path, "file names *.npy, once in a class, in order", entry > previous and NAME.fullmatch(entry[1]))
        encoded.append(entry[1])
        previous = entry
    return np.array(encoded)


def _sums(path: Path, sums: list[int], count: int) -> np.ndarray:
    """(N,) uint32: the CRC-32 of each image."""
    good = type(sums) is list and len(sums) == count and all(type(n) is int and 0 <= n < 2**32 for n in sums)
    _check(path, f"{count} checksums", good)
    return np.array(sums, np.uint32)


def _check_array(path: Path, dtype: str, shape: tuple[int, ...]) -> tuple[int, np.dtype]:
    """Where a file's numbers begin, and their type; its header and length must be as expected. dtype: a pattern."""
    _check(path, "a file in this folder, found a link", not os.path.islink(path))
    with _readable(path), open_file(path) as file:
        header, offset, length = read_header(path, file), file.tell(), file.seek(0, os.SEEK_END)
    good = re.fullmatch(dtype, header.descr) and header.shape == shape and not header.fortran
    _check(path, f"{shape} of {dtype}, found {header.shape} of {header.descr}", good)
    promised = offset + math.prod(shape) * np.dtype(header.descr).itemsize
    _check(path, f"{promised} bytes, found {length}", promised == length)
    return offset, np.dtype(header.descr)


def _check(path: Path, expected: str, good: object) -> None:
    if not good:
        raise DataError(f"{path}: damaged, expected {expected}; {AGAIN}")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 2**40


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def seal(index: object) -> str:
    """The SHA-256 of an index, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path, progress: Callable[[int], object] = lambda length: None) -> str:
    """The SHA-256 of a file. progress: is told the length of each piece. Raises DataError."""
    digest = hashlib.sha256()
    with _readable(path), open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
