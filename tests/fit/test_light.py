"""The fit of lenses whose galaxy shines: the survey presets, as they are."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from darklens.data.transforms import smooth_model_from_dict
from darklens.fit import SmoothModel, detect, fit
from darklens.fit.assumptions import is_smooth, smooth_model, true_parameters
from darklens.fit.noise import HIGH_PASS
from darklens.fit.renderer import Renderer
from darklens.simulation.draw import draw
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import render, simulate

TURNS = (lambda a: np.rot90(a, 1, (1, 2)), lambda a: a[:, :, ::-1], lambda a: a.transpose(0, 2, 1))


@functools.cache
def sample(name, count=12):
    """Smooth lenses of a preset: images, the true parameters, the model and the fits from the truth."""
    recipe = RECIPES[name]
    model, drawn = smooth_model(recipe), draw(recipe, "no", 0, "test", range(count))
    images, truth = simulate(recipe, "no", range(count), 0, "test").astype(float), true_parameters(drawn, model)
    return images, truth, model, fit(images, model, start=truth)


@functools.cache
def found():
    """Fits of the first `euclid` lenses of which nothing is known."""
    images, _, model, _ = sample("euclid")
    return images[:3], fit(images[:3], model)


@pytest.mark.parametrize("name", ["euclid", "hst"])
def test_the_true_parameters_give_the_simulators_image(name):
    recipe = changed(RECIPES[name], {"image.centre_scatter": 2})
    model, drawn = smooth_model(recipe), draw(recipe, "no", 0, "test", range(3))
    q = torch.as_tensor(model.held()).repeat(3, 1)
    q[:, list(model.free)] = torch.as_tensor(true_parameters(drawn, model))
    lights = Renderer(model, 100, 1, torch.device("cpu"), torch.float64).lights(q).unflatten(2, (100, 100))
    inner = (..., slice(20, -20), slice(20, -20))  # the simulator repeats the edge
    lights, images = lights[inner].flatten(2), render(drawn, recipe, dtype=torch.float64)[inner].flatten(1)
    for columns, image in zip(lights, images, strict=True):
        amplitudes = torch.linalg.lstsq(columns.T, image[:, None]).solution
        assert (columns.T @ amplitudes - image[:, None]).abs().max() <= 2e-4 * image.max()


@pytest.mark.parametrize("name", ["euclid", "hst"])
def test_truth_is_found_within_its_covariance(name):
    _, truth, model, fits = sample(name)
    assert fits.good.all() and abs(fits.chi_square.mean() - 1) < 0.012 and fits.chi_square.std() < 0.03
    pulls = (fits.free - truth) / np.sqrt(fits.covariance.diagonal(axis1=1, axis2=2))
    wide = 1 if name == "euclid" else 2  # drizzled noise is correlated, which the covariance doesn't know
    assert np.abs(pulls).max() < 4 * wide and 0.7 < pulls.std() < 1.3 * wide**0.5
    assert tuple(fits.table()) == model.columns and {"light_index_sd", "light_amplitude"} <= set(model.columns)


def test_an_unknown_image_ends_where_the_truth_does():
    _, (_, again) = sample("euclid"), found()
    truth = sample("euclid")[3][:3]
    assert (np.abs(again.chi_square - truth.chi_square) * again.pixels < 1).all() and again.good.all()
    assert np.abs(again.residual - truth.residual).max() < 0.05


def test_a_free_moffat_without_a_galaxy():
    recipe = changed(RECIPES["hst"], {"lens_light": None})
    images, model = simulate(recipe, "no", range(3), 0, "test").astype(float), smooth_model(recipe)
    assert model.free_psf and model.psf_beta and not model.free_light
    ours = fit(images, model)
    assert (ours.flag == "").all() and np.all(np.abs(ours.chi_square - 1) < 0.06)


@pytest.mark.parametrize("turn", TURNS)
def test_the_turned_image_has_the_turned_fit(turn):
    images, fits = found()
    again = fit(turn(images), fits.model)
    assert np.abs(again.residual - turn(fits.residual)).max() <= 0.02
    for name in ("einstein_radius", "light_radius", "light_axis_ratio", "light_index", "halo_axis_ratio"):
        assert (np.abs(again.table()[name] - fits.table()[name]) <= 0.05 * fits.table()[f"{name}_sd"]).all(), name


def test_units_do_not_matter():
    images, fits = found()
    images, fits = images[:1], fits[:1]
    for other in (images * 1e6, images + 7, (images - images.min()) / np.ptp(images)):
        again = fit(other, fits.model)
        assert np.abs(again.residual - fits.residual).max() <= 0.02
    assert np.allclose(fit(images * 3, fits.model).light_amplitude, 3 * fits.light_amplitude, rtol=1e-3)


def test_a_galaxy_without_a_ring_is_no_lens():
    recipe = changed(RECIPES["euclid"], {"source.magnitude": 40})
    assert fit(simulate(recipe, "no", range(1)).astype(float), smooth_model(recipe)).flag[0] != ""


def test_detection_maps_project_the_galaxy_out():
    """What the galaxy's parameters imitate is not seen: its light in the residual changes nothing."""
    _, fits = found()
    places = np.array([[0.5, 0.8], [-1.0, 0.2]])
    one = dataclasses.replace(fits[:1], residual=fits.residual[:1].astype(float))
    camera = Renderer(fits.model, 100, 1, torch.device("cpu"), torch.float64)
    galaxy = camera.lights(torch.as_tensor(fits.parameters[:1]))[0, 1].reshape(100, 100).numpy() / fits.deviation[0]
    more = dataclasses.replace(one, residual=one.residual + 0.01 * galaxy / galaxy.max() * 100)
    a, b = (detect(each, (1e9,), places, 1e12) for each in (one, more))
    assert np.abs(a.observed - b.observed).max() < 1e-3 and (a.expected > 0).all()


def test_noise_that_was_smoothed_is_measured_as_it_is():
    from darklens.simulation.detector import correlate

    rng = np.random.default_rng(0)
    noise = torch.as_tensor(np.stack([correlate(rng.normal(size=(200, 200)), 0.4) for _ in range(6)]))
    for high in HIGH_PASS.values():
        assert float(high.filter(noise).square().mean()) == pytest.approx(high.response(0.4), rel=0.02)
        assert high.response(0) == 1 and high.response(1e-3) == pytest.approx(1)


def test_what_is_covered(tmp_path):
    for name in ("euclid", "hst", "rubin"):
        model = smooth_model(RECIPES[name])
        assert is_smooth(RECIPES[name]) and model.free_light and model.free_light_index and model.free_psf
    held = smooth_model(changed(RECIPES["euclid"], {"lens_light.sersic_index": 4}))
    assert not held.free_light_index and held.light_index == 4 and "light_index" not in held.columns
    np.save(tmp_path / "galaxy.npy", np.outer(*[np.hanning(21)] * 2))
    assert not is_smooth(changed(RECIPES["euclid"], {"source.stamps": str(tmp_path), "source.stamp_scale": 0.05}))


def test_what_was_stored_before_there_was_light_is_read():
    new = ("psf_beta", "light_index", "free_light", "free_light_index", "noise_correlation")
    old = {key: value for key, value in dataclasses.asdict(SmoothModel()).items() if key not in new}
    assert smooth_model_from_dict(old) == SmoothModel()


@pytest.mark.parametrize("wrong", [{"psf_beta": 1.0}, {"light_index": 0.0}, {"noise_correlation": -1.0}])
def test_wrong_models_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SmoothModel(**wrong)
