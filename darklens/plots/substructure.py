"""Completeness against the mass of the substructure."""

from pathlib import Path
from typing import Any

import numpy as np

from darklens.plots import style
from darklens.plots.style import new_figure, tick_labels

CRITERIA: dict[str, tuple[str, dict[str, Any]]] = {  # name -> legend, style
    "classified": ("classified as its own class", {"color": "#3f90da", "marker": "s", "markersize": 4}),
    "detected": ("told from no substructure, 1% false positives", {"color": "#bd1f01", "marker": "o", "markersize": 5}),
}


@style.picture("sensitivity")
def plot_sensitivity(folder: str | Path, report: dict) -> Path:
    """sensitivity.png: one row a class, one column a quantity; bars are 95% intervals, and how wide the bins are."""
    classes = report["classes"]
    columns = max(len(one["curves"]) for one in classes.values())
    figure = new_figure(3.1 * columns, 0.7 + 3.2 * len(classes))
    axes = figure.subplots(len(classes), columns, squeeze=False)
    for row, name, one in zip(axes, tick_labels(list(classes)), classes.values(), strict=True):
        for axis, curve in zip(row, one["curves"].values(), strict=False):
            _draw_curve(axis, curve)
        for axis in row[len(one["curves"]) :]:
            axis.remove()
        row[0].set_ylabel(f"{name}: completeness")
        row[0].set_title(f"{one['images']} images: {_totals(one['total'])}", loc="left", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return style.save_figure(figure, folder, "sensitivity")


def _totals(total: dict) -> str:
    """`classified 74.7%, detected 84.4%`."""
    return ", ".join(f"{name} {share['completeness'][0]:.1%}" for name, share in total.items())


def _draw_curve(axis, curve: dict) -> None:
    """Completeness at the median of each bin, and where it reaches the levels that are quoted."""
    x = np.asarray(curve["median"])
    wide = [x - curve["low"], curve["high"] - x]
    criteria = [name for name in CRITERIA if name in curve]
    for name in criteria:
        label, look = CRITERIA[name]
        y, interval = curve[name]["completeness"], curve[name]["interval"]
        tall = np.clip([y - interval[:, 0], interval[:, 1] - y], 0, None)
        axis.errorbar(x, y, tall, wide, label=label, linewidth=1.2, elinewidth=0.8, **look)
    _draw_reached(axis, curve.get("reached", {}).get(criteria[-1], {}), CRITERIA[criteria[-1]][1]["color"])
    axis.set(xlabel=curve["label"], ylim=(-0.03, 1.03))
    axis.grid(alpha=0.3)


def _draw_reached(axis, levels: dict[str, float | None], colour: str) -> None:
    """Where completeness reaches the levels that are quoted."""
    defined = {float(level): value for level, value in levels.items() if value is not None}
    for level, value in defined.items():
        axis.plot([value, value], [-0.03, level], color=colour, linestyle=":", linewidth=1)
    text = "\n".join(f"{level:.0%} at {value:.2g}" for level, value in defined.items())
    axis.text(0.97, 0.04, text, color=colour, fontsize=9, ha="right", va="bottom", transform=axis.transAxes)
