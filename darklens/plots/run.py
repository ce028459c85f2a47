"""Pictures of a run: curves, confusion matrix, calibration, equivariance error, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from darklens.metrics.intervals import wilson
from darklens.plots import style
from darklens.plots.style import NAMES, class_colour, is_enabled, new_figure, tick_labels

BARE: dict[str, list] = {"xticks": [], "yticks": []}  # axes of images
BINS = 15  # of the reliability diagram
GALLERY = 16  # mistakes shown
SPREAD = {  # of the symmetry report
    "max": {"label": "largest of all images", "color": "#bd1f01", "marker": "o", "markersize": 8},
    "mean": {"label": "mean of all images", "color": "#3f90da", "marker": "s", "markersize": 4},
}


def plot_curves(folder: str | Path, curves: dict[str, list[float]]) -> list[Path]:
    """Curves named `*_loss` -> loss.png, `*_accuracy` (percent) -> accuracy.png; returns what was drawn."""
    titles = {"loss": "cross-entropy loss", "accuracy": "accuracy (%)"}
    return [
        _plot_curve(folder, curves, kind, title)
        for kind, title in titles.items()
        if _of(curves, kind) and is_enabled(kind)
    ]


def _of(curves: dict[str, list[float]], kind: str) -> dict[str, list[float]]:
    """`train_loss`, `test_loss` -> train, test."""
    return {name.removesuffix(f"_{kind}"): v for name, v in curves.items() if name.endswith(f"_{kind}")}


def _plot_curve(folder: str | Path, curves: dict[str, list[float]], kind: str, title: str) -> Path:
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6.4, 4.4)
    axis = figure.subplots()
    for number, (name, values) in enumerate(_of(curves, kind).items()):
        epochs = np.arange(1, len(values) + 1)
        marker = "o" if len(values) <= 50 else None
        label = NAMES.get(name, name)
        axis.plot(epochs, values, label=label, color=class_colour(2 * number), marker=marker, markersize=3.5)
    axis.set(xlabel="epoch", ylabel=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return style.save_figure(figure, folder, kind)


@style.picture("CM")
def plot_confusion(folder: str | Path, matrix: Any, classes: list[str]) -> Path:
    """CM.png from counts (K, K), rows the true class; each cell shows the count and its share of the row."""
    from sklearn.metrics import ConfusionMatrixDisplay

    matrix = np.asarray(matrix)
    total = matrix.sum(axis=1)
    percent = 100 * matrix / np.maximum(total, 1)[:, None]
    names = tick_labels(classes, 16)
    figure = new_figure(2.4 + 0.85 * len(classes), 2.2 + 0.85 * len(classes))
    display = ConfusionMatrixDisplay(percent, display_labels=names)
    display.plot(ax=figure.subplots(), cmap="Blues", im_kw={"vmin": 0, "vmax": 100}, colorbar=False)
    for (row, column), text in np.ndenumerate(display.text_):
        share = f"{percent[row, column]:.1f}%" if total[row] else "–"
        colour = "white" if percent[row, column] > 55 else "black"
        text.set(text=f"{matrix[row, column]}\n{share}", color=colour)
    if max(map(len, names)) > 8:
        for label in display.ax_.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    display.ax_.set(xlabel="predicted", ylabel="true", title=f"{np.trace(matrix)} of {total.sum()} right")
    return style.save_figure(figure, folder, "CM")


@style.picture("reliability")
def plot_reliability(
    folder: str | Path,
    probabilities: np.ndarray,
    labels: np.ndarray,
    metrics: dict[str, Any],
    calibrated: np.ndarray | None = None,
) -> Path:
    """reliability.png: how often the network is right, against how sure it is, and of how many images.

    Parameters
    ----------
    probabilities, calibrated : (n, K), before and after the temperature. labels : (n,) int.
    metrics : `expected_calibration_error`, and `temperature` and `calibrated` where there is one.
    """
    figure = new_figure(5.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    error = metrics["expected_calibration_error"]
    _draw_reliability(upper, lower, probabilities, labels, f"as trained: ECE {error:.4f}", 0)
    if calibrated is not None:
        error, temperature = metrics["calibrated"]["expected_calibration_error"], metrics["temperature"]
        name = f"temperature {temperature:.2f}: ECE {error:.4f}"
        _draw_reliability(upper, lower, calibrated, labels, name, 2)
    upper.set(ylabel="fraction right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.set(
        xlabel="probability of the predicted class",
        ylabel="images",
        yscale="log",
        ylim=(0.5, 2 * len(labels)),
    )
    upper.legend(loc="upper left", frameon=False)
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return style.save_figure(figure, folder, "reliability")


def _draw_reliability(upper, lower, probabilities: np.ndarray, labels: np.ndarray, name: str, colour: int) -> None:
    """Fraction right in each bin of the top probability, with its 95% Wilson interval, and the histogram."""
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    number = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(number, minlength=BINS)
    filled = images > 0
    n = images[filled]
    confidence, fraction = (np.bincount(number, values, BINS)[filled] / n for values in (top, correct))
    low, high = wilson(np.bincount(number, correct, BINS)[filled], n).T
    spread = np.clip([fraction - low, high - fraction], 0, None)
    look = {"color": class_colour(colour), "label": name}
    upper.errorbar(confidence, fraction, spread, marker="o", markersize=7 - colour, linewidth=1.2, capsize=2, **look)
    lower.stairs(images, np.linspace(0, 1, BINS + 1), linewidth=1.4, **look)


@style.picture("symmetry")
def plot_symmetry(folder: str | Path, report: dict[str, list[dict]]) -> Path:
    """symmetry.png: how much the probabilities change when the image is turned or mirrored.

    `report` has `exact`, a list of `{"name", "max", "mean"}` (turns and mirrors that only move pixels), and
    may have `interpolated`, a list of `{"angle" in degrees, "max", "mean"}` (the image itself is resampled).
    """
    exact, turned = report.get("exact", []), report.get("interpolated", [])
    figure = new_figure(11 if turned else 6, max(4, 1.8 + 0.32 * len(exact)))
    axes = figure.subplots(1, 2 if turned else 1, squeeze=False)[0]
    _draw_exact(axes[0], exact)
    if turned:
        _draw_turned(axes[1], sorted(turned, key=lambda element: element["angle"]))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return style.save_figure(figure, folder, "symmetry")


def _draw_exact(axis, exact: list[dict]) -> None:
    """Largest and mean change of each element, on a log axis that ends in a true zero."""
    place = np.arange(len(exact))
    changes = {kind: np.array([element[kind] for element in exact], dtype=float) for kind in SPREAD}
    for kind, look in SPREAD.items():
        axis.plot(changes[kind], place, linestyle="", **look)
    positive = [change for values in changes.values() for change in values if change > 0]
    smallest = 10.0 ** np.floor(np.log10(min(positive, default=1e-9)))
    axis.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    axis.set(xlim=(-smallest / 4, 3 * max(positive, default=smallest)), xlabel="change of the probabilities")
    axis.set_title("exact: the pixels only move")
    axis.set_yticks(place, [element["name"] for element in exact])
    axis.invert_yaxis()


def _draw_turned(axis, turned: list[dict]) -> None:
    """Largest and mean change against the angle."""
    from matplotlib.ticker import MaxNLocator

    angles = [element["angle"] for element in turned]
    for kind, look in SPREAD.items():
        axis.plot(angles, [element[kind] for element in turned], **look)
    axis.set(xlabel="angle (degrees)", ylabel="change of the probabilities")
    axis.set_title("interpolated: the image is resampled")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 4.5, 9, 10]))


@style.picture("mistakes")
def plot_mistakes(
    folder: str | Path,
    show: Callable[[int], tuple[np.ndarray, np.ndarray | None]],
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    classes: list[str],
) -> Path:
    """mistakes.png: the images that the network got wrong and was most confident of, with the residuals that it saw.

    Parameters
    ----------
    show : an image (S, S) and the residual (S', S') in standard deviations, or None, by index; only those drawn are
        asked for.
    true, predicted : (m,) int. Those that agree are left out.
    probability : (m,) of the predicted class.
    """
    wrong = np.flatnonzero(np.asarray(true) != np.asarray(predicted))
    worst = wrong[np.argsort(-np.asarray(probability)[wrong], kind="stable")][:GALLERY]
    names, cells = tick_labels(classes, 16), []
    for k in worst:
        image, residual = show(int(k))
        cells.append((f"true: {names[true[k]]}\nsays: {names[predicted[k]]} {probability[k]:.1%}", image, residual))
    rows, panels = -(-len(cells) // 4), 1 if all(residual is None for *_, residual in cells) else 2
    figure = new_figure(8.8 if panels == 1 else 15.2, 0.7 + 2.6 * rows)
    axes: Any = figure.subplots(rows, 4 * panels, squeeze=False, subplot_kw=BARE).ravel() if rows else []
    for axis in axes[len(cells) * panels :]:
        axis.remove()
    for number, (title, image, residual) in enumerate(cells):
        _draw_mistake(axes[panels * number : panels * (number + 1)], title, image, residual)
    title = f"the {len(cells)} most confident of {len(wrong)} mistakes" if rows else "no mistakes"
    note = "; residuals from -5 (blue) to 5 standard deviations (red)" if panels == 2 else ""
    figure.suptitle(f"{title} in {len(true)} images{note}")
    return style.save_figure(figure, folder, "mistakes")


def _draw_mistake(axes: Any, title: str, image: np.ndarray, residual: np.ndarray | None) -> None:
    axes[0].imshow(image, cmap="inferno")
    axes[0].set_title(title, fontsize=9, loc="left" if len(axes) > 1 else "center")
    if residual is not None:
        axes[1].imshow(residual, **style.RESIDUAL)
