"""PNG and TIFF at full depth; bad ones above all."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_files import SMALL_PNG, assert_picture, blank_border, raster, read, refuse, scene, tiff
from PIL import Image


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_grey_values_at_full_depth(tmp_path, dtype, kind):
    truth = (scene() * (200 if dtype == "uint16" else 0.7)).astype(dtype)
    assert truth.max() > (255 if dtype == "uint16" else 0)
    found = read(tmp_path, f"x.{kind}", raster(truth, kind))
    assert found.pixels.dtype == dtype and found[1:] == (None, 0, "", None)
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
