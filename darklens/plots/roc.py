"""ROC curves, of one network and of several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from darklens.plots import style
from darklens.plots.style import COLOURS, DASHES, GRID, class_colour, new_figure, tick_labels


@style.picture("ROC")
def plot_roc(
    folder: str | Path,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    metrics: dict[str, Any],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> Path:
    """ROC.png: every class against the rest, micro and macro average; at the right, the corner that matters.

    Parameters
    ----------
    probabilities : (n, K). labels : (n,) int. classes : K names.
    metrics : its `auc` has `{"value", "interval"}` for `macro`, `micro` and, in `per_class`, each class.
    resamples, seed : of the images, behind the 95% band of the macro average.
    """
    onehot = labels[:, None] == np.arange(len(classes))
    problems = [(onehot[:, k], probabilities[:, k]) for k in range(len(classes))]
    auc, curves = metrics["auc"], []  # curves: label, false- and true-positive rates, style
    for k, label in enumerate(tick_labels(classes)):
        label = _auc_label(label, auc["per_class"][classes[k]])
        curves.append((label, *_roc(problems[k]), {"color": class_colour(k)}))
    micro = _roc((onehot.ravel(), probabilities.ravel()))
    curves.append((_auc_label("micro average", auc["micro"]), *micro, {"color": "0.35", "linestyle": ":"}))
    macro = np.append(0, GRID), np.append(0, _macro_curve(problems))
    curves.append((_auc_label("macro average", auc["macro"]), *macro, {"color": "black", "linestyle": "--"}))
    band = _macro_band(problems, len(labels), resamples, seed)
    return _draw_roc(folder, "ROC", "each class against the rest", curves, band)


def _roc(problem: tuple[np.ndarray, np.ndarray], weights: np.ndarray | None = None) -> tuple:
    """False- and true-positive rates of (positive, scores); empty where one side has no images."""
    from sklearn.metrics import roc_curve

    counts = np.bincount(problem[0], weights, minlength=2)
    return roc_curve(*problem, sample_weight=weights)[:2] if counts.all() else (np.empty(0), np.empty(0))


def _macro_curve(problems: list[tuple], weights: np.ndarray | None = None) -> np.ndarray:
    """Mean true-positive rate, on GRID, of the classes that have one; NaN if none has."""
    curves = [_roc(problem, weights) for problem in problems]
    rates = [np.interp(GRID, false, true) for false, true in curves if len(false)]
    return np.mean(rates, axis=0) if rates else np.full(len(GRID), np.nan)


def _macro_band(problems: list[tuple], n: int, resamples: int, seed: int) -> np.ndarray:
    """95% band (2, grid) of the macro average over resampled images."""
    rng = np.random.default_rng(seed)
    counts = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(resamples))
    curves = np.array([_macro_curve(problems, weights) for weights in counts])
    defined = curves[np.isfinite(curves[:, 0])]
    return np.percentile(defined, [2.5, 97.5], axis=0) if len(defined) else np.full((2, len(GRID)), np.nan)


def _auc_label(label: str, auc: dict[str, Any]) -> str:
    """`sphere: 0.9942 [0.9930, 0.9954]`."""
    if auc["value"] is None:
        return f"{label}: not defined"
    interval = "" if auc["interval"] is None else " [{:.4f}, {:.4f}]".format(*auc["interval"])
    return f"{label}: {auc['value']:.4f}{interval}"


@style.picture("compare")
def plot_compare(folder: str | Path, networks: list[dict[str, Any]], labels: np.ndarray) -> Path:
    """compare.png: the macro-average ROC curves of several networks; at the right, the corner that matters.

    Parameters
    ----------
    networks : `name`; `scores` (n, K), of each class against the rest; `auc`, the macro average's
        `{"value", "interval"}`; `colour`, a number that those drawn in one colour share (dashes tell them apart).
    labels : (n,) int.
    """
    curves: list[tuple] = []
    colours: Counter[int] = Counter()
    names = tick_labels([network["name"] for network in networks], 32)
    for name, network in zip(names, networks, strict=True):
        colour = network["colour"] % len(COLOURS)
        problems = [(labels == k, scores) for k, scores in enumerate(network["scores"].T)]
        look = {"color": class_colour(colour), "linestyle": DASHES[colours[colour] % len(DASHES)]}
        macro = np.append(0, GRID), np.append(0, _macro_curve(problems))
        curves.append((_auc_label(name, network["auc"]), *macro, look))
        colours[colour] += 1
    return _draw_roc(folder, "compare", "macro average of the classes against the rest", curves)


def _draw_roc(folder: str | Path, stem: str, title: str, curves: list[tuple], band: np.ndarray | None = None) -> Path:
    from sklearn.metrics import RocCurveDisplay

    figure = new_figure(15, 5.4)
    axes = figure.subplots(1, 2)
    for axis in axes:
        lines = [RocCurveDisplay(fpr=x, tpr=y).plot(ax=axis).line_ for _, x, y, _ in curves]
        for line, (*_, look) in zip(lines, curves, strict=True):
            line.set(**look)
        if band is not None:
            axis.fill_between(GRID, *band, color="black", alpha=0.12, linewidth=0)
        axis.plot(GRID, GRID, color="0.6", linewidth=0.8)
        axis.set(xlabel="false-positive rate", ylabel="true-positive rate", aspect="auto")
        axis.grid(alpha=0.3, which="both")
    axes[0].set(title=title)
    axes[1].set(title="the same, few false positives", xscale="log", xlim=(1e-4, 1))
    names = [curve[0] for curve in curves]
    figure.legend(lines, names, loc="outside right upper", title="AUC [95% interval]", frameon=False)
    return style.save_figure(figure, folder, stem)
