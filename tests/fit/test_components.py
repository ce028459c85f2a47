"""A component is its own file and a line in the registry: toys are added and fitted here. And the solver's terms."""

import math

import numpy as np
import pytest
import torch

from darklens.fit import SmoothModel, components, fit
from darklens.fit.batch import prepare
from darklens.fit.parameters import Column, Parameter
from darklens.fit.renderer import Renderer
from darklens.fit.solver import Priors, Problem

F64, CPU = torch.float64, torch.device("cpu")
LENS = {"einstein_radius": 1.1, "shear_1": 0.05, "source_x": 0.08, "source_y": -0.05, "log_radius": math.log(0.25)}


class Glow:
    """A round Gaussian in the image plane, its place and width free."""

    name = "glow"
    parameters = (
        Parameter("glow_x", "arcsec", 1.2, -2.0, 2.0, 0.2, "glow"),
        Parameter("glow_y", "arcsec", -1.0, -2.0, 2.0, 0.2, "glow"),
        Parameter("glow_log_width", "ln arcsec", math.log(0.2), math.log(0.05), 0.0, 0.3, "glow"),
    )
    columns = (Column("value", ("glow_x",), ("glow_x",)), Column("exp", ("glow_log_width",), ("glow_width",)))

    def __init__(self, model, grid, mass):
        self.grid, self.names = grid, tuple(p.name for p in self.parameters)

    def _parts(self, values):
        x, y, width = (self.grid.column(values[name]) for name in self.names)
        dx, dy, square = self.grid.x - x, self.grid.y - y, (2 * width).exp()
        return dx, dy, square, (-(dx**2 + dy**2) / (2 * square)).exp()

    def light(self, values):
        return self._parts(values)[3]

    def planes(self, values, bends=()):
        dx, dy, square, light = self._parts(values)
        slopes = (light * dx / square, light * dy / square, light * (dx**2 + dy**2) / square)
        planes = {name: self.grid.pixels(slope) for name, slope in zip(self.names, slopes, strict=True)}
        return self.grid.pixels(light), planes, []


class Point:
    """A point mass at (0.9, 0.7) arcsec of a free squared Einstein radius."""

    name = "point"
    parameters = (Parameter("point_square", "arcsec^2", 0.0, -0.05, 0.05, 0.01, "point"),)
    columns = (Column("value", ("point_square",), ("point_square",)),)

    def __init__(self, model, grid):
        dx, dy = grid.x - 0.9, grid.y - 0.7
        r2 = dx**2 + dy**2 + 1e-4
        self.grid, self.unit = grid, (dx / r2, dy / r2)

    def deflection(self, values):
        square = self.grid.column(values["point_square"])
        return square * self.unit[0], square * self.unit[1]

    def derivatives(self, values):
        return {"point_square": self.unit}


TOYS = {Glow: {"glow_x": 1.0, "glow_y": -1.1, "glow_log_width": math.log(0.15)}, Point: {"point_square": 0.01}}


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name)
def toy(request, monkeypatch):
    monkeypatch.setitem(components.COMPONENTS, request.param.name, request.param)
    return request.param


def render(model, truth, size=80):
    """Lights (L, size, size) of parameters by name."""
    q = torch.as_tensor(model.held())[None]
    for name, value in truth.items():
        q[0, model.table.index[name]] = value
    return Renderer(model, size, 1, CPU, F64).lights(q)[0].unflatten(1, (size, size))


def test_a_component_is_rendered_and_its_derivatives_are_right(toy):
    model = SmoothModel(window=40, components=(toy.name,))
    renderer, q = Renderer(model, 40, 1, CPU, F64), torch.as_tensor(model.held())[None]
    for name, value in (LENS | TOYS[toy]).items():
        q[0, model.table.index[name]] = value
    lights, mixing = renderer.mixing()
    amplitudes = torch.tensor([0.7, 1.3], dtype=F64)[: len(lights)]
    ours = torch.einsum("rn,rpl,l->pn", renderer.columns(q)[0].flatten(1), mixing, amplitudes)
    expected = torch.func.jacfwd(lambda p: amplitudes @ renderer.lights(p[None])[0])(q[0])[:, list(model.free)].T
    assert model.names[-1] == toy.parameters[-1].name
    assert ((ours - expected).abs() / expected.abs().amax(1, keepdim=True)).max() <= 1e-8


