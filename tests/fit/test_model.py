"""The smooth lens that is fitted: against the simulator, lenstronomy, autograd and the light profile of the physics."""

import dataclasses
import math

import fit_data
import numpy as np
import pytest
import torch
from simulated import sersic_light, sie

from darklens.fit import SmoothModel, halo
from darklens.fit.blur import separable
from darklens.fit.renderer import Renderer
from darklens.fit.sersic import shape_matrices
from darklens.fit.window import middle
from darklens.simulation import physics
from darklens.simulation.psf import gaussian_taps

F64 = torch.float64
CPU = torch.device("cpu")


def full(model, parameters):
    q = torch.as_tensor(model.held()).repeat(len(parameters), 1)
    q[:, : parameters.shape[1]] = torch.as_tensor(parameters)
    return q


@pytest.mark.parametrize("name", ["f", "j"])
def test_image_equals_the_simulators(name):
    recipe, model = fit_data.RECIPES[name], SmoothModel()
    images, truth = fit_data.clean(recipe, "no", 3)
    renderer = Renderer(model, model.size(150, 150), 1, CPU, F64)
    light = renderer.light(full(model, truth)).unflatten(1, (106, 106))
    expected = (middle(images, 106) - recipe.noise.sky.values[0]) / recipe.source.brightness.values[0]
    assert (light - expected).abs().max() <= 1e-11 * expected.max()


EVERYTHING = {"free_index": True, "free_centre": True, "free_psf": True, "free_halo": True, "free_light": True}


@pytest.mark.parametrize(
    "options",
    [{}, EVERYTHING | {"free_light": False}, EVERYTHING, EVERYTHING | {"psf_beta": 2.5}, {"free_light": True}],
    ids=["held", "free", "light", "moffat", "light only"],
)
def test_derivatives_equal_autograd(options):
    model = SmoothModel(window=30, **options)
    renderer = Renderer(model, 30, 1, CPU, F64)
    q = [0.6, 0.1, -0.05, 0.1, 0.2, -0.9, 0.3, -0.2, 0.3, 0.03, -0.02, 0.2, 0.1, -0.3, -0.8, 0.2, -0.1, 1.2]
    q, amplitudes = torch.tensor(q, dtype=F64), torch.tensor([0.7, 1.3][: 1 + model.free_light], dtype=F64)
    lights, mixing = renderer.mixing()
    for e in ((0.3, -0.2), (0.0, 0.0), (1e-3, 0.0)):
        q[6:8] = q[12:14] = q[15:17] = torch.tensor(e)
        columns = renderer.columns(q[None])[0].flatten(1)
        assert torch.allclose(columns[lights], renderer.lights(q[None])[0], atol=1e-12)
        ours = torch.einsum("rn,rpl,l->pn", columns, mixing, amplitudes)
        expected = torch.func.jacfwd(lambda p: amplitudes @ renderer.lights(p[None])[0])(q)[:, list(model.free)].T
        assert ours.shape == (len(model.free), 900)
        assert ((ours - expected).abs() / expected.abs().amax(1, keepdim=True)).max() <= 1e-8


@pytest.mark.parametrize("axis_ratio", [1.0, 0.99, 0.8, 0.6])
def test_halo_is_the_isothermal_ellipsoid(axis_ratio):
    """Against `simulated.sie`, which is tested against lenstronomy."""
    (x, y), angle, eta = torch.randn(2, 1, 500, dtype=F64), torch.tensor(0.7, dtype=F64), -math.log(axis_ratio)
    h1, h2 = (torch.tensor([[eta * f(1.4)]], dtype=F64) for f in (math.cos, math.sin))
    one = torch.ones((), dtype=F64)
    for ours, theirs in zip(
        halo.Ellipsoid(x, y, h1, h2).deflection(), sie(x, y, one, one * axis_ratio, angle), strict=True
    ):
        assert ((ours - theirs).abs() * torch.hypot(x, y)).max() <= 5e-10  # theirs has a core of 1e-10"


