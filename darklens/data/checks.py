"""What every reader of files checks, before a library sees a byte of them."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np

from darklens.errors import DataError

MIN_SIZE = 29  # pixels: below this the last feature map of the six-layer network would be empty
MAX_PIXELS = 2**26  # of a picture, all channels: 8192 x 8192
CHANNELS = (1, 3)
DISGUISES = {
    b"\x93NUMPY": "a .npy file",
    b"PK": "a zip archive (.npz?)",
    b"\x80": "a Python pickle, which is never opened",
    b"version https://git-lfs": "a Git LFS pointer, the image itself was not downloaded",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\x89HDF": "an HDF5 file",
    b"SIMPLE": "a FITS file",
    b"\x89PNG": "a PNG file",
    b"II": "a TIFF file",
    b"MM": "a TIFF file",
    b"\xff\xd8\xff": "a JPEG file",
    b"<": "a web page",
}


class Read(NamedTuple):
    """What readers of files return. scale: height and width of a pixel in arcsec, where the file says."""

    array: np.ndarray
    unit: str | None = None
    notes: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None


def file_length(file: BinaryIO) -> int:
    """Bytes in a file. Leaves it where it is."""
    here = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(here)
    return length


def check_start(path: str | Path, file: BinaryIO, kind: str, starts: tuple[bytes, ...]) -> bytes:
    """The first 32 bytes of a file, if they are those of its kind. Leaves `file` at its beginning."""
    start = file.read(32)
    file.seek(0)
    if not start.startswith(starts) or len(start) < 12:
        known = [name for magic, name in DISGUISES.items() if start.startswith(magic) and name != kind]
        what = "an empty file" if not start else known[0] if known else f"bytes that are no {kind.split(' ', 1)[1]}"
        raise DataError(f"{path}: expected {kind}, found {what}")
    return start


def check_size(path: str | Path, shape: tuple[int, ...], least: int = MIN_SIZE) -> None:
    """Refuse what is no picture, or a side of it below `least` pixels, or too many pixels."""
    full = layout(shape)
    if full is None or min(full[1:]) < least or math.prod(full) > MAX_PIXELS:
        raise DataError(
            f"{path}: expected an image of at least {least} x {least} and at most {MAX_PIXELS} pixels, "
            f"(H, W), (C, H, W) or (H, W, C) with 1 or 3 channels, found shape {shape}"
        )


def layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(C, H, W) of an array (H, W), (C, H, W) or (H, W, C); None if it's no image."""
    full = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(full) == 3 and full[0] not in CHANNELS:
        full = (full[2], full[0], full[1])
    return full if len(full) == 3 and full[0] in CHANNELS else None


def central(height: int, width: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of the central size x size pixels of (height, width), by which everything is cropped.

    An oblong image is first cut to a square that has the same central pixel, ((H - 1) // 2, (W - 1) // 2).
    """
    side = min(height, width)
    starts = [(length - 1) // 2 - (side - 1) // 2 + (side - size) // 2 for length in (height, width)]
    return tuple(slice(start, start + size) for start in starts)


def channels_first(array: np.ndarray) -> np.ndarray:
    """(H, W), (C, H, W) or (H, W, C) -> (C, H, W), contiguous, native byte order."""
    array = array[None] if array.ndim == 2 else array
    array = array if array.shape[0] in CHANNELS else np.moveaxis(array, -1, 0)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def import_library(path: str | Path, module: str, package: str) -> ModuleType:
    """The optional library that reads this kind of file. Raises DataError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{path}: reading it needs {package}, which is not installed: pip install {package}") from None


def guarded(path: str | Path, kind: str, function: Callable[[], object]) -> object:
    """Call into a library that, for damaged files, warns and raises whatever its code runs into."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", ".*orrupt")  # Pillow leaves out what it can't read of a TIFF's header
            return function()
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(f"{path}: damaged or unusual {kind} file ({reason})") from None
