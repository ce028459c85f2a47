"""A subhalo behind a flexible source: its deflection, its detection map, its place and mass, against brute force."""

import dataclasses
import math

import fit_data
import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel
from torch.distributions import MultivariateNormal

from darklens.fit import SmoothModel
from darklens.fit.flexible import FlexibleLens
from darklens.fit.grid import Grid
from darklens.fit.perturber import SHIFTS, SQUARES, refine, strongest
from darklens.fit.perturbers import PERTURBERS, PROFILES
from darklens.fit.renderer import Renderer, renderer
from darklens.fit.spline_source import SplineSource
from darklens.fit.structured import fit_structured
from darklens.fit.structured_map import lens_map
from darklens.simulation.profiles import tnfw_from_square
from darklens.simulation.recipe_file import parse_recipe, recipe_dict

F64, CPU = torch.float64, torch.device("cpu")
LENS = {"einstein_radius": 0.6, "shear_1": 0.04, "halo_1": 0.1, "source_x": 0.05, "source_y": -0.03}
SIZE, PLACE, SQUARE = 41, (0.45, 0.4), 6e-3


def lenstronomy(profile, x, y, place, square):
    """Deflection and its derivatives (f_xx, f_xy, f_yy) at x, y by lenstronomy."""
    centre = {"center_x": place[0], "center_y": place[1]}
    if profile == "tnfw":
        rs, alpha, truncation = (float(each) for each in tnfw_from_square(torch.tensor(square, dtype=F64)))
        settings = {"Rs": rs, "alpha_Rs": alpha, "r_trunc": truncation}
    else:
        settings = {"theta_E": math.sqrt(square)}
    model = LensModel([{"point": "POINT_MASS", "sis": "SIS", "tnfw": "TNFW"}[profile]])
    f_xx, f_xy, _, f_yy = model.hessian(x, y, [settings | centre])
    return model.alpha(x, y, [settings | centre]), (f_xx, f_xy, f_yy)


@pytest.mark.parametrize("profile", PROFILES)
def test_deflection_and_its_derivatives_are_lenstronomys(profile):
    grid = Grid(40, 1, 0.05, CPU, F64)
    component = PERTURBERS[f"perturber_{profile}"](SmoothModel(window=40), grid)
    place, square = (0.31, -0.22), 1.3e-3
    values = dict(zip((p.name for p in component.parameters), torch.tensor([[*place, square]]).double().T, strict=True))
    x, y = grid.x.numpy(), grid.y.numpy()
    alpha, (f_xx, f_xy, f_yy) = lenstronomy(profile, x, y, place, square)
    np.testing.assert_allclose(torch.cat(component.deflection(values)), alpha, atol=1e-8)
    step = 1e-4 * square
    ends = [np.stack(lenstronomy(profile, x, y, place, square + sign * step)[0]) for sign in (1, -1)]
    expected = {
        "perturber_x": (-f_xx, -f_xy),
        "perturber_y": (-f_xy, -f_yy),
        "perturber_square": (ends[0] - ends[1]) / (2 * step),
    }
    far = np.hypot(x - place[0], y - place[1]) > 0.1
    for name, bend in component.derivatives(values).items():
        for ours, theirs in zip(bend, expected[name], strict=True):
            assert np.abs(ours[0].numpy() - theirs)[far].max() < 2e-3 * np.abs(theirs[far]).max(), name


def test_a_truncated_halo_has_the_mass_of_its_point():
    x = torch.tensor([[[3e4]]], dtype=F64)
    zero, square = torch.zeros(1, 1, 1, 1, dtype=F64), torch.tensor([[[[2e-3]]]], dtype=F64)
    bends = [PROFILES[name](x, torch.zeros_like(x), zero, zero, square)[0] for name in ("point", "tnfw")]
    assert float(bends[1] / bends[0]) == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="module")
def lens():
    """A small lens with a clumpy source, a halo of SQUARE at PLACE and noise, fitted without the mass."""
    model = SmoothModel(window=SIZE, free_centre=True, free_halo=True)
    camera = renderer(model, SIZE, 1, "cpu", F64)
    q = torch.as_tensor(model.held())[None].clone()
    for name, value in LENS.items():
        q[0, camera.table.index[name]] = value
    weight, data = torch.full((SIZE, SIZE), 40.0, dtype=F64), torch.zeros(SIZE, SIZE, dtype=F64)
    source = SplineSource(camera.table.named(q), 1.0)
    lens = FlexibleLens(camera, q, data, weight, source, torch.zeros(0, SIZE**2, dtype=F64))
    lens.refine(2)
    random = torch.Generator().manual_seed(3)
    brightness = lens.source.node_brightness()
    clumps = 0.4 * brightness * torch.randn(len(brightness), generator=random, dtype=F64)
    lens.source = dataclasses.replace(lens.source, coefficients=clumps)
    noise = torch.randn(SIZE, SIZE, generator=random, dtype=F64) / weight
    lens.data = perturbed(lens, "tnfw", PLACE, SQUARE).image() + noise
    lens.source = source
    lens.run(2, hold=True)
    return lens


def perturbed(lens, profile, place, square):
    """The lens with a perturber, everything else as it is."""
    model = dataclasses.replace(lens.renderer.model, components=(f"perturber_{profile}",))
    more = torch.tensor([[*place, square]], dtype=F64)
    return dataclasses.replace(lens, renderer=Renderer(model, SIZE, 1, CPU, F64), q=torch.cat((lens.q, more), 1))


def covariance(columns, precision):
    """C of the data (N, N), over the noise; flat priors ten thousand times wider than what the data say."""
    wide = torch.maximum(precision, 1e-8 * columns.square().sum(1))
    return torch.eye(columns.shape[1], dtype=F64) + columns.T @ (columns / wide[:, None])


