"""Populations: the drawn mass fractions against the simulator's, and lenses whose posteriors are known."""

import numpy as np
import pytest
from scipy.stats import norm

import darklens
from darklens.errors import RecipeError, UsageError
from darklens.metrics.posterior import Posterior
from darklens.posterior.population import combine, population, subhalo_density
from darklens.simulation.draw import draw
from darklens.simulation.posterior_targets import LABELS, MASS
from darklens.simulation.recipes import RECIPES, changed

EDGES = norm.ppf(np.linspace(1e-6, 1 - 1e-6, 101))  # of a prior: the standard normal
MEANS, NOISE = np.linspace(-1, 1, 9), 0.7


def lenses(mean, count, seed):
    """Posteriors, under the standard normal prior, of noisy values of a population N(mean, 0.5)."""
    rng = np.random.default_rng(seed)
    seen = mean + 0.5 * rng.standard_normal(count) + NOISE * rng.standard_normal(count)
    shares = np.diff(norm.cdf(EDGES, seen[:, None] / (1 + NOISE**2), NOISE / np.sqrt(1 + NOISE**2)), axis=1)
    return Posterior(LABELS[MASS], EDGES, shares / shares.sum(1, keepdims=True))


DENSITY = np.diff(norm.cdf(EDGES, MEANS[:, None], 0.5), axis=1)  # (9, 100)


def test_the_prior_is_divided_out():
    """The mean of a population far from the prior's comes out right, and its error is the right one."""
    count = 400
    pulls = []
    for seed in range(40):
        low, middle, high = combine(lenses(0.4, count, seed), MEANS, DENSITY).interval()
        assert (high - low) / 2 == pytest.approx(np.hypot(0.5, NOISE) / np.sqrt(count), rel=0.1)
        pulls.append((middle - 0.4) / ((high - low) / 2))
    assert abs(np.mean(pulls)) < 0.5 and 0.7 < np.std(pulls) < 1.4


def test_one_lens_more_multiplies_the_likelihood():
    both = lenses(0.0, 2, 1)
    whole, parts = (combine(both, MEANS, DENSITY), [combine(both[k : k + 1], MEANS, DENSITY) for k in (0, 1)])
    added = sum(one.log_likelihood for one in parts)
    assert whole.log_likelihood == pytest.approx(added - added.max()) and whole.lenses == 2


@pytest.mark.parametrize("slope", [-0.9, -1.4])
def test_mass_fractions_are_drawn_as_the_simulator_does(slope):
    key = "classes.sphere.subhalos."
    recipe = changed(RECIPES["j"], {f"{key}count": None, f"{key}mass_fraction": 0.02, f"{key}slope": slope})
    drawn = draw(recipe, "sphere", 5, "test", range(2000))
    values = np.log10(drawn["substructure.mass"] / drawn["lens.total_mass"])
    edges = np.quantile(values, np.linspace(0, 1, 11))
    edges[[0, -1]] = -6, 0
    found = subhalo_density(recipe, "sphere", edges, np.log10([0.02, 0.03]))
    assert found.shape == (2, 10) and found.sum(1) == pytest.approx(1)
    assert abs(found[0] - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / 2000)
    assert abs(found[1] - 0.1).max() > 0.1


def test_the_function_of_the_package():
    prior = Posterior(LABELS[MASS], np.linspace(-2.5, -0.5, 41), np.full((3, 40), 1 / 40))
    found = darklens.population(prior, "j", log_mean_fractions=[-1.6, -1.4, -1.2])
    assert found.log_likelihood.shape == (3,) and found.lenses == 3
    assert np.ptp(found.log_likelihood) < 1e-9  # posteriors that are the prior know nothing
    with pytest.raises(RecipeError, match=r"classes\.vort"):
        population(prior, RECIPES["j"], "vort")


@pytest.mark.parametrize("quantity", [name for name in LABELS if name != MASS])
def test_the_posterior_of_another_quantity_is_refused_by_its_label(quantity):
    other = lenses(0, 4, 0)
    other = Posterior(LABELS[quantity], other.edges, other.probabilities)
    with pytest.raises(UsageError, match="takes the posterior of log_mass_fraction") as caught:
        darklens.population(other, "j")
    assert LABELS[quantity] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("level", [1.5, -0.1, np.nan, np.array([0.5, 1.01])])
def test_levels_beyond_probabilities_are_refused(level):
    for distribution in (lenses(0, 4, 0), combine(lenses(0, 4, 0), MEANS, DENSITY)):
        with pytest.raises(ValueError, match="expected a probability from 0 to 1, found"):
            distribution.quantile(level)
    if np.ndim(level) == 0 and level != -0.1:
        with pytest.raises(ValueError, match="expected a probability"):
            lenses(0, 4, 0).width(level)
        with pytest.raises(ValueError, match="expected a probability"):
            combine(lenses(0, 4, 0), MEANS, DENSITY).interval(level)


def test_nothing_is_compared_with_nan():
    with pytest.raises(ValueError, match="found NaN"):
        lenses(0, 4, 0).above(np.nan)
    assert (lenses(0, 4, 0).below(np.inf) == 1).all()
