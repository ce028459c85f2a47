"""What lies beside an image in a survey: the map of its noise and its PSF, in files or HDUs of their own."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import numpy as np

from darklens.data.checks import RawImage, Request
from darklens.data.image import read_file
from darklens.data.resample import new_size, resample
from darklens.data.side_names import last_word
from darklens.errors import DataError
from darklens.simulation.psf import checked_kernel

NOISE = re.compile("NOISE|ERR|RMS|SIGMA|STD|UNC|VAR|IVM|WHT|WGT|WEIGHT")  # in names of HDUs
VARIANCE = {"VAR", "VARIANCE", "VARMAP"}  # words of such names
WEIGHT = {"IVAR", "INVVAR", "IVM", "WHT", "WGT", "WT", "WEIGHT", "WEIGHTS", "WEIGHTMAP"}  # inverse variances
INVERSE = {"INV", "INVERSE"}  # of a variance
PSF = re.compile("PSF|KERNEL")
MASK = re.compile("MASK|DQ|FLAG|BAD")
DEFECTS = {"BAD", "SAT", "CR", "NO_DATA", "EDGE", "SENSOR_EDGE", "INTRP", "UNMASKEDNAN"}  # bits that spoil a pixel
LIGHT, WIDEST = 0.999, 61  # of a PSF: what is kept of its light, pixels on a side at most; a fit's time grows with them
NEAR = 0.25  # pixels
MIN_PSF = 3  # pixels a side
UNSEEN = 1000.0  # times the noise: a weight of a millionth, but enough to spoil neighbours when pixels are resampled


def split_hdu(name: str, root: str = "") -> tuple[str, str | None]:
    """The path of a file, and the HDU that its name asks for: cutout.fits[ERR], cutout.fits[2]."""
    path = os.path.join(root, os.path.expanduser(name))
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", path)
    return (path, None) if match is None or os.path.lexists(path) else (match[1], match[2])


def read_plane(path: str | Path, hdu: str | None, names: re.Pattern[str]) -> np.ndarray:
    """(H, W) float64 of a file, of any size. names: of the HDUs to choose from. Raises DataError."""
    return _plane_and_file(path, hdu, names)[0]


def _plane_and_file(path: str | Path, hdu: str | None, names: re.Pattern[str]) -> tuple[np.ndarray, RawImage]:
    """The same, and all that the file says of it."""
    contents = read_file(path, Request(hdu, min_size=1, names=names))
    array, shape = contents.array, contents.array.shape
    if len(shape) == 3:  # (1, H, W) or (H, W, 1)
        shape = shape[1:] if shape[0] == 1 else shape[:2] if shape[2] == 1 else shape
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8 or len(shape) != 2:
        raise DataError(f"{path}: expected one plane of numbers, found {array.dtype} of shape {array.shape}")
    return array.reshape(shape).astype(np.float64), contents


def read_noise(name: str, root: str, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) standard deviation of each pixel of an image of that shape, NaN where it has no weight: not above 0, not
    finite, or UNSEEN times that of the quietest tenth, as in maps whose bad pixels have 1e16. What its HDU or its file
    calls a variance or a weight is taken for that. Raises DataError."""
    path, hdu = split_hdu(name, root)
    noise, contents = _plane_and_file(path, hdu, NOISE)
    noise = _as_deviation(noise, contents.name if NOISE.search(contents.name) else last_word(Path(path).name).upper())
    if noise.shape != shape:
        raise DataError(f"{path}: expected {shape[0]} x {shape[1]} pixels, as its image has, found {noise.shape}")
    noise[~(np.isfinite(noise) & (noise > 0))] = np.nan
    if np.isnan(noise).all():
        raise DataError(f"{path}: expected standard deviations above 0, found none")
    noise[noise > UNSEEN * np.nanquantile(noise, 0.1)] = np.nan
    return noise


