"""Priors: read, drawn, written back."""

import numpy as np
import pytest
import scipy.stats

from darklens.errors import RecipeError
from darklens.simulation.priors import parse_prior

FORMS = [0.5, True, [0.4, 0.6], {"normal": [1, 2]}, {"loguniform": [10, 60]}, {"poisson": 25}, {"choice": [1, 2, 5]}]


@pytest.mark.parametrize("value", FORMS)
def test_round_trip(value):
    prior = parse_prior(value, "lens.shear")
    assert prior.plain() == value and parse_prior(prior.plain(), "lens.shear") == prior


@pytest.mark.parametrize("value", FORMS)
def test_draws_keep_within_bounds(value):
    prior = parse_prior(value, "k")
    drawn, (low, high) = prior.draw(np.random.default_rng(0), 1000), prior.bounds
    assert drawn.shape == (1000,) and low <= drawn.min() and drawn.max() <= high
    assert np.isfinite(prior.quantile(0.0)) and prior.quantile(0.25).shape == ()


@pytest.mark.parametrize(
    ("value", "law"),
    [
        ([0.4, 0.6], scipy.stats.uniform(0.4, 0.2)),
        ({"normal": [1, 2]}, scipy.stats.norm(1, 2)),
        ({"loguniform": [10, 60]}, scipy.stats.loguniform(10, 60)),
    ],
)
def test_quantiles_are_those_of_scipy(value, law):
    u = np.linspace(0.001, 0.999, 99)
    assert np.allclose(parse_prior(value, "k").quantile(u), law.ppf(u), rtol=1e-10)


def test_whole_numbers_are_those_of_scipy():
    u = np.random.default_rng(0).random(500)
    assert (parse_prior({"poisson": 25}, "k").quantile(u) == scipy.stats.poisson(25).ppf(u)).all()
    assert set(parse_prior({"choice": [True, False]}, "k").quantile(u)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0.6, 0.4], r"lens.shear = \[0.6, 0.4\]: the low end comes first; did you mean \[0.4, 0.6\]"),
        ([0.1, 0.2, 0.3], r"lens.shear = .*: expected \[low, high\], two numbers"),
        ({"norml": [0, 1]}, "lens.shear: no prior 'norml'; did you mean 'normal'"),
        ({"normal": [0, -1]}, "lens.shear.normal.*standard deviation must be 0 or more"),
        ({"normal": 3}, r"lens.shear.normal = 3: expected \[mean, sd\]"),
        ({"loguniform": [0, 1]}, "lens.shear.loguniform.*above 0"),
        ({"choice": []}, "lens.shear.choice.*a list of values"),
        ({"choice": ["a"]}, "lens.shear.choice.*expected numbers"),
        ({"poisson": -3}, "lens.shear.poisson = -3"),
        ("0.3", "lens.shear = '0.3': expected a number, "),
        (float("nan"), "lens.shear = nan: expected"),
        ([0.1, 5], "lens.shear = .*: expected no unit, between 0 and 0.9"),
    ],
)
def test_bad_values_say_why_in_one_line(value, words):
    with pytest.raises(RecipeError, match=words) as caught:
        parse_prior(value, "lens.shear", 0, 0.9, "no unit")
    assert "\n" not in str(caught.value)
