"""Why does a network decide as it does? Maps of the pixels that speak for a class, scored against the dark matter.

    maps = attribute(classifier, classifier.preprocess(images))        # (B, S, S)
    report = explain(classifier, split, logits, folder)                 # explain.png, .pdf, .json

What is explained is the logit of a class less the mean of the others: adding a number to all logits changes no
probability, and doesn't change this either (a logit alone it would). Blank is an image of zeros: a standardised
image's mean level.

A map made of gradients turns with the image exactly as far as the network's output does not change with it: for the
turns and mirrors of the pixel grid that lie in the group of a network with an invariant head.

References
  Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks, arXiv:1703.01365 (integrated gradients)
  Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv:1810.03292 (maps of an untrained network)
  Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval), ch. 15 (permutation test)
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import NETWORKS
from darklens.data.folder import Split
from darklens.fit import detect
from darklens.fit.by_source import fit_by_source
from darklens.fit.detect import TOTAL_MASS
from darklens.metrics.probabilities import softmax
from darklens.plots.detection import SHOWN, plot_detection
from darklens.plots.fits import MOST_ROWS, plot_fits
from darklens.reports.attribution import HEAVY, NEAR, alignment, attribute, contrast, distances, outputs, segments
from darklens.reports.gallery import gallery, load_images, load_truth
from darklens.simulation.truth import Truth
from darklens.storage.files import save_json


def most_confident(
    labels: np.ndarray, probabilities: np.ndarray, correct: int = 2, mistaken: int = 2
) -> list[list[int]]:
    """For each class the images (by index) that the network is surest of: right ones, then mistakes.

    labels: (n,), probabilities: (n, K). Equal ones in the order of the split.
    """
    predicted, sureness = probabilities.argmax(1), probabilities.max(1)
    rows = []
    for k in range(probabilities.shape[1]):
        good, bad = (labels == k) & (predicted == k), (labels == k) & (predicted != k)
        rows.append([i for kind, count in ((good, correct), (bad, mistaken)) for i in _surest(kind, sureness)[:count]])
    return rows


def _surest(kind: np.ndarray, sureness: np.ndarray) -> list[int]:
    chosen = np.flatnonzero(kind)
    return chosen[np.argsort(-sureness[chosen], kind="stable")].tolist()


def explain(
    classifier: Classifier,
    split: Split,
    logits: np.ndarray,
    folder: str | Path,
    *,
    choose: Callable[[np.ndarray, np.ndarray], list[list[int]]] = most_confident,
    scored: int = 32,
    steps: int = 32,
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
) -> dict:
    """Draw why a network decides (`explain.png`; of residuals `fits.png`, `detection.png`), score it (`explain.json`).

    Args:
        split: images with their labels. logits: (n, K), the network's, of all of them. folder: to write into.
        choose: (labels, probabilities) -> rows of indices to draw, on maps of the predicted class.
        scored: images of each class, evenly taken, whose maps of the true class are scored; only where simulate.py
            wrote the data set.
        steps, batch_size, precision: as `attribute` takes them.

    Returns:
        dict: what `explain.json` holds; "alignment" has for each class the scores of `alignment`, of "absolute" maps
        and of their "positive" part (what speaks for the class), and the same of an "untrained" network on the same
        images: dark matter bends light, and any map that follows the light gains from that. Empty where the dark
        matter is not known.

    Raises DataError for bad images or parameters, ResultsError where the folder can't be written.
    """
    attributed = functools.partial(attribute, steps=steps, batch_size=batch_size, precision=precision)
    report: dict[str, Any] = {
        "split": split.name,
        "method": "gradients",
        "steps": steps,
        "heavy_msun": HEAVY,
        "near_arcsec": NEAR,
    }
    report["gallery"] = gallery(classifier, split, np.asarray(logits), folder, choose, attributed)
    if classifier.preprocess.smooth_model:
        _draw_fits(classifier, split, choose(split.labels, softmax(np.asarray(logits))), folder)
    report["alignment"] = {}
    for k, name in enumerate(classifier.classes):
        members = np.flatnonzero(split.labels == k)
        chosen = members[np.unique(np.linspace(0, len(members) - 1, min(scored, len(members))).astype(int))]
        truth = load_truth(split, chosen)
        if truth is not None and any(map(len, segments(truth))):
            report["alignment"][name] = _score(classifier, split, chosen, truth, attributed)
    save_json(Path(folder) / "explain.json", report)
    return report


def _draw_fits(classifier: Classifier, split: Split, rows: list[list[int]], folder: str | Path) -> None:
    """The fits of the gallery's images, `fits.png`, and where their residuals favour subhalos, `detection.png`.

    The latter not of a flexible source, of which those maps know nothing.
    """
    chosen = [i for row in rows for i in row]
    images = np.stack([split.images.originals.read(i).values.astype(float) for i in chosen])[:, 0]  # (m, H, W)
    fits = fit_by_source(images, classifier.preprocess.smooth_model)
    titles = [split.images.name(i) for i in chosen]
    plot_fits(folder, list(images), fits, titles)
    if fits.model.source == "flexible":
        return
    fits, truth = fits[:MOST_ROWS], load_truth(split, chosen[:MOST_ROWS])
    total_mass = TOTAL_MASS if truth is None else truth.parameters["lens.total_mass"]
    maps = detect(fits, (SHOWN,), total_mass=total_mass)
    plot_detection(folder, list(images), fits, maps, titles, None if truth is None else segments(truth))


def _score(classifier: Classifier, split: Split, chosen: np.ndarray, truth: Truth, attributed: Callable) -> dict:
    """The alignment of the maps of some images' true class with their dark matter."""
    images, targets = load_images(classifier, split, chosen.tolist()), split.labels[chosen]
    on_matter = distances(truth, classifier.preprocess) < NEAR
    maps = attributed(classifier, images, targets).cpu()
    error = _completeness_error(classifier, images, targets, maps)
    control = _both(attributed(_untrained(classifier), images, targets).cpu(), on_matter)
    return {**_both(maps, on_matter), "untrained": control, "completeness_error": error}


def _both(maps: Tensor, on_matter: np.ndarray) -> dict:
    kinds = {"absolute": maps.abs(), "positive": maps.clamp(min=0)}
    return {name: alignment(kind.numpy(), on_matter) for name, kind in kinds.items()}


def _untrained(classifier: Classifier, seed: int = 0) -> Classifier:
    """The same network with the weights it may have begun with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[classifier.kind](classifier.config)
    network.to(next(classifier.network.parameters()).device)
    return Classifier(network, classifier.classes, classifier.preprocess)


def _completeness_error(classifier: Classifier, images: Tensor, targets: np.ndarray, maps: Tensor) -> float:
    """Largest |sum of a map - change of the output from blank to the image|, over the mean |change|.

    Small for integrated gradients with enough steps.
    """
    numbers = torch.as_tensor(targets)
    logits, blank = (contrast(outputs(classifier, x).cpu(), numbers) for x in (images, torch.zeros_like(images)))
    change = logits - blank
    return ((maps.sum((1, 2)) - change).abs().max() / change.abs().mean().clamp(min=1e-30)).item()
