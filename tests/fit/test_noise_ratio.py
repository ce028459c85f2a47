"""The variance of amplitudes in smoothed noise, against drawn noise."""

import dataclasses

import pytest
import torch
from scipy import ndimage

from darklens.fit.noise_ratio import noise_ratio


@dataclasses.dataclass
class Lens:
    """What of a `FlexibleLens` counts here."""

    weight: torch.Tensor
    design: object
    noise_width: float = 0.5


@dataclasses.dataclass
class Design:
    columns: torch.Tensor
    pixels: torch.Tensor
    posterior: object


@dataclasses.dataclass
class Posterior:
    inverse_factor: torch.Tensor


@pytest.fixture
def problem():
    """Three columns of a source, one further column, on 24 x 24 pixels, all smooth."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(4, 24, 24, generator=generator, dtype=torch.float64).numpy()
    x = torch.as_tensor(ndimage.gaussian_filter(planes, (0, 2, 2))).flatten(1)
    columns, column = x[:3], x[3:]
    normal = columns @ columns.T + 0.1 * torch.eye(3).double()
    inverse = torch.linalg.inv(torch.linalg.cholesky(normal))
    lens = Lens(torch.ones(24, 24).double(), Design(columns, torch.arange(24 * 24), Posterior(inverse)))
    return lens, column, inverse @ columns @ column.T


def test_of_drawn_noise(problem):
    lens, column, whitened = problem
    generator = torch.Generator().manual_seed(1)
    white = torch.randn(4000, 24, 24, generator=generator, dtype=torch.float64).numpy()
    smoothed = ndimage.gaussian_filter(white, (0, 0.5, 0.5), mode="wrap")
    projected = column[0] - (whitened[:, 0] @ lens.design.posterior.inverse_factor) @ lens.design.columns
    spread = [float((torch.as_tensor(n / n.std()).flatten(1) @ projected).var()) for n in (white, smoothed)]
    ratio = noise_ratio(lens, column, whitened)
    assert ratio == pytest.approx(spread[1] / spread[0], rel=0.1) and ratio > 2


def test_white_noise_has_none(problem):
    problem[0].noise_width = 0.0
    assert noise_ratio(*problem) == 1.0
