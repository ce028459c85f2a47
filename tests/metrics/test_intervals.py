"""Intervals of fractions."""

import numpy as np
import pytest
from scipy import stats

from darklens.metrics.intervals import wilson


@pytest.mark.parametrize("level", [0.68, 0.95])
def test_wilson_is_the_formula(level):
    """Wilson 1927: where the score test does not refuse the fraction."""
    k, n = np.array([(0, 1), (1, 1), (0, 40), (3, 40), (20, 40), (40, 40), (999, 1000)]).T
    z, p = stats.norm.ppf(0.5 + level / 2), k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    np.testing.assert_allclose(wilson(k, n, level), np.stack([centre - half, centre + half], 1), atol=1e-12)


def test_no_fractions_have_no_intervals():
    assert wilson([], []).shape == (0, 2)
