"""Pictures of any format: by name and content, read or refused."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import GOOD, IMAGE, SMALL_PNG, npy, packed, picture, primary, raster, read, refuse, scene, tiff

from darklens.data import checks
from darklens.data import image as data_image
from darklens.data.image import read_picture
from darklens.errors import DataError


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.npy"


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


GZIPPED = packed(fits.PrimaryHDU(), fits.CompImageHDU(scene().astype("i4"), compression_type="GZIP_1"))


@pytest.mark.parametrize(
    ("module", "package", "name"),
    [("astropy.io.fits", "astropy", "x.fits"), ("PIL.Image", "pillow", "x.png"), ("PIL.Image", "pillow", "x.tif")],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, package, name):
    monkeypatch.setitem(sys.modules, module, None)
    content = {"x.fits": IMAGE, "x.png": raster(picture(1, dtype="uint8"), "png"), "x.tif": tiff(scene())}[name]
    refuse(tmp_path, name, content, f"pip install {package}")


def test_libraries_are_imported_only_when_needed():
    code = "import sys, darklens.data.image; sys.exit(bool({'astropy', 'PIL', 'scipy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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
