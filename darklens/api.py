"""The functions of `import darklens`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import find_weights, load_model
from darklens.fit import DetectionMap, Fit
from darklens.fit import detect as detection
from darklens.fit.arrays import fit_arrays as fit
from darklens.fit.detect import MASSES, TOTAL_MASS
from darklens.metrics.posterior import Posterior
from darklens.posterior import population as populations
from darklens.posterior.population import FRACTIONS, Population
from darklens.runs import train as training
from darklens.simulation import render
from darklens.simulation.recipes import load_recipe
from darklens.storage.training_config import TrainingConfig

__all__ = ["detect", "fit", "load", "population", "simulate", "train"]


def load(name: str | Path, device: str = "cpu") -> Classifier:
    """A trained network: one that comes with the package ("compact-f"), or a checkpoint by its path.

    Raises UsageError where there is neither, CheckpointError for a file that is damaged or not a network.
    """
    return load_model(find_weights(str(name)), device)


def simulate(model: str, class_name: str, indices: Iterable[int], seed: int = 0, split: str = "train") -> np.ndarray:
    """Noisy images (n, pixels, pixels), `indices` of a class: uint16 where they are whole counts, else float32.

    model: "f", "j" or another recipe of the package, or a recipe's file. They are the images that `simulate.py --model
    MODEL --seed SEED` writes. Raises ValueError for an unknown recipe, class or split, or a negative seed or index.
    """
    return render.simulate(load_recipe(model), class_name, indices, seed, split)


def detect(
    fits: Fit,
    masses: Sequence[float] = MASSES,
    positions: np.ndarray | None = None,
    *,
    total_mass: float | np.ndarray = TOTAL_MASS,
    profile: str = "point",
    device: str = "cpu",
) -> DetectionMap:
    """Where one subhalo of each mass (Msun) would be seen in each of the fits, and where the residual favours one.

    positions: (G, 2) arcsec from the image's centre, y up; None: a grid. total_mass: within the Einstein radius, Msun,
    of all lenses or of each (n,). profile: "point" or "sis". The result has `positions`, `expected` (n, M, G) delta
    chi-square, `observed` (n, M, G) standard deviations. Raises ValueError for what doesn't fit. docs/where.md.
    """
    return detection(fits, masses, positions, total_mass, profile=profile, device=device)


def population(
    posterior: Posterior,
    model: str,
    class_name: str = "sphere",
    *,
    log_mean_fractions: np.ndarray = FRACTIONS,
) -> Population:
    """What the lenses of a posterior, `net.infer(images)["sphere"]["log_mass_fraction"]`, say of their population.

    model: "f", "j" or another recipe, whose class has the subhalos' limits of mass and their slope.
    log_mean_fractions: (A,) even grid, log10 of the mean mass fraction. The result has `interval()`: 16%, 50%, 84%.
    Raises RecipeError for a recipe that has no such subhalos, UsageError for the posterior of another quantity.
    """
    return populations.population(posterior, load_recipe(model), class_name, log_mean_fractions)


def train(data_dir: str | Path = "images_f", **settings: object) -> Path:
    """Train a network as the program does; the run's folder.

    settings: of `TrainingConfig`, the program's flags, `darklens.train("images_f", arch="compact", epochs=5)`.
    Raises UsageError for settings that cannot be, DataError for bad images, TrainingError where training cannot go on.
    """
    return training.train(TrainingConfig.of(data_dir=data_dir, **settings))
