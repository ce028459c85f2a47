"""The joint fit with one elliptical Sersic source."""

import numpy as np

from darklens.fit.observed.joint import JointFit, Problem, minimise
from darklens.fit.observed.parameters import PARAMETERS, Priors
from darklens.fit.observed.rays import Rays

STEPS, TOLERANCE = 20, 0.02  # of penalised chi-square


def fit_sersic(problem: Problem, start: np.ndarray, priors: Priors, temper: float, steps: int = STEPS) -> JointFit:
    """From one start (P,), with chi-square divided by `temper`."""
    reach = min(2.0 * start[0] + 1.0, problem.cutout.half)
    rays = Rays(problem.cutout, reach)
    part = problem.part(rays.part)

    def evaluate(q: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        planes = rays.sersic(q)
        solved = part.solve(planes[:1])
        curvature, gradient = solved.normal(planes[1:] * solved.linear[-1])
        return solved.chi2, solved.linear, curvature, gradient

    free = np.ones(len(PARAMETERS), bool)
    return minimise(evaluate, start, priors, temper, free, steps=steps, tolerance=TOLERANCE)


def arcs(problem: Problem, fit: JointFit) -> np.ndarray:
    """(n, n) the lensed source's image."""
    rays = Rays(problem.cutout, problem.cutout.half)
    return rays.sersic(fit.q, derivatives=False)[0] * fit.linear[-1]
