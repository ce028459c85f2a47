"""Image files: read and check one of them.

    image = read_image("images_f/train/no/0.npy")    # (C, H, W): of a data set, square
    picture = read_picture("cutout.fits")            # of anyone: FITS, PNG and TIFF too, any shape

Data sets are .npy files: one image each, (H, W), (C, H, W) or (H, W, C) with one or three channels, H = W, any
integer or float16/32/64 numbers, negative values too. Files are not trusted: nothing in them is executed, and
nothing is allocated that the file's own length does not back. Every problem is a `DataError` of one line that
names the file.

References: Pence et al. 2010, A&A 524, A42 (FITS 3.0); the FITS standard 4.0, chapter 10 (compressed images).
"""

from __future__ import annotations

import gzip
import importlib
import io
import math
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np

MIN_SIZE = 29  # pixels: below this the last feature map of the six-layer network would be empty
MAX_PIXELS = 2**26  # of a picture, all channels: 8192 x 8192
CHANNELS = (1, 3)


class DataError(ValueError):
    """A folder or file that can't be used. The message is one printable line, whatever the file's name."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message)))


class Picture(NamedTuple):
    """One image from a file of any kind.

    pixels: (C, H, W) integers or floats, native byte order, all finite; unit: of the pixels (FITS BUNIT), where
    the file says; masked: how many were NaN and have been filled; note: what the user should know, or "".
    """

    pixels: np.ndarray
    unit: str | None = None
    masked: int = 0
    note: str = ""


Read = tuple[np.ndarray, str | None, tuple[str, ...]]  # what the readers below return: array, unit, notes


def read_image(path: str | Path, channels: int | None = None, size: int | None = None) -> np.ndarray:
    """Read and check one .npy image of a data set.

    Returns (C, H, W) in the file's own number type, native byte order. `channels` and `size` are what the
    other images of the data set have, where known. Raises DataError, one line, for anything else.
    """
    try:
        with open_file(path) as file:
            header = _checked_header(path, file)
            _check_square(path, header.shape, channels, size)
            image = _channels_first(_read_array(path, file, header))
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from None
    _check_finite(path, image)
    return image


def read_shape(path: str | Path) -> tuple[int, int]:
    """(channels, size) of a .npy image, from its header alone. Raises DataError."""
    try:
        with open_file(path) as file:
            return _check_square(path, _checked_header(path, file).shape)
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
    _check_size(path, array.shape)
    pixels, masked = _channels_first(array), 0
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


# --- shapes and values --------------------------------------------------------------------------------------


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(C, H, W) of an array (H, W), (C, H, W) or (H, W, C); None if it's no image."""
    full = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(full) == 3 and full[0] not in CHANNELS:
        full = (full[2], full[0], full[1])
    return full if len(full) == 3 and full[0] in CHANNELS else None


def _channels_first(array: np.ndarray) -> np.ndarray:
    """(H, W), (C, H, W) or (H, W, C) -> (C, H, W), contiguous, native byte order."""
    array = array[None] if array.ndim == 2 else array
    array = array if array.shape[0] in CHANNELS else np.moveaxis(array, -1, 0)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _check_square(
    path: str | Path, shape: tuple[int, ...], channels: int | None = None, size: int | None = None
) -> tuple[int, int]:
    """(channels, size) of an image stored with this shape; DataError if it's none, or not as given."""
    full = _layout(shape)
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


def _check_size(path: str | Path, shape: tuple[int, ...]) -> None:
    """Refuse what is no picture, or too small or too large a one."""
    full = _layout(shape)
    if full is None or min(full[1:]) < MIN_SIZE or math.prod(full) > MAX_PIXELS:
        raise DataError(
            f"{path}: expected an image of at least {MIN_SIZE} x {MIN_SIZE} and at most {MAX_PIXELS} pixels, "
            f"(H, W), (C, H, W) or (H, W, C) with 1 or 3 channels, found shape {shape}"
        )


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


# --- .npy ---------------------------------------------------------------------------------------------------