def test_a_component_is_fitted_and_shown(toy):
    model, truth = SmoothModel(window=80, components=(toy.name,)), LENS | TOYS[toy]
    lights = render(model, truth)
    amplitudes = torch.tensor([10.0, 20.0])[: len(lights), None, None]
    image = (amplitudes * lights).sum(0).numpy() + np.random.default_rng(0).normal(size=(80, 80))
    fits, without = fit(image, model), fit(image, SmoothModel(window=80))
    deviations = np.sqrt(fits.covariance[0].diagonal())
    for name, value in truth.items():
        place = model.names.index(name)
        assert abs(fits.free[0, place] - value) < 5 * deviations[place], name
    assert fits.flag[0] == "" and abs(fits.chi_square[0] - 1) < 0.1 < without.chi_square[0] - fits.chi_square[0]
    shown = [name for column in toy.columns for name in column.names]
    assert tuple(fits.table()) == model.columns and set(shown) <= set(fits.table())


def test_an_unknown_component_is_refused():
    with pytest.raises(ValueError, match="components must be among"):
        SmoothModel(components=("halo of dragons",))


def lens_problem(noise=1.0, seed=0):
    """A batch of one noisy lens, its truth and the fitted state without further terms."""
    model = SmoothModel(window=80)
    image = 2 * render(model, LENS)[0] + noise * torch.as_tensor(np.random.default_rng(seed).normal(size=(80, 80)))
    batch = prepare(image[None], model, noise=torch.full((1, 80, 80), noise, dtype=F64), dtype=F64)
    variance = batch.first_variance().pixels
    q = torch.as_tensor(model.held())[None].clone()
    for name, value in LENS.items():
        q[0, model.table.index[name]] = value
    return batch, variance, q


def test_priors_are_those_of_the_posterior_of_a_linear_problem():
    """At the minimum of a narrow enough posterior the pull of a prior is (1 / sigma^2) (F + 1 / sigma^2)^-1."""
    batch, variance, q = lens_problem()
    problem = batch.problem(variance)
    plain = batch.solver.minimise(batch.solver.evaluate(q, problem), problem, 40, 1e-8)
    free = plain.q[:, batch.solver.free]
    mean, precision = free.clone(), torch.zeros_like(free)
    place = batch.model.names.index("shear_1")
    sigma = float(torch.linalg.inv(plain.curvature)[0, place, place].sqrt())
    mean[:, place] += sigma / 2
    precision[:, place] = 1 / sigma**2
    for temperature in (1.0, 10.0):
        priors = Priors(mean, precision, torch.tensor([temperature], dtype=F64))
        pulled = Problem(problem.data, problem.weight, priors=priors)
        state = batch.solver.minimise(batch.solver.evaluate(plain.q.clone(), pulled), pulled, 40, 1e-8)
        expected = sigma / 2 * temperature / (1 + temperature)
        moved = float((state.q - plain.q)[0, batch.model.table.index["shear_1"]])
        assert moved == pytest.approx(expected, rel=0.03)
        total = state.chi2 / temperature + priors.penalty(state.q[:, batch.solver.free])
        assert torch.allclose(state.objective, total) and (state.chi2 > plain.chi2).all()
        variance_of_shear = torch.linalg.inv(state.curvature)[0, place, place]
        assert float(variance_of_shear) == pytest.approx(sigma**2 * temperature / (1 + temperature), rel=0.03)


def test_linear_columns_are_projected_out():
    """Light in the span of the columns changes nothing; their amplitudes are found; the fit equals one without it."""
    batch, variance, q = lens_problem()
    x = torch.linspace(-2, 2, 80, dtype=F64)
    blobs = torch.stack([(-((x - a) ** 2 + (x[:, None] - b) ** 2) / 0.1).exp() for a, b in ((0.3, 0.2), (-0.8, 0.5))])
    columns = blobs.flatten(1)[None]
    plain = batch.problem(variance)
    amplitudes = torch.tensor([0.4, -0.2], dtype=F64)
    changed = Problem(plain.data + amplitudes @ columns[0], plain.weight, columns)
    both = Problem(plain.data, plain.weight, columns)
    fits = [batch.solver.minimise(batch.solver.evaluate(q.clone(), p), p, 40, 1e-8) for p in (changed, both)]
    assert torch.allclose(fits[0].q, fits[1].q, atol=1e-5) and torch.allclose(fits[0].chi2, fits[1].chi2, rtol=1e-6)
    assert torch.allclose((fits[0].linear - fits[1].linear)[0, 2:], amplitudes, atol=1e-3)
    explicit = SmoothModel(window=80)
    numeric = batch.solver.evaluate(fits[1].q, both)
    step, place = 1e-5, explicit.table.index["einstein_radius"]
    sides = []
    for sign in (1, -1):
        moved = fits[1].q.clone()
        moved[:, place] += sign * step
        sides.append(float(batch.solver.evaluate(moved, both).chi2))
    curvature = (sides[0] + sides[1] - 2 * float(numeric.chi2)) / step**2 / 2
    assert curvature == pytest.approx(float(numeric.curvature[0, 0, 0]), rel=0.02)
