"""Where to start in images of which nothing is known: on bins of pixels, where a step costs little.

A lens galaxy's light is fitted first and subtracted (`galaxy`), with a share of it as noise. Source and halo are then
sought in what remains, from starts on a D4-symmetric grid about the galaxy.
"""

import dataclasses
import math

import torch
from torch import Tensor

from darklens.fit import galaxy
from darklens.fit import start as starts
from darklens.fit.blur import PARAMETERS as PSF
from darklens.fit.lens_light import NAMES as LIGHT
from darklens.fit.mass import CENTRE
from darklens.fit.model import SmoothModel
from darklens.fit.renderer import renderer
from darklens.fit.solver import Problem, Solver, State
from darklens.fit.window import binned

COARSE_STEPS, GRID_STEPS = 12, 3
TRIED = 15  # starts of the grid about a galaxy that are improved by so many steps
KEEP = 3  # of them are refined
SHARE = 8  # starts whose rays a CPU's cache holds


class Search:
    """Starts for images (B, S, S), `data` and `good` as a `Window` has them, with the variance of each pixel.

    retry: there was a search already, which ended badly.
    """

    def __init__(
        self, data: Tensor, good: Tensor, variance: Tensor, model: SmoothModel, *, retry: bool = False
    ) -> None:
        self.model, self.coarse, self.galaxy = model, _on_bins(model), None
        if model.free_light:
            share = galaxy.LARGER if retry else galaxy.SHARE
            self.galaxy, light = galaxy.find(data.to(variance.dtype), good, variance, model, share)
            data, variance = data - light, variance + (share * light).square()
        b = model.binning
        self.data, count = binned(data, good, b)
        weight = (count / binned(variance.double(), good, b)[0].clamp(min=1e-30)).sqrt()
        self.problem = Problem(self.data.flatten(1).to(variance.dtype), weight.flatten(1).to(variance.dtype))
        camera = renderer(self.coarse, self.data.shape[-1], b, str(data.device), variance.dtype)
        self.solver = Solver(camera, SHARE if model.free_light and data.device.type == "cpu" else None)

    def improved(self, q: Tensor) -> Tensor:
        """Starts (B, Q), one for each image, improved on the bins."""
        return self._minimise(q, self.problem).q

    def from_moments(self) -> Tensor:
        """(B, Q)"""
        return starts.from_moments(self.data, self.model.pixel_scale * self.model.binning, self.coarse)

    def best(self) -> Tensor:
        """(B, Q) of each image the best start on the grid."""
        return torch.cat([self.from_grid(row)[:1] for row in range(len(self.data))])

    def from_grid(self, row: int) -> Tensor:
        """(KEEP, Q) of an image the best starts on the grid, improved on the bins, the best first."""
        if self.galaxy is None:
            q = starts.grid(self.from_moments()[row][None], self.model)[0]  # (G, Q)
        else:
            q = starts.about_galaxy(self.galaxy[row], self.coarse)
        many = self._repeated(row, len(q))
        tried = self.solver.evaluate(q, many)
        tried = tried[tried.chi2.argsort()[: len(q) if self.galaxy is None else TRIED]]
        tried = self.solver.minimise(tried, many[torch.arange(len(tried.q), device=q.device)], GRID_STEPS, 1.0)
        best = tried[tried.chi2.argsort()[:KEEP]]
        state = self._minimise(best.q, many[torch.arange(len(best.q), device=q.device)])
        q = state.q[state.chi2.argsort()]
        return q if self.galaxy is None else self._with_galaxy(q, self.galaxy[row])

    def from_shifts(self, row: int, q: Tensor) -> Tensor:
        """(2, Q) of an image with a fit q (Q,) the best where its centre was moved, improved on the bins."""
        state = self._minimise(starts.shifted(q, self.model), self._repeated(row, 4))
        return state.q[state.chi2.argsort()[:2]]

    def _repeated(self, row: int, count: int) -> Problem:
        problem = self.problem[torch.tensor([row], device=self.data.device)]
        return Problem(problem.data.expand(count, -1), problem.weight.expand(count, -1))

    def _minimise(self, q: Tensor, problem: Problem) -> State:
        return self.solver.minimise(self.solver.evaluate(q, problem), problem, COARSE_STEPS, 1.0)

    def _with_galaxy(self, q: Tensor, galaxy: Tensor) -> Tensor:
        """q (K, Q) with the galaxy's parameters; of the source's size and index bins tell little."""
        table, held = self.model.table, torch.as_tensor(self.model.held(), device=q.device)
        q = q.clone()
        for name in (*(p.name for p in (*CENTRE, *PSF)), *LIGHT):
            q[:, table.index[name]] = galaxy[table.index[name]]
        radius, index = table.index["log_radius"], table.index["log_index"]
        q[:, radius], q[:, index] = q[:, radius].clamp(min=math.log(2 * self.model.pixel_scale)), held[index]
        return starts.clamp(q, self.model)


def _on_bins(model: SmoothModel) -> SmoothModel:
    """What is sought on bins: of a Moffat no width; of lenses with a galaxy what it leaves, its centre the halo's."""
    if not model.free_light:
        return model if model.psf_beta is None else dataclasses.replace(model, free_psf=False, psf_beta=None)
    centre = model.free_centre and not model.free_halo  # an ellipsoid has the given centre, free or not
    return dataclasses.replace(model, free_light=False, free_psf=False, psf_beta=None, free_centre=centre)