MAX_HEADER = 10_000  # bytes: the bound of NumPy's own reader
DISGUISES = {
    b"\x93NUMPY": "a .npy file",
    b"PK": "a zip archive (.npz?)",
    b"\x80": "a Python pickle, which is never opened",
    b"version https://git-lfs": "a Git LFS pointer, the image itself was not downloaded",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"SIMPLE": "a FITS file",
    b"\x89PNG": "a PNG file",
    b"II": "a TIFF file",
    b"MM": "a TIFF file",
    b"\xff\xd8\xff": "a JPEG file",
    b"<": "a web page",
}
HEADER = {  # the format's three keys; searched for, never evaluated
    "descr": re.compile(r"['\"]descr['\"]\s*:\s*['\"]([^'\"]{1,20})['\"]"),
    "fortran_order": re.compile(r"['\"]fortran_order['\"]\s*:\s*(True|False)"),
    "shape": re.compile(r"['\"]shape['\"]\s*:\s*\(([0-9L,\s]{0,100})\)"),
}
NUMBERS = re.compile(r"[<>|=]?([ui][1248]|f[248])")


class Header(NamedTuple):
    """What a .npy file says about its array; `shape` is the one stored, (H, W), (C, H, W) or (H, W, C)."""

    descr: str
    shape: tuple[int, ...]
    fortran: bool


def read_header(path: str | Path, file: BinaryIO) -> Header:
    """Read the header (the .npy format, versions 1 to 3), of any number type. Raises DataError.

    Leaves `file` at the first pixel.
    """
    text = _header_text(path, file, _length(file))
    found = {key: pattern.search(text) for key, pattern in HEADER.items()}
    if not all(found.values()):
        raise DataError(f"{path}: expected an array of plain numbers, its .npy header says {text.strip()[:80]!r}")
    descr, order, shape = (match[1] for match in found.values())
    return Header(descr, tuple(map(int, re.findall("[0-9]+", shape))), order == "True")


def _read_npy(path: str | Path, file: BinaryIO) -> Read:
    header = _checked_header(path, file)
    _check_size(path, header.shape)
    return _read_array(path, file, header), None, ()


def _length(file: BinaryIO) -> int:
    """Bytes in a file. Leaves it where it is."""
    here = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(here)
    return length


def _checked_header(path: str | Path, file: BinaryIO) -> Header:
    """The header, once it promises numbers, and as many as the file holds."""
    header = read_header(path, file)
    if not NUMBERS.fullmatch(header.descr):
        hint = "; `python dataset.py convert` reads those of DeepLense" if header.descr == "|O" else ""
        raise DataError(f"{path}: expected integers or float16/32/64, found number type {header.descr!r}{hint}")
    promised = math.prod(header.shape) * np.dtype(header.descr).itemsize
    held = _length(file) - file.tell()
    if promised != held:
        problem = "truncated or damaged" if promised > held else "followed by something else"
        raise DataError(
            f"{path}: {problem}, {header.shape} of {header.descr} takes {promised} bytes, {held} follow the header"
        )
    return header


def _read_array(path: str | Path, file: BinaryIO, header: Header) -> np.ndarray:
    """The array after a checked header, as stored."""
    array = np.empty(math.prod(header.shape), header.descr)
    if file.readinto(array.view(np.uint8)) != array.nbytes:
        raise DataError(f"{path}: truncated while it was being read")
    return array.reshape(header.shape, order="F" if header.fortran else "C")


def _header_text(path: str | Path, file: BinaryIO, length: int) -> str:
    """The header's text. `length`: bytes in the file."""
    start = _check_start(path, file, "a .npy file", (b"\x93NUMPY\1", b"\x93NUMPY\2", b"\x93NUMPY\3"))
    begin = 10 if start[6] == 1 else 12
    size = int.from_bytes(start[8:begin], "little")
    if size > min(MAX_HEADER, length - begin):
        raise DataError(f"{path}: damaged, its .npy header claims {size} bytes; the file has {length} in all")
    file.seek(begin)
    return file.read(size).decode("latin1")


def _check_start(path: str | Path, file: BinaryIO, kind: str, starts: tuple[bytes, ...]) -> bytes:
    """The first 32 bytes of a file, if they are those of its kind. Leaves `file` at its beginning."""
    start = file.read(32)
    file.seek(0)
    if not start.startswith(starts) or len(start) < 12:
        known = [name for magic, name in DISGUISES.items() if start.startswith(magic) and name != kind]
        what = "an empty file" if not start else known[0] if known else f"bytes that are no {kind.split(' ', 1)[1]}"
        raise DataError(f"{path}: expected {kind}, found {what}")
    return start


# --- FITS ---------------------------------------------------------------------------------------------------

MAX_UNPACKED = 8 * MAX_PIXELS + 2**20  # bytes of a gunzipped file
GZIP = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # the most that zlib can pack, by its own documentation
BLOCK = 2880  # bytes: what FITS files are made of
MAX_BLOCKS = 1000  # of a header: 36,000 cards
MAX_COUNT = 999  # axes or columns, by the standard
# Those whose decoders bear damaged data: astropy's for HCOMPRESS_1 was seen to write beyond its buffer.
CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2")


