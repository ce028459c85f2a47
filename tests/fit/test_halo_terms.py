"""A halo of another slope, and multipoles: lenstronomy's deflections, derivatives by finite differences."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from darklens.fit import SmoothModel, fit
from darklens.fit.flexible import FlexibleLens
from darklens.fit.renderer import Renderer, renderer
from darklens.fit.spline_source import SplineSource

F64, CPU = torch.float64, torch.device("cpu")
LENS = {"einstein_radius": 0.9, "centre_x": 0.03, "centre_y": -0.02, "halo_1": 0.2, "halo_2": -0.15, "source_x": 0.08}
TERMS = {
    "halo_slope": {"halo_slope": 2.23},
    "multipole_3": {"multipole_3_1": 0.011, "multipole_3_2": -0.014},
    "multipole_4": {"multipole_4_1": -0.012, "multipole_4_2": 0.009},
}
SIZE = 40


def camera(*terms, dtype=F64, **free):
    """A renderer of a free halo with these components, and its parameters (1, Q)."""
    model = SmoothModel(window=SIZE, free_halo=True, free_centre=True, components=terms, **free)
    q = torch.as_tensor(model.held())[None].clone()
    for name, value in (LENS | {k: v for term in terms for k, v in TERMS[term].items()}).items():
        q[0, model.table.index[name]] = value
    return Renderer(model, SIZE, 1, CPU, dtype), q


def lenstronomy(terms, x, y):
    """Deflection by an ellipsoid with these terms."""
    eta, angle = math.hypot(LENS["halo_1"], LENS["halo_2"]), math.atan2(LENS["halo_2"], LENS["halo_1"])
    e = math.tanh(eta / 2)
    centre = {"center_x": LENS["centre_x"], "center_y": LENS["centre_y"]}
    gamma = TERMS["halo_slope"]["halo_slope"] if "halo_slope" in terms else 2.0
    epl = {"theta_E": LENS["einstein_radius"], "gamma": gamma, "e1": e * math.cos(angle), "e2": e * math.sin(angle)}
    models, settings = ["EPL"], [epl | centre]
    for m in (3, 4):
        if f"multipole_{m}" in terms:
            a, b = TERMS[f"multipole_{m}"].values()
            amplitude = LENS["einstein_radius"] * math.hypot(a, b)
            models.append("MULTIPOLE")
            settings.append({"m": m, "a_m": amplitude, "phi_m": math.atan2(b, a) / m} | centre)
    return np.stack(LensModel(models).alpha(x, y, settings))


@pytest.mark.parametrize("terms", [*((term,) for term in TERMS), tuple(TERMS)])
def test_deflection_is_lenstronomys(terms):
    lens, q = camera(*terms)
    rays = lens.mass.rays(lens.table.named(q))
    u, v = lens.x - rays.u[0] - LENS["source_x"], lens.y - rays.v[0]
    np.testing.assert_allclose(torch.stack((u, v)), lenstronomy(terms, lens.x.numpy(), lens.y.numpy()), atol=1e-9)


@pytest.mark.parametrize("slope", [1.5, 2.0, 2.6])
def test_a_power_law_of_any_slope_is_lenstronomys(slope, monkeypatch):
    monkeypatch.setitem(TERMS, "halo_slope", {"halo_slope": slope})
    test_deflection_is_lenstronomys(("halo_slope",))


@pytest.mark.parametrize("terms", [*((term,) for term in TERMS), tuple(TERMS)])
def test_derivatives_are_finite_differences(terms):
    lens, q = camera(*terms, free_index=True)
    lights, mixing = lens.mixing()
    ours = torch.einsum("rn,rpl->pn", lens.columns(q)[0].flatten(1), mixing)
    step, expected = 1e-6, []
    for index in lens.free:
        ends = []
        for sign in (1, -1):
            moved = q.clone()
            moved[0, index] += sign * step
            ends.append(lens.light(moved)[0])
        expected.append((ends[0] - ends[1]) / (2 * step))
    expected = torch.stack(expected)
    assert ((ours - expected).abs() / expected.abs().amax(1, keepdim=True)).max() <= 1e-6


def test_a_round_halo_has_a_slope():
    """Its series has one term: alpha = theta_E (theta_E / r)^(gamma - 2)."""
    lens, q = camera("halo_slope")
    q[0, [lens.table.index[name] for name in ("halo_1", "halo_2")]] = 0.0
    rays = lens.mass.rays(lens.table.named(q))
    dx, dy = lens.x - LENS["centre_x"], lens.y - LENS["centre_y"]
    r = torch.hypot(dx, dy)
    expected = LENS["einstein_radius"] * (LENS["einstein_radius"] / r) ** 0.23 * dx / r
    torch.testing.assert_close(lens.x - rays.u[0] - LENS["source_x"], expected)
    assert all(bool(plane.isfinite().all()) for plane in lens.columns(q))


@pytest.mark.slow
def test_slope_and_multipoles_are_fitted():
    """From half of the way: truth within five standard deviations, chi-square 1, where the ellipsoid leaves more."""
    model = SmoothModel(window=80, free_centre=True, free_halo=True, components=tuple(TERMS))
    big, truth = Renderer(model, 80, 1, CPU, F64), LENS | {k: v for term in TERMS.values() for k, v in term.items()}
    q = torch.as_tensor(model.held())[None].clone()
    for name, value in (truth | {"log_radius": math.log(0.25)}).items():
        q[0, model.table.index[name]] = value
    image = 6 * big.light(q)[0].view(80, 80).numpy() + np.random.default_rng(1).normal(size=(80, 80))
    start = model.held()[list(model.free)] + 0.5 * (q[0].numpy() - model.held())[list(model.free)]
    fits = fit(image, model, noise=np.ones((1, 80, 80)), start=start[None])
    plain = fit(image, dataclasses.replace(model, components=()), noise=np.ones((1, 80, 80)))
    deviations = np.sqrt(fits.covariance[0].diagonal())
    for name, value in truth.items():
        place = model.names.index(name)
        assert abs(fits.free[0, place] - value) < 5 * deviations[place], name
    assert abs(fits.chi_square[0] - 1) < 0.06 and plain.chi_square[0] > fits.chi_square[0] + 0.02


def test_a_flexible_source_frees_them_too():
    """Steps of splines and lens end near the truth, from an isothermal ellipsoid."""
    lens, q = camera("halo_slope", "multipole_4")
    weight, data = torch.full((SIZE, SIZE), 100.0, dtype=F64), torch.zeros(SIZE, SIZE, dtype=F64)
    source = SplineSource(lens.table.named(q), 1.0)
    flexible = FlexibleLens(lens, q.clone(), data, weight, source, torch.zeros(0, SIZE**2, dtype=F64))
    noise = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=F64) / weight
    flexible.data = flexible.image() + noise
    start = [lens.table.index[name] for name in ("halo_slope", "multipole_4_1", "multipole_4_2")]
    flexible.q[0, start] = torch.tensor([2.1, 0.0, 0.0], dtype=F64)
    flexible.run(2, hold=True)
    assert set(flexible.design.moved) >= {"halo_slope", "multipole_4_1", "multipole_4_2"}
    deviations = flexible.design.posterior.variance().sqrt()[len(flexible.source.coefficients) :]
    for name, deviation in zip(flexible.design.moved, deviations, strict=False):
        index = lens.table.index[name]
        assert abs(float(flexible.q[0, index] - q[0, index])) < 5 * float(deviation) + 1e-3, name


def test_the_isothermal_renderer_is_unchanged_by_what_it_may_have():
    model = SmoothModel(window=SIZE, free_halo=True, free_centre=True)
    plain, q = renderer(model, SIZE, 1, "cpu", F64), camera()[1]
    lens, more = camera(*TERMS)
    more[0, [lens.table.index[name] for term in TERMS.values() for name in term]] = torch.tensor(
        [2.0, 0, 0, 0, 0], dtype=F64
    )
    torch.testing.assert_close(lens.light(more), plain.light(q))
