"""images.py against what its docstrings promise: every kind of file, bad ones above all."""

import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from darklens.data import checks
from darklens.data import fits as data_fits
from darklens.data import image as data_image
from darklens.data.image import read_image, read_picture
from darklens.errors import DataError


def picture(seed: int, shape: tuple[int, ...] = (34, 34), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).poisson(300, shape).astype(dtype)


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message


# --- read ---------------------------------------------------------------------------------------------------

NUMBERS = [
    "u1",
    "<u2",
    ">u2",
    "<u4",
    ">u8",
    "i1",
    "<i2",
    ">i4",
    "<i8",
    "<f2",
    ">f2",
    "<f4",
    ">f4",
    "<f8",
    ">f8",
]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_every_number_type_and_order(tmp_path, dtype, order):
    truth = np.random.default_rng(0).integers(0, 100, (3, 40, 40)).astype(dtype)
    np.save(tmp_path / "x.npy", np.asarray(truth, order=order))
    image = read_image(tmp_path / "x.npy", 3, 40)
    assert image.dtype == np.dtype(dtype).newbyteorder("=") and image.dtype.isnative
    assert image.flags.c_contiguous and image.flags.writeable
    assert np.array_equal(image, truth)


@pytest.mark.parametrize("shape", [(40, 40), (1, 40, 40), (40, 40, 1), (3, 40, 40), (40, 40, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_every_layout_as_channels_first(tmp_path, shape, order):
    stored = np.asarray(picture(1, shape), order=order)
    np.save(tmp_path / "x.npy", stored)
    truth = stored[None] if stored.ndim == 2 else stored
    truth = truth if len(truth) <= 3 else truth.transpose(2, 0, 1)
    assert np.array_equal(read_image(tmp_path / "x.npy"), truth)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_reads_every_version_of_the_format(tmp_path, version):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, picture(2), version=version)
    assert np.array_equal(read_image(tmp_path / "x.npy")[0], picture(2))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, data: bytes = b"", version: int = 1, claim: int | None = None) -> bytes:
    """A hand-made .npy file; `claim`: the header length it states, if not the true one."""
    width = 2 if version == 1 else 4
    length = len(text) if claim is None else claim
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(width, "little") + text.encode() + data


def described(descr: str, shape: str = "(40, 40)", data: bytes = bytes(3200)) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", data)


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


def with_pixel(value: float, dtype: str = "float32") -> bytes:
    image = picture(3, (40, 40)).astype(dtype)
    image[5, 7] = value
    return npy(image)


class Bomb:
    """Unpickling this makes a folder here: proof that something was executed."""

    def __reduce__(self):
        return os.mkdir, ("bomb",)


def object_array() -> bytes:
    bombs = np.empty((40, 40), object)
    bombs[:] = Bomb()
    file = io.BytesIO()
    np.lib.format.write_array(file, bombs, allow_pickle=True)
    return file.getvalue()


GOOD = npy(picture(4, (40, 40)))
BAD_FILES = {  # name -> (the file's bytes, part of the message)
    "empty": (b"", "an empty file"),
    "magic only": (b"\x93NUMPY", "no .npy file"),
    "cut in the header": (GOOD[:60], "damaged"),
    "no pixels": (GOOD[:128], "truncated"),
    "one byte short": (GOOD[:-1], "truncated"),
    "half": (GOOD[: len(GOOD) // 2], "truncated"),
    "trailing byte": (GOOD + b"\0", "followed by"),
    "two arrays": (GOOD + GOOD, "followed by"),
    "garbage": (np.random.default_rng(0).bytes(5000), "no .npy file"),
    "zeros": (bytes(5000), "no .npy file"),
    "text": (b"1 2 3\n4 5 6\n", "no .npy file"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "fits": (b"SIMPLE  =                    T" + bytes(50), "FITS"),
    "zip": (zipped("x.npy", GOOD), "zip archive"),
    "pickle": (pickle.dumps(picture(4)), "Python pickle"),
    "version 9": (GOOD[:6] + b"\x09" + GOOD[7:], "no .npy file"),
    "version 0": (GOOD[:6] + b"\x00" + GOOD[7:], "no .npy file"),
    "header longer than file": (header("{}", claim=65535), "claims 65535 bytes"),
    "header of 4 GB": (header("{}", version=2, claim=2**32 - 1), "claims 4294967295 bytes"),
    "header of 100 kB": (header("{" + " " * 100_000 + "}", version=2), "claims 100002 bytes"),
    "empty header": (header("", bytes(3200)), "plain numbers"),
    "nested header": (header("(" * 9000), "plain numbers"),
    "header is code": (header("__import__('os').mkdir('bomb')" + " " * 100, bytes(3200)), "plain numbers"),
    "header without shape": (
        header("{'descr': '<u2', 'fortran_order': False}", bytes(3200)),
        "plain numbers",
    ),
    "order is a number": (header("{'descr': '<u2', 'fortran_order': 7, 'shape': (40, 40)}"), "plain numbers"),
    "negative shape": (described("'<u2'", "(-40, -40)"), "plain numbers"),
    "fractional shape": (described("'<u2'", "(40.0, 40)"), "plain numbers"),
    "digits without end": (described("'<u2'", "(" + "9" * 5000 + ", 40)"), "plain numbers"),
    "promises exabytes": (described("'<f8'", "(2000000000, 2000000000)"), "truncated"),
    "promises 80 digits": (described("'<f8'", "(" + "9" * 80 + ", 2)"), "truncated"),
    "promises 40 GB": (described("'<f4'", "(100000, 100000)"), "truncated"),
    "scalar": (npy(np.array(3.0)), "found shape ()"),
    "one-dimensional": (npy(picture(4, (1600,))), "(1600,)"),
    "four-dimensional": (npy(picture(4, (1, 1, 40, 40))), "(1, 1, 40, 40)"),
    "no pixels at all": (npy(picture(4, (0, 0))), "(0, 0)"),
    "one pixel": (npy(picture(4, (1, 1))), "(1, 1)"),
    "too small": (npy(picture(4, (28, 28))), "29 pixels or more"),
    "not square": (npy(picture(4, (40, 41))), "(40, 41)"),
    "channels in the middle": (npy(picture(4, (40, 3, 40))), "(40, 3, 40)"),
    "two channels": (npy(picture(4, (2, 40, 40))), "1 or 3 channels"),
    "four channels": (npy(picture(4, (40, 40, 4))), "1 or 3 channels"),
    "three channels among one": (npy(picture(4, (3, 40, 40))), "expected 1 channel(s)"),
    "another size": (npy(picture(4, (41, 41))), "40 x 40 pixels"),
    "complex": (npy(picture(4, (40, 40)).astype(complex)), "'<c16'"),
    "bool": (npy(np.ones((40, 40), bool)), "'|b1'"),
    "text pixels": (npy(np.full((40, 40), "7")), "'<U1'"),
    "byte strings": (npy(np.full((40, 40), b"7")), "'|S1'"),
    "dates": (npy(np.zeros((40, 40), "datetime64[s]")), "'<M8[s]'"),
    "void": (npy(np.zeros((40, 40), "V4")), "'|V4'"),
    "records": (npy(np.zeros((40, 40), [("flux", "f4"), ("error", "f4")])), "flux"),
    "long double": (described("'<f16'", data=bytes(25600)), "'<f16'"),
    "three-byte integers": (described("'<u3'", data=bytes(4800)), "'<u3'"),
    "unknown type": (described("'<q7'"), "'<q7'"),
    "objects": (object_array(), "'|O'"),
    "NaN": (with_pixel(np.nan), "1 NaN and 0 infinite, the first in row 5, column 7"),
    "NaN in float64": (with_pixel(np.nan, "float64"), "1 NaN"),
    "NaN in float16": (with_pixel(np.nan, "float16"), "1 NaN"),
    "infinity": (with_pixel(np.inf), "0 NaN and 1 infinite, the first in row 5, column 7"),
    "minus infinity": (with_pixel(-np.inf), "1 infinite"),
    "all NaN": (npy(np.full((40, 40), np.nan)), "1600 NaN"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content, part = BAD_FILES[kind]
    path = tmp_path / "lens_7.npy"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(path, channels=1, size=40)
    assert_one_line(error, path, part)
    assert not (tmp_path / "bomb").exists()


def test_the_bomb_does_go_off_where_pickles_are_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.load(io.BytesIO(object_array()), allow_pickle=True)
    assert (tmp_path / "bomb").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "loop"])
def test_paths_that_are_no_files(tmp_path, kind):
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x.npy"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(DataError) as error:
        read_image(path)
    assert_one_line(error, path)


def test_io_error_while_reading_is_one_line(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", picture(1))

    def broken(path, mode):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", broken)
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "x.npy")
    assert_one_line(error, tmp_path / "x.npy", "Input/output error")


def test_file_names_cannot_break_the_line(tmp_path):
    path = tmp_path / os.fsdecode(b"a\nb\x1b[2J\xff.npy")
    path.write_bytes(b"")
    with pytest.raises(DataError) as error:
        read_image(path)
    assert_one_line(error, r"a\nb\x1b[2J\udcff.npy")
    str(error.value).encode("utf-8")


def test_sparse_file_larger_than_memory(tmp_path):
    """A file that does back its header, with 20 TB of nothing: refused, not the end of the process."""
    path = tmp_path / "x.npy"
    path.write_bytes(described("'<f8'", "(1600000, 1600000)", b""))
    try:
        os.truncate(path, path.stat().st_size + 8 * 1600000**2)
    except OSError:
        pytest.skip("this file system holds no such file")
    with pytest.raises(DataError) as error:
        read_image(path, size=40)
    assert_one_line(error, path, "40 x 40 pixels")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.npy"


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        image = read_image(path)
    except DataError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        return
    assert image.ndim == 3 and image.dtype.kind in "uif" and np.isfinite(image).all()
    assert image.shape[0] in (1, 3) and image.shape[1] == image.shape[2] >= checks.MIN_SIZE


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SMALL = npy(np.linspace(-1, 1, 29 * 29, dtype=np.float32).reshape(29, 29))


@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255)), max_size=6),
    end=st.integers(-40, 0),
    tail=st.binary(max_size=20),
)
def test_fuzzed_headers_are_read_or_refused(scratch, changes, end, tail):
    content = bytearray(SMALL)
    for position, value in changes:
        content[position] = value
    read_or_refuse(scratch, bytes(content[: len(content) + end]) + tail)


