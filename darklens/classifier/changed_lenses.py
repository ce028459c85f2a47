"""What becomes of simulated lenses that were changed: the examples that a detector of outliers is trained on.

plan = training_plan(read_changes(), 1800, rng)
exposure = observe(classifier, recipe, plan, first=0, seed=1)        # an `Exposure`
classifier.outliers = fit_detector(exposure, observe(classifier, recipe, [None] * 800, first=10_000, seed=2))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from darklens.classifier.classifier import Classifier
from darklens.classifier.exposure import Exposure, join
from darklens.classifier.figures import image_figures, network_figures
from darklens.classifier.predictions import MUCH
from darklens.errors import UsageError
from darklens.simulation import faults, render
from darklens.simulation.faults import Change
from darklens.simulation.recipes import SimulationConfig, changed
from darklens.storage.progress import progress

CLEAN_SHARE = 0.4  # of the images to train on
BATCH = 48


def training_plan(changes: Mapping[str, Change], count: int, rng: np.random.Generator) -> list[Change | None]:
    """What is done to each of `count` images, in random order: nothing, or any of the changes, equally often."""
    table = np.array(list(changes.values()), dtype=object)
    clean = int(CLEAN_SHARE * count)
    plan = [None] * clean + list(rng.choice(table, count - clean))
    return [plan[i] for i in rng.permutation(count)]


def observe(
    classifier: Classifier,
    recipe: SimulationConfig,
    plan: Sequence[Change | None],
    *,
    first: int,
    seed: int,
    quiet: bool = True,
) -> Exposure:
    """What the network says of lenses number `first`, `first` + 1 ... of a random stream of their own, in turn of each
    class, changed as planned.

    Raises UsageError for a network without residual view or novelty, or classes that the recipe lacks.
    """
    if classifier.preprocess.smooth_model is None or classifier.novelty is None:
        raise UsageError("outliers: expected a network that sees residuals, with a novelty score")
    if not set(classifier.classes) <= set(recipe.classes):
        raise UsageError(f"outliers: expected classes of the recipe, {', '.join(recipe.classes)}")
    rng, parts, run = np.random.default_rng([seed, first]), [], classifier.observer()
    with progress(len(plan), "exposing", "img", quiet) as bar:
        for start in range(0, len(plan), BATCH):
            part = plan[start : start + BATCH]
            numbers = np.arange(first + start, first + start + len(part))
            labels = np.arange(start, start + len(part)) % len(classifier.classes)
            images = changed_images(recipe, part, [classifier.classes[k] for k in labels], numbers, seed, rng)
            parts.append(_look(classifier, run, images, labels, part))
            bar.update(len(part))
    return join(parts)


def changed_images(
    recipe: SimulationConfig,
    plan: Sequence[Change | None],
    classes: Sequence[str],
    numbers: np.ndarray,
    seed: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(n, H, W) float64 lenses of these classes and numbers, each with its change."""
    by_class: dict[tuple, list[int]] = {}  # rows of one class and recipe are rendered together
    for row, (change, class_name) in enumerate(zip(plan, classes, strict=True)):
        by_class.setdefault((class_name, row if change and change.simulated else None), []).append(row)
    images: list[np.ndarray] = [np.empty(0)] * len(plan)
    for (class_name, single), rows in by_class.items():
        change = None if single is None else plan[single]
        config = changed(recipe, change.recipe_keys(rng)) if change else recipe
        rendered = render.simulate(config, class_name, [int(numbers[row]) for row in rows], seed, "test")
        for row, image in zip(rows, rendered.astype(np.float64), strict=True):
            images[row] = image
    plain = [change if change and not change.simulated else None for change in plan]
    return np.stack([faults.apply(c, image, rng) if c else image for c, image in zip(plain, images, strict=True)])


def _look(
    classifier: Classifier, run, images: np.ndarray, labels: np.ndarray, plan: Sequence[Change | None]
) -> Exposure:
    """What the network says of a batch."""
    view, fit = classifier.preprocess.with_fit(torch.from_numpy(images)[:, None])
    logits, parts = run(view)
    logits = logits.cpu().double().numpy()
    assert classifier.novelty is not None
    distances = classifier.novelty.distances(parts).numpy()
    figures = image_figures(fit, images) | network_figures(logits, classifier.classes, distances)
    kinds = np.array([change.name if change else "" for change in plan], dtype=object)
    flagged = (fit.flag != "") | (distances.max(1) > MUCH)
    return Exposure(figures, logits.argmax(1) != labels, flagged, kinds)
