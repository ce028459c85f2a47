"""Splines in the source plane against SciPy's, automatic differentiation and each other."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from darklens.fit import splines

SPACING = 0.1


@pytest.fixture
def lattice():
    lattice = splines.Lattice.empty(SPACING, 0.5)
    chosen = torch.rand(lattice.column.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    lattice.column[chosen] = torch.arange(int(chosen.sum()))
    return lattice


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(2)
    return tuple(1.8 * torch.rand(300, generator=generator, dtype=torch.float64) - 0.9 for _ in range(2))


def coefficients(lattice):
    return torch.randn(int(lattice.chosen.sum()), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_one_node_is_scipys_spline(points):
    lattice = splines.Lattice.empty(SPACING, 0.5)
    lattice.column[7, 4] = 0  # at x = 0.2, y = -0.1
    light = lattice.light(torch.ones(1, dtype=torch.float64), *points)[0]
    element = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    u, v = (np.nan_to_num(element((p.numpy() - at) / SPACING)) for p, at in zip(points, (0.2, -0.1), strict=True))
    np.testing.assert_allclose(light, u * v, atol=1e-14)


def test_slopes_are_the_derivatives(lattice, points):
    u, v = (p.clone().requires_grad_() for p in points)
    light, by_u, by_v = lattice.light(coefficients(lattice), u, v)
    for slope, expected in zip((by_u, by_v), torch.autograd.grad(light.sum(), (u, v)), strict=True):
        torch.testing.assert_close(slope, expected, atol=1e-12, rtol=0)


def test_columns_are_the_light_of_each_coefficient(lattice, points):
    pixel = torch.arange(300) % 50  # 6 rays a pixel
    columns = lattice.footprint(*points).columns(pixel, 50, share=0.5)
    c = coefficients(lattice)
    expected = torch.zeros(50, dtype=torch.float64).index_add_(0, pixel, lattice.light(c, *points)[0])
    assert len(columns) == len(c)
    torch.testing.assert_close(columns.T @ c, expected / 2)


def test_points_that_see_no_coefficient_are_left_out(lattice, points):
    sparse = splines.Lattice.empty(SPACING, 0.5)
    sparse.column[7, 4] = 0  # at x = 0.2, y = -0.1
    u, v = points
    near = ((u - 0.2).abs() < 2 * SPACING) & ((v + 0.1).abs() < 2 * SPACING)
    assert torch.equal(sparse.footprint(u, v).points, near.nonzero()[:, 0])
    assert len(lattice.footprint(u, v).points) > 4 * int(near.sum())


def test_a_cropped_lattice_shines_as_before(points):
    sparse = splines.Lattice.empty(SPACING, 0.5)
    sparse.column[7, 4], sparse.column[5, 6] = 0, 1
    cropped, c = sparse.cropped(), torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert len(cropped.column) == 7
    torch.testing.assert_close(cropped.light(c, *points)[0], sparse.light(c, *points)[0])
    values = sparse.spread(c)
    assert torch.equal(cropped.resized(cropped.spread(c), len(values)), values)


def test_all_nodes_together_are_flat():
    lattice = splines.Lattice.empty(SPACING, 0.5)
    lattice.column.view(-1).copy_(torch.arange(lattice.column.numel()))
    inside = (torch.rand(50, dtype=torch.float64) * 0.6 - 0.3 for _ in range(2))
    light = lattice.light(torch.ones(lattice.column.numel(), dtype=torch.float64), *inside)[0]
    torch.testing.assert_close(light, torch.ones(50, dtype=torch.float64))