@FUZZ
@given(text=st.text("{}()[]'\":, 0123456789L<>|=uifOscrdeptanhF\n\\_", max_size=150), data=st.binary(max_size=64))
def test_fuzzed_header_texts_are_read_or_refused(scratch, text, data):
    read_or_refuse(scratch, header(text, data))


@FUZZ
@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(scratch, content):
    read_or_refuse(scratch, content)
    read_or_refuse(scratch, b"\x93NUMPY\x01\x00" + content)


# --- pictures: any format -----------------------------------------------------------------------------------


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


def edited(content: bytes, **cards) -> bytes:
    """FITS bytes with the values of some cards replaced, wherever they are, unchecked."""
    for key, value in cards.items():
        content, count = re.subn(rb"%-8s=.{21}" % key.encode(), b"%-8s= %20s" % (key.encode(), value.encode()), content)
        assert count
    return content


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


@pytest.mark.parametrize("shape", [(40, 44), (1, 29, 60), (29, 60, 3), (3, 40, 40)])
def test_npy_pictures_need_not_be_square(tmp_path, shape):
    found = read(tmp_path, "x.NPY", npy(picture(1, shape)))
    assert found.pixels.dtype == np.uint16 and found[1:] == (None, 0, "")
    assert found.pixels.shape == ((3, 29, 60) if shape[-1] == 3 else shape if len(shape) == 3 else (1, *shape))


