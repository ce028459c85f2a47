"""Is the posterior of the dark matter calibrated, and what do many lenses say together?

    python benchmarks/inference.py coverage --weights compact-j --model j --lenses 2500
    python benchmarks/inference.py population --weights compact-j --model j --lenses 1500
    python benchmarks/inference.py departures --weights compact-j --model j --lenses 1000

`coverage` simulates lenses of each class that the network has a posterior for, from random streams that no data set
uses, and writes coverage.png; Test mode does the same with a data set. `population` simulates lenses of populations
that differ in their mean mass fraction, draws 10, 100 and 1,000 lenses of one of them again and again, and counts how
often the truth lies in the intervals. `departures` has lenses that are not what the recipe says.

--lenses 40 is a toy. --keep FOLDER keeps the posteriors of each population for the next call.
"""

import argparse
from pathlib import Path

import numpy as np

import darklens
from darklens.analysis.population import Population, combine, subhalo_density
from darklens.classifier.classifier import Classifier
from darklens.lenses import draw, render
from darklens.lenses.draw import mean_mass
from darklens.lenses.recipes import RECIPES, Recipe, changed
from darklens.lenses.truth import Truth
from darklens.lenses.unknowns import LABELS, MASS, unknowns
from darklens.metrics.coverage import coverage_report, table
from darklens.metrics.posterior import Posterior
from darklens.plots.coverage import plot_coverage

CLASS, BATCH, GRID = "sphere", 64, np.linspace(-2.3, -0.8, 31)  # log10 of the mean mass fraction
SUBHALOS = f"classes.{CLASS}.subhalos."
FRACTIONS = {0.0189: 7701, 0.0267: 7705, 0.0378: 7704, 0.0535: 7706, 0.0757: 7702}  # mean mass fraction: seed
DEPARTURES = {  # what is changed, and the seed
    "none": ({}, 2),
    "PSF 5% wider": ({"robust.psf_width": 1.05}, 7707),
    "PSF 5% narrower": ({"robust.psf_width": 0.95}, 7709),
    "source's Sersic index 2.5": ({"source.sersic_index": 2.5}, 7708),
    "slope -1.3, same mean mass": ({"count": None, "mass_fraction": 0.0378, "slope": -1.3}, 7703),
}
SIZES, LEVELS = (10, 100, 1000), (0.68, 0.95)


def inferred(network: Classifier, recipe: Recipe, kind: str, count: int, seed: int) -> dict[str, Posterior]:
    """Posteriors of the quantities of a class, of `count` lenses."""
    starts = range(0, count, BATCH)
    parts = [render.simulate(recipe, kind, range(i, min(i + BATCH, count)), seed, "test") for i in starts]
    found = [network.infer(images)[kind] for images in parts]
    return {
        name: Posterior(one.label, one.edges, np.concatenate([part[name].probabilities for part in found]))
        for name, one in found[0].items()
    }


def coverage(network: Classifier, recipe: Recipe, args: argparse.Namespace) -> None:
    """coverage.png and a line for each quantity."""
    report = {}
    for number, kind in enumerate(network.inference.heads):
        posteriors = inferred(network, recipe, kind, args.lenses, 7720 + number)
        lenses = draw.draw(recipe, kind, 7720 + number, "test", range(args.lenses))
        truth = unknowns(Truth(lenses, recipe))
        report[kind] = {name: coverage_report(one, truth[name], {}) for name, one in posteriors.items()}
    print(table(report))
    print(plot_coverage(".", report))


def masses(network: Classifier, recipe: Recipe, changes: dict, seed: int, args: argparse.Namespace) -> Posterior:
    """Posteriors of the mass fraction, of lenses of the recipe with these keys, of its subhalos or any, changed."""
    keys = {key if "." in key else f"{SUBHALOS}{key}": value for key, value in changes.items()}
    path = args.keep / f"{args.model}-{seed}-{args.lenses}.npz" if args.keep else None
    if path and path.exists():
        with np.load(path) as kept:
            return Posterior(LABELS[MASS], kept["edges"], kept["probabilities"])
    found = inferred(network, changed(recipe, keys), CLASS, args.lenses, seed)[MASS]
    if path:
        args.keep.mkdir(parents=True, exist_ok=True)
        np.savez(path, edges=found.edges, probabilities=found.probabilities)
    return found


