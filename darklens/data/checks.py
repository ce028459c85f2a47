"""What every reader of files checks, before a library sees a byte of them."""

from __future__ import annotations

import importlib
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from darklens.errors import DataError

Result = TypeVar("Result")
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


class Request(NamedTuple):
    """What is asked of a file.

    hdu: number or name, of FITS files (None: found by its name and size); window: pixels a side that the image should
    have at least, min_size: that it must have; names: what HDUs of this kind are called, for what is not the image.
    """

    hdu: int | str | None = None
    window: int | None = None
    min_size: int = MIN_SIZE
    names: re.Pattern[str] | None = None


class RawImage(NamedTuple):
    """What a file holds, its values unchecked.

    scale: height and width of a pixel in arcsec, where the file says; scale_problem: why it does not, where it seems
    to; telescope: which one took the image, where the file says; name: of the HDU, in capitals;
    bits: of a mask, the name and number of each, where the file says.
    """

    array: np.ndarray
    unit: str | None = None
    notes: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    scale_problem: str = ""
    telescope: str = ""
    name: str = ""
    bits: tuple[tuple[str, int], ...] = ()


def file_length(file: BinaryIO) -> int:
    """Bytes in a file. Leaves it where it is."""
    position = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(position)
    return length


def check_start(path: str | Path, file: BinaryIO, kind: str, starts: tuple[bytes, ...]) -> bytes:
    """The first 32 bytes of a file, if they are those of its kind. Leaves `file` at its beginning."""
    start = file.read(32)
    file.seek(0)
    if not start.startswith(starts) or len(start) < 12:
        others = [name for magic, name in DISGUISES.items() if start.startswith(magic) and name != kind]
        unknown = f"bytes that are no {kind.split(' ', 1)[1]}"
        content = "an empty file" if not start else others[0] if others else unknown
        raise DataError(f"{path}: expected {kind}, found {content}")
    return start


def check_size(path: str | Path, shape: tuple[int, ...] | None, min_size: int = MIN_SIZE) -> None:
    """Refuse what is no picture, or a side of it below `min_size` pixels, or too many pixels."""
    full = layout(shape) if shape else None
    if full is None or min(full[1:]) < min_size or math.prod(full) > MAX_PIXELS:
        raise DataError(
            f"{path}: expected an image of at least {min_size} x {min_size} and at most {MAX_PIXELS} pixels, "
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
    top, left = ((length - 1) // 2 - (side - 1) // 2 + (side - size) // 2 for length in (height, width))
    return slice(top, top + size), slice(left, left + size)


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


def guarded(path: str | Path, kind: str, function: Callable[[], Result]) -> Result:
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
