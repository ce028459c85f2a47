"""Pack a data set into shards, which `--data_dir` takes too; packed.py reads them and describes their format.

    python dataset.py pack images_f shards_f                      # or: python pack.py pack images_f shards_f
    python dataset.py pack images_f shards_f --shard_size 1G
    python dataset.py verify shards_f                             # every byte, against the SHA-256 of its packing

SRC is a data set as training takes it, and is only read. DST, which must not exist, appears when it is complete and on
the disk: until then the work is in a hidden folder beside it, `.DST.<random>.partial`, which goes away however the
program ends, but for SIGKILL, and which has no index, so that it is never taken for a data set.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np

from darklens.data.folder import LensFolder, Split, scan
from darklens.data.packed import FORMAT, INDEX, VERSION, is_packed, open_shards, seal, sha256_of
from darklens.data.source import ImageSource
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress

SHARD_SIZE = 2**28  # bytes
BESIDE = ("manifest.json", "parameters", "convert.json")  # what simulate.py and convert.py wrote about the images
THREADS = 8  # that read files: they wait for the disk
AHEAD = 64  # images that they may have read before they are written


def pack(src: str | Path, dst: str | Path, shard_size: int = SHARD_SIZE, quiet: bool = False) -> str:
    """Pack the data set `src` into the folder `dst`; returns one line for the user. shard_size: in bytes, about.

    Raises UsageError, DataError for an image or folder that can't be used, OSError where `dst` can't be written.
    """
    src, dst = Path(src), Path(os.path.realpath(dst))
    data = _check_call(src, dst)
    part = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.partial")
    total = sum(map(len, data.splits.values()))
    try:
        part.mkdir()
        with progress(total, "packing", "img", quiet, leave=True) as bar:
            splits = {name: _pack_split(part, split, data, shard_size, bar) for name, split in data.splits.items()}
        _copy_beside(src, part)
        index = {"classes": data.classes, "channels": data.channels, "size": data.size, "splits": splits}
        _write_index(part / INDEX, index)
        _flush(part)
        part.rename(dst)
        _flush(dst.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return f"{dst}: {total} images in {sum(len(entry['shards']) for entry in splits.values())} shards"


def _check_call(src: Path, dst: Path) -> LensFolder:
    if os.path.lexists(dst):
        raise UsageError(f"{dst}: expected no such folder yet: choose another, or remove it")
    if not dst.parent.is_dir():
        raise UsageError(f"{dst.parent}: no such folder to make {dst.name} in")
    if dst.is_relative_to(os.path.realpath(src)):
        raise UsageError(f"{dst} lies in {src}, which is only read: choose another folder")
    if is_packed(src):
        raise UsageError(f"{src}: expected a folder of images, found shards")
    return scan(src)


def _pack_split(part: Path, split: Split, data: LensFolder, shard_size: int, bar: progress) -> dict:
    """Write a split's shards; returns its entry in the index."""
    shards, sums = [], []
    for number, images in groupby(_read(split.images, bar), _numbers(shard_size)):
        path = part / f"{split.name}-{number:05}.npy"
        sums += _write_shard(path, images)
        header = np.load(path, mmap_mode="r", allow_pickle=False)
        shards.append({"images": len(header), "dtype": header.dtype.str, "sha256": sha256_of(path)})
    counts = np.bincount(split.labels, minlength=len(data.classes)).tolist()
    names = [name.split("/")[1] for name in split.images.names()]  # without the class
    return {"counts": counts, "shards": shards, "names": names, "crc32": sums}


def _read(images: ImageSource, bar: progress) -> Iterator[np.ndarray]:
    """Every image (C, S, S), in order, little-endian; read ahead by threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(images), AHEAD):
            for image, _ in pool.map(images.read, range(first, min(first + AHEAD, len(images)))):
                yield image.astype(image.dtype.newbyteorder("<"), copy=False)
                bar.update()


def _numbers(shard_size: int) -> Callable[[np.ndarray], int]:
    """A function that gives the images, one after another, the number of their shard."""
    number, room, dtype = -1, 0, None

    def number_of(image: np.ndarray) -> int:
        nonlocal number, room, dtype
        if room < image.nbytes or image.dtype != dtype:
            number, room, dtype = number + 1, max(shard_size, image.nbytes), image.dtype
        room -= image.nbytes
        return number

    return number_of


def _write_shard(path: Path, images: Iterable[np.ndarray]) -> list[int]:
    """Write images of one number type; returns the CRC-32 of each."""
    sums: list[int] = []
    with open(path, "xb") as file:
        for image in images:
            if not sums:
                _write_header(file, image, 0)
            file.write(image.data)
            sums.append(zlib.crc32(image.data))
        file.seek(0)
        _write_header(file, image, len(sums))
        file.flush()
        os.fsync(file.fileno())
    return sums


def _write_header(file, image: np.ndarray, count: int) -> None:
    """Its length does not depend on the count: the format leaves room for that to grow."""
    values = {"descr": image.dtype.str, "fortran_order": False, "shape": (count, *image.shape)}
    np.lib.format.write_array_header_1_0(file, values)


def _copy_beside(src: Path, part: Path) -> None:
    """What is known about the images, so that it stays known."""
    for path in (src / name for name in BESIDE):
        if path.is_dir():
            shutil.copytree(path, part / path.name)
        elif path.is_file():
            shutil.copyfile(path, part / path.name)


def _write_index(path: Path, index: dict) -> None:
    index = json.loads(json.dumps(index))  # as it will be read
    path.write_text(json.dumps({"format": FORMAT, "version": VERSION, "sha256": seal(index), "index": index}, indent=1))
    _flush(path)


def _flush(path: Path) -> None:
    """A file or folder, to the disk itself."""
    if os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def verify(folder: str | Path, quiet: bool = False) -> str:
    """Compare every byte with those that were packed; returns one line for the user. Raises DataError."""
    folder = Path(folder)
    if not is_packed(folder):
        raise UsageError(f"{folder}: expected shards, found no {INDEX}: make them with `python dataset.py pack`")
    shards = [shard for split in open_shards(folder)[3].values() for shard in split.shards]
    total = sum(os.path.getsize(shard.path) for shard in shards)
    with progress(total, "verifying", "B", quiet, leave=True) as bar:
        for shard in shards:
            if (digest := sha256_of(shard.path, bar.update)) != shard.sha256:
                packed = str(shard.sha256)[:12]
                raise DataError(f"{shard.path}: damaged, its SHA-256 is {digest[:12]}..., when packed {packed}...")
    return f"{folder}: {len(shards)} shards, {total} bytes, all as they were packed"
