"""Whether posteriors say how uncertain they are: ranks of the truth, and coverage of the intervals."""

from pathlib import Path

import numpy as np

from darklens.plots import style
from darklens.plots.style import new_figure

COLOUR, BAND, LINES = "#3f90da", "#94a4a2", ("#bd1f01", "#ffa90e", "#832db6")
CLAIMED = np.array([0.5, 0.68, 0.9, 0.95])


@style.picture("coverage")
def plot_coverage(folder: str | Path, report: dict) -> Path:
    """coverage.png: a row a quantity. report: class -> quantity -> `metrics.coverage.coverage_report`.

    Left, the histogram of the ranks of the truth with the band that holds 95% of the bins of even ones; right, how much
    more often than claimed the truth lies within the central intervals, of all lenses and of their slices.
    """
    rows = [(f"{kind}: {name}", one) for kind, quantities in report.items() for name, one in quantities.items()]
    figure = new_figure(9.5, 2.9 * len(rows))
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (ranks_axis, coverage_axis), (title, one) in zip(axes, rows, strict=True):
        _draw_ranks(ranks_axis, title, one)
        _draw_coverage(coverage_axis, one)
    axes[-1, 0].set_xlabel("rank of the truth in its posterior")
    axes[-1, 1].set_xlabel("claimed probability of the central interval")
    handles = axes[0, 1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return style.save_figure(figure, folder, "coverage")


def _draw_ranks(axis, title: str, one: dict) -> None:
    from scipy.stats import binom

    counts = np.array(one["histogram"])
    edges = np.linspace(0, 1, len(counts) + 1)
    low, high = binom.ppf([0.025, 0.975], one["images"], 1 / len(counts))
    axis.axhspan(low, high, color=BAND, alpha=0.4, linewidth=0)
    axis.stairs(counts, edges, color=COLOUR, linewidth=1.5)
    axis.set(ylim=(0, 1.5 * max(counts.max(), high)), ylabel="lenses", xlim=(0, 1))
    title = f"{title.replace('_', ' ')}, {one['images']} lenses, p = {one['p_value']:.2g}"
    axis.set_title(title, loc="left", fontsize=9)


def _draw_coverage(axis, one: dict) -> None:
    """Coverage minus what is claimed; the band is the binomial 95% of all lenses."""
    band = 1.96 * np.array([c["deviation"] for c in one["coverage"].values()])
    axis.fill_between(CLAIMED, -band, band, color=BAND, alpha=0.4, linewidth=0)
    for (name, parts), colour in zip(one["slices"].items(), LINES, strict=False):
        for number, part in enumerate(parts):
            places = CLAIMED + 0.006 * (number - 1)
            axis.plot(places, _excess(part), "_v^"[number % 3], color=colour, markersize=5, alpha=0.8)
        axis.plot([], [], "^", color=colour, label=f"thirds by {name} (_ low, ^ high)")
    axis.plot(CLAIMED, _excess(one), "o-", color=COLOUR, label="all lenses")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(ylabel="coverage minus claimed", ylim=(-0.1, 0.1), xticks=CLAIMED)


def _excess(part: dict) -> np.ndarray:
    return np.array([c["share"] for c in part["coverage"].values()]) - CLAIMED