def of_population(posterior: Posterior, recipe: Recipe, density: np.ndarray) -> Population:
    """The likelihood of the mean mass fraction at the recipe's slope."""
    return combine(posterior, {"f": GRID, "slope": np.array([recipe.classes[CLASS].subhalos.slope])}, density)


def bins(recipe: Recipe, posterior: Posterior) -> np.ndarray:
    """(A, 1, M): how often each bin of the posterior is drawn, at each point of the grid."""
    slopes = np.array([recipe.classes[CLASS].subhalos.slope])
    return subhalo_density(recipe, CLASS, posterior.edges, GRID, slopes)


def population(network: Classifier, recipe: Recipe, args: argparse.Namespace) -> None:
    """How often the hidden mean lies in the interval, and how wide it is, for N lenses of a population."""
    changes = ({"count": None, "mass_fraction": fraction} for fraction in FRACTIONS)
    sets = [masses(network, recipe, one, seed, args) for one, seed in zip(changes, FRACTIONS.values(), strict=True)]
    density, rng = bins(recipe, sets[0]), np.random.default_rng(0)
    print("| lenses | mean error (dex) | half-width of 68% (dex) | in 68% | in 95% |\n|---|---|---|---|---|")
    for size in (size for size in SIZES if size <= args.lenses):
        rows = [trial(sets, size, density, recipe, rng) for _ in range(args.repetitions)]
        error, width, *inside = (np.array(column) for column in zip(*rows, strict=True))
        spread = error.std() / np.sqrt(len(error))
        hits = " | ".join(f"{column.sum()} of {len(column)}" for column in inside)
        print(f"| {size:,} | {error.mean():+.4f} ± {spread:.4f} | {width.mean():.4f} | {hits} |", flush=True)
    for fraction, one in zip(FRACTIONS, sets, strict=True):
        low, middle, high = of_population(one, recipe, density).interval("f")
        print(f"all {len(one)} of {fraction}: {middle - np.log10(fraction):+.4f} ± {(high - low) / 2:.4f} dex")


def trial(sets: list[Posterior], size: int, density: np.ndarray, recipe: Recipe, rng) -> tuple:
    """Error and half-width (dex), and whether the truth is within each level, for lenses of one of the populations."""
    number = rng.integers(len(sets))
    rows, truth = rng.permutation(len(sets[number]))[:size], np.log10(list(FRACTIONS)[number])
    found = of_population(sets[number][rows], recipe, density)
    low, middle, high = found.interval("f", 0.68)
    inside = [a <= truth <= b for a, _, b in (found.interval("f", level) for level in LEVELS)]
    return middle - truth, (high - low) / 2, *inside


def departures(network: Classifier, recipe: Recipe, args: argparse.Namespace) -> None:
    """How wrong the mean mass fraction is where the lenses are not what the recipe says."""
    table_of = recipe.classes[CLASS].subhalos
    mean = float(table_of.count.values[0]) * mean_mass(*table_of.mass, table_of.slope)
    truth, density = np.log10(mean / float(recipe.lens.total_mass.values[0])), None
    print(f"| {args.lenses} lenses each | error of the mean (dex) | in its standard deviations |\n|---|---|---|")
    for name, (changes, seed) in DEPARTURES.items():
        posterior = masses(network, recipe, changes, seed, args)
        density = bins(recipe, posterior) if density is None else density
        low, middle, high = of_population(posterior, recipe, density).interval("f")
        error, deviation = middle - truth, (high - low) / 2
        print(f"| {name} | {error:+.3f} ± {deviation:.3f} | {error / deviation:+.1f} |", flush=True)


COMMANDS = {"coverage": coverage, "population": population, "departures": departures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--weights", default="compact-j", metavar="NETWORK")
    parser.add_argument("--model", choices=("f", "j"), default="j")
    parser.add_argument("--lenses", type=int, default=1500, help="of each class or population (1500)")
    parser.add_argument("--repetitions", type=int, default=100, help="of each number of lenses (100)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the posteriors there")
    args = parser.parse_args()
    COMMANDS[args.command](darklens.load(args.weights), RECIPES[args.model], args)


if __name__ == "__main__":
    main()
