"""What all pictures have in common: size, colours, the non-interactive canvas, the atomic save."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darklens.storage.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160
NAMES = {"test": "val"}  # the curve `test_loss`, named as in the original, is of the split val
COLOURS = ("3f90da", "ffa90e", "bd1f01", "94a4a2", "832db6", "a96b59", "e76300", "b9ac70", "717581", "92dadd")
DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))  # of networks drawn in one colour
GRID = np.unique(np.concatenate([np.linspace(0, 1, 201), np.logspace(-4, 0, 401)]))  # false-positive rates


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, known to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, folder: str | Path, stem: str) -> Path:
    """Write `stem.png` and `stem.pdf`, empty the figure, return the path of the PNG."""
    options = {
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
