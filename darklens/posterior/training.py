"""Train and test the posterior of the dark matter, on simulated lenses whose truth lies beside the images.

classifier.inference = train_inference(classifier, scan("images_j"))       # minutes
report = check_coverage(classifier, data.root, split, folder)               # coverage.png, and its figures
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from darklens.classifier.classifier import Classifier
from darklens.classifier.features import FeatureHooks, feature_count
from darklens.classifier.posterior import Inference, join_features
from darklens.data.folder import LensFolder, Split
from darklens.data.views import fit_table, network_inputs, open_views
from darklens.errors import DataError, UsageError
from darklens.metrics.auc import without_substructure
from darklens.metrics.coverage import coverage_report
from darklens.plots.coverage import plot_coverage
from darklens.reports.sensitivity import FALSE_POSITIVES
from darklens.simulation.posterior_targets import LABELS, NEAR_RING, target_values
from darklens.simulation.truth import Truth, is_simulated, read_truth
from darklens.storage.progress import progress
from darklens.training.posterior import LEAST, fit_head

BATCH = 32


@dataclass(frozen=True)
class SimulatedLenses:
    """n lenses of one class: features (n, D), the table of their smooth lenses, and the truth, (n,) each."""

    features: Tensor
    fits: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]


def check_inferable(classifier: Classifier, data: LensFolder) -> list[int]:
    """The classes, by number, whose dark matter a posterior can be trained for.

    Raises UsageError, with what to do, where there is none.
    """
    if not is_simulated(data.root):
        hint = "simulate lenses like them, as python simulate.py --model j --out images_j"
        raise UsageError(f"--infer: the dark matter in {data.root} is not known; {hint}")
    if classifier.preprocess.view != "residual" or not feature_count(classifier.network):
        raise UsageError("--infer: expected an equivariant network that sees residuals: --arch compact --view residual")
    train = data.splits["train"]
    labels = [k for k in range(len(data.classes)) if target_values(_truth(data.root, train, k))]
    fewest = min((int((train.labels == k).sum()) for k in labels), default=0)
    if fewest < LEAST:
        raise UsageError(
            f"--infer: expected {LEAST} training lenses or more of a class with dark matter, found {fewest}"
        )
    return labels


def _truth(root: Path, split: Split, label: int) -> Truth:
    """What is in the lenses of a class."""
    names = [split.images.name(int(i)) for i in np.flatnonzero(split.labels == label)]
    return read_truth(root, split.name, names)


def train_inference(
    classifier: Classifier, data: LensFolder, workers: int | None = None, seed: int = 0, quiet: bool = False
) -> Inference:
    """The posterior heads of a trained network, which stays as it is: a pass over train and val, then seconds.

    workers: processes that make residuals that are not there yet. Raises UsageError where the truth is not known.
    """
    labels = check_inferable(classifier, data)
    data = open_views(data, ("train", "val"), classifier.preprocess, workers, not quiet)
    train, val = (data.splits[name] for name in ("train", "val"))
    lenses = [observed(classifier, data.root, val, label, quiet) for label in range(len(data.classes))]
    heads = {}
    for label in labels:
        training, validation = observed(classifier, data.root, train, label, quiet), lenses[label]
        inputs = [join_features(one.features, one.fits) for one in (training, validation)]
        heads[data.classes[label]] = {
            name: fit_head(inputs[0], values, inputs[1], validation.truth[name], seed)
            for name, values in training.truth.items()
        }
    none = without_substructure(data.classes)
    return Inference(heads, None if none is None else detection_limit(heads, lenses[none]))


def observed(classifier: Classifier, root: Path, split: Split, label: int, quiet: bool = True) -> SimulatedLenses:
    """The lenses of a class in a split of views, as the network sees them, and what is in them."""
    chosen, truth = np.flatnonzero(split.labels == label), target_values(_truth(root, split, label))
    hooks, features = FeatureHooks(), []
    run = classifier.observer(hooks=hooks)
    with progress(len(chosen), f"features of {split.name}/{classifier.classes[label]}", "img", quiet) as bar:
        for start in range(0, len(chosen), BATCH):
            views = network_inputs(split.images, chosen[start : start + BATCH], classifier.preprocess)
            run(views)
            features.append(hooks.take())
            bar.update(len(views))
    fits = {name: np.array(column)[chosen] for name, column in fit_table(split).items()}
    return SimulatedLenses(torch.cat(features), fits, truth)


def detection_limit(heads: dict[str, dict], smooth: SimulatedLenses) -> float | None:
    """What 99% of lenses without substructure seem to have less of: the limit of the blank (Currie 1968).

    log10 of the mass fraction near the ring, the quantile of the posterior's median. smooth: validation lenses. None
    where no class has subhalos. Currie 1968, Anal. Chem. 40, 586.
    """
    near_ring = [one[NEAR_RING] for one in heads.values() if NEAR_RING in one]
    if not near_ring:
        return None
    features = join_features(smooth.features, smooth.fits)
    return float(np.quantile(near_ring[0].posterior(features, LABELS[NEAR_RING]).quantile(0.5), 1 - FALSE_POSITIVES))


def check_coverage(classifier: Classifier, root: Path, split: Split, folder: Path, quiet: bool = True) -> dict:
    """Coverage of the posteriors on the simulated lenses of a split of views; draws `coverage.png`.

    Returns class -> quantity -> `coverage_report`, for `metrics.json`. The slices are of what is known without the
    truth: the size of the ring, and its signal-to-noise ratio (fitted Einstein radius over its standard deviation).
    """
    report: dict[str, dict] = {}
    inference = classifier.inference
    if inference is None:
        raise ValueError("this network has no posterior of the dark matter")
    for name in inference.heads:
        one = observed(classifier, root, split, classifier.classes.index(name), quiet)
        posteriors = inference.posteriors(one.features, one.fits)[name]
        radius = one.fits["einstein_radius"]
        slices = {"signal-to-noise": radius / one.fits["einstein_radius_sd"], "Einstein radius (arcsec)": radius}
        report[name] = {
            quantity: coverage_report(posterior, one.truth[quantity], slices)
            for quantity, posterior in posteriors.items()
            if quantity in one.truth
        }
    plot_coverage(folder, report)
    return report


def coverage_details(classifier: Classifier, root: Path, split: Split, folder: Path, quiet: bool = True) -> dict:
    """`check_coverage` as an entry of `metrics.json`: nothing without a posterior, or where the truth is not known."""
    if not classifier.inference or not is_simulated(root):
        return {}
    try:
        return {"inference": check_coverage(classifier, root, split, folder, quiet)}
    except DataError as error:
        print(f"warning: no coverage.png: {error}")
        return {}