@pytest.mark.parametrize("profile", PROFILES)
def test_map_is_the_likelihood_ratio_of_a_dense_gaussian_process(lens, profile):
    design, place, square = lens.design, (0.5, 0.2), 1e-3
    change = perturbed(lens, profile, place, square).image() - lens.image()
    change = change.flatten()[design.pixels] * design.weight
    process = MultivariateNormal(torch.zeros_like(change), covariance(design.columns, design.posterior.precision))
    ratio = process.log_prob(design.data - change) - process.log_prob(design.data)
    expected, observed = lens_map(lens, np.array([square]), np.array([place]), profile)[:, 0, 0]
    information = change @ torch.linalg.solve(process.covariance_matrix, change)
    assert expected == pytest.approx(float(information), rel=0.02)
    assert observed * math.sqrt(expected) - expected / 2 == pytest.approx(float(ratio), rel=0.02, abs=0.5)


def test_refined_perturber_is_the_one_that_bends_the_light(lens):
    fit = refine(lens, (0.5, 0.3), 3e-3, profile="tnfw")
    pulls = (np.array([*fit.place, fit.square]) - [*PLACE, SQUARE]) / np.sqrt(fit.covariance.diagonal())
    assert np.abs(pulls).max() < 4 and np.hypot(*(fit.place - PLACE)) < 0.1
    assert fit.log_bayes_factor > 10 and fit.delta_chi_square > 2 * fit.log_bayes_factor


def test_smoothed_noise_counts_for_less(lens):
    """The fall of chi-square and the information of place and mass, by what the change feels of the smoothing."""
    smoothed = dataclasses.replace(lens, noise_width=0.5)
    white, fit = (refine(each, (0.5, 0.3), 3e-3, profile="tnfw") for each in (lens, smoothed))
    ratio = white.delta_chi_square / fit.delta_chi_square
    assert ratio > 2 and fit.place == pytest.approx(white.place)
    np.testing.assert_allclose(fit.covariance, ratio * white.covariance)
    fall = (white.delta_chi_square - fit.delta_chi_square) / 2 - 1.5 * math.log(ratio)
    assert fit.log_bayes_factor == pytest.approx(white.log_bayes_factor - fall)
    places = np.array([PLACE, (0.5, 0.3)])
    plain, maps = (lens_map(each, np.array([SQUARE]), places, "tnfw")[:, 0] for each in (lens, smoothed))
    assert maps[0, 0] == pytest.approx(plain[0, 0] / ratio, rel=0.3)
    np.testing.assert_allclose(maps[1] / plain[1], np.sqrt(maps[0] / plain[0]))


@pytest.mark.slow
def test_its_bayes_factor_is_the_integral_over_place_and_mass(lens):
    """By quadrature about the best, each point with the density of the data of a dense Gaussian process."""
    fit = refine(lens, PLACE, SQUARE, profile="tnfw", reach=0.9)
    held = lens.design.posterior.precision[: len(lens.source.coefficients)]

    def density(other, parameters):
        other.q[0, : len(parameters)] = torch.as_tensor(parameters)
        for _ in range(2):  # the slopes along the lens are those of the source as fitted
            problem = other.held_problem(held)
            count, moved = len(held), len(problem.moved)
            mean = problem.posterior.mean_without(slice(count, count + moved))
            source = {"coefficients": mean[:count], "amplitude": float(mean[count + moved])}
            other.source = dataclasses.replace(other.source, **source)
        still = [k for k, p in enumerate(problem.posterior.precision) if p or k >= count + moved]
        columns, precision = problem.columns[still], problem.posterior.precision[still]
        return float(MultivariateNormal(0 * problem.data, covariance(columns, precision)).log_prob(problem.data))

    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    root = np.linalg.cholesky(fit.covariance)
    terms = []
    for index in np.ndindex(3, 3, 3):
        z = nodes[list(index)]
        values = np.array([*fit.place, fit.square]) + root @ z
        prior = 1 / (math.pi * 0.9**2 * values[2] * math.log(SQUARES[1] / SQUARES[0]))
        measure = weights[list(index)].prod() * np.exp(z @ z / 2) * abs(np.linalg.det(root))
        other = perturbed(lens, "tnfw", values[:2], values[2])
        terms.append(density(other, fit.parameters) + math.log(prior * measure))
    without = density(dataclasses.replace(lens, q=lens.q.clone()), fit.parameters_without)
    expected = np.logaddexp.reduce(terms) - without
    assert fit.log_bayes_factor == pytest.approx(expected, abs=1.0)


def clumpy_recipe():
    """Model J with clumps in its sources and little noise."""
    tables = recipe_dict(fit_data.J)
    tables["source"].pop("brightness")
    tables["source"]["structure"] = {"clumps": [3, 12], "clump_fraction": 0.4, "clump_radius": [0.05, 0.2]}
    tables["noise"]["peak_snr"] = [22, 30]
    return parse_recipe(tables)


@pytest.mark.slow
def test_a_subhalo_behind_a_clumpy_source_is_where_it_was_put():
    mass, place = np.full(4, 3.7e9), np.tile([[0.91, -0.15]], (4, 1))
    images, _ = fit_data.with_subhalo(clumpy_recipe(), mass, place, 11)
    structured = fit_structured(images[3].astype(float), lenses=True)
    fit, radius = (
        strongest(structured.lenses[0], starts=3, finalists=1, shifts=SHIFTS[:1]),
        structured.fit.parameters[0, 0],
    )
    assert np.hypot(*(fit.place - place[0])) < 0.1
    assert fit.square / radius**2 * 1e12 == pytest.approx(mass[0], rel=0.4)
    assert fit.log_bayes_factor > 5
