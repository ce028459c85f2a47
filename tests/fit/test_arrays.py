"""`darklens.fit`: arrays as people have them, and one line for what can't be used."""

import os
import subprocess
import sys
import typing
from dataclasses import fields

import fit_data
import numpy as np
import pytest
import torch

import darklens
from darklens.errors import DarkLensError, DataError, UsageError
from darklens.fit import SmoothModel, arrays, fit
from darklens.simulation.psf import moffat_kernel


@pytest.fixture(scope="module")
def lens():
    """Two images with a star in them, where it is, the fit of the images without it, and of those with it masked."""
    images = fit_data.images(fit_data.F, "no", 2)[0].astype(float)
    star = np.zeros(images.shape, dtype=bool)
    star[:, 60:64, 60:64] = True
    return np.where(star, 1e6, images), star, fit(images), fit(np.where(star, np.nan, images))


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("parameters", "residual", "flag"))


def test_masks_of_every_kind_mean_the_same(lens):
    images, star, _, expected = lens
    ways = [
        {"images": np.where(star, np.nan, images)},
        {"images": np.ma.array(images, mask=star)},
        {"images": np.ma.array(images, mask=star)[:, None]},
        {"images": images, "mask": star},
        {"images": images, "mask": star[0]},
        {"images": images, "mask": star.astype(np.uint8)},
        {"images": torch.as_tensor(images), "mask": torch.as_tensor(star)},
        {"images": np.ma.masked_greater(images, 1e5)},
    ]
    for way in ways:
        fits = darklens.fit(**way)
        assert same(fits, expected) and fits.mask.sum() == 2 * 16, list(way)
    assert (np.abs(expected.free - lens[2].free) < np.sqrt(expected.covariance.diagonal(axis1=1, axis2=2))).all()


def test_noise_of_every_kind_means_the_same(lens):
    images = np.where(lens[1], 30.0, lens[0])
    expected = fit(images, noise=np.full(images.shape, 6.0))
    for noise in (6.0, np.full(images.shape, 6.0), np.full(images.shape[1:], 6), np.full((1, 150, 150), 6.0)):
        assert same(darklens.fit(images, noise=noise), expected)
    holes = np.full(images.shape, 6.0)
    holes[0, 70:75, 70:75], holes[0, 80, 80], holes[0, 81, 81], holes[0, 82, 82] = np.nan, 0, -1, np.inf
    masked = darklens.fit(
        images, noise=np.ma.array(np.full(images.shape, 6.0), mask=~(np.isfinite(holes) & (holes > 0)))
    )
    assert same(darklens.fit(images, noise=holes), masked) and masked.mask[0].sum() == 28


def test_one_image_is_one_image(lens):
    images, star, _, expected = lens
    for one in (images[0], images[:1], images[0][None, None]):
        fits = darklens.fit(one, mask=star[0], workers=8)
        assert len(fits) == 1 and np.allclose(fits.parameters, expected.parameters[:1], atol=1e-6)
    small = darklens.fit(images[0, 45:105, 45:105], mask=star[0, 45:105, 45:105])
    assert len(small) == 1 and small.residual.shape == (1, 60, 60)


def test_a_kernel_is_an_array(lens):
    images, star, _, _ = lens
    kernel = moffat_kernel(3.0, 3.0, 15)
    model = SmoothModel(psf_kernel=tuple(map(tuple, kernel.tolist())))
    expected = darklens.fit(images, mask=star, model=model)
    for way in ({"psf": kernel}, {"psf": kernel.tolist()}, {"psf": 7 * kernel}, {"psf_kernel": kernel}):
        assert np.allclose(darklens.fit(images, mask=star, **way).parameters, expected.parameters, atol=1e-6)


WRONG = {
    "noise of another shape": ({"noise": np.ones((3, 3))}, DataError, r"noise: expected the images' shape"),
    "a word for the noise": ({"noise": "gaussian"}, DataError, "noise: expected standard deviations"),
    "noise below 0": ({"noise": -1.0}, DataError, "above 0"),
    "a mask of another shape": ({"mask": np.ones((150, 149), bool)}, DataError, "mask: expected the images' shape"),
    "a start of another shape": ({"start": np.ones(3)}, DataError, "start: expected"),
    "text for images": ({"images": "lens.fits"}, DataError, "images: expected"),
    "objects": ({"images": np.array([None, {}])}, DataError, "images: expected an array"),
    "oblong images": ({"images": np.ones((2, 50, 60))}, DataError, "square"),
    "tiny images": ({"images": np.ones((2, 5, 5))}, DataError, "square"),
    "two axes too many": ({"images": np.ones((2, 3, 4, 50, 50))}, DataError, "images: expected shape"),
    "an even kernel": ({"psf": np.ones((4, 4))}, DataError, "psf is 4 pixels wide"),
    "an oblong kernel": ({"psf": np.ones((3, 5))}, DataError, "psf has shape"),
    "a kernel of NaN": ({"psf": np.full((3, 3), np.nan)}, DataError, "not finite"),
    "two kernels": ({"psf": np.ones((3, 3)), "psf_kernel": np.ones((3, 3))}, UsageError, "the same"),
    "a negative width": ({"psf_sigma": -1.0}, UsageError, "psf_sigma"),
    "a pixel scale of NaN": ({"pixel_scale": float("nan")}, UsageError, "pixel_scale"),
    "a misspelt keyword": ({"free_center": True}, UsageError, "did you mean free_centre"),
    "no keyword at all": ({"zzz": True}, UsageError, "no keyword zzz"),
    "an unknown component": ({"components": ("dragon",)}, UsageError, "components must be among"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(lens, name):
    keywords, kind, words = WRONG[name]
    with pytest.raises(kind, match=words) as error:
        darklens.fit(**{"images": lens[0]} | keywords)
    assert isinstance(error.value, DarkLensError) and "\n" not in str(error.value) and len(str(error.value)) < 200


def test_keywords_are_the_fields_of_the_model():
    assert set(typing.get_type_hints(arrays.ModelFields)) == {field.name for field in fields(SmoothModel)}


def test_infinite_deviations_are_flagged(lens):
    """A free PSF so narrow that its width changes no pixel."""
    fits = darklens.fit(lens[0], mask=lens[1], free_psf=True, psf_sigma=1e-6)
    assert not np.isfinite(fits.covariance).all((1, 2)).any() and (fits.flag == "not determined").all()


NO_GUARD = """
import numpy as np, darklens
darklens.fit(np.random.default_rng(0).normal(size=(70, 40, 40)), workers=2)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
    (tmp_path / "script.py").write_text(NO_GUARD)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode != 0 and '__name__ == "__main__"' in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") <= 1