@pytest.mark.parametrize("name", ["x.jpg", "x", "fits", "x.npy.txt", "x.gz"])
def test_other_extensions_are_refused(tmp_path, name):
    assert data_image.find_extension(name) is None
    refuse(tmp_path, name, GOOD, ".npy, .fits")


@pytest.mark.parametrize("name", ["x.fits", "x.FIT", "x.fts", "a.b.fits.gz", "x.png", "x.TIF", "x.tiff", "x.npy"])
def test_extensions_of_any_case(name):
    assert name.lower().endswith(data_image.find_extension(name))


def test_a_name_says_what_is_expected_and_the_content_must_agree(tmp_path):
    contents = {
        "npy": GOOD,
        "FITS": primary(scene()),
        "PNG": raster(picture(1, dtype="uint8"), "png"),
        "TIFF": tiff(scene()),
    }
    names = {"npy": "x.npy", "FITS": "x.fits", "PNG": "x.png", "TIFF": "x.tif"}
    for expected, name in names.items():
        for found, content in contents.items():
            if found != expected and not (expected == "npy" and found == "TIFF"):
                refuse(tmp_path, name, content, f"expected a {'.npy' if expected == 'npy' else expected} file", found)
        refuse(tmp_path, name, b"", "an empty file")
        refuse(tmp_path, name, b"<html>404 not found</html>", "a web page")
        refuse(tmp_path, name, b"garbage" * 1000, "bytes that are no")


