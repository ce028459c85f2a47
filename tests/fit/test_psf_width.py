"""A PSF that is wider or narrower than a fit with a flexible source took it to be."""

import dataclasses

import numpy as np
import pytest
import torch

from darklens.fit import SmoothModel, evidence, psf_width
from darklens.fit.flexible import FlexibleLens
from darklens.fit.psf_width import NARROWER, WIDER, psf_test
from darklens.fit.renderer import renderer
from darklens.fit.spline_source import SplineSource
from darklens.fit.structured import fit_structured
from darklens.simulation.psf import moffat_kernel
from darklens.simulation.recipe_file import parse_recipe, recipe_dict
from darklens.simulation.recipes import RECIPES
from darklens.simulation.render import simulate

SIGMA = 1.7  # pixels
MOFFAT = tuple(map(tuple, moffat_kernel(4.0, 3.0).tolist()))


def smooth_lens(true_width: float = 1.0, **psf) -> FlexibleLens:
    """41 x 41 pixels after the last step of a fit; the PSF is so many times as wide as the fit takes it to be."""
    model = dataclasses.replace(SmoothModel(window=41), free_centre=True, free_halo=True, **psf)
    camera = renderer(model, 41, 1, "cpu", torch.float64)
    q = torch.as_tensor(model.held())[None].clone()
    q[0, camera.table.index["einstein_radius"]], q[0, camera.table.index["log_radius"]] = 0.6, np.log(0.2)
    source = SplineSource(camera.table.named(q.clone()), 1.0)
    weight = torch.full((41, 41), 100.0, dtype=torch.float64)
    lens = FlexibleLens(camera, q, 0 * weight, weight, source, torch.zeros(0, 41 * 41, dtype=torch.float64))
    lens.refine(2)
    noise = torch.randn(41, 41, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lens.data = through(lens, true_width) + noise / weight
    lens.step(adapt=False, move=False)
    return lens


def through(lens: FlexibleLens, width: float) -> torch.Tensor:
    """(41, 41) the lens's image through a Gaussian PSF so many times as wide."""
    wide = dataclasses.replace(lens.renderer.model, psf_kernel=None, psf_sigma=width * SIGMA * 0.05)
    other = dataclasses.replace(lens, renderer=renderer(wide, 41, 1, "cpu", torch.float64))
    return other.image()


def test_the_column_is_the_change_of_the_image_by_the_psf_s_variance():
    lens = smooth_lens()
    column = psf_width._column(lens) / 100
    narrow, wide = (through(lens, width).flatten()[lens.design.pixels] for width in (0.99, 1.01))
    expected = (wide - narrow) / (SIGMA**2 * (1.01**2 - 0.99**2))
    assert (column - expected).norm() < 0.1 * expected.norm()


def test_the_gain_is_that_of_a_further_column():
    """Against the whole linear problem solved again."""
    lens = smooth_lens(1.1)
    test, design = psf_test(lens), lens.design
    columns = torch.cat((design.columns, psf_width._column(lens)[None]))
    precision = torch.cat((design.posterior.precision, torch.zeros(1, dtype=torch.float64)))
    posterior = evidence.solve(columns @ columns.T, columns @ design.data, precision)

    def lowest(each: evidence.Posterior, of: torch.Tensor) -> float:
        chi2 = (design.data - of.T @ each.mean).square().sum()
        return float(chi2 + (each.precision * each.mean.square()).sum())

    gain = lowest(design.posterior, design.columns) - lowest(posterior, columns)
    assert test.gain == pytest.approx(gain, rel=1e-6) and test.variance == pytest.approx(float(posterior.mean[-1]))


@pytest.mark.parametrize("width, flag", [(1.0, ""), (1.2, WIDER), (0.8, NARROWER)])
def test_a_wrong_width_is_flagged(width, flag):
    assert psf_test(smooth_lens(width)).flag(-2.0) == flag


def test_given_kernels_are_tested_too():
    """A Gaussian where a Moffat of three times its variance was given, and a given Gaussian."""
    from darklens.simulation.psf import gaussian_taps

    taps = gaussian_taps(SIGMA)
    gaussian = tuple(map(tuple, np.outer(taps, taps).tolist()))
    assert psf_test(smooth_lens(1.0, psf_kernel=gaussian)).flag(-2.0) == ""
    assert psf_test(smooth_lens(1.2, psf_kernel=gaussian)).flag(-2.0) == WIDER
    assert psf_test(smooth_lens(0.6, psf_kernel=MOFFAT)).flag(-2.0) == NARROWER


def test_what_mass_explains_far_better_is_no_wrong_psf():
    test = psf_test(smooth_lens(1.2))
    assert test.flag(test.gain) == WIDER and test.flag(3 * test.gain) == "" and test.variance > 0


def test_a_lens_without_a_step_has_no_test():
    lens = smooth_lens()
    lens.forget()
    with pytest.raises(ValueError, match="no step"):
        psf_test(lens)


def test_fits_have_the_flag():
    tables = recipe_dict(RECIPES["j"])
    tables["psf"]["fwhm"] *= 1.4
    image = simulate(parse_recipe(tables), "no", [0], 5).astype(float)
    fit = fit_structured(image, SmoothModel(window=75)).fit
    assert fit.flag[0] == WIDER and fit.chi_square[0] < 1.3
