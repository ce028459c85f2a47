"""Files with images in them, for tests."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from darklens.data import image as data_image
from darklens.data.image import read_picture
from darklens.errors import DataError


def picture(seed: int, shape: tuple[int, ...] = (34, 34), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).poisson(300, shape).astype(dtype)


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, data: bytes = b"", version: int = 1, claim: int | None = None) -> bytes:
    """A hand-made .npy file; `claim`: the header length it states, if not the true one."""
    width = 2 if version == 1 else 4
    length = len(text) if claim is None else claim
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(width, "little") + text.encode() + data


GOOD = npy(picture(4, (40, 40)))


def scene(shape: tuple[int, ...] = (40, 44), seed: int = 0) -> np.ndarray:
    """Counts about 300, never 0, float64."""
    return np.random.default_rng(seed).poisson(300, shape).astype(float) + 1


def blank_border(image: np.ndarray) -> np.ndarray:
    """NaN where a turned mosaic has none of the sky: three corners of (H, W), and the whole first row."""
    rows, columns = np.indices(image.shape)
    image = image.copy()
    image[(rows + columns < 8) | (rows + columns > sum(image.shape) - 9) | (rows - columns > 32) | (rows == 0)] = np.nan
    return image


def packed(*hdus) -> bytes:
    """FITS bytes of these HDUs."""
    file = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def primary(data: np.ndarray, **cards) -> bytes:
    hdu = fits.PrimaryHDU(data)
    hdu.header.update(cards)
    return packed(hdu)


def raster(data: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(data)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def tiff(data: np.ndarray, photometric: int = 1, claimed: tuple[int, int] | None = None, order: str = "<") -> bytes:
    """A hand-made TIFF, uncompressed: for what Pillow doesn't write. data: (H, W); claimed: (H, W) in the header."""
    height, width = claimed or data.shape
    stored = data.astype(data.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: 8 * data.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: height * width * data.itemsize, 339: {"u": 1, "i": 2, "f": 3}[data.dtype.kind]}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(stored))
    return start + stored + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def read(folder: Path, name: str, content: bytes) -> data_image.Picture:
    (folder / name).write_bytes(content)
    return read_picture(folder / name)


def refuse(folder: Path, name: str, content: bytes, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        read(folder, name, content)
    assert_one_line(error, folder / name, *parts)


def assert_picture(found: data_image.Picture, truth: np.ndarray) -> None:
    """truth: (H, W) or (C, H, W)."""
    assert np.array_equal(found.pixels, truth if truth.ndim == 3 else truth[None])
    assert found.pixels.dtype.isnative and found.pixels.flags.c_contiguous


IMAGE = primary(scene().astype(">f4"))
SMALL_PNG = raster((scene() % 256).astype("uint8"), "png")
