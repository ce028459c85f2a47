"""What detections and their absence say of the mass fraction in subhalos: a likelihood from sensitivity maps.

    numbers = detectable(maps, cell, recipe.classes["sphere"].subhalos, total_mass)  # (B,) over the mass fraction
    fraction_likelihood(numbers, detected).interval()                                # 16%, 50%, 84%

A map's expected delta chi-square e(m, p) says how often a subhalo of mass m at p is seen above a threshold of T
standard deviations: with Phi(sqrt(e) - T). Subhalos of a fraction f of the mass M are a Poisson process of f M / <m> in
number, dN / dm ~ m^slope, uniform over a disc, so that a lens has f times

    n = M / <m> * integral of dp / area * integral of dm p(m) Phi(sqrt(e(m, p)) - T)

detectable ones on average, and a detection with probability 1 - exp(-f n - a), a false alarms a lens. The likelihood is
the product over lenses with and without one (Vegetti et al. 2014, MNRAS 442, 2017; Ritondale et al. 2019, MNRAS 485,
2179). It takes one subhalo at a time: many faint ones that only together are seen raise what it finds.

A flexible source that was fitted to the image with its subhalo, its prior too, has taken over part of it, so that the
map holds r sqrt(e) of it with r below 1. Subhalos injected into simulated lenses say how r is distributed, and the
probability is the mean of Phi(r sqrt(e) - T).
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from darklens.fit.detect import DetectionMap
from darklens.posterior.population import FRACTIONS, Population
from darklens.simulation.draw import mean_mass
from darklens.simulation.recipe_tables import Subhalos

THRESHOLD = 5.0  # standard deviations, anywhere in the map
STEPS = 200  # masses of the integral
LEAST = 1e-12  # delta chi-square of a place where nothing is seen


def detectable(
    maps: DetectionMap,
    cell: float,
    subhalos: Subhalos,
    total_mass: np.ndarray,
    *,
    threshold: float = THRESHOLD,
    responses: Sequence[float] = (1.0,),
) -> np.ndarray:
    """(B,) subhalos that are seen in each lens on average, over the mass fraction.

    maps: on a grid of cells of `cell` arcsec^2, for two masses or more. subhalos: their masses, slope and the outer
    radius of the disc on which they lie uniformly. total_mass: (B,) Msun. responses: r, as measured by injected
    subhalos, each as frequent as the others. Raises ValueError for a single mass.
    """
    if len(maps.masses) < 2:
        raise ValueError("a sensitivity by mass takes maps of two masses or more, not of one")
    low, high = subhalos.mass
    mass = np.geomspace(low, high, STEPS)
    weight = mass**subhalos.slope * np.gradient(mass)
    inside = np.hypot(*maps.positions.T) <= subhalos.radius[1]
    root = (np.sqrt(_expected(maps.masses, of_lens[:, inside], mass)) for of_lens in maps.expected)
    seen = np.array([sum(norm.cdf(r * e - threshold).sum(0) for r in responses) / len(responses) for e in root])
    area = np.pi * subhalos.radius[1] ** 2
    return np.asarray(total_mass) / mean_mass(low, high, subhalos.slope) * cell / area * (seen @ weight) / weight.sum()


def _expected(masses: np.ndarray, expected: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """(G, K) delta chi-square of subhalos of masses (K,) from maps (M, G): log-log lines through them."""
    x, y = np.log(masses), np.log(np.maximum(expected, LEAST)).T  # (M,), (G, M)
    slope = np.diff(y, axis=1) / np.diff(x)
    k = np.clip(np.searchsorted(x, np.log(mass)) - 1, 0, len(x) - 2)
    return np.asarray(np.exp(y[:, k] + slope[:, k] * (np.log(mass) - x[k])))


def fraction_likelihood(
    numbers: np.ndarray,
    detected: np.ndarray,
    log_mean_fractions: np.ndarray = FRACTIONS,
    *,
    false_alarms: float = 0.0,
) -> Population:
    """The likelihood of the mass fraction, of lenses that have a detection or not.

    numbers: (B,) of `detectable`; detected: (B,) bool; log_mean_fractions: (A,) grid, log10; false_alarms: on average
    in a lens.
    """
    rate = np.asarray(numbers) * 10.0 ** np.asarray(log_mean_fractions)[:, None] + false_alarms  # (A, B)
    log_detection = np.log(np.maximum(-np.expm1(-rate), 1e-300))
    likelihood = np.where(detected, log_detection, -rate).sum(1)
    return Population(np.asarray(log_mean_fractions, dtype=float), likelihood - likelihood.max(), len(numbers))
