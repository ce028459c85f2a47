"""Fits of many images behind their lens galaxies, as networks see them."""

import dataclasses
import functools

import galaxy_lenses
import numpy as np
import pytest
import torch

from darklens.data.transforms import Preprocess
from darklens.fit import SmoothModel
from darklens.fit.blur import psf_kernel
from darklens.fit.by_source import fit_by_source
from darklens.fit.correlation import WIDTHS, side_by_side, smoothing_width
from darklens.fit.observed import batch
from darklens.fit.observed.run import fit_observed
from darklens.fit.result import AT_BOUND, CONSTANT, NO_LENS, POOR, Fit
from darklens.fit.structured import fit_structured
from darklens.simulation.psf import moffat_kernel

MODEL = SmoothModel(
    window=105,
    psf_kernel=tuple(map(tuple, galaxy_lenses.psf_kernel())),
    source="flexible",
    free_light=True,
    free_index=True,
)


@functools.cache
def fits() -> tuple[galaxy_lenses.Truth, Fit]:
    """A lens behind its galaxy, and an image without anything."""
    truth = galaxy_lenses.draw(4, pixels=107, radius=1.0)
    return truth, fit_by_source(np.stack([truth.image, 0 * truth.image]), MODEL, noise=truth.noise)


@pytest.mark.slow
def test_a_lens_is_that_of_a_telescope_image():
    truth, fit = fits()
    observed = fit_observed(truth.image, truth.noise, truth.psf, 0.05, source="flexible")
    table = fit.table()
    assert table["einstein_radius"][0] == observed.einstein_radius
    assert table["einstein_radius_sd"][0] == pytest.approx(observed.einstein_radius_sd)
    assert table["log_bayes_factor"][0] == observed.log_bayes_factor and not fit.flag[0]
    assert set(table) == set(MODEL.columns) and np.isnan(table["residual_significance"]).all()


@pytest.mark.slow
def test_the_view_is_noise_where_the_source_has_images():
    _, fit = fits()
    view = fit.view_residual[0]
    seen = view != 0
    assert view.shape == (105, 105) and 2000 < seen.sum() < view.size and 0.8 < np.square(view[seen]).mean() < 1.05
    images, _ = Preprocess(105, view="flexible", smooth_model=MODEL).with_fit(torch.zeros(1, 1, 105, 105))
    assert images.shape == (1, 1, 105, 105) and not images.any()


@pytest.mark.slow
def test_an_empty_image_is_flagged_and_its_view_is_empty():
    _, fit = fits()
    assert fit.flag[1] == CONSTANT and not fit.view_residual[1].any() and np.isfinite(fit.residual).all()


@pytest.mark.slow
def test_mass_leaves_the_residual_of_a_stiff_source(monkeypatch):
    """Only where ln B says that there is some is a second fit made."""
    truth, asked = galaxy_lenses.draw(4, pixels=91, radius=0.8), []
    model = dataclasses.replace(MODEL, window=91)
    for log_b in (0.0, 100.0):
        monkeypatch.setattr("darklens.fit.mass_map.log_bayes_factor", lambda *_, value=log_b: value)
        fit = fit_by_source(truth.image, model, noise=truth.noise)
        asked.append(fit.view_residual[0])
        assert fit.log_bayes_factor[0] == log_b
    assert 0 < np.abs(asked[0] - asked[1]).max() < 3


@pytest.mark.parametrize(
    "words,flag",
    [("", ""), ("rival_fit", "rival fit"), ("poor_fit at_bound", AT_BOUND), ("poor_fit no_arcs", NO_LENS)],
)
def test_the_gravest_word_is_the_flag(words, flag):
    assert batch.REASONS["poor_fit"] == POOR and batch._flag(words) == flag


def test_a_moffat_and_a_gaussian_are_drawn():
    moffat = SmoothModel(psf_sigma=0.085, psf_beta=2.5, free_psf=True)
    np.testing.assert_allclose(psf_kernel(moffat), moffat_kernel(0.085 / 0.05 * 2.3548, 2.5), rtol=1e-4)
    gaussian, middle = psf_kernel(SmoothModel()), (9, 9)
    assert gaussian.sum() == pytest.approx(1, abs=1e-6)
    assert np.unravel_index(gaussian.argmax(), gaussian.shape) == middle
    assert (psf_kernel(MODEL) == galaxy_lenses.psf_kernel()).all()


def test_the_smoothing_is_that_of_the_correlation():
    for width in WIDTHS[5::20]:
        assert smoothing_width(side_by_side(width)) == pytest.approx(width)
    assert smoothing_width(0.0) == smoothing_width(-0.1) == 0


def test_light_of_gaussians_has_no_parameters_of_a_sersic():
    sersic = dataclasses.replace(MODEL, source="sersic")
    further = set(sersic.columns) - set(MODEL.columns)
    assert {"light_amplitude", "light_radius"} <= further and MODEL.light_of_gaussians
    assert not sersic.light_of_gaussians and "log_bayes_factor" in MODEL.columns
    with pytest.raises(ValueError, match="for fit_behind_galaxies"):
        fit_structured(np.ones((30, 30)), MODEL)
