"""A flexible source behind the lens galaxy's light, on lenses drawn by lenstronomy."""

import functools

import galaxy_lenses
import numpy as np
import pytest
import torch

import darklens
from darklens.errors import UsageError
from darklens.fit import SmoothModel
from darklens.fit.correlation import variance_ratio
from darklens.fit.observed import flexible_source, mge
from darklens.fit.observed.cutout import cut_out
from darklens.fit.observed.light import LightModel
from darklens.fit.observed.light_prior import deviations, light_prior
from darklens.fit.observed.rays import Rays
from darklens.fit.observed.run import fit_observed
from darklens.fit.renderer import Renderer
from darklens.fit.settings import SOURCES
from darklens.survey.lens_fit import LensImage, fit_lens

pytest.importorskip("sep")
Q = np.array([1.1, 0.05, -0.03, 0.2, 0.1, 0.08, -0.06, 0.1, 0.05, np.log(0.3), 0.2, -0.1, np.log(1.2)])


@functools.cache
def case(**kwargs):
    truth = galaxy_lenses.draw(4, **kwargs)
    arguments = truth.image, truth.noise, truth.psf, 0.05
    return truth, fit_observed(*arguments), fit_observed(*arguments, source="flexible")


@pytest.mark.parametrize("side", [15, 8])
def test_both_renderers_have_the_same_arcs(side):
    """Shear and source are about the lens's centre in one parametrisation, about the image's middle in the other."""
    kernel = galaxy_lenses.psf_kernel(size=side)
    cutout = cut_out(np.ones((81, 81)), np.ones((81, 81)), kernel, 0.05)
    odd = flexible_source.odd_kernel(cutout)
    model = SmoothModel(
        pixel_scale=0.05, window=81, psf_kernel=tuple(map(tuple, odd)), free_centre=True, free_halo=True
    )
    q = flexible_source.smooth_parameters(Q, model)
    image = Renderer(model, 81, 1, torch.device("cpu"), torch.float64).light(q).view(81, 81).numpy()
    expected = Rays(cutout, cutout.half, 2).sersic(Q, derivatives=False)[0]
    inside = (slice(10, -10),) * 2  # one of them takes nothing for granted beyond the edge
    assert len(odd) % 2 == 1 and np.abs(image - expected)[inside].max() < 2e-3 * expected.max()
    np.testing.assert_allclose(flexible_source.observed_parameters(q, model), Q, atol=1e-12)


def test_the_variance_ratio_is_that_of_drawn_noise():
    """Amplitudes of two columns in many realisations of noise that was smoothed by 0.5 pixels."""
    from scipy import ndimage

    steps = np.arange(32) - 16
    r = np.hypot(steps, steps[:, None])
    columns = np.stack([np.exp(-0.5 * (r / 1.5) ** 2), np.sin(steps / 2) * np.exp(-0.5 * ((r - 8) / 1.5) ** 2)])
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(4000, 32, 32)), (0, 0.5, 0.5), mode="wrap")
    noise /= noise.std()
    lag = (noise[:, 1:] * noise[:, :-1]).mean()
    spread = np.einsum("nij,kij->nk", noise, columns).var(0).sum() / np.square(columns).sum()
    assert variance_ratio(columns, lag) == pytest.approx(spread, rel=0.05) and spread > 2
    assert variance_ratio(columns, 0.0) == pytest.approx(1)


