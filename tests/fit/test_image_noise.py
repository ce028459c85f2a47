"""Images of which nothing is known: which of their pixels have data, and how large their noise is."""

import importlib

import numpy as np
import pytest
from conftest import ROOT

from darklens.fit.gaps import gaps
from darklens.fit.image_noise import image_noise
from darklens.simulation.recipes import RECIPES


def sky_and_galaxy(seed: int = 0, size: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """A cusp of 10,000 standard deviations on a sky: image and standard deviations (size, size)."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.3
    light = 2e4 * np.exp(-2 * np.hypot(x, y) ** 0.5)
    sigma = np.sqrt(0.04 + 0.002 * light)
    return 100 + light + sigma * np.random.default_rng(seed).normal(size=light.shape), sigma


@pytest.mark.parametrize("value", [0.0, -999.0, 65535.0])
def test_what_many_pixels_share_is_no_data(value):
    image, _ = sky_and_galaxy()
    hidden = np.random.default_rng(1).random(image.shape) < 0.02
    hidden[:20, :30] = True
    assert (gaps(np.where(hidden, value, image)) == hidden).all()
    assert (gaps(np.where(hidden, value, image).astype("f4")) == hidden).all()


def test_a_saturated_core_and_holes_together():
    image, _ = sky_and_galaxy()
    full = image > np.quantile(image, 0.998)
    holes = np.random.default_rng(1).random(image.shape) < 0.01
    image = np.where(holes, 0.0, np.where(full, image[~full].max() + 1, image))
    assert (gaps(image) == (full | holes)).all()


@pytest.mark.parametrize("case", ["counts", "8 bits", "constant", "nan", "few", "as it is"])
def test_values_in_steps_are_data(case):
    image, _ = sky_and_galaxy()
    rng = np.random.default_rng(2)
    images = {
        "counts": rng.poisson(0.05, image.shape).astype(float),
        "8 bits": np.round(255 * (image - image.min()) / np.ptp(image)),
        "constant": np.ones((40, 40)),
        "nan": np.full((40, 40), np.nan),
        "few": np.arange(4.0).reshape(2, 2),
        "as it is": image,
    }
    assert not gaps(images[case]).any()


@pytest.mark.parametrize("name", ["hst", "hst_sky", "jwst"])
def test_the_noise_of_a_lens_behind_a_bright_galaxy(name, monkeypatch):
    """Against what the recipe draws, in the sky, everywhere and in the core."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    observe = importlib.import_module("galaxy_sources").observe
    for number in range(6):
        truth = observe(RECIPES[name], "no", number)
        image = truth.image
        ratio = image_noise(image, np.isfinite(image)) / truth.noise
        y, x = np.mgrid[: len(image), : len(image)] - (len(image) - 1) / 2
        far = np.hypot(x, y) > 45
        assert 0.9 < np.median(ratio[far]) < 1.1 and 0.75 < np.median(ratio) < 1.35
        assert 0.7 < np.median(ratio[np.hypot(x, y) < 5]) < 1.8  # a core may count as noise, a little


def test_it_scales_and_does_not_feel_a_sky_level_or_the_shape():
    image, sigma = sky_and_galaxy()
    noise = image_noise(image, np.ones(image.shape, bool))
    assert np.median(noise / sigma) == pytest.approx(1, rel=0.1)
    other = image_noise((7 * image[10:] - 300), np.ones(image[10:].shape, bool))
    assert np.median(other / (7 * sigma[10:])) == pytest.approx(1, rel=0.1)


def test_where_nothing_varies_it_is_finite_and_positive():
    for image in (np.ones((40, 40)), np.ones((3, 40)), np.round(sky_and_galaxy()[0] / 50)):
        noise = image_noise(image, np.ones(image.shape, bool))
        assert noise.shape == image.shape and np.isfinite(noise).all() and (noise > 0).all()
    assert (image_noise(np.ones((40, 40)), np.zeros((40, 40), bool)) == 1).all()
