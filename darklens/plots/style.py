"""What all pictures have in common: size, colours, the non-interactive canvas, the atomic save.

The environment variable LENS_PICTURES says which are drawn: all where it is not set, `none`, or names, as `ROC,CM`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from darklens.storage.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = "LENS_PICTURES"  # the environment variable
RESIDUAL: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -5.0, "vmax": 5.0}  # in standard deviations
DPI = 160
NAMES = {"test": "val"}  # the curve `test_loss`, named as in the original, is of the split val
COLOURS = ("3f90da", "ffa90e", "bd1f01", "94a4a2", "832db6", "a96b59", "e76300", "b9ac70", "717581", "92dadd")
DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))  # of networks drawn in one colour
GRID = np.unique(np.concatenate([np.linspace(0, 1, 201), np.logspace(-4, 0, 401)]))  # false-positive rates


Parameters = ParamSpec("Parameters")


def is_enabled(stem: str) -> bool:
    """Whether the picture of this name is to be drawn, by the environment."""
    names = os.environ.get(PICTURES, "")
    return not names or stem in names.split(",")


def picture(stem: str) -> Callable[[Callable[Parameters, Path]], Callable[Parameters, Path | None]]:
    """Make a function that draws `stem`.png leave it, and return None, where that picture is not enabled."""

    def decorate(draw: Callable[Parameters, Path]) -> Callable[Parameters, Path | None]:
        @functools.wraps(draw)
        def draw_if_enabled(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Path | None:
            return draw(*arguments, **keywords) if is_enabled(stem) else None

        return draw_if_enabled

    return decorate


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, known to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, folder: str | Path, stem: str) -> Path:
    """Write `stem.png` and `stem.pdf`, empty the figure, return the path of the PNG."""
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": DPI},
        "pdf": {"metadata": {"CreationDate": None}},
    }  # undated: same data, same file
    for kind, chosen in options.items():
        buffer = BytesIO()
        figure.savefig(buffer, format=kind, **chosen)
        figure.set_layout_engine("none")  # laid out once is enough
        write(Path(folder) / f"{stem}.{kind}", buffer.getvalue())
    figure.clear()
    return Path(folder) / f"{stem}.png"


def class_colour(number: int) -> str:
    """Class k has the same colour in every picture."""
    return f"#{COLOURS[number % len(COLOURS)]}"


def tick_labels(classes: list[str], width: int = 24) -> list[str]:
    """Class names that fit, that differ, and in which $ is only a $."""
    half = width // 2
    labels = [name if len(name) <= width else f"{name[:half]}…{name[1 - half :]}" for name in classes]
    if len(set(labels)) < len(labels):
        labels = [f"{number} {label}" for number, label in enumerate(labels)]
    return [label.replace("$", r"\$") for label in labels]
