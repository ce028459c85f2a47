"""What many lenses say together: how much of their mass is in subhalos on average.

    posterior = network.infer(images)["sphere"]["log_mass_fraction"]        # of N lenses
    population(posterior, RECIPES["j"]).interval()                          # 16%, 50%, 84%

The likelihood of the mean h given the images d_1 ... d_N is, up to a constant, the product over the lenses of

    integral of p(theta | d_i) p(theta | h) / p(theta) d theta,

where p(theta | d_i) is the posterior of the mass fraction theta and p(theta) the prior that it was trained with, which
is divided out (Hogg, Myers & Bovy 2010, ApJ 725, 2166, eq. 9; for lenses Wagner-Carena et al. 2021, ApJ 909, 187). The
posterior's bins hold equal shares of the prior, so that the integral is a sum of M p_m P_m(h). It is assumed that given
theta an image carries no further information about h, and that no lens was selected by its substructure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darklens.errors import RecipeError, UsageError
from darklens.metrics.posterior import Posterior, check_level
from darklens.simulation.draw import mean_mass, power_law
from darklens.simulation.posterior_targets import LABELS, MASS, MIN_FRACTION
from darklens.simulation.priors import Prior
from darklens.simulation.recipe_tables import SimulationConfig, Subhalos

DRAWS, CHUNK = 20_000, 2_500  # lenses drawn for each p(theta | h), and as many at a time
FRACTIONS = np.linspace(-2.4, -0.8, 33)  # log10 of the mean mass fraction
FINER = 40  # steps between two points of the grid, by a cubic spline of the log-likelihood


@dataclass(frozen=True, eq=False)
class Population:
    """The likelihood of the mean on a grid.

    log_mean_fractions: (A,) the grid; log_likelihood: (A,), 0 at its highest; lenses: how many.
    """

    log_mean_fractions: np.ndarray
    log_likelihood: np.ndarray
    lenses: int

    def quantile(self, level: float | np.ndarray) -> np.ndarray:
        """Quantiles of log10 of the mean mass fraction; its prior is flat on the grid. Raises ValueError."""
        check_level(level)
        from scipy.interpolate import CubicSpline

        low, high, steps = self.log_mean_fractions[0], self.log_mean_fractions[-1], len(self.log_mean_fractions) - 1
        grid = np.linspace(low, high, FINER * steps + 1)
        values = CubicSpline(self.log_mean_fractions, self.log_likelihood)(grid)
        density = np.exp(values - values.max())
        cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
        return np.asarray(np.interp(level, cumulative / cumulative[-1], grid))

    def interval(self, level: float = 0.68) -> tuple[float, float, float]:
        """Lower end, median and upper end of the central interval. Raises ValueError."""
        low, middle, high = self.quantile(np.array([0.5 - level / 2, 0.5, 0.5 + level / 2])).tolist()
        return low, middle, high


def population(
    posterior: Posterior,
    recipe: SimulationConfig,
    class_name: str = "sphere",
    log_mean_fractions: np.ndarray = FRACTIONS,
) -> Population:
    """The mean mass fraction in subhalos of the lenses of a posterior.

    posterior: of log_mass_fraction, of N lenses. recipe: whose class says which masses subhalos have, and how often.
    log_mean_fractions: (A,) even grid, log10. Raises RecipeError for subhalos that it cannot draw, UsageError for the
    posterior of another quantity.
    """
    if posterior.label != LABELS[MASS]:
        raise UsageError(
            f"a population takes the posterior of {MASS} ({LABELS[MASS]}), found that of {posterior.label}"
        )
    density = subhalo_density(recipe, class_name, posterior.edges, log_mean_fractions)
    return combine(posterior, np.asarray(log_mean_fractions, dtype=float), density)


def combine(posterior: Posterior, log_mean_fractions: np.ndarray, density: np.ndarray) -> Population:
    """The product over the lenses of the sums over bins of posterior over prior times population.

    density: (A, M) probability of each of the posterior's bins, for each point of the grid (A,).
    """
    over_prior = density.T * density.shape[1]  # (M, A)
    likelihood = np.log(np.maximum(posterior.probabilities @ over_prior, 1e-300)).sum(0)
    return Population(log_mean_fractions, likelihood - likelihood.max(), len(posterior))


def subhalo_density(
    recipe: SimulationConfig, class_name: str, edges: np.ndarray, log_mean_fractions: np.ndarray
) -> np.ndarray:
    """(A, M): how often the log10 of the mass fraction in subhalos lies in each bin, for each mean.

    A number of subhalos from Poisson's distribution with masses from the recipe's dN/dm ~ m^slope, as the simulator
    draws them; DRAWS lenses a point, from the same random numbers at all points. What lies beyond the edges counts in
    the first or last bin. Raises RecipeError.
    """
    from scipy.stats import poisson

    table, total_mass = _subhalos(recipe, class_name)
    counts = np.zeros((len(log_mean_fractions), len(edges) - 1))
    for chunk in range(DRAWS // CHUNK):
        rng = np.random.default_rng([0, chunk])
        total, uniform = total_mass.draw(rng, CHUNK), rng.random(CHUNK)
        numbers = 10.0 ** np.asarray(log_mean_fractions)[:, None] * total / mean_mass(*table.mass, table.slope)
        number = poisson.ppf(uniform, numbers).astype(int)  # (A, CHUNK)
        masses = _cumulative_mass(table, number.max(), chunk)[number, np.arange(CHUNK)]  # (A, CHUNK)
        inside = np.clip(np.log10(np.maximum(masses / total, MIN_FRACTION)), edges[0], edges[-1])
        counts += [np.histogram(row, edges)[0] for row in inside]
    return counts / counts.sum(1, keepdims=True)


def _cumulative_mass(table: Subhalos, count: int, chunk: int) -> np.ndarray:
    """(count + 1, CHUNK) Msun: the mass of the first k subhalos of each lens."""
    uniform = np.random.default_rng([1, chunk]).random((count, CHUNK))  # more rows leave those before them as they are
    masses = power_law(uniform, *table.mass, table.slope)
    return np.concatenate([np.zeros((1, CHUNK)), np.cumsum(masses, axis=0)])


def _subhalos(recipe: SimulationConfig, class_name: str) -> tuple[Subhalos, Prior]:
    """The class's subhalos and the total mass, if they are what `subhalo_density` can draw. Raises RecipeError."""
    kind = recipe.classes.get(class_name)
    table = kind and kind.subhalos
    if not table or table.profile == "tnfw" or table.half_mode_mass or recipe.lens.total_mass is None:
        requirement = 'subhalos of profile "point" or "sis" without half_mode_mass, and a lens.total_mass'
        raise RecipeError(f"classes.{class_name} of recipe {recipe.name}: a population needs {requirement}")
    return table, recipe.lens.total_mass