# --- pictures: FITS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">i4", ">i8", ">f4", ">f8", "i1", "u2", "u4", "u8"])
@pytest.mark.parametrize("suffix", ["fits", "fits.gz"])
def test_fits_numbers_of_every_type(tmp_path, dtype, suffix):
    truth = (scene() % 100).astype(dtype)
    content = primary(truth, BUNIT="ELECTRONS/S")
    found = read(tmp_path, f"x.{suffix}", gzip.compress(content) if suffix.endswith("gz") else content)
    assert_picture(found, truth)
    assert found.pixels.dtype.kind == np.dtype(dtype).kind
    assert (found.unit, found.masked, found.note) == ("ELECTRONS/S", 0, "")


@pytest.mark.parametrize("shape", [(1, 40, 44), (3, 40, 44), (1, 1, 40, 44), (1, 3, 40, 44)])
def test_fits_planes(tmp_path, shape):
    truth = scene(shape)
    assert_picture(read(tmp_path, "x.fits", primary(truth)), truth.reshape(-1, 40, 44))


def test_fits_first_image_of_many_hdus(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("flux", "E", array=np.ones(5))])
    cube, line = fits.ImageHDU(scene((10, 40, 40))), fits.ImageHDU(scene((900,)))
    science, error = fits.ImageHDU(scene(), name="SCI"), fits.ImageHDU(scene(seed=1), name="ERR")
    science.header["BUNIT"] = "nanomaggy"
    found = read(tmp_path, "x.fits", packed(fits.PrimaryHDU(), table, cube, line, science, error))
    assert_picture(found, scene())
    assert (found.unit, found.note) == ("nanomaggy", "HDU 4 (SCI)")
    refuse(tmp_path, "y.fits", packed(fits.PrimaryHDU(), table, cube, line), "(10, 40, 40)", "(900,)")


def test_fits_groups_are_no_image(tmp_path):
    groups = fits.GroupsHDU(fits.GroupData(scene((2, 40, 40)), parnames=["u"], pardata=[[1.0, 2.0]], bitpix=-32))
    fits.HDUList([groups]).writeto(tmp_path / "groups.fits")
    refuse(tmp_path, "x.fits", (tmp_path / "groups.fits").read_bytes(), "no image")


def test_fits_scaled_integers(tmp_path):
    counts = scene().astype(">i2")
    found = read(tmp_path, "x.fits", edited(primary(counts, BSCALE=1.5, BZERO=2.5), BSCALE="0.5", BZERO="10."))
    assert found.pixels.dtype.kind == "f"
    assert_picture(found, counts * 0.5 + 10)


@pytest.mark.parametrize("compressed", [False, True])
def test_fits_blank_is_nan(tmp_path, compressed):
    counts = scene().astype(">i2")
    counts[:2] = -7
    hdu = fits.CompImageHDU(counts) if compressed else fits.PrimaryHDU(counts)
    hdu.header["BLANK"] = -7
    found = read(tmp_path, "x.fits", packed(fits.PrimaryHDU(), hdu) if compressed else packed(hdu))
    assert found.masked == 2 * 44 and "88 NaN" in found.note
    assert np.array_equal(found.pixels[0, 2:], counts[2:])


