"""NumPy's files: the header is searched, never evaluated; nothing is unpickled."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from darklens.data.checks import RawImage, Request, check_size, check_start, file_length
from darklens.errors import DataError

MAX_HEADER = 10_000  # bytes: the bound of NumPy's own reader
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
    text = _header_text(path, file, file_length(file))
    matches = [match for pattern in HEADER.values() if (match := pattern.search(text))]
    if len(matches) < len(HEADER):
        raise DataError(f"{path}: expected an array of plain numbers, its .npy header says {text.strip()[:80]!r}")
    descr, order, shape = (match[1] for match in matches)
    return Header(descr, tuple(map(int, re.findall("[0-9]+", shape))), order == "True")


def read_npy(path: str | Path, file: BinaryIO, request: Request) -> RawImage:
    """The array of a `.npy` file, as stored. Executes nothing. Raises DataError."""
    header = checked_header(path, file)
    check_size(path, header.shape, request.min_size)
    return RawImage(read_array(path, file, header))


def checked_header(path: str | Path, file: BinaryIO) -> Header:
    """The header, once it promises numbers, and as many as the file holds."""
    header = read_header(path, file)
    if not NUMBERS.fullmatch(header.descr):
        hint = "; `python dataset.py convert` reads those of DeepLense" if header.descr == "|O" else ""
        raise DataError(f"{path}: expected integers or float16/32/64, found number type {header.descr!r}{hint}")
    promised = math.prod(header.shape) * np.dtype(header.descr).itemsize
    held = file_length(file) - file.tell()
    if promised != held:
        problem = "truncated or damaged" if promised > held else "followed by something else"
        raise DataError(
            f"{path}: {problem}, {header.shape} of {header.descr} takes {promised} bytes, {held} follow the header"
        )
    return header


def read_array(path: str | Path, file: BinaryIO, header: Header) -> np.ndarray:
    """The array after a checked header, as stored."""
    length = math.prod(header.shape) * np.dtype(header.descr).itemsize
    content = bytearray(file.read(length))
    if len(content) != length:
        raise DataError(f"{path}: truncated while it was being read")
    return np.frombuffer(content, header.descr).reshape(header.shape, order="F" if header.fortran else "C")


def _header_text(path: str | Path, file: BinaryIO, length: int) -> str:
    """The header's text. `length`: bytes in the file."""
    start = check_start(path, file, "a .npy file", (b"\x93NUMPY\1", b"\x93NUMPY\2", b"\x93NUMPY\3"))
    offset = 10 if start[6] == 1 else 12
    size = int.from_bytes(start[8:offset], "little")
    if size > min(MAX_HEADER, length - offset):
        raise DataError(f"{path}: damaged, its .npy header claims {size} bytes; the file has {length} in all")
    file.seek(offset)
    return file.read(size).decode("latin1")
