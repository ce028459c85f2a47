"""Lens, source and the galaxy's amplitudes at once: Levenberg-Marquardt with priors, linear amplitudes projected out.

What is minimised is chi-square / T plus the Gaussian priors' squares. T is large since chi-square counts tens of
thousands of pixels as if each were independent and the model exact, while noise is correlated and no galaxy is a sum
of Gaussians: without it the priors would not be felt. (It is a tempered likelihood: Gruenwald 2012, ALT, 169.)
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.light import LightModel
from darklens.fit.observed.linear import amplitudes
from darklens.fit.observed.parameters import Priors

TEMPER = 10.0  # T over chi-square a pixel, or over 1: pixels' correlation and models' flaws
COOLED = 20.0  # T at most once the best start is chosen: priors help to choose, and then should not pull


class Problem:
    """Data with weights, and the products of the galaxy's columns that no step changes."""

    def __init__(self, cutout: Cutout, light: LightModel, sigma: np.ndarray, good: np.ndarray | None = None) -> None:
        """sigma: (n, n); good: (n, n) bool, the pixels that count (None: the cutout's)."""
        good = cutout.good if good is None else good
        self.cutout, self.light = cutout, light
        self.weight = np.where(good, 1 / sigma, 0.0)
        self.flat = (light.columns * self.weight).reshape(len(light.columns), -1)
        self.target = (cutout.data * self.weight).ravel()
        self.gram = self.flat @ self.flat.T + np.diag(light.ridge)
        self.projection = self.flat @ self.target
        self.square = float(self.target @ self.target)
        self.pixels = int(good.sum())

    def part(self, part: slice) -> "Part":
        """The middle where arcs are: (m, m) planes have products with everything else there."""
        n, (k, *_) = self.cutout.size, self.light.columns.shape
        flat = self.flat.reshape(k, n, n)[:, part, part].reshape(k, -1)
        return Part(self, flat, self.target.reshape(n, n)[part, part].ravel(), self.weight[part, part].ravel())


@dataclasses.dataclass
class Part:
    """A problem's middle."""

    problem: Problem
    flat: np.ndarray  # (K, m^2)
    target: np.ndarray  # (m^2,)
    weight: np.ndarray  # (m^2,)

    def solve(self, columns: np.ndarray) -> "Solved":
        """Amplitudes of galaxy and source; columns: (C, m, m) of the source, amplitudes 0 or more."""
        problem, number = self.problem, len(columns)
        source = columns.reshape(number, -1) * self.weight
        cross = source @ self.flat.T  # (C, K)
        gram = np.block([[problem.gram, cross.T], [cross, source @ source.T]])
        projection = np.concatenate((problem.projection, source @ self.target))
        positive = np.concatenate((problem.light.positive, np.ones(number, bool)))
        linear, passive = amplitudes(gram, projection, positive)
        chi2 = problem.square - 2 * projection @ linear + linear @ gram @ linear
        return Solved(self, linear, passive, float(chi2), gram, source)


@dataclasses.dataclass
class Solved:
    """Amplitudes, and what a Gauss-Newton step needs."""

    part: Part
    linear: np.ndarray  # (K + C,)
    passive: np.ndarray  # (K + C,) bool
    chi2: float
    gram: np.ndarray  # (K + C, K + C)
    source: np.ndarray  # (C, m^2) weighted columns

    def normal(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curvature (P, P) and downhill gradient (P,) of half chi-square; planes: (P, m, m) of derivatives."""
        jacobian = planes.reshape(len(planes), -1) * self.part.weight
        mixed = np.concatenate((self.part.flat @ jacobian.T, self.source @ jacobian.T))  # (K + C, P)
        gradient = jacobian @ self.part.target - mixed.T @ self.linear
        free = self.passive
        gram = self.gram[np.ix_(free, free)]
        gram = gram + np.diag(1e-10 * gram.diagonal() + 1e-300)
        curvature = jacobian @ jacobian.T - mixed[free].T @ np.linalg.solve(gram, mixed[free])
        return curvature, gradient


@dataclasses.dataclass
class JointFit:
    """Where a fit ended."""

    q: np.ndarray  # (P,)
    linear: np.ndarray  # (K + C,)
    chi2: float
    penalised: float  # chi-square / T plus priors
    covariance: np.ndarray  # (P, P) of chi-square / T and priors: that of the posterior, tempered


def temperature(chi_square: float) -> float:
    """T for a fit of so much chi-square a pixel."""
    return TEMPER * max(1.0, chi_square)


Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray, np.ndarray]]


def minimise(
    evaluate: Evaluate, q: np.ndarray, priors: Priors, temper: float, free: np.ndarray, *, steps: int, tolerance: float
) -> JointFit:
    """evaluate(q) -> chi-square, linear amplitudes, curvature (P, P), downhill gradient (P,) of half chi-square."""

    def full(q: np.ndarray) -> tuple:
        chi2, linear, curvature, gradient = evaluate(q)
        pull = np.where(np.isfinite(priors.sd), (priors.mean - q) / priors.sd, 0.0)
        total = chi2 / temper + pull @ pull
        return total, chi2, linear, curvature / temper + np.diag(priors.sd**-2.0), gradient / temper + pull / priors.sd

    q = np.clip(q, priors.low, priors.high)
    total, chi2, linear, curvature, gradient = full(q)
    damping = 1e-2
    for _ in range(steps):
        outward = ((q <= priors.low) & (gradient < 0)) | ((q >= priors.high) & (gradient > 0))
        move = np.flatnonzero(free & ~outward)
        part = curvature[np.ix_(move, move)]
        part = part + np.diag(damping * part.diagonal() + 1e-12)
        step = np.zeros(len(q))
        step[move] = np.linalg.solve(part, gradient[move])
        step /= max(1.0, (np.abs(step) / priors.max_step).max())
        trial = np.clip(q + step, priors.low, priors.high)
        new = full(trial)
        gain = total - new[0]
        if gain > 0:
            q, (total, chi2, linear, curvature, gradient) = trial, new
            damping = max(damping / 8, 1e-6)
        else:
            damping *= 8
        if 0 <= gain < tolerance or damping > 1e3:
            break
    covariance = np.zeros_like(curvature)
    inside = np.flatnonzero(free)
    covariance[np.ix_(inside, inside)] = np.linalg.pinv(curvature[np.ix_(inside, inside)])
    return JointFit(q, linear, chi2, total, covariance)
