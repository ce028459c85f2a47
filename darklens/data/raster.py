"""PNG and TIFF images, grey values as they are stored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from darklens.data.checks import RawImage, Request, check_size, check_start, file_length, guarded, import_library
from darklens.errors import DataError

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


def read_png(path: str | Path, file: BinaryIO, request: Request) -> RawImage:
    """The pixels of a grey or RGB PNG at full depth: (H, W) or (H, W, 3). Raises DataError for any other kind."""
    start = check_start(path, file, "a PNG file", (b"\x89PNG\r\n\x1a\n",))
    image = _open_raster(path, file, "PNG")
    kind = None if "transparency" in image.info else PNG_KINDS.get((start[24], start[25]))
    check_size(path, (image.height, image.width), request.min_size)
    return _decode(path, image, kind, file_length(file))


def read_tiff(path: str | Path, file: BinaryIO, request: Request) -> RawImage:
    """The first image of a grey or RGB TIFF: (H, W) or (H, W, 3). Raises DataError for any other kind."""
    check_start(path, file, "a TIFF file", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
    image = _open_raster(path, file, "TIFF")

    def kind() -> str | None:
        formats = set(image.tag_v2.get(339, (1,)))
        return TIFF_KINDS.get((image.tag_v2.get(262), *formats, image.tag_v2.get(258, (1,))))

    check_size(path, (image.height, image.width), request.min_size)
    return _decode(path, image, guarded(path, "TIFF", kind), file_length(file))


def _open_raster(path: str | Path, file: BinaryIO, kind: str) -> Any:
    library = import_library(path, "PIL.Image", "pillow")

    def read() -> Any:
        try:
            return library.open(file, formats=(kind,))
        except library.UnidentifiedImageError:
            raise ValueError("not one that Pillow can read") from None

    return guarded(path, kind, read)


def _decode(path: str | Path, image: Any, kind: str | None, length: int) -> RawImage:
    """The pixels, in the number type `kind` that the file has them in. length: bytes in the file."""
    if kind is None:
        raise DataError(
            f"{path}: expected grey values of 8, 16 or 32 bits or RGB of 8, no palette or transparency, found mode "
            f"{image.mode!r} of another kind; save it as FITS or .npy"
        )
    shape = (image.height, image.width, len(image.getbands()))
    check_size(path, shape, 1)
    if math.prod(shape) * np.dtype(kind).itemsize > RASTER_RATIO * length:
        raise DataError(f"{path}: damaged, its header promises shape {shape}, the file has {length} bytes")
    notes = ("the first of several images",) if getattr(image, "is_animated", False) else ()
    array = guarded(path, image.format, lambda: np.asarray(image).astype(kind))
    return RawImage(array, notes=notes)
