"""Which HDUs and files are images of the sky, by their names."""

import numpy as np
import pytest
from astropy.io import fits

from darklens.data.image import read_picture
from darklens.data.side_names import side_files
from darklens.errors import DataError

IMAGE, OTHER = np.full((40, 40), 7.0), np.full((40, 40), 1.0)
BESIDE = (  # of an image, in HDUs that come before it
    "STAT QUAL BKG BACKGROUND SKY MODEL RESIDUAL COVERAGE NEXP CHI2 SNR DETECTION GAIN TIME SAMP AREA WAVELENGTH "
    "MASK DQ ERR RMS SIGMA STD UNC VAR IVAR WHT WGT WEIGHT PSF KERNEL CTX FLAGS BADPIX SEGMAP EXPTIME CON "
    "DATA_QUALITY DATAQUAL DATA_BACKGROUND DATAMODEL IMAGE_QUALITY SCIBKG DATA_SKY IMAGE_NPIX SCI_MODEL SCI-BKG "
    "IMAGE.ERR DATA_VAR SCI_WHT MODEL1 BKG_2 LENS_MODEL DATA_CHI2 IMAGE_DEPTH QUALITY ERRORS NOISE_MAP VARIANCE "
    "VAR_POISSON SCIQUAL SEXTRACTOR_SKY "
).split()
CALLED = "SCI DATA IMAGE SCIENCE sci Sci SCI1 SCI_2 DATA,1".split()


def write(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(hdus[0]), *(fits.ImageHDU(data, name=name) for name, data in hdus[1:])]).writeto(path)
    return path


def value(path) -> float:
    return read_picture(path).pixels.max()


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_an_image_never_wins(tmp_path, name):
    assert value(write(tmp_path / "a.fits", IMAGE, (name, OTHER))) == 7
    assert value(write(tmp_path / "b.fits", None, (name, OTHER), ("FLUX", IMAGE))) == 7
    assert value(write(tmp_path / "c.fits", None, (name, OTHER), ("SCI", IMAGE))) == 7


@pytest.mark.parametrize("name", ["SCI_CORR", "DATA_CUBE", "IMAGE_SMALL", "SCIENTIST", "F814W", "SKYSUB", "STATIC"])
def test_other_names_do_not_win_over_the_primary_image(tmp_path, name):
    assert value(write(tmp_path / "a.fits", IMAGE, (name, OTHER))) == 7
    assert value(write(tmp_path / "b.fits", None, (name, IMAGE), ("MASK", OTHER))) == 7


@pytest.mark.parametrize("name", CALLED)
def test_names_of_images_win(tmp_path, name):
    assert value(write(tmp_path / "a.fits", OTHER, (name, IMAGE))) == 7
    assert value(write(tmp_path / "b.fits", None, ("FLUX", OTHER), (name, IMAGE))) == 7


@pytest.mark.parametrize("name", ["MODEL", "BKG", "STAT", "DATA_QUALITY"])
def test_alone_they_are_refused_and_taken_where_asked_for(tmp_path, name):
    path = write(tmp_path / "a.fits", None, (name, OTHER))
    with pytest.raises(DataError, match="--hdu NAME takes one"):
        read_picture(path)
    assert read_picture(path, hdu=name).pixels.max() == 1


@pytest.mark.parametrize(
    "ending",
    "noise_map noise-map noisemap mask Mask psf PSF err rms weight wht sigma var dq ivar seg std unc variance "
    "weight_map exptime flag noise kernel error uncertainty bpm rms_image psf_img".split(),
)
def test_files_that_end_in_such_a_word(ending):
    files = ["lens0_data.fits", f"lens0_{ending}.fits", "lens1.npy", f"lens2-{ending}.fits.gz", f"{ending}.png"]
    assert side_files(files) == [files[1], files[3], files[4]]


@pytest.mark.parametrize("word", ["mask", "psf", "noise", "rms", "weight", "err", "noise_map"])
def test_files_that_begin_with_one_and_have_an_image_of_the_same_number(word):
    assert side_files(["image_12.npy", f"{word}_12.npy", f"{word}13.npy", "galaxy_13.npy"]) == [
        f"{word}_12.npy",
        f"{word}13.npy",
    ]
    assert side_files([f"{word}_{i}.npy" for i in range(5)]) == []  # all that there is


@pytest.mark.parametrize("word", ["model", "sky", "bkg", "residual", "background"])
def test_words_that_images_may_have_take_an_image_beside_them(word):
    assert side_files([f"{word}_1.npy", f"{word}_2.npy", f"a_{word}.npy"]) == []
    assert side_files(["a_data.npy", f"a_{word}.npy", "b.npy", f"{word}_b.npy"]) == [f"a_{word}.npy", f"{word}_b.npy"]


def test_images_are_images():
    names = [
        "0001.npy",
        "lens_12.fits",
        "cdm_3.npy",
        "no_sub_4.npy",
        "HST_F814W_drz.fits",
        "data.fits",
        "a.b.npy",
        "x-1",
    ]
    assert side_files([*names, "errand.npy", "psfield_3.fits", "variable_star.npy", "maskelyne.fits"]) == []
