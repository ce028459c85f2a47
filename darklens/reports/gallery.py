"""Attribution maps beside the images, their sources and their lenses."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from torch import Tensor

from darklens.classifier.classifier import Classifier
from darklens.data.folder import Split
from darklens.data.transforms import Preprocess
from darklens.data.views import network_inputs
from darklens.metrics.probabilities import softmax
from darklens.plots import style
from darklens.plots.style import new_figure, tick_labels
from darklens.reports.attribution import HEAVY, NEAR, SMOOTH, segments, to_pixels
from darklens.reports.shown import show
from darklens.simulation.truth import Truth, is_simulated, read_truth


def load_truth(split: Split, chosen: Sequence[int]) -> Truth | None:
    """What the simulator put into these images of a split (ROOT/SPLIT/CLASS/FILE.npy), if it wrote them."""
    root = split.images.folder.parent
    if not len(chosen) or not is_simulated(root):
        return None
    return read_truth(root, split.name, [split.images.name(i) for i in chosen])


def load_images(classifier: Classifier, split: Split, chosen: Sequence[int]) -> Tensor:
    """What the network sees of the images (m, C, S, S)."""
    return network_inputs(split.images, chosen, classifier.preprocess)


def gallery(
    classifier: Classifier,
    split: Split,
    logits: np.ndarray,
    folder: str | Path,
    choose: Callable,
    attributed: Callable,
) -> list[dict]:
    """Draw the chosen images beside their maps (`explain.png`, `.pdf`); returns what was drawn, a dict an image.

    logits: (n, K) of all images of the split. choose: see `explain`. attributed: `attribute` with its options.
    """
    probabilities = softmax(logits)
    rows = [row for row in choose(split.labels, probabilities) if row]
    chosen = [i for row in rows for i in row]
    predicted = probabilities[chosen].argmax(1)
    images = load_images(classifier, split, chosen)
    maps = attributed(classifier, images, predicted).cpu().numpy()
    pieces = _pieces(split, chosen, classifier.preprocess)
    names, cells = tick_labels(classifier.classes, 12), {}
    for n, i in enumerate(chosen):
        title = f"true: {names[split.labels[i]]}\nsays: {names[predicted[n]]} {probabilities[i].max():.1%}"
        correct = predicted[n] == split.labels[i]
        image, residual = show(split.images, i, classifier.preprocess)
        picture = {"image": image, "residual": residual, "map": maps[n]}
        cells[i] = {**picture, "title": title, "correct": correct, **pieces[n]}
    _draw_gallery(folder, [[cells[i] for i in row] for row in rows])
    return [
        {
            "image": split.images.name(i),
            "true": classifier.classes[split.labels[i]],
            "predicted": classifier.classes[k],
            "probability": probabilities[i, k],
        }
        for i, k in zip(chosen, predicted, strict=True)
    ]


def _pieces(split: Split, chosen: Sequence[int], preprocess: Preprocess) -> list[dict]:
    """What is known of the dark matter in each image, in pixels of the window: columns and rows (m, 2), radius."""
    truth = load_truth(split, chosen)
    if truth is None:
        return [{} for _ in chosen]
    radius, pieces = NEAR / truth.recipe.image.pixel_scale, []
    for lines in segments(truth):
        columns, rows = to_pixels(truth, preprocess, lines[:, 0::2], lines[:, 1::2])
        pieces.append({"columns": columns, "rows": rows, "radius": radius})
    return pieces


@style.picture("explain")
def _draw_gallery(folder: str | Path, rows: list[list[dict]]) -> Path:
    """explain.png: an image, the residual that the network saw of it, and the map; circles and lines are the
    simulator's dark matter."""
    panels = 3 if any(cell["residual"] is not None for row in rows for cell in row) else 2
    width = max(map(len, rows), default=1)
    figure = new_figure(1.85 * panels * width, 0.4 + 2.25 * len(rows))
    axes = figure.subplots(max(len(rows), 1), panels * width, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for line, row in zip(axes, rows, strict=False):
        for number, cell in enumerate(row):
            _draw_cell(line[panels * number : panels * (number + 1)], cell)
    for axis in (axis for axis in axes.ravel() if not axis.images):
        axis.remove()
    simulated = any("columns" in cell for row in rows for cell in row)
    limit = f"$10^{{{np.log10(HEAVY):.0f}}}\\,M_\\odot$"
    note = f"; circles: subhalos above {limit}, lines: vortices" if simulated else ""
    middle = ", residual (blue -5 to red 5 standard deviations)" if panels == 3 else ""
    figure.suptitle(f"image{middle}, map: red speaks for the predicted class, blue against it{note}")
    return style.save_figure(figure, folder, "explain")


def _draw_cell(axes: np.ndarray, cell: dict) -> None:
    """The image on the axes of the network's window, whose middle it shares; the residual, if any; the map."""
    smooth = gaussian_filter(cell["map"], SMOOTH)
    limit = np.percentile(abs(smooth), 99.8) or 1.0
    spare, size = (len(cell["image"]) - len(smooth)) / 2, len(smooth)
    axes[0].imshow(
        cell["image"], cmap="inferno", extent=(-0.5 - spare, size - 0.5 + spare, size - 0.5 + spare, -0.5 - spare)
    )
    if cell["residual"] is not None:
        axes[1].imshow(cell["residual"], **style.RESIDUAL)
    axes[-1].imshow(smooth, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[0].set_title(cell["title"], fontsize=9, color="black" if cell["correct"] else "#bd1f01", loc="left")
    for axis, colour in zip(axes, ("white", *["black"] * (len(axes) - 1)), strict=True):
        _draw_pieces(axis, cell, colour)


def _draw_pieces(axis, cell: dict, colour: str) -> None:
    """Circles for subhalos, lines for vortices."""
    from matplotlib.patches import Circle

    for columns, rows in zip(cell.get("columns", ()), cell.get("rows", ()), strict=True):
        if columns[0] == columns[1] and rows[0] == rows[1]:
            place = columns[0], rows[0]
            axis.add_patch(Circle(place, cell["radius"], fill=False, edgecolor=colour, linewidth=0.7))
        else:
            axis.plot(columns, rows, color=colour, linewidth=1.2, scalex=False, scaley=False)
