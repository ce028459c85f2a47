"""One image: what its pixels may be, whatever file they come from."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from darklens.data.checks import MIN_SIZE, RawImage, Request, central, channels_first, check_size, layout
from darklens.data.fits import read_fits
from darklens.data.npy import checked_header, read_array, read_npy
from darklens.data.raster import read_png, read_tiff
from darklens.errors import DataError


class Picture(NamedTuple):
    """One image from a file of any kind.

    pixels: (C, H, W) integers or floats, native byte order, all finite; unit: of the pixels (FITS BUNIT), where
    the file says; masked: how many that are looked at were NaN and have been filled; note: what the user should know,
    or ""; scale: height and width of a pixel in arcsec, where the file says.
    """

    pixels: np.ndarray
    unit: str | None = None
    masked: int = 0
    note: str = ""
    scale: tuple[float, float] | None = None


def read_image(
    path: str | Path, channels: int | None = None, size: int | None = None, window: int | None = None
) -> np.ndarray:
    """Read and check one .npy image of a data set.

    Returns (C, S, S) in the file's own number type, native byte order: the central square of an oblong image.
    `channels` and `size` are what the other images of the data set have, where known; window: as of `make_picture`.
    Raises DataError, one line, for anything else.
    """
    return read_filled(path, channels, size, window)[0]


def read_filled(
    path: str | Path, channels: int | None = None, size: int | None = None, window: int | None = None
) -> tuple[np.ndarray, int]:
    """`read_image`, and how many of the pixels that are looked at were NaN at the edges and have been filled."""
    try:
        with open_file(path) as file:
            header = checked_header(path, file)
            _check_like(path, header.shape, channels, size)
            image = channels_first(read_array(path, file, header))
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from None
    image, filled, _ = _clean(path, image, window)
    return as_square(image), filled


def fingerprint(pixels: np.ndarray) -> str:
    """The SHA-256 of the pixels (C, S, S) of an image: the same whatever their byte order and number type."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update((np.ascontiguousarray(pixels, "<f8") + 0.0).tobytes())  # + 0.0: -0.0 is 0.0
    return digest.hexdigest()


def read_shape(path: str | Path) -> tuple[int, int]:
    """(channels, size) of a .npy image, from its header alone. Raises DataError."""
    try:
        with open_file(path) as file:
            return _check_like(path, checked_header(path, file).shape)
    except OSError as error:
        raise unreadable(path, error) from None


def read_picture(path: str | Path, hdu: int | str | None = None, window: int | None = None) -> Picture:
    """Read one image from a file whose name ends in one of EXTENSIONS, at full depth; it need not be square.

    hdu: number or name of the HDU of a FITS file (None: see fits.py); window: as of `make_picture`. A border of NaN is
    filled. Raises DataError, one line, for anything else.
    """
    content = read_file(path, Request(hdu, window))
    return make_picture(path, content.array, content.unit, content.notes, window, content.scale)


def read_file(path: str | Path, request: Request) -> RawImage:
    """What a file whose name ends in one of EXTENSIONS holds, its values unchecked. Raises DataError."""
    extension = find_extension(path)
    if extension is None:
        raise DataError(f"{path}: {why_not(path)}")
    try:
        with open_file(path) as file:
            return EXTENSIONS[extension](path, file, request)
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from None


def find_extension(path: str | Path) -> str | None:
    """The one of EXTENSIONS that a file's name ends in, the longest, capitals or not."""
    name = Path(path).name.lower()
    extensions = [extension for extension in EXTENSIONS if name.endswith(extension)]
    return None if unread_kind(path) else max(extensions, key=len, default=None)


def unread_kind(path: str | Path) -> str | None:
    """Why files of this name are not read, where they may hold images all the same."""
    name = Path(path).name.lower()
    return next((why for ends, why in UNREAD.items() if name.endswith(ends)), None)


def why_not(path: str | Path) -> str:
    """Why a file whose name ends in none of EXTENSIONS is not read."""
    return unread_kind(path) or f"expected a file name that ends in {', '.join(EXTENSIONS)}"


def make_picture(
    path: str | Path,
    array: np.ndarray,
    unit: str | None = None,
    notes: tuple[str, ...] = (),
    window: int | None = None,
    scale: tuple[float, float] | None = None,
) -> Picture:
    """A picture of an array (H, W), (C, H, W) or (H, W, C), once it's found to be one. `path`: for messages.

    NaN that reaches in from the edges, as rotated and drizzled images have it, but not into the central half
    (in height and width), becomes the sky: the median of all finite pixels outside of the central half, channel
    by channel. So does whatever isn't finite outside of the central window x window pixels, all that is looked at
    (None: everything is). Other NaN, and infinity, is refused. Raises DataError.
    """
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
        raise DataError(f"{path}: expected integers or floating point numbers, found {array.dtype}")
    check_size(path, array.shape)
    pixels = channels_first(array)
    if window and min(pixels.shape[1:]) < window:
        sides = " x ".join(map(str, pixels.shape[1:]))
        raise DataError(f"{path}: expected an image of {window} x {window} pixels or more, found {sides}")
    pixels, masked, cleaned = _clean(path, pixels, window)
    return Picture(pixels, unit, masked, "; ".join((*notes, *cleaned)), scale)


def check_channels(path: str | Path, channels: int, expected: int) -> None:
    """Raise DataError for an image with another number of channels than the network takes."""
    if channels != expected:
        advice = "; write each plane to a file of its own" if expected == 1 else ""
        raise DataError(f"{path}: expected {expected} channel(s), as in the training data, found {channels}{advice}")


