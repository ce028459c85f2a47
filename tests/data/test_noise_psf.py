"""Files beside an image: noise maps and PSFs of every shape and kind are read, or refused in one line."""

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from darklens.data.noise_psf import read_mask, read_noise, read_psf
from darklens.errors import DataError

Y, X = np.mgrid[-7:8, -7:8]
KERNEL = np.exp(-(X**2 + Y**2) / 5.8)
NOISE = 5 + np.random.default_rng(0).random((15, 15))
KEPT = {  # how one plane may be stored
    "(H, W)": lambda a: a,
    "(1, H, W)": lambda a: a[None],
    "(H, W, 1)": lambda a: a[..., None],
    "float32": lambda a: a.astype("f4"),
    "big-endian": lambda a: a.astype(">f8"),
    "Fortran": np.asfortranarray,
}


@pytest.fixture
def psf():
    """Reads a PSF afresh."""
    read_psf.cache_clear()
    return lambda folder, name, *step: np.array(read_psf(name, str(folder), *step)[0])


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("kind", ["npy", "fits"])
def test_one_plane_however_it_is_stored(tmp_path, psf, how, kind):
    for name, array in (("noise", NOISE), ("psf", KERNEL)):
        save = np.save if kind == "npy" else fits.writeto
        save(tmp_path / f"{name}.{kind}", KEPT[how](array))
    assert np.allclose(read_noise(f"noise.{kind}", str(tmp_path), (15, 15)), NOISE, rtol=1e-6)
    kernel = psf(tmp_path, f"psf.{kind}")
    core = KERNEL[1:-1, 1:-1]
    assert np.allclose(kernel, core / core.sum(), rtol=1e-6)


def test_small_kernels_with_an_axis_of_one(tmp_path, psf):
    """(3, 3, 1) might be three planes of one row each."""
    np.save(tmp_path / "a.npy", np.ones((3, 3, 1)))
    assert np.allclose(psf(tmp_path, "a.npy"), np.full((3, 3), 1 / 9))


@pytest.mark.parametrize("factor", [1e300, 1e-300, 2.0**1000, 1e-320])
def test_the_unit_of_a_psf_does_not_matter(tmp_path, psf, factor):
    np.save(tmp_path / "a.npy", KERNEL * factor)
    np.save(tmp_path / "b.npy", KERNEL)
    assert np.allclose(psf(tmp_path, "a.npy"), psf(tmp_path, "b.npy"), atol=1e-3)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_of_any_size(tmp_path, psf, ending):
    Image.fromarray((255 * KERNEL).astype("u1")).save(tmp_path / f"a.{ending}")
    assert abs(psf(tmp_path, f"a.{ending}").sum() - 1) < 1e-9
    assert read_noise(f"a.{ending}", str(tmp_path), (15, 15)).shape == (15, 15)


BAD = {
    "three planes": np.ones((3, 15, 15)),
    "four axes": np.ones((1, 1, 15, 15)),
    "one axis": np.ones(15),
    "no axis": np.array(3.0),
    "empty": np.ones((0, 15)),
    "one pixel": np.ones((1, 1)),
    "complex": np.ones((15, 15), complex),
    "bool": np.ones((15, 15), bool),
    "text": np.array([["a"] * 15] * 15),
    "objects": np.full((15, 15), None),
    "zero": np.zeros((15, 15)),
    "negative": -KERNEL,
    "all NaN": np.full((15, 15), np.nan),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_neither_is_refused_in_one_line(tmp_path, psf, name):
    np.save(tmp_path / "a.npy", BAD[name], allow_pickle=True)
    for read in (lambda: psf(tmp_path, "a.npy"), lambda: read_noise("a.npy", str(tmp_path), (15, 15))):
        with pytest.raises(DataError) as error:
            read()
        assert "a.npy" in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["a\0.npy", "\ud800.npy", "gone.npy", "folder.npy", "x" * 300 + ".npy", "text.npy", "", "[1]", "a.exe"]
)
def test_names_that_lead_to_no_image(tmp_path, psf, name):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "text.npy").write_text("no array at all")
    for read in (lambda: psf(tmp_path, name), lambda: read_noise(name, str(tmp_path), (15, 15))):
        with pytest.raises(DataError) as error:
            read()
        assert len(str(error.value).splitlines()) == 1 and str(error.value).isprintable()


