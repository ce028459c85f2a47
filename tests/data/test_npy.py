"""NumPy files: every number type and layout; bad ones above all."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import GOOD, assert_one_line, header, npy, picture

from darklens.data import checks
from darklens.data.image import read_image
from darklens.errors import DataError

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
    "oblong and too small": (npy(picture(4, (40, 28))), "(40, 28)"),
    "oblong and of another size": (npy(picture(4, (41, 42))), "(41, 42)"),
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