@pytest.mark.parametrize("codec", ["RICE_1", "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_fits_compressed(tmp_path, codec, dtype):
    truth = scene().astype(dtype)
    hdu = fits.CompImageHDU(truth, compression_type=codec, quantize_level=16, name="SCI", tile_shape=(16, 20))
    found = read(tmp_path, "x.fits.fz", packed(fits.PrimaryHDU(), hdu))
    assert found.pixels.dtype == dtype and found.note == "HDU 1 (SCI)"
    np.testing.assert_allclose(found.pixels[0], truth, atol=0 if dtype != "f4" else 2)  # floats in steps of noise / 16


def test_fits_border_of_nan_becomes_the_sky(tmp_path):
    image = blank_border(scene())
    image[15:25, 15:25] += 5000  # the lens: it must not raise the sky
    found = read(tmp_path, "x.fits", primary(image))
    blank = np.isnan(image)
    assert found.masked == blank.sum() > 100
    assert np.array_equal(found.pixels[0, ~blank], image[~blank])
    (sky,) = np.unique(found.pixels[0, blank])
    outer = image.copy()
    outer[10:30, 11:33] = np.nan
    assert sky == np.nanmedian(outer) and abs(sky - 301) < 5
    assert f"{found.masked} NaN pixels" in found.note


def test_fits_border_of_nan_channel_by_channel(tmp_path):
    planes = np.stack([blank_border(scene()), scene() * 10, blank_border(scene()) * 100])
    found = read(tmp_path, "x.fits", primary(planes))
    assert found.masked == 2 * np.isnan(planes[0]).sum()
    assert found.pixels[2, 0, 0] == 100 * found.pixels[0, 0, 0]


def spoilt(value: float, where: tuple, border: bool = True) -> np.ndarray:
    image = blank_border(scene()) if border else scene()
    image[where] = value
    return image


@pytest.mark.parametrize(
    ("image", "part"),
    [
        (spoilt(np.nan, (20, 22)), "1 NaN and 0 infinite, the first in row 20, column 22"),
        (spoilt(np.nan, (5, 20)), "1 NaN"),  # outside of the central half, but an island
        (spoilt(np.nan, (slice(0, 21), 22)), "NaN and 0 infinite, the first in row 0"),  # from the edge to the middle
        (spoilt(np.nan, (slice(None), slice(0, 30)), False), "1200 NaN"),
        (spoilt(np.nan, slice(None)), "1760 NaN"),
        (spoilt(np.inf, (0, 30)), "1 infinite, the first in row 0, column 30"),
        (spoilt(-np.inf, slice(None)), "1760 infinite"),
        (spoilt(np.inf, (slice(1, None), slice(8, 37))), "infinite"),
    ],
)
def test_other_nan_and_infinity_are_refused(tmp_path, image, part):
    for name, content in (("x.fits", primary(image)), ("x.npy", npy(image)), ("x.tif", tiff(image.astype("f4")))):
        refuse(tmp_path, name, content, part)


IMAGE = primary(scene().astype(">f4"))
DITHERED = fits.CompImageHDU(scene().astype("f4"), quantize_method=1, dither_seed=7)
PACKED = packed(fits.PrimaryHDU(), DITHERED)
GZIPPED = packed(fits.PrimaryHDU(), fits.CompImageHDU(scene().astype("i4"), compression_type="GZIP_1"))


def gzip_tile_bomb() -> bytes:
    """A compressed image whose first tile, of 44 pixels, unpacks to 10 MB."""
    bomb = np.frombuffer(gzip.compress(bytes(10_000_000)), np.uint8)
    cells = np.empty(40, object)
    cells[:] = [bomb] * 40
    table = fits.BinTableHDU.from_columns([fits.Column("COMPRESSED_DATA", "1PB()", array=cells)])
    cards = {"ZIMAGE": True, "ZCMPTYPE": "GZIP_1", "ZBITPIX": 32, "ZNAXIS": 2, "ZNAXIS1": 44, "ZNAXIS2": 40}
    table.header.update(cards)
    return packed(fits.PrimaryHDU(), table)


BAD_FITS = {  # name -> (the file's bytes, part of the message)
    "only the magic": (b"SIMPLE", "no FITS file"),
    "cut in the header": (IMAGE[:300], "without end"),
    "cut after the header": (IMAGE[:2880], "truncated, its image takes 7040 bytes, 0 follow"),
    "cut in the pixels": (IMAGE[:6000], "truncated, its image takes 7040 bytes, 3120 follow"),
    "promises petabytes": (edited(IMAGE, NAXIS1="100000000", NAXIS2="100000000"), "at most 67108864 pixels"),
    "promises 200 MB": (edited(IMAGE, NAXIS1="7000", NAXIS2="7000"), "takes 196000000 bytes"),
    "negative axes": (edited(IMAGE, NAXIS1="-40", NAXIS2="-44"), "NAXISn are (-44, -40)"),
    "fractional axes": (edited(IMAGE, NAXIS1="40.5"), "damaged"),
    "axes are text": (edited(IMAGE, NAXIS1="'44'"), "damaged"),
    "a billion axes": (edited(IMAGE, NAXIS="999999999"), "NAXIS is 999999999"),
    "minus one axis": (edited(IMAGE, NAXIS="-1"), "NAXIS is -1"),
    "unknown bits": (edited(IMAGE, BITPIX="-33"), "damaged"),
    "no bits": (edited(IMAGE, BITPIX="0"), "damaged"),
    "scaled to infinity": (edited(primary(scene().astype(">i2"), BSCALE=2.0), BSCALE="1E300"), "infinite"),
    "too small": (primary(scene((28, 60))), "(28, 60)"),
    "no image": (packed(fits.PrimaryHDU()), "1 or 3 planes"),
    "four planes": (primary(scene((4, 40, 40))), "(4, 40, 40)"),
    "gzip, cut": (gzip.compress(IMAGE)[:-20], "damaged gzip"),
    "gzip, damaged": (gzip.compress(IMAGE)[:40] + bytes(40), "damaged gzip"),
    "gzip in gzip": (gzip.compress(gzip.compress(IMAGE)), "found a gzip archive"),
    "gzip of a web page": (gzip.compress(b"<html>not found</html>"), "a web page"),
    "compressed, cut": (PACKED[:-2880], "truncated"),
    "compressed, promises petabytes": (edited(PACKED, ZNAXIS1="1" + 8 * "0", ZNAXIS2="1" + 8 * "0"), "at most"),
    "compressed, heap of petabytes": (edited(PACKED, PCOUNT="1" + 15 * "0"), "truncated"),
    "compressed, negative heap": (edited(PACKED, PCOUNT="-5000", NAXIS2="4000"), "damaged"),
    "compressed, more rows than tiles": (edited(PACKED, ZNAXIS2="400"), "damaged"),
    "compressed, a billion columns": (edited(PACKED, TFIELDS="999999999"), "TFIELDS"),
    "compressed, wide columns": (edited(PACKED, TFORM1="'1999999E'"), "odd size"),
    "compressed, a billion axes": (edited(PACKED, ZNAXIS="999999999"), "ZNAXIS is 999999999"),
    "header without end": (IMAGE[:2880].replace(b"END", b"AND"), "without end"),
    "header of 9 MB": (b"SIMPLE  =                    T".ljust(80) + b" " * 9_000_000, "without end"),
    "compressed, no tiles": (edited(PACKED, ZTILE1="0"), "tiles [0, 1]"),
    "compressed, negative seed": (edited(PACKED, ZDITHER0="-9999000"), "seed -9999000"),
    "compressed, unknown codec": (edited(PACKED, ZCMPTYPE="'BZIP2'"), "BZIP2"),
    "compressed, strange blocks": (edited(PACKED, ZVAL1="0"), "damaged"),
    "compressed, strange bytes": (edited(PACKED, ZVAL2="16"), "damaged"),
    "compressed, or not": (edited(PACKED, ZIMAGE="F"), "damaged"),
    "compressed, hcompress": (
        packed(fits.PrimaryHDU(), fits.CompImageHDU(scene().astype("i4"), compression_type="HCOMPRESS_1")),
        "found 'HCOMPRESS_1'",
    ),
    "compressed, bomb": (gzip_tile_bomb(), "unpacks to more than 352 bytes"),
}


@pytest.mark.parametrize("kind", BAD_FITS)
def test_bad_fits_files_are_refused(tmp_path, kind):
    refuse(tmp_path, "x.fits", *BAD_FITS[kind])


def test_gzip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(data_fits, "MAX_UNPACKED", 100_000)
    refuse(tmp_path, "x.fits.gz", gzip.compress(IMAGE + bytes(100_000)), "at most 100000 bytes")
    assert_picture(read(tmp_path, "y.fits.gz", gzip.compress(IMAGE)), scene().astype("f4"))


@pytest.mark.parametrize(
    ("module", "package", "name"),
    [("astropy.io.fits", "astropy", "x.fits"), ("PIL.Image", "pillow", "x.png"), ("PIL.Image", "pillow", "x.tif")],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, package, name):
    monkeypatch.setitem(sys.modules, module, None)
    content = {"x.fits": IMAGE, "x.png": raster(picture(1, dtype="uint8"), "png"), "x.tif": tiff(scene())}[name]
    refuse(tmp_path, name, content, f"pip install {package}")


def test_libraries_are_imported_only_when_needed():
    code = "import sys, darklens.data.image; sys.exit('astropy' in sys.modules or 'PIL' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- pictures: PNG and TIFF ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_grey_values_at_full_depth(tmp_path, dtype, kind):
    truth = (scene() * (200 if dtype == "uint16" else 0.7)).astype(dtype)
    assert truth.max() > (255 if dtype == "uint16" else 0)
    found = read(tmp_path, f"x.{kind}", raster(truth, kind))
    assert found.pixels.dtype == dtype and found[1:] == (None, 0, "")
    assert_picture(found, truth)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", "<i4", ">i4", "<f4", ">f4"])
def test_tiff_numbers_of_every_type(tmp_path, dtype):
    truth = np.zeros((40, 44), dtype)
    spread = np.finfo(dtype) if "f" in dtype else np.iinfo(dtype)
    truth[5, 7], truth[6, 8], truth[7, 9] = spread.min, spread.max, 3
    found = read(tmp_path, "x.tif", tiff(truth, order=dtype[0] if dtype[0] in "<>" else "<"))
    assert found.pixels.dtype == np.dtype(dtype).newbyteorder("=")
    assert_picture(found, truth)


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "tiff_lzw", "packbits"])
def test_tiff_compressed(tmp_path, compression):
    for truth in (scene().astype("f4"), scene().astype("u2")):
        assert_picture(read(tmp_path, "x.tiff", raster(truth, "tiff", compression=compression)), truth)


