"""The source is a field of the model: what asks for a fit gets the one that it names, with its columns."""

import dataclasses

import numpy as np
import pytest
import torch
from simulated import clumpy

import darklens
from darklens.data.residual import view_of
from darklens.data.transforms import Preprocess
from darklens.errors import DataError, UsageError
from darklens.fit import SmoothModel, fit, structured_start
from darklens.fit.flexible import FlexibleLens
from darklens.fit.result import POOR
from darklens.fit.spline_source import LEVELS
from darklens.fit.structured import fit_structured
from darklens.simulation.render import simulate

SETTINGS = {"pixel_scale": 0.1, "window": 51, "psf_sigma": 0.085}


@pytest.fixture(scope="module")
def images():
    """A lens without substructure, and one with a vortex, their sources clumpy."""
    return np.concatenate([simulate(clumpy(), name, range(1)) for name in ("no", "vort")]).astype(float)


@pytest.fixture(scope="module")
def flexible(images):
    return darklens.fit(images, **SETTINGS, source="flexible")


def test_python_has_the_bayes_factor(images, flexible):
    """The columns are those of the model, their values those of the fit that was asked for."""
    table, expected = flexible.table(), fit_structured(images, SmoothModel(**SETTINGS))
    assert tuple(table) == SmoothModel(**SETTINGS, source="flexible").columns
    assert {"residual_significance", "centre_x", "halo_axis_ratio"} < set(table)
    assert table["residual_significance"][0] < 2 < 4 < table["residual_significance"][1]
    np.testing.assert_array_equal(table["log_bayes_factor"], expected.log_bayes_factor)
    np.testing.assert_array_equal(flexible.residual, expected.fit.residual)


def test_with_a_sersic_there_is_none(images):
    table = darklens.fit(images, **SETTINGS).table()
    assert "log_bayes_factor" not in table and "residual_significance" in table
    assert np.isnan(fit(images, SmoothModel(**SETTINGS)).log_bayes_factor).all()


def test_a_poor_start_is_no_poor_fit(images, monkeypatch):
    """The flag is of what the flexible source leaves, not of the Sersic before it."""

    def poor(*args, **options):
        start = fit(*args, **options)
        return dataclasses.replace(start, flag=np.full(len(start), POOR))

    monkeypatch.setattr(structured_start, "fit", poor)
    assert fit_structured(images[:1], SmoothModel(**SETTINGS)).fit.flag[0] == ""
    noise = np.full(images[:1].shape, images[0].std() / 100)
    assert fit_structured(images[:1], SmoothModel(**SETTINGS), noise=noise).fit.flag[0] == POOR


def test_the_noise_is_that_of_the_residual(images, flexible):
    """Not that of the robust start, which counts half of the signal as noise."""
    assert (flexible.noise_scale == 1).all() and (flexible.noise_width == 0).all()
    sky = images[:, :6].reshape(2, -1)  # far from the ring
    np.testing.assert_allclose(np.sqrt(flexible.noise[:, 0]), sky.std(1), rtol=0.15)


def test_the_view_is_the_residual_of_that_fit(images, flexible):
    model = SmoothModel(**SETTINGS, source="flexible")
    preprocess = Preprocess(51, view="flexible", smooth_model=model)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess and preprocess.channels(1) == 1
    view, result = preprocess.with_fit(torch.from_numpy(images)[:, None])
    assert view.shape == (2, 1, 51, 51) and torch.equal(view, view_of(flexible, 51))
    np.testing.assert_array_equal(result.log_bayes_factor, flexible.log_bayes_factor)


def test_maps_of_a_sersic_are_not_made_of_it(flexible):
    with pytest.raises(ValueError, match="flexible source"):
        darklens.detect(flexible)


def test_centre_and_shape_are_free():
    model = SmoothModel(source="flexible", refit_flagged=True)
    assert model.free_centre and model.free_halo and not model.refit_flagged
    assert dataclasses.replace(model, source="sersic").free_centre


def test_sources_that_there_are_not():
    with pytest.raises(UsageError, match="source must be one of sersic, flexible"):
        darklens.fit(np.ones((30, 30)), source="pixels")
    with pytest.raises(DataError, match="expected another source with the flexible view"):
        Preprocess(105, view="flexible", smooth_model=SmoothModel())
    with pytest.raises(DataError, match="expected another source with the residual view"):
        Preprocess(105, view="residual", smooth_model=SmoothModel(source="flexible"))


@pytest.mark.parametrize("step", ["run", "coarser"])
def test_a_lens_whose_equations_cannot_be_solved_costs_no_other(images, flexible, monkeypatch, step):
    """It is flagged, its residual is finite; the other is fitted as ever."""
    real, calls = getattr(FlexibleLens, step), []

    def fail_first(lens, *levels, **options):
        fails = step == "coarser" or levels[0] == len(LEVELS)  # after both have run on bins
        calls.append(fails)
        if fails and sum(calls) == 1:
            raise torch.linalg.LinAlgError("not positive-definite")
        return real(lens, *levels, **options)

    monkeypatch.setattr(FlexibleLens, step, fail_first)
    fits = darklens.fit(images, **SETTINGS, source="flexible")
    assert fits.flag.tolist() == ["not converged", ""] and np.isfinite(fits.residual).all()
    assert np.isnan(fits.log_bayes_factor[0]) and abs(fits.log_bayes_factor[1] - flexible.log_bayes_factor[1]) < 1
