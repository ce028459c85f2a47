"""Deflections and images against lenstronomy, in float64."""

import numpy as np
import pytest
import torch
from lenstronomy_reference import lenstronomy_image, lenstronomy_lens
from simulated import F, J, altered, edited, lens

from darklens.simulation import psf, recipes
from darklens.simulation.deflect import deflection
from darklens.simulation.draw import draw
from darklens.simulation.render import light_and_sky

pytest.importorskip("lenstronomy")


def light(lenses, recipe):
    return light_and_sky(lenses, recipe, dtype=torch.float64)[0][0].numpy()


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_deflection(recipe, class_name):
    from lenstronomy.LensModel.lens_model import LensModel

    rng = np.random.default_rng(1)
    for index in range(3):
        p = lens(class_name, recipe, index)
        x, y = rng.uniform(-4, 4, (2, 500))
        turn = np.exp(-1j * np.radians(p["vortex.angle"][0]))
        along = ((x + 1j * y) - (p["vortex.x"][0] + 1j * p["vortex.y"][0])) * turn
        far = np.abs(along.imag) > 0.1  # where the quadrature of a rod is exact
        x, y = x[far], y[far]
        ax, ay = deflection(p, recipe, torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
        names, kwargs = lenstronomy_lens(p, recipe)
        expected = LensModel(names).alpha(x, y, kwargs)
        assert np.abs(ax[0, 0].numpy() - expected[0]).max() <= 1e-12
        assert np.abs(ay[0, 0].numpy() - expected[1]).max() <= 1e-12


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_image(recipe, class_name):
    p = lens(class_name, recipe, 1)
    if class_name == "vort":  # a rod midway between the rays, where Gauss-Legendre quadrature converges
        p = altered(p, recipe, vortex__x=0.2, vortex__y=0.2125, vortex__angle=45, vortex__length=0.6)
    expected = lenstronomy_image(p, recipe)
    assert np.abs(light(p, recipe) - expected).max() <= 1e-10 * expected.max()


@pytest.mark.parametrize("profile", ["point", "sis", "tnfw"])
def test_whole_images(profile):
    """SIE, shear, subhalos, lens light and source by magnitude, a Moffat PSF by FFT, an off-centre lens."""
    halos = {"profile": profile, "count": 4, "mass": [1e8, 1e10], "radius": [0, 3]}
    moffat = {"kind": "moffat", "fwhm": 0.2, "beta": 3.0, "edges": "zero"}
    recipe = edited("hst", psf=moffat, classes={"sphere": {"subhalos": halos}}, image={"pixels": 60})
    lenses = draw(recipe, "sphere", 0, "train", [1])
    expected = lenstronomy_image(lenses, recipe, psf.moffat_kernel(0.2 / 0.08, 3.0))
    assert np.abs(light(lenses, recipe) - expected).max() <= 1e-10 * expected.max()


def test_gaussian_psf_with_lens_light():
    recipe = edited("euclid", psf={"fwhm": 0.16}, image={"pixels": 60})
    lenses = draw(recipe, "no", 0, "train", [2])
    expected = lenstronomy_image(lenses, recipe)
    assert np.abs(light(lenses, recipe) - expected).max() <= 1e-10 * expected.max()


def test_a_measured_psf_is_used(tmp_path):
    kernel = psf.moffat_kernel(2.5, 3.0, 21)
    kernel[10, 12] += 0.02  # asymmetric: rows and columns must not be mixed up
    kernel[13, 10] += 0.04
    np.save(tmp_path / "psf.npy", kernel)
    measured = {"kind": "file", "fwhm": "none", "beta": "none", "file": str(tmp_path / "psf.npy"), "edges": "zero"}
    recipe = edited("hst", psf=measured, image={"pixels": 50})
    lenses = draw(recipe, "no", 0, "train", [0])
    expected = lenstronomy_image(lenses, recipe, kernel / kernel.sum())
    assert np.abs(light(lenses, recipe) - expected).max() <= 1e-10 * expected.max()
