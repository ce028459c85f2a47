"""The mass fraction from detections and their absence: numbers by hand, and universes whose fraction is known."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import norm

from darklens.fit.detect import DetectionMap, grid
from darklens.posterior.detections import detectable, fraction_likelihood
from darklens.simulation.draw import mean_mass, power_law
from darklens.simulation.recipes import RECIPES

SUBHALOS = RECIPES["hst"].classes["sphere"].subhalos
MASSES = np.array([3e8, 1e9, 3e9, 1e10])
PLACES, CELL = grid(101, 0.08, step=4), 0.32**2
FINE = np.linspace(-3.5, -0.5, 61)


def maps(count, seed=0):
    """Rings of sensitivity that grows with the mass's square, of different depths: (B, M, G) expected."""
    rng = np.random.default_rng(seed)
    depth, ring = rng.uniform(5, 60, (count, 1, 1)), rng.uniform(0.8, 1.6, (count, 1, 1))
    radius = np.hypot(*PLACES.T)
    expected = depth * (MASSES[:, None] / 3e9) ** 2 * np.exp(-((radius - ring) ** 2) / (2 * 0.3**2))
    return DetectionMap(PLACES, MASSES, expected, np.zeros_like(expected))


def test_detectable_numbers_are_those_of_drawn_subhalos():
    """A Monte Carlo of subhalos of a fraction of 1, each seen above 5 standard deviations or not."""
    sensitivity, total = maps(2), np.array([3e11, 1e11])
    rng = np.random.default_rng(1)
    mass = power_law(rng.random(200_000), *SUBHALOS.mass, SUBHALOS.slope)
    radius, angle = SUBHALOS.radius[1] * np.sqrt(rng.random(len(mass))), rng.uniform(0, 2 * np.pi, len(mass))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    near = cKDTree(PLACES).query(np.stack([x, y], 1))[1]
    numbers = detectable(sensitivity, CELL, SUBHALOS, total)
    for k in range(2):
        expected = sensitivity.expected[k, 2, near] * (mass / 3e9) ** 2
        share = norm.cdf(np.sqrt(expected) - 5).mean()
        assert numbers[k] == pytest.approx(total[k] / mean_mass(*SUBHALOS.mass, SUBHALOS.slope) * share, rel=0.05)


def test_subhalos_of_which_the_source_has_taken_half_are_seen_as_by_a_quarter_of_the_map():
    sensitivity, total = maps(2), np.full(2, 3e11)
    quarter = DetectionMap(PLACES, MASSES, sensitivity.expected / 4, sensitivity.observed)
    whole, half = (detectable(each, CELL, SUBHALOS, total) for each in (sensitivity, quarter))
    halved = detectable(sensitivity, CELL, SUBHALOS, total, responses=[0.5])
    both = detectable(sensitivity, CELL, SUBHALOS, total, responses=[1.0, 0.5])
    np.testing.assert_allclose(halved, half)
    np.testing.assert_allclose(both, (whole + half) / 2)


def test_likelihood_is_that_of_its_formula():
    likelihood = fraction_likelihood(np.array([2.0, 5.0]), np.array([True, False]), FINE, false_alarms=0.01)
    f = 10**FINE
    expected = np.log(1 - np.exp(-2 * f - 0.01)) - 5 * f - 0.01
    np.testing.assert_allclose(likelihood.log_likelihood, expected - expected.max(), atol=1e-10)


def test_a_hidden_fraction_comes_out_of_detections_and_their_absence():
    """200 universes of 100 lenses: quantiles of the truth are uniform, and no detection at all gives a limit."""
    numbers = detectable(maps(100), CELL, SUBHALOS, np.full(100, 3e11))
    truth, rng, below = 0.02, np.random.default_rng(2), []
    for _ in range(200):
        detected = rng.random(100) < -np.expm1(-truth * numbers)
        low, middle, high = fraction_likelihood(numbers, detected, FINE).interval()
        below.append((low < np.log10(truth) < high, middle))
    inside, middles = np.array(below).T
    assert 0.58 < inside.mean() < 0.78 and abs(middles.mean() - np.log10(truth)) < 0.05
    none = fraction_likelihood(numbers, np.zeros(100, bool), FINE)
    assert none.log_likelihood.argmax() == 0 and none.quantile(0.95) < np.log10(truth)


def test_one_mass_is_no_sensitivity():
    with pytest.raises(ValueError, match="two masses"):
        one = DetectionMap(PLACES, MASSES[:1], np.ones((1, 1, len(PLACES))), np.ones((1, 1, len(PLACES))))
        detectable(one, CELL, SUBHALOS, np.ones(1))
