"""Which dark matter can a network see? Completeness against what the simulator put into each image.

    report = sensitivity("images_f", "test", names, labels, logits, classes, folder)

writes `sensitivity.png`, `.pdf` and `.json`: the fraction of the images with substructure that are classified right,
and the fraction told from those without at 1% false positives, against the mass of the substructure and its place.

Conventions as in simulate.py: arcsec from the halo, x with the column, y against the row, masses in solar masses.

References
  Narayan & Bartelmann 1996, astro-ph/9606001 (NB: the lens equation)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from darklens.errors import DataError
from darklens.metrics.auc import without_substructure
from darklens.metrics.intervals import wilson
from darklens.metrics.probabilities import log_odds
from darklens.plots.substructure import plot_sensitivity
from darklens.simulation.truth import NEAR, Truth, quantities, read_truth
from darklens.storage.files import save_json

FALSE_POSITIVES = 0.01  # share of the images without substructure that may be called substructure
BINS, PER_BIN = 8, 30  # bins at most, images in each at least (but for one bin)
LEVEL = 0.95  # of the intervals
LEVELS = (0.5, 0.9)  # completeness at which a mass is quoted


def completeness(values: np.ndarray, passed: dict[str, np.ndarray]) -> dict:
    """Fractions found in bins of equal count of a quantity.

    values: (n,), those that are not finite are left out; passed: criterion -> (n,) bool. Returns lists of one entry a
    bin: "low", "high", "median" of the values, "images", and for each name "found", "completeness" and "interval".
    """
    bins = _equal_count(values)
    images = np.array([len(b) for b in bins])
    curve: dict[str, Any] = {"low": [values[b[0]] for b in bins], "high": [values[b[-1]] for b in bins]}
    curve |= {"median": [np.median(values[b]) for b in bins], "images": images}
    for name, flags in passed.items():
        curve[name] = _share(np.array([flags[b].sum() for b in bins], dtype=int), images)
    return curve


def _equal_count(values: np.ndarray) -> list[np.ndarray]:
    """Indices of the finite values, sorted, in up to `BINS` bins of about equal count; equal values share a bin."""
    used = np.flatnonzero(np.isfinite(values))
    used = used[np.argsort(values[used], kind="stable")]
    parts = np.array_split(values[used], np.clip(len(used) // PER_BIN, 1, BINS))
    starts = np.unique([part[0] for part in parts if len(part)])
    return np.split(used, np.searchsorted(values[used], starts[1:])) if len(used) else []


def _share(count: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    return {"found": count, "completeness": count / images, "interval": wilson(count, images, LEVEL)}


def reached(curve: dict, name: str) -> dict[str, float | None]:
    """The value at which completeness rises to each of `LEVELS`, between the medians of the bins; None if it
    never gets there, or is above it from the beginning."""
    x, y = np.asarray(curve["median"]), np.asarray(curve[name]["completeness"])
    return {f"{level:g}": _crossing(x, y, level) for level in LEVELS}


def _crossing(x: np.ndarray, y: np.ndarray, level: float) -> float | None:
    """Where the polyline (x, y) last rises to a level for good."""
    below = np.flatnonzero(y < level)
    if not len(below) or below[-1] == len(y) - 1:
        return None
    i = below[-1]
    return float(x[i] + (level - y[i]) / (y[i + 1] - y[i]) * (x[i + 1] - x[i]))


def threshold(scores: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """The lowest score above which at most that share of these (m,) scores lies."""
    return float(np.sort(scores)[len(scores) - 1 - int(rate * len(scores))])


def sensitivity(
    data_root: str | Path,
    split_name: str,
    names: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    *,
    folder: str | Path,
) -> dict:
    """Measure and draw which dark matter a network sees in simulated images; `sensitivity.json`, `.png`, `.pdf`.

    Args:
        data_root, split_name: a data set that simulate.py wrote.
        names: n times CLASS/FILE.npy. labels: (n,) int, the true classes. logits: (n, K).
        classes: K names. folder: to write into.

    Returns:
        dict: what `sensitivity.json` holds. For each class with substructure the number of images, the fraction found
        with its interval, and a curve for each quantity (see `completeness`), each by two criteria: "classified" as
        its own class, and "detected", where p(substructure) exceeds what 1% of the images without it reach (left out
        where there are none).

    Raises DataError where the simulator's parameters are missing, ValueError where the arguments don't fit each
    other, ResultsError where the folder can't be written.
    """
    labels, logits = _checked(names, labels, logits, classes)
    truth = read_truth(data_root, split_name, names)
    passed, detection = _criteria(labels, logits, classes)
    kinds: dict[str, dict] = {}
    report = {"split": split_name, "level_of_intervals": LEVEL, "near_ring_arcsec": NEAR, "detection": detection}
    report["classes"] = kinds
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        members = Truth(truth.parameters[rows], truth.recipe)
        if members.parameters["substructure.mass"].any():
            kinds[classes[k]] = _measure(members, {name: flags[rows] for name, flags in passed.items()})
    if not kinds:
        raise DataError(f"{data_root}: expected images with dark-matter substructure in {split_name}, found none")
    save_json(Path(folder) / "sensitivity.json", report)
    plot_sensitivity(folder, report)
    return report


def _checked(names, labels, logits, classes) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if labels.shape != (len(names),) or logits.shape != (len(names), len(classes)) or not len(names):
        raise ValueError(
            f"sensitivity: expected labels (n,) and logits (n, {len(classes)}) of {len(names)} images, "
            f"found {labels.shape} and {logits.shape}"
        )
    return labels, logits


def _criteria(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> tuple[dict, dict | None]:
    """Which images pass each criterion -> (n,) bool; and how detection was set."""
    passed = {"classified": logits.argmax(1) == labels}
    none = without_substructure(classes)
    if none is None or not (labels == none).any():
        return passed, None
    scores = -log_odds(logits)[:, none]  # (n,) log odds of substructure
    limit = threshold(scores[labels == none])
    passed["detected"] = scores > limit
    false = float(passed["detected"][labels == none].mean())
    return passed, {
        "log_odds_above": limit,
        "false_positive_rate": false,
        "images_without": int((labels == none).sum()),
    }


def _measure(truth: Truth, passed: dict[str, np.ndarray]) -> dict:
    """Totals and curves of the images of one class."""
    n = len(truth.parameters)
    total = {name: _share(np.array([flags.sum()]), np.array([n])) for name, flags in passed.items()}
    curves = {}
    for key, quantity in quantities(truth).items():
        curve = completeness(quantity.of(truth), passed)
        if quantity.threshold:
            curve["reached"] = {name: reached(curve, name) for name in passed}
        curves[key] = {"label": quantity.label, **curve}
    return {"images": n, "total": total, "curves": curves}
