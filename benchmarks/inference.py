"""What do many lenses say together of the dark matter in them?

    python benchmarks/inference.py population --weights compact-j --lenses 10000
    python benchmarks/inference.py departures --weights compact-j --lenses 1000

`population` simulates lenses of the recipe `j_wide` and takes from them, again and again, 10, 100 and 1,000 whose
numbers of subhalos are those of a population with a hidden mean mass fraction, a new one each time; it counts how
often the truth lies in the intervals. `departures` has lenses that are not what the recipe says.

Coverage of single lenses: Test mode, see docs/inference.md.

--lenses 400 is a toy. --keep FOLDER keeps the posteriors for the next call.
"""

import argparse
from pathlib import Path

import numpy as np

import darklens
from darklens.classifier.classifier import Classifier
from darklens.metrics.posterior import Posterior
from darklens.posterior.population import Population, combine, subhalo_density
from darklens.simulation import draw, render
from darklens.simulation.draw import mean_mass
from darklens.simulation.posterior_targets import LABELS, MASS
from darklens.simulation.recipes import RECIPES, SimulationConfig, changed

CLASS, BATCH, GRID = "sphere", 64, np.linspace(-2.3, -0.8, 31)  # log10 of the mean mass fraction
SEED, HIDDEN = 77, (0.0189, 0.0757)  # of the lenses of `population`; its mean mass fraction is log-uniform
KEYS = (f"classes.{CLASS}.subhalos.count", f"classes.{CLASS}.subhalos.mass_fraction")
MEAN, SLOPE = dict(zip(KEYS, (None, 0.0378), strict=True)), f"classes.{CLASS}.subhalos.slope"
DEPARTURES = {  # what is changed, and the seed
    "none": (MEAN, 7704),
    "PSF 5% wider": ({"robust.psf_width": 1.05}, 7707),
    "PSF 5% narrower": ({"robust.psf_width": 0.95}, 7709),
    "source's Sersic index 2.5": ({"source.sersic_index": 2.5}, 7708),
    "slope -1.3, same mean mass": (MEAN | {SLOPE: -1.3}, 7703),
}
SIZES, LEVELS = (10, 100, 1000), (0.68, 0.95)


def masses(network: Classifier, recipe: SimulationConfig, seed: int, args: argparse.Namespace) -> Posterior:
    """Posteriors of the mass fraction of `args.lenses` lenses of a recipe."""
    path = args.keep / f"{recipe.name}-{seed}-{args.lenses}.npz" if args.keep else None
    if path and path.exists():
        with np.load(path) as kept:
            return Posterior(LABELS[MASS], kept["edges"], kept["probabilities"])
    batches = [range(i, min(i + BATCH, args.lenses)) for i in range(0, args.lenses, BATCH)]
    parts = [network.infer(render.simulate(recipe, CLASS, batch, seed, "test"))[CLASS][MASS] for batch in batches]
    found = Posterior(LABELS[MASS], parts[0].edges, np.concatenate([part.probabilities for part in parts]))
    if path:
        args.keep.mkdir(parents=True, exist_ok=True)
        np.savez(path, edges=found.edges, probabilities=found.probabilities)
    return found


def chance(number: np.ndarray, recipe: SimulationConfig, fraction: float | np.ndarray) -> np.ndarray:
    """(...) how often a lens has this number of subhalos, at a mean mass fraction or on average over several (F,)."""
    from scipy.stats import poisson

    table = recipe.classes[CLASS].subhalos
    one = float(recipe.lens.total_mass.values[0]) / mean_mass(*table.mass, table.slope)
    return poisson.pmf(np.asarray(number)[..., None], np.atleast_1d(fraction) * one).mean(-1)


def chosen(number: np.ndarray, recipe: SimulationConfig, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of lenses of `recipe` that are as if drawn at one mean mass fraction, in random order; each once.

    number: (n,) of subhalos of each. Given it, a lens does not depend on the mean: rejection by it is exact.
    """
    prior = recipe.classes[CLASS].subhalos.mass_fraction.quantile((np.arange(200) + 0.5) / 200)
    every = np.arange(number.max() + 1)
    ratio = chance(every, recipe, fraction) / chance(every, recipe, prior)
    return rng.permutation(np.flatnonzero(rng.random(len(number)) < (ratio / ratio.max())[number]))


def population(network: Classifier, args: argparse.Namespace) -> None:
    """How often the hidden mean lies in the interval, and how wide it is, for N lenses of a population."""
    recipe, rng = RECIPES["j_wide"], np.random.default_rng(0)
    posterior = masses(network, recipe, SEED, args)
    lenses = draw.draw(recipe, CLASS, SEED, "test", range(args.lenses))
    number, density = (lenses.subhalos["mass"] > 0).sum(1), subhalo_density(recipe, CLASS, posterior.edges, GRID)
    print("| lenses | mean error (dex) | half-width of 68% (dex) | in 68% | in 95% |\n|---|---|---|---|---|")
    for size in SIZES:
        rows = []
        for _ in range(args.repetitions):
            fraction = HIDDEN[0] * (HIDDEN[1] / HIDDEN[0]) ** rng.random()
            these = chosen(number, recipe, fraction, rng)[:size]
            if len(these) == size:
                rows.append(errors(combine(posterior[these], GRID, density), np.log10(fraction)))
        if not rows:
            continue
        error, width, *inside = (np.array(column) for column in zip(*rows, strict=True))
        spread = error.std() / np.sqrt(len(error))
        hits = " | ".join(f"{column.sum()} of {len(column)}" for column in inside)
        print(f"| {size:,} | {error.mean():+.4f} ± {spread:.4f} | {width.mean():.4f} | {hits} |", flush=True)


def errors(found: Population, truth: float) -> tuple:
    """Error and half-width (dex), and whether the truth is within each level."""
    low, middle, high = found.interval(LEVELS[0])
    inside = [a <= truth <= b for a, _, b in (found.interval(level) for level in LEVELS)]
    return middle - truth, (high - low) / 2, *inside


def departures(network: Classifier, args: argparse.Namespace) -> None:
    """How wrong the mean mass fraction is where the lenses are not what the recipe says."""
    recipe = RECIPES["j"]
    truth, density = np.log10(MEAN[KEYS[1]]), None
    print(f"| {args.lenses} lenses each | error of the mean (dex) | in its standard deviations |\n|---|---|---|")
    for name, (changes, seed) in DEPARTURES.items():
        posterior = masses(network, changed(recipe, changes), seed, args)
        density = subhalo_density(recipe, CLASS, posterior.edges, GRID) if density is None else density
        error, deviation, *_ = errors(combine(posterior, GRID, density), truth)
        print(f"| {name} | {error:+.3f} ± {deviation:.3f} | {error / deviation:+.1f} |", flush=True)


COMMANDS = {"population": population, "departures": departures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--weights", default="compact-j", metavar="NETWORK")
    parser.add_argument("--lenses", type=int, default=1000, help="simulated, of each kind (1000)")
    parser.add_argument("--repetitions", type=int, default=100, help="of each number of lenses (100)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the posteriors there")
    args = parser.parse_args()
    COMMANDS[args.command](darklens.load(args.weights), args)


if __name__ == "__main__":
    main()
