"""The residual's significance behind splines: its null distribution, dense and drawn."""

import dataclasses

import numpy as np
import pytest
import torch

from darklens.fit import SmoothModel
from darklens.fit.flexible import FlexibleLens
from darklens.fit.renderer import renderer
from darklens.fit.significance import correlation_matrix, smoothing
from darklens.fit.spline_source import SplineSource
from darklens.fit.structured_significance import STEP, null_matrix, structured_significance

SIZE = 31
CERTAIN = torch.zeros(2, 2, dtype=torch.float64)


@pytest.fixture(scope="module")
def lens():
    """31 x 31 pixels, some of them masked, two lattices, and the linear problem of their last step."""
    model = dataclasses.replace(SmoothModel(window=SIZE), free_centre=True, free_halo=True)
    camera = renderer(model, SIZE, 1, "cpu", torch.float64)
    q = torch.as_tensor(model.held())[None].clone()
    q[0, camera.table.index["einstein_radius"]] = 0.5
    source = SplineSource(camera.table.named(q.clone()), 1.0)
    weight = torch.full((SIZE, SIZE), 20.0, dtype=torch.float64)
    weight[3:7, 20:24] = 0
    lens = FlexibleLens(
        camera, q, torch.zeros_like(weight), weight, source, torch.zeros(0, SIZE**2, dtype=torch.float64)
    )
    lens.refine(2)
    lens.data = lens.image()
    lens.step(adapt=False)
    return lens


def dense(lens: FlexibleLens) -> tuple[torch.Tensor, torch.Tensor]:
    """X (K, S^2) and 1 - X^T A^-1 X (S^2, S^2), masked pixels without light or noise."""
    design = lens.design
    x = torch.zeros(len(design.columns), SIZE**2, dtype=torch.float64)
    x[:, design.pixels] = design.columns
    keep = torch.diag((lens.weight.flatten() > 0).double())
    return x, keep - x.T @ design.posterior.covariance_with(slice(None)) @ x


def significance(lens: FlexibleLens, residual: torch.Tensor) -> float:
    """Of a lens that leaves this residual (S, S)."""
    weight = torch.where(lens.weight > 0, lens.weight, 1.0)
    return structured_significance(dataclasses.replace(lens, data=lens.image() + lens.sky + residual / weight), CERTAIN)


@pytest.mark.parametrize("width", [0.0, 0.6])
def test_the_null_matrix_is_that_of_dense_algebra(lens, width):
    (x, rest), g = dense(lens), torch.as_tensor(smoothing(SIZE, step=STEP))
    noise = torch.kron(*(torch.as_tensor(correlation_matrix(SIZE, width)),) * 2)
    posterior = lens.design.posterior
    gains = posterior.covariance_with(slice(None)) @ x
    covariance = rest @ noise @ rest + gains.T @ (posterior.precision[:, None] * gains)
    both = torch.kron(g, g)
    error = (both @ covariance @ both.T - null_matrix(lens, g, width)).abs().max() / (both @ both.T).max()
    assert error < 1e-9


def test_what_the_model_draws_is_as_significant_as_noise(lens):
    """Sources drawn from the prior, with noise: normal quantiles."""
    rng, (x, _) = torch.Generator().manual_seed(3), dense(lens)
    deviations = lens.design.posterior.precision.clamp(min=1.0).rsqrt()  # flat priors: any will do
    drawn = torch.randn(300, len(x), generator=rng, dtype=torch.float64) * deviations
    y = torch.randn(300, SIZE**2, generator=rng, dtype=torch.float64) + drawn @ x
    data = torch.where(lens.weight > 0, y.unflatten(1, (SIZE, SIZE)) / lens.weight, 0.0)
    residuals = lens.residuals_of(data + lens.image()).double()
    levels = np.array([significance(lens, each) for each in residuals])
    assert abs(np.median(levels)) < 0.2
    assert 0.05 < (levels > 1.2816).mean() < 0.15  # a tenth


def test_mass_that_is_left_out_is_significant(lens):
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    trace = torch.as_tensor(3 * np.exp(-((x - 5) ** 2 + (y + 4) ** 2) / 12) - 3 * np.exp(-((x - 9) ** 2 + y**2) / 12))
    noise = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    quiet, loud = lens.residuals_of(lens.image() + torch.stack((noise, noise + trace)) / 20)
    assert significance(lens, quiet) < 2.5
    assert significance(lens, loud) > 5
