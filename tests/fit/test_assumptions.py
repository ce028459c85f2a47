"""What a fit assumes of a recipe."""

import dataclasses

import numpy as np
import pytest
from simulated import F, J, edited

from darklens.fit import SmoothModel, fit
from darklens.fit.assumptions import is_smooth, smooth_model
from darklens.simulation.draw import draw
from darklens.simulation.psf import moffat_kernel
from darklens.simulation.recipes import RECIPES, changed, robust
from darklens.simulation.render import simulate


@pytest.mark.parametrize("recipe", [F, J, robust(J)], ids=["f", "j", "robust"])
def test_models_f_and_j_are_the_default(recipe):
    found = smooth_model(recipe)
    assert found.psf_sigma == pytest.approx(0.085, rel=1e-12)
    assert dataclasses.replace(found, psf_sigma=0.085) == SmoothModel() and is_smooth(recipe)


def test_an_elliptical_halo_is_fitted():
    recipe = changed(J, {"lens.axis_ratio": [0.6, 1], "lens.angle": [0, 360]})
    model, drawn = smooth_model(recipe), draw(recipe, "no", 0, "test", range(24))
    assert model.free_halo and not model.free_centre and is_smooth(recipe)
    found = fit(simulate(recipe, "no", range(24), 0, "test"), model)
    table = found.table()
    assert found.good.all() and abs(found.chi_square.mean() - 1) < 4 * 0.0134 / 24**0.5
    pull = (table["halo_axis_ratio"] - drawn["lens.axis_ratio"]) / table["halo_axis_ratio_sd"]
    assert np.abs(pull).max() < 4 and abs(pull.mean()) < 4 / 24**0.5 and 0.6 < pull.std() < 1.5
    assert np.abs(table["halo_axis_ratio"] - drawn["lens.axis_ratio"]).max() < 0.05
    assert set(model.columns) == set(table)


def test_what_recipes_vary_is_free():
    wide, euclid, hst = (smooth_model(RECIPES[name]) for name in ("wide", "euclid", "hst"))
    assert wide.free_index and wide.free_centre and wide.free_psf and hst.free_psf
    assert wide.sersic_index == 1.75 and is_smooth(RECIPES["wide"])
    assert euclid.pixel_scale == 0.1 and euclid.window == 99 and is_smooth(RECIPES["euclid"])
    held = smooth_model(changed(RECIPES["hst"], {"psf.fwhm": 0.15}))
    assert hst.psf_beta == 2.5 and np.allclose(held.psf_kernel, moffat_kernel(0.15 / 0.08, 2.5)) and not held.free_psf
    assert smooth_model(edited(F, psf={"kind": "none", "fwhm": "none"})).psf_sigma == 0


@pytest.mark.parametrize(
    "changes", [{}, {"psf": {"kind": "moffat", "fwhm": 0.25, "beta": 3.0}}], ids=["wide", "moffat"]
)
def test_the_smooth_lens_of_a_recipe_fits_its_images(changes):
    recipe = edited("wide", **changes) if changes else edited("wide", psf={"fwhm": 0.2})
    found = fit(simulate(recipe, "no", range(4)), smooth_model(recipe))
    assert found.good.all() and np.abs(found.chi_square - 1).max() < 0.06