def _as_deviation(values: np.ndarray, kind: str) -> np.ndarray:
    """Standard deviations of what is called so, or of variances or inverse variances."""
    words = {*re.findall("[A-Z]+", kind)}
    with np.errstate(invalid="ignore", divide="ignore"):
        if words & WEIGHT or (words & INVERSE and words & VARIANCE):
            return 1 / np.sqrt(values)
        return np.sqrt(values) if words & VARIANCE else values


def read_mask(name: str, root: str, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, True where a pixel of an image of that shape must not count: not 0 in the file, or where that
    names its bits, with one of DEFECTS: those of detected objects are no reason. Raises DataError."""
    path, hdu = split_hdu(name, root)
    mask, contents = _plane_and_file(path, hdu, MASK)
    if contents.bits and contents.array.dtype.kind in "iu":
        mask = mask.astype(np.int64) & sum(1 << bit for name, bit in contents.bits if name in DEFECTS)
    if mask.shape != shape:
        raise DataError(f"{path}: expected {shape[0]} x {shape[1]} pixels, as its image has, found {mask.shape}")
    return ~(mask == 0)


@functools.lru_cache(maxsize=64)
def read_psf(name: str, root: str, step: float = 1.0) -> tuple[tuple[tuple[float, ...], ...], str]:
    """A kernel of odd size and sum 1, as fields of `SmoothModel` take it, on pixels `step` times as large; a note.

    Of even size it is brought to odd ones: by half a pixel where its middle lies between pixels, else by leaving out a
    row and a column. What has less than a thousandth of the light is cropped. Raises DataError.
    """
    path, hdu = split_hdu(name, root)
    return as_kernel(read_plane(path, hdu, PSF), path, step)


def as_kernel(kernel: np.ndarray, path: str | Path, step: float = 1.0) -> tuple[tuple[tuple[float, ...], ...], str]:
    """`read_psf` of an array; path: for messages."""
    if min(kernel.shape) < MIN_PSF:
        raise DataError(f"{path}: expected a PSF of {MIN_PSF} pixels a side or more, found {kernel.shape}")
    if np.isfinite(kernel).all():
        kernel = np.ldexp(kernel, -np.frexp(np.abs(kernel).max())[1])  # the largest about 1: no sum overflows
    if not np.isfinite(kernel).all() or kernel.sum() <= 0:
        raise DataError(f"{path}: expected a PSF of finite values and a positive sum")
    kernel = _odd(_square(kernel))
    if step != 1:
        size = max(new_size(len(kernel), step, 1), 1)
        kernel = resample(kernel, (size, size), (step, step))
    try:
        kernel = checked_kernel(kernel, str(path))
    except ValueError as error:
        raise DataError(str(error)) from None
    small = _cropped(kernel)
    percent = 100 * small.sum()
    note = "" if percent > 100 * LIGHT else f"PSF cropped to {len(small)} pixels, {percent:.1f}% of its light"
    return tuple(map(tuple, (small / small.sum()).tolist())), note


def _square(kernel: np.ndarray) -> np.ndarray:
    side = min(kernel.shape)
    rows, columns = (slice((n - side) // 2, (n - side) // 2 + side) for n in kernel.shape)
    return kernel[rows, columns]


def _odd(kernel: np.ndarray) -> np.ndarray:
    """A kernel of even size (n, n) as (n - 1, n - 1)."""
    size = len(kernel)
    if size % 2 or size < 4:
        return kernel
    steps = np.arange(size) - (size - 1) / 2
    centre = [float((kernel.sum(axis) * steps).sum() / kernel.sum()) for axis in (1, 0)]
    if max(map(abs, centre)) < NEAR:
        return resample(kernel, (size - 1, size - 1), (1.0, 1.0))
    return kernel[tuple(slice(1, None) if c > 0 else slice(None, -1) for c in centre)]


def _cropped(kernel: np.ndarray) -> np.ndarray:
    """The least square about the middle that has LIGHT of the light, WIDEST at most."""
    middle = len(kernel) // 2
    for reach in range(min(middle, WIDEST // 2) + 1):
        part = kernel[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
        if part.sum() >= LIGHT:
            break
    return part
