"""Pictures of any format: by name and content, read or refused."""

import bz2
import gzip
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import (
    GOOD,
    IMAGE,
    SMALL_PNG,
    assert_picture,
    npy,
    packed,
    picture,
    primary,
    raster,
    read,
    refuse,
    scene,
    tiff,
)

from darklens.data import checks
from darklens.data import image as data_image
from darklens.data.convert import read_source
from darklens.data.image import fingerprint, read_image, read_picture
from darklens.errors import DataError

GZIPPED = packed(fits.PrimaryHDU(), fits.CompImageHDU(scene().astype("i4"), compression_type="GZIP_1"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.npy"


@pytest.mark.parametrize("shape", [(40, 44), (1, 29, 60), (29, 60, 3), (3, 40, 40)])
def test_npy_pictures_need_not_be_square(tmp_path, shape):
    found = read(tmp_path, "x.NPY", npy(picture(1, shape)))
    assert found.pixels.dtype == np.uint16 and found[1:] == (None, 0, "", None)
    assert found.pixels.shape == ((3, 29, 60) if shape[-1] == 3 else shape if len(shape) == 3 else (1, *shape))


@pytest.mark.parametrize("name", ["x", "fits", "x.npy.txt", "x.zip.txt"])
def test_other_extensions_are_refused(tmp_path, name):
    assert data_image.find_extension(name) is None
    refuse(tmp_path, name, GOOD, ".npy, .fits")


@pytest.mark.parametrize(
    ("name", "advice"),
    [("x.jpg", "lossy"), ("X.JPEG", "lossy"), ("x.npz", ".npy"), ("x.h5", ".npy or FITS"), ("x.hdf5", ".npy or FITS")]
    + [("x.tar.gz", "unpack"), ("x.npy.gz", "unpack"), ("x.fits.xz", "unpack"), ("x.pkl", "never opened")],
)
def test_what_may_hold_images_and_is_not_read_says_why(tmp_path, name, advice):
    assert data_image.find_extension(name) is None and advice in data_image.unread_kind(name)
    refuse(tmp_path, name, GOOD, advice)


@pytest.mark.parametrize("name", ["x.fits", "x.fit", "x.fts", "x", "x.v2"])
@pytest.mark.parametrize("packing", [gzip, bz2])
def test_packed_fits_files_of_any_name(tmp_path, name, packing):
    ending = {gzip: ".gz", bz2: ".bz2"}[packing]
    assert_picture(read(tmp_path, name + ending, packing.compress(IMAGE)), scene().astype("f4"))


@pytest.mark.parametrize("name", ["x.fz", "x.fits.fz", "x.fit.fz", "X.FITS.FZ", "x.fits"])
def test_tile_compressed_fits_files_of_any_name(tmp_path, name):
    assert_picture(read(tmp_path, name, GZIPPED), scene().astype("i4"))


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


# --- what is not looked at ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 60), (61, 61), (61, 60), (60, 73), (75, 60)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("window", [39, 40])
def test_only_what_is_looked_at_must_be_finite(tmp_path, shape, value, window):
    """One pixel within the window's edge, or beyond it; dead pixels in the sky of real files are beyond it."""
    rows, columns = checks.central(*shape, window)
    for row, column in ((rows.start, columns.start), (rows.stop - 1, columns.start), (rows.start, columns.stop - 1)):
        image = scene(shape)
        image[row, column] = value
        np.save(tmp_path / "x.npy", image)
        for read_it in (read_picture, data_image.read_image):
            with pytest.raises(DataError, match=f"row {row}, column {column}"):
                read_it(tmp_path / "x.npy", window=window)
    for row, column in ((rows.start - 1, columns.start), (rows.stop, columns.start), (4, columns.stop), (0, 0)):
        image = scene(shape)
        image[row, column] = value
        np.save(tmp_path / "x.npy", image)
        found = read_picture(tmp_path / "x.npy", window=window)
        assert found.masked == 0 and found.note.startswith("1 ")
        assert np.array_equal(found.pixels[0, rows, columns], image[rows, columns])
        assert np.isfinite(data_image.read_image(tmp_path / "x.npy", window=window)).all()


@pytest.mark.parametrize(("height", "width"), [(60, 60), (61, 61), (61, 60), (60, 75), (151, 150)])
@pytest.mark.parametrize("window", [29, 45])
def test_each_axis_is_cropped_about_its_own_centre(height, width, window):
    rows, columns = checks.central(height, width, window)
    assert (rows.start, columns.start) == ((height - window) // 2, (width - window) // 2)
    image = np.arange(height * width).reshape(1, height, width)
    square = data_image.as_square(image)
    again = checks.central(*square.shape[1:], window)
    assert np.array_equal(square[(0, *again)], image[0, rows, columns])  # as it is, or made a square before


def test_oblong_images_of_a_data_set_become_squares(tmp_path):
    np.save(tmp_path / "x.npy", picture(1, (41, 40)))
    assert data_image.read_shape(tmp_path / "x.npy") == (1, 40)
    assert np.array_equal(data_image.read_image(tmp_path / "x.npy", 1, 40)[0], picture(1, (41, 40))[1:])
    with pytest.raises(DataError, match="40 x 40 pixels"):
        np.save(tmp_path / "y.npy", picture(1, (41, 43)))
        data_image.read_image(tmp_path / "y.npy", 1, 40)


# --- which image is it --------------------------------------------------------------------------------------


def version2(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, image, version=(2, 0))
    return file.getvalue()


STORED = {
    "(1, H, W)": lambda image: npy(image[None]),
    "(H, W, 1)": lambda image: npy(image[..., None]),
    "big-endian": lambda image: npy(image.astype(">u2")),
    "Fortran": lambda image: npy(np.asfortranarray(image)),
    "version 2": version2,
    "float32": lambda image: npy(image.astype("f4")),
    "float64, big-endian, Fortran, (1, H, W)": lambda image: npy(np.asfortranarray(image.astype(">f8"))[None]),
}


@pytest.mark.parametrize("how", STORED)
def test_the_fingerprint_is_that_of_the_pixels(tmp_path, how):
    image = picture(1)
    (tmp_path / "a.npy").write_bytes(npy(image))
    (tmp_path / "b.npy").write_bytes(STORED[how](image))
    assert fingerprint(read_image(tmp_path / "a.npy")) == fingerprint(read_image(tmp_path / "b.npy"))


@pytest.mark.parametrize("other", [picture(2), picture(1)[::-1], picture(1).T, picture(1)[:, :-1], picture(1) + 1])
def test_other_pixels_have_another_fingerprint(tmp_path, other):
    np.save(tmp_path / "a.npy", picture(1))
    np.save(tmp_path / "b.npy", other)
    assert fingerprint(read_image(tmp_path / "a.npy")) != fingerprint(read_image(tmp_path / "b.npy"))


@pytest.mark.parametrize("shape", [(60, 60), (61, 60), (60, 90)])
def test_a_border_of_nan_is_treated_alike_by_training_predict_and_convert(tmp_path, shape):
    image = scene(shape)
    image[:9] = image[:, -7:] = np.nan
    np.save(tmp_path / "x.npy", image)
    trained = data_image.read_image(tmp_path / "x.npy", 1, 60)
    predicted = data_image.as_square(read_picture(tmp_path / "x.npy", window=39).pixels)
    converted = data_image.as_square(read_source(tmp_path / "x.npy")[0].pixels)
    assert np.isfinite(trained).all() and np.array_equal(trained, predicted) and np.array_equal(trained, converted)