def test_ellipticity_is_the_axis_ratio_of_the_physics():
    x, y = torch.randn(2, 50, dtype=F64)
    axis_ratio, angle, radius = torch.tensor([0.45, 0.7, 0.5], dtype=F64)
    eta = -axis_ratio.log()
    xx, xy, yy = shape_matrices(eta * torch.cos(2 * angle), eta * torch.sin(2 * angle))[0, :, 0]
    rho = (xx * x * x + 2 * xy * x * y + yy * y * y).sqrt() / radius
    light = torch.exp(-physics.sersic_b(1.5) * (rho ** (1 / 1.5) - 1))
    assert torch.allclose(light, sersic_light(x, y, 1.5, radius, axis_ratio, angle), rtol=1e-12)


def test_image_equals_lenstronomys():
    pytest.importorskip("lenstronomy")
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    n, scale, eta = 60, 0.08, 0.4
    model = SmoothModel(pixel_scale=scale, window=n, psf_sigma=0.1, sersic_index=2.0)
    q = full(model, np.array([[1.1, 0.1, -0.07, 0.12, -0.2, math.log(0.4), eta * math.cos(1), eta * math.sin(1)]]))
    light = Renderer(model, n, 1, CPU, F64).light(q).reshape(n, n).numpy()

    corner = -(n - 1) / 2 * scale
    where = {"transform_pix2angle": np.eye(2) * scale, "ra_at_xy_0": corner, "dec_at_xy_0": corner}
    data = ImageData(np.zeros((n, n)), background_rms=1, exposure_time=1, **where)
    psf = PSF(psf_type="GAUSSIAN", fwhm=0.1 * math.sqrt(8 * math.log(2)), truncation=5)
    ours, theirs, ratio = physics.sersic_b(2.0), 1.9992 * 2 - 0.3271, math.exp(-eta)
    e = (1 - ratio) / (1 + ratio)
    source = {
        "amp": math.exp(ours - theirs),
        "R_sersic": 0.4 * (theirs / ours) ** 2,
        "n_sersic": 2.0,
        "e1": e * math.cos(1),
        "e2": e * math.sin(1),
        "center_x": 0.12,
        "center_y": -0.2,
    }
    lens = [{"theta_E": 1.1, "center_x": 0, "center_y": 0}, {"gamma1": 0.1, "gamma2": -0.07, "ra_0": 0, "dec_0": 0}]
    numerics = {"supersampling_factor": 2, "supersampling_convolution": False}
    image = ImageModel(data, psf, LensModel(["SIS", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"]), kwargs_numerics=numerics)
    expected = image.image(lens, [source])[::-1] / scale**2
    inner = slice(8, -8)  # lenstronomy repeats the edge, we see beyond it
    assert np.abs(light - expected)[inner, inner].max() <= 1e-9 * expected.max()


def test_a_kernel_is_the_sum_of_its_products():
    x = np.arange(-3, 4)
    kernel = np.exp(-(x[:, None] ** 2 + 0.5 * x[:, None] * x + 2 * x**2) / 4)
    total = sum(np.outer(column, row) for column, row in separable(kernel))
    assert np.abs(total - kernel / kernel.sum()).max() <= 1e-6


def test_a_kernel_equals_the_gaussian_and_is_not_mirrored():
    gaussian, q = SmoothModel(window=40), full(SmoothModel(), np.array([[0.6, 0.1, 0.05, 0.1, 0.0]]))
    taps = gaussian_taps(1.7, 5.0)
    kernel = dataclasses.replace(gaussian, psf_kernel=tuple(map(tuple, np.outer(taps, taps))))
    a, b = (Renderer(m, 40, 1, CPU, F64).light(q) for m in (gaussian, kernel))
    assert torch.allclose(a, b, atol=1e-6)
    shifted = np.zeros((7, 7))
    shifted[1, 5] = 1.0  # light goes 2 rows up and 2 columns to the right
    sharp, moved = (
        Renderer(dataclasses.replace(gaussian, psf_kernel=tuple(map(tuple, k))), 40, 1, CPU, F64)
        .light(q)
        .reshape(40, 40)
        for k in (np.pad([[1.0]], 3), shifted)
    )
    assert torch.allclose(moved[:-2, 2:], sharp[2:, :-2], atol=1e-9)


def test_wrong_models_and_images_are_refused():
    with pytest.raises(ValueError, match="psf_kernel"):
        SmoothModel(psf_kernel=((1.0, 1.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="square"):
        SmoothModel().size(150, 140)
    assert [SmoothModel().size(n, n) for n in (150, 151, 105, 64)] == [106, 105, 105, 64]
