"""FITS files, against astropy; bad ones above all."""

import bz2
import gzip
import re

import numpy as np
import pytest
from astropy.io import fits
from image_files import IMAGE, assert_picture, blank_border, npy, packed, primary, read, refuse, scene, tiff

from darklens.data import fits as data_fits
from darklens.data.image import read_picture
from darklens.errors import DataError


def edited(content: bytes, **cards) -> bytes:
    """FITS bytes with the values of some cards replaced, wherever they are, unchecked."""
    for key, value in cards.items():
        content, count = re.subn(rb"%-8s=.{21}" % key.encode(), b"%-8s= %20s" % (key.encode(), value.encode()), content)
        assert count
    return content


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
    assert (found.unit, found.note) == ("nanomaggy", "HDU 4 (SCI) of 2 images")
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


DITHERED = fits.CompImageHDU(scene().astype("f4"), quantize_method=1, dither_seed=7)
PACKED = packed(fits.PrimaryHDU(), DITHERED)


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
        "found 'HCOMPRESS_1', whose decoders write beyond their memory",
    ),
    "compressed, plio": (
        packed(fits.PrimaryHDU(), fits.CompImageHDU(scene().astype("i4"), compression_type="PLIO_1")),
        "found 'PLIO_1', whose decoders write beyond their memory",
    ),
    "bzip2, cut": (bz2.compress(IMAGE)[:-20], "damaged bzip2"),
    "bzip2, damaged": (bz2.compress(IMAGE)[:40] + bytes(40), "damaged bzip2"),
    "bzip2 in gzip": (gzip.compress(bz2.compress(IMAGE)), "found a bzip2 archive"),
    "compressed, bomb": (gzip_tile_bomb(), "unpacks to more than 352 bytes"),
}


@pytest.mark.parametrize("kind", BAD_FITS)
def test_bad_fits_files_are_refused(tmp_path, kind):
    refuse(tmp_path, "x.fits", *BAD_FITS[kind])


def test_gzip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(data_fits, "MAX_UNPACKED", 100_000)
    refuse(tmp_path, "x.fits.gz", gzip.compress(IMAGE + bytes(100_000)), "at most 100000 bytes")
    refuse(tmp_path, "x.fits.bz2", bz2.compress(IMAGE + bytes(100_000)), "at most 100000 bytes")
    assert_picture(read(tmp_path, "y.fits.gz", gzip.compress(IMAGE)), scene().astype("f4"))


# --- which HDU ----------------------------------------------------------------------------------------------


def hdus(*names: str | tuple, first: bool = True) -> bytes:
    """A file whose HDUs are those images; "NAME": the first pixel is its place among them; ("NAME", shape) too.

    first: the first of them is the primary HDU.
    """
    made = [] if first else [fits.PrimaryHDU()]
    for number, name in enumerate(names):
        name, shape = name if isinstance(name, tuple) else (name, (40, 44))
        image = np.full(shape, 1.0) if 0 in shape else scene(shape)
        if image.size:
            image[..., 0, 0] = number
        hdu = (fits.ImageHDU if made else fits.PrimaryHDU)(image if image.size else None)
        if name:
            hdu.header["EXTNAME"] = name
        made.append(hdu)
    return packed(*made)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["MASK", "DATA", "NOISE_MAP", "PSF"], 1),  # PyAutoLens
        (["ERR", "SCI"], 1),
        (["SCI", "ERR", "DQ"], 0),
        (["", "SCI"], 1),  # the primary has pixels, but SCI is what they call it
        (["", "MASK"], 0),
        (["", ("SCI", (60, 60))], 1),
        (["WHT", "CTX", "IMAGE"], 2),
        (["VARIANCE", "IMAGE", "MASK"], 1),
        (["IMAGE", "DATA", "SCI"], 2),
        (["DATA", "SCIENCE"], 1),
        (["sci_err", "sci"], 1),
        (["DATA_MASK", "RMS", "VAR_POISSON", "WGT", "INVVAR", "F814W"], 5),
        (["SCI_PSF", "noise-map", "Weight", "G-BAND"], 3),
        ([("PSF", (21, 21)), "SCI"], 1),
        ([("", (21, 21)), "SCI"], 1),
        ([("", (21, 21)), ""], 1),
        ([("SCI", (10, 10)), "RESIDUAL"], 1),
        ([("SCI", (10, 40, 44)), "STAMP"], 1),  # a cube
        (["G", "R"], 0),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_which_hdu_is_the_image(tmp_path, names, chosen, first):
    found = read(tmp_path, "x.fits", hdus(*names, first=first))
    assert found.pixels[0, 0, 0] == chosen
    images = [name for name in names if not isinstance(name, tuple) or min(name[1]) >= 29 and len(name[1]) == 2]
    number = chosen + (not first)
    name = names[chosen] if isinstance(names[chosen], str) else names[chosen][0]
    title = f"HDU {number} ({name.upper() or ('no name' if number else 'PRIMARY')})"
    assert found.note == (f"{title} of {len(images)} images" if len(images) > 1 else title if number else "")