def test_tiff_border_of_nan(tmp_path):
    found = read(tmp_path, "x.tif", tiff(blank_border(scene()).astype("f4")))
    assert found.masked == np.isnan(blank_border(scene())).sum()


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_rgb_is_three_channels(tmp_path, kind):
    truth = (scene((40, 44, 3)) % 256).astype("uint8")
    assert_picture(read(tmp_path, f"x.{kind}", raster(truth, kind)), truth.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_palettes_transparency_and_single_bits_are_refused(tmp_path, kind, mode):
    refuse(tmp_path, f"x.{kind}", raster((scene() % 256).astype("uint8"), kind, mode), f"mode {mode!r}")


def test_png_with_a_transparent_grey_is_refused(tmp_path):
    refuse(tmp_path, "x.png", raster((scene() % 256).astype("uint8"), "png", transparency=7), "transparency")


def test_rgb_of_16_bits_is_refused_rather_than_cut(tmp_path):
    content = bytearray(raster((scene((40, 44, 3)) % 256).astype("uint8"), "png"))
    content[24] = 16  # bits
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    refuse(tmp_path, "x.png", bytes(content), "RGB of 8", "FITS")


def test_tiff_with_dark_values_high_is_refused(tmp_path):
    refuse(tmp_path, "x.tif", tiff(scene().astype("u2"), photometric=0), "another kind")


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_only_the_first_of_several_images_is_read_and_noted(tmp_path, kind):
    pages = [Image.fromarray((scene(seed=seed) % 256).astype("uint8")) for seed in range(3)]
    file = io.BytesIO()
    pages[0].save(file, kind, save_all=True, append_images=pages[1:])
    found = read(tmp_path, f"x.{kind}", file.getvalue())
    assert_picture(found, np.asarray(pages[0]))
    assert found.note == "the first of several images"


def promised(content: bytes, width: int, height: int) -> bytes:
    """A PNG with another size in its header."""
    header = content[12:16] + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


SMALL_PNG = raster((scene() % 256).astype("uint8"), "png")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("x.png", promised(SMALL_PNG, 60_000, 60_000), "x.png"),  # Pillow's own limit
        ("x.png", promised(SMALL_PNG, 9_000, 9_000), "at most 67108864 pixels"),
        ("x.png", promised(SMALL_PNG, 8_000, 8_000), "promises shape (8000, 8000, 1)"),
        ("x.png", SMALL_PNG[:30] + b"x" + SMALL_PNG[31:], "damaged"),
        ("x.png", promised(SMALL_PNG, 28, 80), "at least 29"),
        ("x.png", SMALL_PNG[: len(SMALL_PNG) // 2], "damaged"),
        ("x.png", SMALL_PNG[:20], "damaged"),
        ("x.png", SMALL_PNG[:300] + bytes(50) + SMALL_PNG[350:], "damaged"),
        ("x.tif", tiff(scene().astype("u1"), claimed=(60_000, 60_000)), "x.tif"),
        ("x.tif", tiff(scene().astype("u2"), claimed=(8_000, 8_000)), "promises shape (8000, 8000, 1)"),
        ("x.tif", tiff(scene().astype("u2"), claimed=(80, 80)), "damaged"),
        ("x.tif", tiff(scene().astype("u2"))[:2000], "damaged"),
        ("x.tif", tiff(scene().astype("u2"))[:-40], "damaged"),
        ("x.tif", raster(scene().astype("f4"), "tiff", compression="tiff_deflate")[:-500], "damaged"),
    ],
)
def test_bombs_and_damaged_png_and_tiff_are_refused(tmp_path, name, content, part):
    refuse(tmp_path, name, content, part)


# --- pictures: any byte -------------------------------------------------------------------------------------

VICTIMS = {
    "x.fits": [primary(scene((29, 30)).astype(">f4")), primary(scene((29, 30)).astype(">i2"), BSCALE=0.5, BLANK=1)],
    "y.fits": [packed(fits.PrimaryHDU(), fits.CompImageHDU(scene((29, 30)).astype("f4"), quantize_method=2))],
    "z.fits": [GZIPPED, gzip.compress(primary(scene((29, 30))))],
    "x.png": [SMALL_PNG],
    "x.tif": [tiff(scene().astype("u2")), raster(scene().astype("f4"), "tiff", compression="tiff_lzw")],
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", VICTIMS)
def test_damaged_pictures_are_read_or_refused(scratch, name, data):
    content = bytearray(data.draw(st.sampled_from(VICTIMS[name])))
    used = len(bytes(content).rstrip(b" \0"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, used - 1))] = data.draw(st.integers(0, 255) | st.sampled_from(b"0179-' .TF"))
    path = scratch.with_name(name)
    path.write_bytes(content[: len(content) - data.draw(st.just(0) | st.integers(0, used - 1))])
    try:
        found = read_picture(path)
    except DataError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        return
    assert found.pixels.ndim == 3 and found.pixels.dtype.kind in "uif" and np.isfinite(found.pixels).all()
    assert len(found.pixels) in (1, 3) and min(found.pixels.shape[1:]) >= checks.MIN_SIZE
