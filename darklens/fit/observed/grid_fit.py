"""The joint fit with a source of positive Gaussians on a grid: what one Sersic misses no longer pulls at the lens.

The Einstein radius stays within a few percent of the Sersic source's, since a source this flexible would follow
anything else that is in the image.
"""

import dataclasses

import numpy as np

from darklens.fit.observed.joint import JointFit, Problem, minimise
from darklens.fit.observed.parameters import INDEX_OF, LENS, PARAMETERS, Priors
from darklens.fit.observed.rays import Rays, SourceGrid

SHEAR = [INDEX_OF["shear_1"], INDEX_OF["shear_2"]]
TIED = 0.04  # ln Einstein radius about that of the Sersic source
COOLER = 4.0  # T over that of the Sersic source
REACH, NODES, WIDTH = 3.0, 6, 0.75  # of the grid: effective radii, steps from the middle, Gaussians in steps
FINE_NODES = 9  # of the last source, beside a lens that isn't moved any more
LEAST, MOST = 0.25, 0.9  # of the reach: arcsec, Einstein radii
STEPS, TOLERANCE = 8, 0.02


def source_grid(q: np.ndarray, nodes: int = NODES) -> SourceGrid:
    """Gaussians that cover a fitted Sersic source (P,): about 113, or 253 with 9 nodes from the middle."""
    reach = min(max(REACH * np.exp(q[9]), LEAST), MOST * q[0])
    return SourceGrid(reach, reach / nodes, reach / nodes * WIDTH)


def near_arcs(problem: Problem, q: np.ndarray) -> np.ndarray:
    """(n, n) bool: the pixels that a fit of the arcs looks at."""
    return problem.cutout.radius(q[5:7]) < 1.9 * q[0] + 0.3


def fit_grid(
    problem: Problem, fit: JointFit, priors: Priors, temper: float, *, shear: bool = True
) -> tuple[JointFit, SourceGrid]:
    """From a fit of a Sersic source; problem: of the pixels `near_arcs`; shear: whether it is free, else 0."""
    grid = source_grid(fit.q)
    rays = Rays(problem.cutout, min(1.9 * fit.q[0] + 0.3 + 0.2, problem.cutout.half))
    part = problem.part(rays.part)
    size = len(PARAMETERS)

    def evaluate(q: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        columns, traced = rays.grid(q, grid)
        solved = part.solve(columns)
        planes = rays.by_grid(q, grid, solved.linear[-len(columns) :], traced)
        curvature, gradient = np.zeros((size, size)), np.zeros(size)
        curvature[:LENS, :LENS], gradient[:LENS] = solved.normal(planes)
        return solved.chi2, solved.linear, curvature, gradient

    free, start = np.arange(size) < LENS, fit.q.copy()
    if not shear:
        start[SHEAR], free[SHEAR] = 0.0, False
    best = minimise(evaluate, start, priors, temper, free, steps=STEPS, tolerance=TOLERANCE)
    fine = source_grid(fit.q, FINE_NODES)
    solved = part.solve(rays.grid(best.q, fine)[0])
    return dataclasses.replace(best, linear=solved.linear, chi2=solved.chi2), fine


def arcs(problem: Problem, fit: JointFit, grid: SourceGrid) -> np.ndarray:
    """(n, n) the lensed source's image."""
    rays = Rays(problem.cutout, problem.cutout.half)
    columns, _ = rays.grid(fit.q, grid)
    return np.tensordot(fit.linear[-len(columns) :], columns, 1)