def as_square(pixels: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (C, S, S), contiguous: the central square."""
    height, width = pixels.shape[1:]
    return np.ascontiguousarray(pixels[(slice(None), *central(height, width, min(height, width)))])


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file; a pipe or device would block or never end. Raises DataError, OSError."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL, or what no file system can name
        raise DataError(f"{path}: no file can have this name") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: expected a file, found a folder, pipe or device")
    return open(path, "rb")


def unreadable(path: str | Path, error: Exception) -> DataError:
    """The error for a file that the system would not read."""
    return DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error!r})")


def _check_like(
    path: str | Path, shape: tuple[int, ...], channels: int | None = None, size: int | None = None
) -> tuple[int, int]:
    """(channels, size) of an image stored with this shape; DataError if it's none, or not as given."""
    full = layout(shape)
    if full is None or min(full[1:]) < MIN_SIZE:
        raise DataError(
            f"{path}: expected an image of {MIN_SIZE} x {MIN_SIZE} pixels or more, (H, W), (C, H, W) or (H, W, C) "
            f"with 1 or 3 channels, found shape {shape}"
        )
    of_image, expected = (full[0], min(full[1:])), (channels or full[0], size or min(full[1:]))
    if of_image != expected:
        raise DataError(
            f"{path}: expected {expected[0]} channel(s) of {expected[1]} x {expected[1]} pixels, as the rest "
            f"of the data set has, found shape {shape}"
        )
    return of_image


def _check_finite(path: str | Path, image: np.ndarray, hint: str = "") -> None:
    """Refuse NaN and infinity, saying how many and where. image: (C, H, W)."""
    if np.isfinite(image).all():
        return
    channel, row, column = np.argwhere(~np.isfinite(image))[0]
    raise DataError(
        f"{path}: expected finite pixels, found {np.isnan(image).sum()} NaN and {np.isinf(image).sum()} "
        f"infinite, the first in row {row}, column {column} of channel {channel}{hint}"
    )


def _clean(path: str | Path, pixels: np.ndarray, window: int | None) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """(C, H, W), all finite; how many of those looked at have been filled; notes. See `make_picture`."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return pixels, 0, ()
    pixels, height, width = pixels.copy(), *pixels.shape[1:]
    in_window = np.zeros((height, width), bool)
    in_window[central(height, width, window) if window else ...] = True
    borders = np.stack([_fill_border(plane) for plane in pixels])
    passed = ~np.isfinite(pixels) & ~in_window
    if passed.any():
        for plane, mask in zip(pixels, passed, strict=True):
            plane[mask] = _sky(plane)
    _check_finite(path, pixels, "; only a border of NaN outside of the central half is filled")
    notes = {
        f"{borders.sum()} NaN pixels at the edges filled with the median of the outer half": borders,
        f"{passed.sum()} pixels outside of the window that are not finite passed over": passed,
    }
    return pixels, int((borders & in_window).sum()), tuple(note for note, mask in notes.items() if mask.any())


def _outside(shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: all but the central half in height and width."""
    height, width = shape
    outside = np.ones(shape, bool)
    outside[height // 4 : height - height // 4, width // 4 : width - width // 4] = False
    return outside


def _sky(plane: np.ndarray) -> float:
    """The median of the finite pixels outside of the central half of (H, W), or of all; NaN where there are none."""
    finite = np.isfinite(plane)
    outer = finite & _outside(plane.shape)
    return np.median(plane[outer if outer.any() else finite]) if finite.any() else np.nan


def _fill_border(plane: np.ndarray) -> np.ndarray:
    """Fill the NaN of (H, W) in place where `make_picture` says so; returns which pixels that were."""
    from scipy import ndimage

    regions, _ = ndimage.label(np.isnan(plane), np.ones((3, 3)))  # 0: no NaN
    edge = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    border = np.isin(regions, np.setdiff1d(edge, [0, *np.unique(regions[~_outside(plane.shape)])]))
    sky = _sky(plane)
    border &= np.isfinite(sky)
    plane[border] = sky
    return border


EXTENSIONS: dict[str, Callable[..., RawImage]] = {
    ".npy": read_npy,
    **{f"{name}{packed}": read_fits for packed in ("", ".gz", ".bz2", ".fz") for name in (".fits", ".fit", ".fts")},
    ".fz": read_fits,
    ".gz": read_fits,
    ".bz2": read_fits,
    ".png": read_png,
    ".tif": read_tiff,
    ".tiff": read_tiff,
}
UNREAD = {  # how names end -> what to do with such a file
    (".npz", ".mat"): "an archive of arrays is not read: save each image as .npy",
    (".h5", ".hdf5", ".hdf", ".he5", ".asdf", ".zarr"): "a tree of arrays is not read: save each image as .npy or FITS",
    (".jpg", ".jpeg", ".jp2", ".webp", ".heic"): "a lossy picture is not read: save the image as FITS, .npy or PNG",
    (".gif", ".bmp", ".ppm", ".pgm"): "not read: save the image as FITS, .npy or PNG",
    (".pkl", ".pickle"): "a pickle is never opened: save the image as .npy",
    (".tar", ".zip", ".tgz", ".tar.gz", ".tar.bz2", ".xz", ".zst", ".7z", ".rar"): "not read: unpack it first",
    (".npy.gz", ".npy.bz2", ".csv.gz", ".txt.gz", ".json.gz"): "not read: unpack it first",
}
