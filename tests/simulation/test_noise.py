"""The noise of images: Poisson, reads, correlation, on a CPU and as a GPU does it; 8 bits."""

import numpy as np
import pytest
import torch
from simulated import F, J, altered, edited, lens

from darklens.simulation import draw, noise, render
from darklens.simulation.noise import add_noise
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import light_and_sky


def many(recipe, lenses, count, device_way=False):
    """(count, n, n) noisy images of one lens, and its light and sky."""
    light, sky = light_and_sky(lenses, recipe)
    if device_way:
        generator = torch.Generator().manual_seed(1)
        images = [noise.noisy(recipe, lenses, light, sky, generator).numpy() for _ in range(count)]
    else:
        images = [add_noise(recipe, lenses, light, sky, [np.random.default_rng(i)]) for i in range(count)]
    return np.concatenate(images).astype(float), light[0].double().numpy(), sky[0]


@pytest.mark.parametrize("device_way", [False, True])
def test_noise_of_the_published_sets_is_poisson(device_way):
    counts, light, sky = many(F, lens(), 60, device_way)
    mean = light + sky
    chi2 = (counts - mean) ** 2 / mean  # variance 2 + 1 / mean
    assert abs(chi2.mean() - 1) <= 5 * np.sqrt((2 + 1 / mean).mean() / chi2.size)
    pull = (counts - mean) / np.sqrt(mean)
    assert abs(pull.mean()) <= 5 / np.sqrt(pull.size)
    neighbours = (pull[:, :, 1:] * pull[:, :, :-1]).mean()
    assert abs(neighbours) <= 5 / np.sqrt(pull.size)


@pytest.mark.parametrize("device_way", [False, True])
@pytest.mark.parametrize("correlation", [0, 0.7])
def test_noise_has_the_variance_of_the_recipe(device_way, correlation):
    """Many noisy images of one lens: light, sky and reads; correlated noise has as much, shared with neighbours."""
    recipe = edited("euclid", image={"pixels": 16}, noise={"correlation": correlation}, lens_light="none")
    images, light, sky = many(recipe, draw.draw(recipe, "no", 0, "train", [0]), 1000, device_way)
    time, reads = 2264.0, 4 * 4.2**2
    expected = ((light + sky) * time + reads) / (time * 3.1) ** 2
    assert abs((images.var(0) / expected).mean() - 1) < 0.03
    assert np.abs(images.mean(0) - light / 3.1).max() < 6 * np.sqrt(expected.max() / 1000)
    pull = (images - light / 3.1) / np.sqrt(expected)
    assert (pull[:, :, 1:] * pull[:, :, :-1]).mean() == pytest.approx(
        np.exp(-1 / (4 * correlation**2)) if correlation else 0, abs=0.03
    )


@pytest.mark.parametrize("device_way", [False, True])
def test_model_i_draws_its_noise_twice(device_way):
    recipe = edited("i", image={"pixels": 40}, noise={"exposure_time": 2000})
    images, light, _ = many(recipe, draw.draw(recipe, "no", 0, "train", [0]), 600, device_way)
    mean = light * 2000
    bright = mean > 200  # where clipping at 0 plays no part
    assert abs((images.var(0)[bright] / (2 * mean[bright] + 400)).mean() - 1) < 0.03


@pytest.mark.parametrize("device_way", [False, True])
def test_eight_bits_and_gain(device_way):
    p = altered(lens(), F, robust__eight_bits=1)
    (image,), _, _ = many(F, p, 1, device_way)
    assert image.min() == 0 and image.max() == 255 and (image == image.round()).all()
    (plain,), _, _ = many(F, lens(), 1, device_way)
    (half,), _, _ = many(F, altered(lens(), F, robust__gain=2), 1, device_way)
    np.testing.assert_allclose(half, plain / 2, rtol=1e-6)
    assert np.abs(image - (plain - plain.min()) / (np.ptp(plain) / 256)).max() <= 1


def test_models_f_and_j_have_the_signal_to_noise_of_the_published_images():
    for recipe, low, high in ((F, 24, 30), (J, 25, 31)):
        rate = render.render(draw.draw(recipe, "no", 0, "train", range(40)), recipe).numpy()
        assert low < np.median((rate.max((1, 2)) - rate.min((1, 2))) / np.sqrt(rate.max((1, 2)))) < high


def test_model_j_has_the_corners_of_the_published_images():
    """Real Model J panels, min-max normalised and cut to 256 levels: corners 2.6 +- 0.3, scatter 1.08 +- 0.06."""
    images = np.concatenate([render.simulate(J, c, range(60)) for c in J.classes]).astype(float)
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    levels = np.minimum((images - low) / (high - low) * 256 // 1, 255)
    corners = np.stack([levels[:, a, b] for a in (slice(15), slice(-15, None)) for b in (slice(15), slice(-15, None))])
    corners = np.moveaxis(corners, 1, 0).reshape(len(images), -1)  # (4, B, 15, 15) -> (B, 900)
    assert corners.mean(1).mean() == pytest.approx(2.6, abs=0.3)
    assert corners.std(1).mean() == pytest.approx(1.08, abs=0.06)


def test_bright_images_do_not_wrap():
    bright = changed(F, {"source.brightness": 94.5 * 1000})
    image = render.simulate(bright, "no", [0])
    assert image.dtype == np.uint16 and image.max() == 65535
    rate = render.render(draw.draw(bright, "no", 0, "train", [0]), bright)[0].numpy()
    assert (image[0][rate > 70000] == 65535).all()
    assert render.simulate(F, "no", range(20)).max() < 5000
    assert render.simulate(RECIPES["hst"], "no", [0]).dtype == np.float32
