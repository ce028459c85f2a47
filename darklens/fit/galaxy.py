"""A lens galaxy's light by itself, when nothing is known yet: fitted with the arcs as outliers.

It outshines the arcs, but is smooth: a few fits of the galaxy alone, each weighted by what the one before leaves, give
its centre, size and shape, and the arcs stand in the rest. Weights are Cauchy's for what is too bright (Holland &
Welsch 1977, Commun. Stat. A6, 813), and a share of the light itself counts as noise: nothing is that smooth.
"""

import dataclasses
import functools

import torch
from torch import Tensor

from darklens.fit import start as starts
from darklens.fit.lens_light import LensLight
from darklens.fit.model import SmoothModel
from darklens.fit.renderer import Renderer
from darklens.fit.solver import Problem, Solver

ROUNDS, STEPS = 4, 12
SHARE, LARGER = 0.05, 0.2  # of the galaxy's light: the noise that it counts as; where that finds an arc instead
OUTLIER = 2.0  # standard deviations
CORE = 3  # pixels about the brightest one whose centroid is taken


class Galaxy(Renderer):
    """Images of the lens galaxy alone: one light, whose parameters, and the centre if it is free, are free."""

    def __init__(self, model: SmoothModel, size: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(dataclasses.replace(model, free_psf=False), size, 1, device, dtype)
        self._lights = [LensLight(model, self.grid, self.mass)]
        self.free = tuple(i for i in model.free if self.table.names[i] in self._lights[0].names)


@functools.lru_cache(maxsize=4)
def _solver(model: SmoothModel, size: int, device: str, dtype: torch.dtype) -> Solver:
    return Solver(Galaxy(model, size, torch.device(device), dtype), 4 if device == "cpu" else None)


def find(data: Tensor, good: Tensor, variance: Tensor, model: SmoothModel, share: float) -> tuple[Tensor, Tensor]:
    """Parameters (B, Q) with those of the galaxy found, and its light (B, S, S) with its amplitude.

    data, good, variance: (B, S, S), as a `Window` has them. share: of the light, the noise that it counts as.
    """
    solver = _solver(model, data.shape[-1], str(data.device), data.dtype)
    q = torch.as_tensor(model.held(), device=data.device).repeat(len(data), 1)
    if model.free_centre:
        q[:, model.table.columns("centre_x", "centre_y")] = brightest(data, good, model)
    q, light, down = starts.clamp(q, model), data.clamp(min=0), torch.ones_like(data)
    deviation = (variance + (share * light).square()).sqrt()
    for _ in range(ROUNDS):
        weight = torch.where(good, down / deviation, 0.0)
        problem = Problem(data.flatten(1), weight.flatten(1))
        state = solver.minimise(solver.evaluate(q, problem), problem, STEPS, 1e-2)
        q, (amplitude, sky) = state.q, state.linear[:, :, None, None].to(data.dtype).unbind(1)
        light = (amplitude * solver.renderer.lights(q)[:, 0].unflatten(1, data.shape[1:])).clamp(min=0)
        deviation = (variance + (share * light).square()).sqrt()
        excess = ((data - light - sky) / deviation).clamp(min=0)
        down = (1 + (excess / OUTLIER).square()).rsqrt()
    return q, light


def brightest(data: Tensor, good: Tensor, model: SmoothModel) -> Tensor:
    """(B, 2) x, y in arcsec of the centroid about the brightest pixel, its neighbours averaged, near the middle."""
    size = data.shape[-1]
    steps = (torch.arange(size, dtype=data.dtype, device=data.device) - (size - 1) / 2) * model.pixel_scale
    x, y = steps.expand(size, size), -steps[:, None].expand(size, size)
    smooth = torch.nn.functional.avg_pool2d(torch.where(good, data, 0.0)[:, None], 3, 1, 1)[:, 0]
    inner = (x.abs().maximum(y.abs()) < model.half_window / 4) | (size < 16)
    peak = torch.where(inner, smooth, -torch.inf).flatten(1).argmax(1)
    px, py = x.flatten()[peak, None, None], y.flatten()[peak, None, None]
    core = ((x - px).abs().maximum((y - py).abs()) < (CORE + 0.5) * model.pixel_scale) & good
    weight = torch.where(core, data, 0.0).clamp(min=0).square()
    total = weight.sum((1, 2)).clamp(min=1e-30)
    return torch.stack(((weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total), 1).double()