def _read_fits(path: str | Path, file: BinaryIO) -> Read:
    """The first image of one or three planes, among all HDUs, with BSCALE, BZERO and BLANK (NaN) applied."""
    fits = _library(path, "astropy.io.fits", "astropy")
    file = _gunzip(path, file) if file.read(2) == GZIP else file
    file.seek(0)
    _check_start(path, file, "a FITS file", (b"SIMPLE",))
    return _guarded(path, "FITS", lambda: _read_hdu(path, fits, file))


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
    limit = min(MAX_UNPACKED, DEFLATE_RATIO * _length(file))
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
    length, found = _length(file), []
    while (text := _header_blocks(file)) is not None:
        header = fits.Header.fromstring(text)
        shape, promised, held = _hdu_shape(header), _hdu_bytes(header), length - file.tell()
        if shape and _layout(shape):
            _check_size(path, shape)
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


# --- PNG and TIFF -------------------------------------------------------------------------------------------

PNG_KINDS = {(8, 0): "u1", (16, 0): "u2", (8, 2): "u1"}  # bits, colour type
TIFF_KINDS = {  # photometric interpretation, sample format, bits of each sample
    (1, 1, (8,)): "u1",
    (1, 2, (8,)): "i1",
    (1, 1, (16,)): "u2",
    (1, 2, (16,)): "i2",
    (1, 1, (32,)): "u4",
    (1, 2, (32,)): "i4",
    (1, 3, (32,)): "f4",
    (2, 1, (8, 8, 8)): "u1",
}
RASTER_RATIO = 2000  # bytes of pixels a byte of file; more is a bomb, or nearly constant


def _read_png(path: str | Path, file: BinaryIO) -> Read:
    start = _check_start(path, file, "a PNG file", (b"\x89PNG\r\n\x1a\n",))
    image = _open_raster(path, file, "PNG")
    kind = None if "transparency" in image.info else PNG_KINDS.get((start[24], start[25]))
    return _decode(path, image, kind, _length(file))


def _read_tiff(path: str | Path, file: BinaryIO) -> Read:
    _check_start(path, file, "a TIFF file", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
    image = _open_raster(path, file, "TIFF")

    def kind() -> str | None:
        formats = set(image.tag_v2.get(339, (1,)))
        return TIFF_KINDS.get((image.tag_v2.get(262), *formats, image.tag_v2.get(258, (1,))))

    return _decode(path, image, _guarded(path, "TIFF", kind), _length(file))


def _open_raster(path: str | Path, file: BinaryIO, kind: str) -> object:
    library = _library(path, "PIL.Image", "pillow")

    def read() -> object:
        try:
            return library.open(file, formats=(kind,))
        except library.UnidentifiedImageError:
            raise ValueError("not one that Pillow can read") from None

    return _guarded(path, kind, read)


def _decode(path: str | Path, image: object, kind: str | None, length: int) -> Read:
    """The pixels, in the number type `kind` that the file has them in. length: bytes in the file."""
    if kind is None:
        raise DataError(
            f"{path}: expected grey values of 8, 16 or 32 bits or RGB of 8, no palette or transparency, found mode "
            f"{image.mode!r} of another kind; save it as FITS or .npy"
        )
    shape = (image.height, image.width, len(image.getbands()))
    _check_size(path, shape)
    if math.prod(shape) * np.dtype(kind).itemsize > RASTER_RATIO * length:
        raise DataError(f"{path}: damaged, its header promises shape {shape}, the file has {length} bytes")
    notes = ("the first of several images",) if getattr(image, "is_animated", False) else ()
    array = _guarded(path, image.format, lambda: np.asarray(image).astype(kind))
    return array, None, notes


# --- other people's libraries -------------------------------------------------------------------------------


def _library(path: str | Path, module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{path}: reading it needs {package}, which is not installed: pip install {package}") from None


def _guarded(path: str | Path, kind: str, function: Callable[[], object]) -> object:
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


EXTENSIONS: dict[str, Callable[[str | Path, BinaryIO], Read]] = {
    ".npy": _read_npy,
    ".fits": _read_fits,
    ".fit": _read_fits,
    ".fts": _read_fits,
    ".fits.gz": _read_fits,
    ".fits.fz": _read_fits,
    ".png": _read_png,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}