def test_an_empty_image_does_not_end_the_search(tmp_path):
    first = fits.PrimaryHDU(np.zeros((1, 1), "u1"))
    content = packed(first, fits.ImageHDU(scene(), name="SCI"))
    content = (
        content[:2880].replace(b"NAXIS1  =                    1", b"NAXIS1  =                    0") + content[5760:]
    )
    assert_picture(read(tmp_path, "x.fits", content), scene())


@pytest.mark.parametrize("names", [["MASK"], ["ERR", "WHT"], ["PSF", "NOISE_MAP", "DQ"]])
def test_masks_and_errors_alone_are_no_image(tmp_path, names):
    refuse(tmp_path, "x.fits", hdus(*names), names[0], "by their names")


def test_a_small_image_is_passed_over_where_a_window_is_needed(tmp_path):
    path = tmp_path / "x.fits"
    path.write_bytes(hdus(("", (31, 31)), ("A", (61, 60)), ("B", (61, 60))))
    assert read_picture(path).pixels.shape == (1, 31, 31)
    found = read_picture(path, window=39)
    assert found.pixels.shape == (1, 61, 60) and found.note == "HDU 1 (A) of 3 images"


@pytest.mark.parametrize(("asked", "chosen"), [(0, 0), ("2", 2), ("noise_map", 2), ("DATA", 1), (3, 3)])
def test_an_hdu_can_be_asked_for(tmp_path, asked, chosen):
    path = tmp_path / "x.fits"
    path.write_bytes(hdus("MASK", "DATA", "NOISE_MAP", "PSF"))
    assert read_picture(path, hdu=asked).pixels[0, 0, 0] == chosen
    for missing in (7, -1, "SCI"):
        with pytest.raises(DataError, match=f"in HDU {missing}, found 0 MASK"):
            read_picture(path, hdu=missing)


def test_what_follows_the_image_may_be_damaged(tmp_path):
    content = hdus("SCI", "ERR")
    for tail in (content[:-4000], content[: len(content) // 2] + b"junk" * 2000, content + bytes(100)):
        assert read(tmp_path, "x.fits", tail).pixels[0, 0, 0] == 0


# --- what is not essential ----------------------------------------------------------------------------------

OPTIONAL = {
    "BUNIT": "electrons/s",
    "EXTNAME": "SCI",
    "OBJECT": "it's a lens",
    "DATE-OBS": "2020-01-01T00:00",
    "CRVAL1": "1.5.2",
    "EQUINOX": "J2000",
    "EXPTIME": "NaN",
    "CHECKSUM": "'wrong",
}


@pytest.mark.parametrize("key", OPTIONAL)
@pytest.mark.parametrize("kind", ["primary", "extension", "compressed"])
def test_a_damaged_card_that_says_nothing_about_pixels(tmp_path, key, kind):
    truth = scene().astype("i4")
    hdu = {"primary": fits.PrimaryHDU, "extension": fits.ImageHDU, "compressed": fits.CompImageHDU}[kind](truth)
    hdu.header["MARK"] = "here"
    content = packed(hdu) if kind == "primary" else packed(fits.PrimaryHDU(), hdu)
    content = re.sub(rb"MARK    = 'here    '.{60}", f"{key:8s}= {OPTIONAL[key]}".ljust(80).encode(), content, count=1)
    found = read(tmp_path, "x.fits", content)
    assert_picture(found, truth)
    assert found.unit is None
    assert ("BUNIT, cannot be read" in found.note) == (key == "BUNIT")


def test_a_damaged_card_of_another_hdu(tmp_path):
    content = packed(fits.PrimaryHDU(), fits.ImageHDU(np.ones(9), name="MARK"), fits.ImageHDU(scene(), name="SCI"))
    content = content.replace(b"EXTNAME = 'MARK    '", b"EXTNAME = MARK' /   ")
    assert_picture(read(tmp_path, "x.fits", content), scene())
