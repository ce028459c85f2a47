"""One image: what its pixels may be, whatever file they come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from darklens.data.checks import MIN_SIZE, Read, channels_first, check_size, layout
from darklens.data.fits import read_fits
from darklens.data.npy import checked_header, read_array, read_npy
from darklens.data.raster import read_png, read_tiff
from darklens.errors import DataError


class Picture(NamedTuple):
    """One image from a file of any kind.

    pixels: (C, H, W) integers or floats, native byte order, all finite; unit: of the pixels (FITS BUNIT), where
    the file says; masked: how many were NaN and have been filled; note: what the user should know, or "".
    """

    pixels: np.ndarray
    unit: str | None = None
    masked: int = 0
    note: str = ""


def read_image(path: str | Path, channels: int | None = None, size: int | None = None) -> np.ndarray:
    """Read and check one .npy image of a data set.

    Returns (C, H, W) in the file's own number type, native byte order. `channels` and `size` are what the
    other images of the data set have, where known. Raises DataError, one line, for anything else.
    """
    try:
        with open_file(path) as file:
            header = checked_header(path, file)
            _check_square(path, header.shape, channels, size)
            image = channels_first(read_array(path, file, header))
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from None
    _check_finite(path, image)
    return image


def read_shape(path: str | Path) -> tuple[int, int]:
    """(channels, size) of a .npy image, from its header alone. Raises DataError."""
    try:
        with open_file(path) as file:
            return _check_square(path, checked_header(path, file).shape)
    except OSError as error:
        raise _unreadable(path, error) from None


def read_picture(path: str | Path) -> Picture:
    """Read one image from a file whose name ends in one of EXTENSIONS, at full depth; it need not be square.

    A border of NaN is filled, see `make_picture`. Raises DataError, one line, for anything else.
    """
    extension = find_extension(path)
    if extension is None:
        raise DataError(f"{path}: expected a file name that ends in {', '.join(EXTENSIONS)}")
    try:
        with open_file(path) as file:
            array, unit, notes = EXTENSIONS[extension](path, file)
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from None
    return make_picture(path, array, unit, notes)


def find_extension(path: str | Path) -> str | None:
    """The one of EXTENSIONS that a file's name ends in, capitals or not."""
    name = Path(path).name.lower()
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), None)


def make_picture(path: str | Path, array: np.ndarray, unit: str | None = None, notes: tuple[str, ...] = ()) -> Picture:
    """A picture of an array (H, W), (C, H, W) or (H, W, C), once it's found to be one. `path`: for messages.

    NaN that reaches in from the edges, as rotated and drizzled images have it, but not into the central half
    (in height and width), becomes the sky: the median of all finite pixels outside of the central half, channel
    by channel. Other NaN, and infinity, is refused. Raises DataError.
    """
    if array.dtype.kind not in "uif":
        raise DataError(f"{path}: expected integers or floating point numbers, found {array.dtype}")
    check_size(path, array.shape)
    pixels, masked = channels_first(array), 0
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        pixels = pixels.copy()
        masked = sum(map(_fill_border, pixels))
        _check_finite(path, pixels, "; only a border of NaN outside of the central half is filled")
    if masked:
        notes = (*notes, f"{masked} NaN pixels at the edges filled with the median of the outer half")
    return Picture(pixels, unit, masked, "; ".join(notes))


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file; a pipe or device would block or never end. Raises DataError, OSError."""
    if packed := getattr(path, "packed", None):  # an image that lies in a shard
        return packed()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError(f"{path}: expected a file, found a folder, pipe or device")
    return open(path, "rb")


def _unreadable(path: str | Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error!r})")


def _check_square(
    path: str | Path, shape: tuple[int, ...], channels: int | None = None, size: int | None = None
) -> tuple[int, int]:
    """(channels, size) of an image stored with this shape; DataError if it's none, or not as given."""
    full = layout(shape)
    if full is None or full[1] != full[2] or full[1] < MIN_SIZE:
        raise DataError(
            f"{path}: expected a square image of {MIN_SIZE} pixels or more, (H, W), (C, H, W) or (H, W, C) "
            f"with 1 or 3 channels, found shape {shape}"
        )
    expected = channels or full[0], size or full[1]
    if full[:2] != expected:
        raise DataError(
            f"{path}: expected {expected[0]} channel(s) of {expected[1]} x {expected[1]} pixels, as the rest "
            f"of the data set has, found shape {shape}"
        )
    return full[0], full[1]


def _check_finite(path: str | Path, image: np.ndarray, hint: str = "") -> None:
    """Refuse NaN and infinity, saying how many and where. image: (C, H, W)."""
    if image.dtype.kind != "f" or np.isfinite(image).all():
        return
    channel, row, column = np.argwhere(~np.isfinite(image))[0]
    raise DataError(
        f"{path}: expected finite pixels, found {np.isnan(image).sum()} NaN and {np.isinf(image).sum()} "
        f"infinite, the first in row {row}, column {column} of channel {channel}{hint}"
    )


def _fill_border(plane: np.ndarray) -> int:
    """Fill the NaN of (H, W) in place where `make_picture` says so; returns how many pixels that were."""
    from scipy import ndimage

    height, width = plane.shape
    regions, _ = ndimage.label(np.isnan(plane), np.ones((3, 3)))  # 0: no NaN
    edge = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    centre = np.zeros(plane.shape, bool)
    centre[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    border = np.isin(regions, np.setdiff1d(edge, [0, *np.unique(regions[centre])]))
    finite = np.isfinite(plane)
    sky = plane[finite & ~centre] if (finite & ~centre).any() else plane[finite]
    if border.any() and sky.size:
        plane[border] = np.median(sky)
        return int(border.sum())
    return 0


EXTENSIONS: dict[str, Callable[[str | Path, BinaryIO], Read]] = {
    ".npy": read_npy,
    ".fits": read_fits,
    ".fit": read_fits,
    ".fts": read_fits,
    ".fits.gz": read_fits,
    ".fits.fz": read_fits,
    ".png": read_png,
    ".tif": read_tiff,
    ".tiff": read_tiff,
}
