"""Confidence intervals of fractions."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest


def wilson(successes: Any, trials: Any, level: float = 0.95) -> np.ndarray:
    """Interval of binomial fractions (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    successes of trials, both (n,) whole numbers, trials > 0 -> (n, 2): low, high.
    """
    tests = (binomtest(int(k), int(n)) for k, n in zip(successes, trials, strict=True))
    return np.array([test.proportion_ci(level, method="wilson") for test in tests]).reshape(-1, 2)