@pytest.mark.parametrize("mark", [1e16, 1e10, 1e20, 1e30, 3e38, np.inf, np.nan, 0.0, -1.0])
def test_pixels_that_maps_mark_as_bad_have_no_weight(tmp_path, mark):
    noise = NOISE.copy()
    noise[3:9, 2] = mark
    np.save(tmp_path / "a.npy", noise)
    found = read_noise("a.npy", str(tmp_path), (15, 15))
    assert np.isnan(found[3:9, 2]).all() and np.isnan(found).sum() == 6


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_many_bad_pixels_are_bad_all_the_same(tmp_path, share):
    noise = NOISE.copy()
    noise[: round(15 * share)] = 1e16
    np.save(tmp_path / "a.npy", noise)
    assert np.isnan(read_noise("a.npy", str(tmp_path), (15, 15))).sum() == 15 * round(15 * share)


def test_noise_of_a_bright_galaxy_counts(tmp_path):
    noise = NOISE * (1 + 300 * KERNEL)
    np.save(tmp_path / "a.npy", noise)
    assert np.array_equal(read_noise("a.npy", str(tmp_path), (15, 15)), noise)


KINDS = {
    "a.fits[VARIANCE]": NOISE**2,  # Hyper Suprime-Cam
    "a.fits[INVVAR]": NOISE**-2,  # Legacy Surveys
    "a.fits[WGT]": NOISE**-2,  # Dark Energy Survey
    "a.fits[inverse variance]": NOISE**-2,
    "a.fits[ERR]": NOISE,
    "a_var.fits": NOISE**2,
    "a_wht.fits": NOISE**-2,
    "lens_variance_map.npy": NOISE**2,
    "weights.npy": NOISE**-2,
    "rms.npy": NOISE,
    "newton.npy": NOISE,
}


@pytest.mark.parametrize("name", KINDS)
def test_variances_and_weights_are_taken_for_what_they_are_called(tmp_path, name):
    file, _, hdu = name.rstrip("]").partition("[")
    if hdu:
        units = [fits.PrimaryHDU(), fits.ImageHDU(NOISE, name="SCI"), fits.ImageHDU(KINDS[name], name=hdu)]
        fits.HDUList(units).writeto(tmp_path / file)
        assert np.allclose(read_noise(file, str(tmp_path), (15, 15)), NOISE, rtol=1e-6)  # the HDU that is no image
    elif file.endswith("npy"):
        np.save(tmp_path / file, KINDS[name])
    else:
        fits.writeto(tmp_path / file, KINDS[name])
    assert np.allclose(read_noise(name, str(tmp_path), (15, 15)), NOISE, rtol=1e-6)


def test_a_weight_of_zero_is_none(tmp_path):
    weight = NOISE**-2
    weight[2, 3], weight[4, 5] = 0, -1
    np.save(tmp_path / "a_weight.npy", weight)
    assert np.isnan(read_noise("a_weight.npy", str(tmp_path), (15, 15))).sum() == 2


def test_bits_of_detected_objects_mask_nothing(tmp_path):
    """As in the masks of the LSST pipelines."""
    mask = np.full((15, 15), 1 << 5, "i4")  # detected, all of it
    mask[2, 3] |= 1 << 1  # saturated
    mask[4:6, 5] |= 1 << 8  # no data
    unit = fits.ImageHDU(mask, name="MASK")
    unit.header.update({"MP_BAD": 0, "MP_SAT": 1, "MP_DETECTED": 5, "MP_NO_DATA": 8, "MP_CR": "no number"})
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(tmp_path / "a.fits")
    masked = read_mask("a.fits", str(tmp_path), (15, 15))
    assert masked.sum() == 3 and masked[2, 3] and masked[4:6, 5].all()
    fits.ImageHDU(mask, name="MASK").writeto(tmp_path / "b.fits")
    assert read_mask("b.fits", str(tmp_path), (15, 15)).all()
