"""FITS images: which HDU is the image, every number in its header checked before astropy acts upon it.

SCI, DATA, IMAGE and then the primary HDU are preferred to other names; masks, errors, weights, PSFs, models and the
like (side_names.py), and what is too small, are passed over. Only the cards that say where pixels lie and what they are
worth reach astropy: a damaged unit or name is no reason to refuse them.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import re
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from darklens.data.checks import (
    MAX_PIXELS,
    MIN_SIZE,
    RawImage,
    Request,
    check_size,
    check_start,
    file_length,
    guarded,
    import_library,
    layout,
)
from darklens.data.pixel_scale import header_scale
from darklens.data.side_names import PRIMARY, image_rank
from darklens.errors import DataError

MAX_UNPACKED = 8 * MAX_PIXELS + 2**20  # bytes of an unpacked file
GZIP, BZIP = b"\x1f\x8b", b"BZh"
DEFLATE_RATIO = 1032  # the most that zlib can pack, by its own documentation
BLOCK = 2880  # bytes: what FITS files are made of
MAX_BLOCKS = 1000  # of a header: 36,000 cards
MAX_COUNT = 999  # axes or columns, by the standard
# Those whose decoders bear damaged data: astropy's for HCOMPRESS_1 was seen to write beyond its buffer.
CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2")
ESSENTIAL = re.compile(  # keywords, of an image or of the table that holds a compressed one
    rb"(SIMPLE|XTENSION|EXTEND|BITPIX|NAXIS\d*|[PG]COUNT|GROUPS|BSCALE|BZERO|BLANK|TFIELDS|THEAP|Z[A-Z0-9]+"
    rb"|T(TYPE|FORM|SCAL|ZERO|NULL|DIM)\d+|END) *$"
)
EMPTY = b"".join(card.ljust(80) for card in (b"SIMPLE  = " + b"T".rjust(20), b"BITPIX  = " + b"8".rjust(20)))
EMPTY = (EMPTY + (b"NAXIS   = " + b"0".rjust(20)).ljust(80) + b"END").ljust(BLOCK)  # a primary HDU without pixels


class Unit(NamedTuple):
    """An HDU. shape: of what may be an image. offset: of its data, in bytes; length: theirs; present: in the file."""

    number: int
    name: str
    text: bytes
    header: dict
    shape: tuple[int, ...] | None
    offset: int
    length: int
    present: int

    @property
    def title(self) -> str:
        return f"HDU {self.number} ({self.name or 'no name'})"

    @property
    def is_image(self) -> bool:
        return bool(self.shape and layout(self.shape))

    @property
    def side(self) -> int:
        """The lesser of height and width, in pixels; 0 of what is no image."""
        full = layout(self.shape) if self.shape else None
        return min(full[1:]) if full else 0

    @property
    def rank(self) -> int | None:
        """How good a choice it is, the lower the better; None: by its name it is no image."""
        rank = image_rank(self.name)
        return rank if rank is None or self.number else min(rank, PRIMARY)


def read_fits(
    path: str | Path,
    file: BinaryIO,
    request: Request,
) -> RawImage:
    """One image of one or three planes, with BSCALE, BZERO and BLANK (NaN) applied.

    The notes say which HDU it is where there are several images. Raises DataError.
    """
    fits = import_library(path, "astropy.io.fits", "astropy")
    file = _unpack(path, file)
    check_start(path, file, "a FITS file", (b"SIMPLE",))

    def read() -> RawImage:
        units = _find_units(fits, file)
        image = _choose(path, units, request)
        check_size(path, image.shape, request.min_size)
        return _read_hdu(path, fits, file, image, units)

    return guarded(path, "FITS", read)


def _read_hdu(path: str | Path, fits: ModuleType, file: BinaryIO, image: Unit, units: list[Unit]) -> RawImage:
    """Everything is checked against the headers and the file's length before astropy acts upon them."""
    if image.shape is None:
        raise DataError(f"{path}: {image.title} is no image")
    if image.length > image.present:
        raise DataError(f"{path}: truncated, its image takes {image.length} bytes, {image.present} follow the header")
    file.seek(image.offset)
    content = _essential(image.text) + file.read(-(-image.length // BLOCK) * BLOCK)
    content, index = (EMPTY + content, 1) if image.number else (content, 0)
    options = {"memmap": False, "lazy_load_hdus": True}
    if "ZIMAGE" in image.header:
        table = fits.open(io.BytesIO(content), disable_image_compression=True, **options)[index]
        _check_compressed(path, table, image.shape)
    array = np.asarray(fits.open(io.BytesIO(content), **options)[index].data).reshape(image.shape)
    unit, damaged = _text(image.header, "BUNIT")
    images = sum(other.side >= MIN_SIZE for other in units)
    notes = [f"{image.title} of {images} images"] if images > 1 else [image.title] if image.number else []
    notes += ["its unit, BUNIT, cannot be read"] if damaged else []
    telescope = _text(image.header, "TELESCOP")[0] or _text(units[0].header, "TELESCOP")[0]
    scale = header_scale(image.header, units[0].header)
    return RawImage(array, unit or None, tuple(notes), *scale, telescope, image.name, _mask_bits(image.header))


def _unpack(path: str | Path, file: BinaryIO) -> BinaryIO:
    """The file at its beginning, unpacked in memory if it's a gzip or bzip2 archive."""
    start = file.read(3)
    file.seek(0)
    if not start.startswith((GZIP, BZIP)):
        return file
    kind, library = ("gzip", gzip) if start.startswith(GZIP) else ("bzip2", bz2)
    limit = min(MAX_UNPACKED, DEFLATE_RATIO * file_length(file)) if kind == "gzip" else MAX_UNPACKED
    try:
        with library.open(file) as packed:
            data = packed.read(limit + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: damaged {kind} archive ({error})") from None
    if len(data) > limit:
        raise DataError(f"{path}: expected at most {MAX_UNPACKED} bytes in this {kind} archive, found more")
    return io.BytesIO(data)


def _find_units(fits: ModuleType, file: BinaryIO) -> list[Unit]:
    """All HDUs. What follows an image may be damaged."""
    length, units = file_length(file), list[Unit]()
    while True:
        try:
            if (text := _header_blocks(file)) is None:
                return units
            header = fits.Header.fromstring(text)
            shape, promised, offset = _hdu_shape(header), _hdu_bytes(header), file.tell()
        except Exception:  # astropy raises whatever its code runs into
            if not any(unit.is_image for unit in units):
                raise
            return units
        name = (_text(header, "EXTNAME")[0] or _text(header, "HDUNAME")[0]).upper()
        units.append(
            Unit(
                len(units), name or ("" if units else "PRIMARY"), text, header, shape, offset, promised, length - offset
            )
        )
        if promised > length - offset:  # nothing can follow
            return units
        file.seek(-(-promised // BLOCK) * BLOCK, os.SEEK_CUR)


def _choose(path: str | Path, units: list[Unit], request: Request) -> Unit:
    """The image that is asked for, or that its name and size speak for. Raises DataError."""
    if request.hdu is not None:
        return _numbered(path, units, request.hdu)
    if request.names is not None:
        return _named(path, units, request.names)
    images = [unit for unit in units if unit.is_image]
    ranked = [(image.rank, image.number, image) for image in images if image.rank is not None]
    if not ranked:
        why = "; by their names these are masks, errors, weights, PSFs or the like; --hdu NAME takes one" * bool(images)
        raise DataError(f"{path}: expected an image of 1 or 3 planes in one of its HDUs, found {_list(units)}{why}")
    for min_size in (request.window or MIN_SIZE, MIN_SIZE, 0):
        if fitting := [place for place in ranked if place[-1].side >= min_size]:
            return min(fitting)[-1]
    raise AssertionError("an image of no size at all")


def _named(path: str | Path, units: list[Unit], names: re.Pattern[str]) -> Unit:
    """The first image of such a name, or the only one. Raises DataError."""
    images = [unit for unit in units if unit.is_image]
    if fitting := [image for image in images if names.search(image.name)] or (images if len(images) == 1 else []):
        return fitting[0]
    raise DataError(f"{path}: which HDU of it? Say so as {Path(path).name}[NAME], found {_list(units)}")


def _numbered(path: str | Path, units: list[Unit], hdu: int | str) -> Unit:
    """The image of that number or name, capitals or not. Raises DataError."""
    for unit in units:
        if unit.is_image and str(hdu).strip().upper() in (str(unit.number), unit.name):
            return unit
    raise DataError(f"{path}: expected an image of 1 or 3 planes in HDU {hdu}, found {_list(units)}")


def _list(units: list[Unit]) -> str:
    """The HDUs that there are, for messages."""
    return ", ".join(f"{u.number} {u.name or 'without name'} {u.shape or 'no image'}" for u in units)[:300]


def _text(header: dict, key: str) -> tuple[str, bool]:
    """The value of a card that may be missing, and whether it cannot be read."""
    try:
        return str(header.get(key, "")).strip(), False
    except Exception:  # astropy raises whatever its code runs into
        return "", True


def _mask_bits(header: dict) -> tuple[tuple[str, int], ...]:
    """Names and numbers of a mask's bits, as the LSST pipelines give them: MP_SAT (Bosch et al. 2018, PASJ 70, S5)."""
    numbers = {key[3:]: _text(header, key)[0] for key in header if key.startswith("MP_")}
    return tuple((name, int(n)) for name, n in numbers.items() if n.isdecimal() and int(n) < 63)


def _essential(text: bytes) -> bytes:
    """A header without the cards that say nothing about the pixels, of the same length."""
    cards = [text[card : card + 80] for card in range(0, len(text), 80)]
    end = next(number for number, card in enumerate(cards) if card.rstrip() == b"END")
    return b"".join(card if ESSENTIAL.match(card[:8]) else b" " * 80 for card in cards[: end + 1]).ljust(len(text))


def _header_blocks(file: BinaryIO) -> bytes | None:
    """The next header. None at the end of the file; ValueError if it has no end."""
    blocks: list[bytes] = []
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


def _check_compressed(path: str | Path, table: Any, shape: tuple[int, ...]) -> None:
    """Refuse a compressed image that would take the decoders in C beyond their bounds."""
    header, names = table.header, set(table.columns.names)
    if header["ZCMPTYPE"] not in CODECS:
        raise DataError(
            f"{path}: expected compression by {', '.join(CODECS)}, found {header['ZCMPTYPE']!r}, whose decoders write "
            "beyond their memory where data are damaged: unpack it first (funpack)"
        )
    tile = [header.get(f"ZTILE{axis}", 1 if axis > 1 else shape[-1]) for axis in range(1, header["ZNAXIS"] + 1)]
    seed = header.get("ZDITHER0", 0) if header.get("ZQUANTIZ", "NO_DITHER") != "NO_DITHER" else 1
    if min(tile) < 1 or seed not in range(1, 10_001) or table.columns.dtype.itemsize != header["NAXIS1"]:
        raise DataError(f"{path}: damaged, its compressed image has tiles {tile}, seed {seed} or columns of odd size")
    limit = 8 * min(math.prod(tile), math.prod(shape))  # bytes
    packed = {"GZIP_COMPRESSED_DATA", "COMPRESSED_DATA" if header["ZCMPTYPE"].startswith("GZIP") else ""}
    for cell in (cell for name in packed & names for cell in table.data[name]):
        if len(zlib.decompressobj(31).decompress(cell.tobytes(), limit + 1)) > limit:
            raise DataError(f"{path}: damaged, a tile of {tile} pixels unpacks to more than {limit} bytes")
