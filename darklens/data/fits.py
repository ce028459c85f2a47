"""FITS images: every number in the headers is checked before astropy acts upon it."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from darklens.data.checks import MAX_PIXELS, Read, check_size, check_start, file_length, guarded, import_library, layout
from darklens.errors import DataError

MAX_UNPACKED = 8 * MAX_PIXELS + 2**20  # bytes of a gunzipped file
GZIP = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # the most that zlib can pack, by its own documentation
BLOCK = 2880  # bytes: what FITS files are made of
MAX_BLOCKS = 1000  # of a header: 36,000 cards
MAX_COUNT = 999  # axes or columns, by the standard
# Those whose decoders bear damaged data: astropy's for HCOMPRESS_1 was seen to write beyond its buffer.
CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2")


def read_fits(path: str | Path, file: BinaryIO) -> Read:
    """The first image of one or three planes, among all HDUs, with BSCALE, BZERO and BLANK (NaN) applied."""
    fits = import_library(path, "astropy.io.fits", "astropy")
    file = _gunzip(path, file) if file.read(2) == GZIP else file
    file.seek(0)
    check_start(path, file, "a FITS file", (b"SIMPLE",))
    return guarded(path, "FITS", lambda: _read_hdu(path, fits, file))


def _read_hdu(path: str | Path, fits: ModuleType, file: BinaryIO) -> Read:
    """Everything is checked against the headers and the file's length before astropy acts upon them."""
    index, header, shape = _find_hdu(path, fits, file)
    options = {"memmap": False, "lazy_load_hdus": True}
    if "ZIMAGE" in header:
        file.seek(0)
        _check_compressed(path, fits.open(file, disable_image_compression=True, **options)[index], shape)
    file.seek(0)
    hdu = fits.open(file, **options)[index]
    array = np.asarray(hdu.data).reshape(shape)
    notes = (f"HDU {index} ({hdu.name or 'no name'})",) if index else ()
    return array, str(header.get("BUNIT", "")).strip() or None, notes


def _gunzip(path: str | Path, file: BinaryIO) -> BinaryIO:
    """The unpacked file, in memory."""
    limit = min(MAX_UNPACKED, DEFLATE_RATIO * file_length(file))
    file.seek(0)
    try:
        with gzip.open(file) as packed:
            data = packed.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip archive ({error})") from None
    if len(data) > limit:
        raise DataError(f"{path}: expected at most {MAX_UNPACKED} bytes in this gzip archive, found more")
    return io.BytesIO(data)


def _find_hdu(path: str | Path, fits: ModuleType, file: BinaryIO) -> tuple[int, dict, tuple[int, ...]]:
    """Number, header and shape of the first HDU that holds an image, all of which is there."""
    length, found = file_length(file), []
    while (text := _header_blocks(file)) is not None:
        header = fits.Header.fromstring(text)
        shape, promised, held = _hdu_shape(header), _hdu_bytes(header), length - file.tell()
        if shape and layout(shape):
            check_size(path, shape)
            if promised > held:
                raise DataError(f"{path}: truncated, its image takes {promised} bytes, {held} follow the header")
            return len(found), header, shape
        found.append(str(shape or "no image"))
        file.seek(-(-promised // BLOCK) * BLOCK, os.SEEK_CUR)
    raise DataError(f"{path}: expected an image of 1 or 3 planes in one of its HDUs, found {', '.join(found[:9])}")


def _header_blocks(file: BinaryIO) -> bytes | None:
    """The next header. None at the end of the file; ValueError if it has no end."""
    blocks = []
    while (block := file.read(BLOCK)) or blocks:
        blocks.append(block)
        if any(block[card : card + 80].rstrip() == b"END" for card in range(0, len(block), 80)):
            return b"".join(blocks)
        if len(block) < BLOCK or len(blocks) == MAX_BLOCKS:
            raise ValueError("a header without end")
    return None


def _hdu_shape(header: dict) -> tuple[int, ...] | None:
    """Rows last but one, columns last; leading axes of length one left out. None for tables and groups."""
    prefix = "Z" if "ZIMAGE" in header else ""
    if not prefix and (header.get("XTENSION", "IMAGE").strip() != "IMAGE" or header.get("GROUPS") is True):
        return None
    shape = _axes(header, prefix)
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _hdu_bytes(header: dict) -> int:
    """Bytes of data after this header. ValueError for counts that are none, or beyond the standard."""
    groups = header.get("GROUPS") is True and "XTENSION" not in header
    pixels = math.prod(axis for axis in _axes(header, "") if not (groups and axis == 0)) if header["NAXIS"] else 0
    heap, copies, bits = header.get("PCOUNT", 0), header.get("GCOUNT", 1), abs(header["BITPIX"])
    if min(heap, copies) < 0 or bits not in (8, 16, 32, 64) or header.get("TFIELDS", 0) not in range(MAX_COUNT + 1):
        raise ValueError("PCOUNT, GCOUNT, BITPIX or TFIELDS is wrong")
    return bits // 8 * copies * (heap + pixels)


def _axes(header: dict, prefix: str) -> tuple[int, ...]:
    """NAXISn, the last one first, as NumPy has them. prefix: "Z" for those of a compressed image."""
    count = header[f"{prefix}NAXIS"]
    if count not in range(MAX_COUNT + 1):
        raise ValueError(f"{prefix}NAXIS is {count}")
    axes = tuple(header[f"{prefix}NAXIS{axis}"] for axis in range(count, 0, -1))
    if not all(type(axis) is int and axis >= 0 for axis in axes):
        raise ValueError(f"{prefix}NAXISn are {axes}")
    return axes


def _check_compressed(path: str | Path, table: object, shape: tuple[int, ...]) -> None:
    """Refuse a compressed image that would take the decoders in C beyond their bounds."""
    header, names = table.header, set(table.columns.names)
    if header["ZCMPTYPE"] not in CODECS:
        raise DataError(f"{path}: expected compression by {', '.join(CODECS)}, found {header['ZCMPTYPE']!r}")
    tile = [header.get(f"ZTILE{axis}", 1 if axis > 1 else shape[-1]) for axis in range(1, header["ZNAXIS"] + 1)]
    seed = header.get("ZDITHER0", 0) if header.get("ZQUANTIZ", "NO_DITHER") != "NO_DITHER" else 1
    if min(tile) < 1 or seed not in range(1, 10_001) or table.columns.dtype.itemsize != header["NAXIS1"]:
        raise DataError(f"{path}: damaged, its compressed image has tiles {tile}, seed {seed} or columns of odd size")
    limit = 8 * min(math.prod(tile), math.prod(shape))  # bytes
    packed = {"GZIP_COMPRESSED_DATA", "COMPRESSED_DATA" if header["ZCMPTYPE"].startswith("GZIP") else ""}
    for cell in (cell for name in packed & names for cell in table.data[name]):
        if len(zlib.decompressobj(31).decompress(cell.tobytes(), limit + 1)) > limit:
            raise DataError(f"{path}: damaged, a tile of {tile} pixels unpacks to more than {limit} bytes")