def test_the_light_s_prior_is_the_posterior_of_what_lies_outside():
    """Against the dense posterior of all amplitudes, of pixels outside of the arcs."""
    rng = np.random.default_rng(0)
    columns, linear = rng.random((5, 12, 12)), rng.random(5)
    shape = mge.Shape(np.zeros(2), np.zeros((1, 2)))
    light = LightModel(shape, columns, np.ones(5, bool), np.array([0, 0, 0, 2.0, 0]), linear)
    weight = np.where(rng.random((12, 12)) < 0.3, 2.0, 0.0)
    data = light.image + rng.normal(size=(12, 12))
    moved = rng.random((2, 12, 12))
    prior = light_prior(light, linear, moved, data, weight)
    sd = np.append(deviations(light, 0.5), [1, 1])
    columns, linear, ridge = np.concatenate((columns, moved)), np.append(linear, [0, 0]), np.append(light.ridge, [0, 0])
    x = columns.reshape(7, -1) * weight.ravel()
    precision = x @ x.T + np.diag(ridge) + np.diag(sd**-2.0)
    mean = np.linalg.solve(precision, x @ (data * weight).ravel() + linear / sd**2)
    np.testing.assert_allclose(prior.image, np.tensordot(mean, columns, 1), rtol=1e-9)
    flat = prior.columns.reshape(7, -1)
    expected = columns.reshape(7, -1).T @ np.linalg.inv(precision) @ columns.reshape(7, -1)
    np.testing.assert_allclose(flat.T / prior.precision @ flat, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_clumpy_source_is_followed_and_is_no_mass(correlation):
    truth, before, fit = case(clumps=4, radius=1.2, correlation=correlation)
    assert abs(fit.einstein_radius / truth.einstein_radius - 1) < 0.01
    bright = truth.arcs > 3
    error, before_error = (np.abs(each.arcs - truth.arcs)[bright].mean() for each in (fit, before))
    assert error < 0.8 * before_error
    assert fit.chi_square < before.chi_square and abs(fit.chi_square - 1) < 0.08
    assert fit.log_bayes_factor < 5 and not fit.flag


@pytest.mark.slow
def test_correlated_noise_is_no_mass(monkeypatch):
    """With the sigma of single pixels ln B would rise."""
    truth, _, fit = case(clumps=4, radius=1.2, correlation=0.5)
    monkeypatch.setattr(flexible_source, "inflation", lambda *_: 1.0)
    white = fit_observed(truth.image, truth.noise, truth.psf, 0.05, source="flexible")
    assert fit.log_bayes_factor < 0 < white.log_bayes_factor - 0.5


def test_equations_without_a_solution_leave_the_gaussians(monkeypatch):
    def fail(*arguments, **settings):
        raise torch.linalg.LinAlgError("not positive-definite")

    monkeypatch.setattr(flexible_source.Descent, "run", fail)
    truth = galaxy_lenses.draw(4, pixels=101)
    gaussians, fit = (fit_observed(truth.image, truth.noise, truth.psf, 0.05, source=name) for name in SOURCES)
    assert "source_not_solved" in fit.flag.split() and "source_not_solved" not in gaussians.flag
    assert fit.lens is None and np.isnan(fit.log_bayes_factor) and fit.einstein_radius == gaussians.einstein_radius


@pytest.mark.slow
def test_from_python_as_from_the_fit():
    truth, _, fit = case(clumps=4, radius=1.2, correlation=0.0)
    settings = {"noise": truth.noise, "psf": truth.psf, "pixel_scale": 0.05, "lens_light": "mge"}
    fits = darklens.fit(np.stack([truth.image, 0 * truth.image]), source="flexible", **settings)
    table = fits.table()
    assert table["log_bayes_factor"][0] == pytest.approx(fit.log_bayes_factor, abs=0.1)
    assert np.isnan(table["log_bayes_factor"][1]) and table["flag"][1] == "no_fit"
    with pytest.raises(UsageError, match="flexible"):
        darklens.fit(truth.image, source="splines", **settings)


@pytest.mark.slow
def test_a_row_of_fits_has_the_bayes_factor():
    """`--mode Fit --source flexible`, which asks the image whether a galaxy shines."""
    truth, _, fit = case(clumps=4, radius=1.2, correlation=0.0)
    image = LensImage(truth.image, 0.05, truth.noise, truth.psf)
    result = fit_lens(image, pictures=True, source="flexible")
    assert result.values["lens_light"] == "mge" and not result.flags
    assert result.values["log_bayes_factor"] == pytest.approx(fit.log_bayes_factor, abs=1)
    assert result.values["radius_without_shear"] == pytest.approx(truth.einstein_radius, rel=0.05)
    assert result.pictures.source.shape == (101, 101) and result.pictures.source_half == pytest.approx(0.63, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no source", "only noise", "spike", "small"])
def test_odd_images_give_a_row(kind):
    truth = galaxy_lenses.draw(10, no_source=kind == "no source", pixels=24 if kind == "small" else 81)
    image = truth.image
    if kind == "only noise":
        image = np.random.default_rng(0).normal(size=image.shape)
    elif kind == "spike":
        image = np.zeros_like(image)
        image[40, 40] = 1e6
    row = fit_observed(image, truth.noise, truth.psf, 0.05, source="flexible").row()
    assert np.isfinite(row["einstein_radius"])
