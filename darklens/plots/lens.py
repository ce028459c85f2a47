"""One fitted lens: the image, the galaxy's light, the arcs, the source, and what the model leaves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darklens.plots.style import new_figure
from darklens.storage.files import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
LIMIT = 5.0  # standard deviations: the ends of the residual's colours
PANELS = "image", "lens galaxy", "image less galaxy", "arcs", "source", "residual / σ"


@dataclasses.dataclass(frozen=True)
class DetectionPanel:
    """Where a residual favours a subhalo: standard deviations (G,) at places (G, 2) arcsec, and the strongest (2,)."""

    positions: np.ndarray
    observed: np.ndarray
    strongest: np.ndarray


@dataclasses.dataclass(frozen=True)
class LensPictures:
    """What the fit says of the image, (n, n) each, in its unit; the source in its own plane."""

    data: np.ndarray
    light: np.ndarray
    arcs: np.ndarray
    residual: np.ndarray  # in standard deviations, NaN where masked
    source: np.ndarray | None
    half: float  # arcsec from the window's middle to its edge
    source_half: float = math.nan
    detection: DetectionPanel | None = None


def plot_lens(folder: str | Path, stem: str, lens: LensPictures, values: Mapping[str, float | str], title: str) -> Path:
    """`stem`.png in the folder: six panels, or a seventh with the detection map. values: of the table's row.

    Raises ResultsError.
    """
    panels = PANELS if lens.detection is None else (*PANELS, "subhalo / σ")
    figure = new_figure(2.25 * len(panels), 2.9)
    axes = figure.subplots(1, len(panels), subplot_kw={"xticks": [], "yticks": []})
    box = (-lens.half, lens.half, -lens.half, lens.half)
    rest = lens.data - lens.light
    top = float(np.nanmax(np.abs(lens.arcs))) or 1.0
    stretch = {"cmap": "inferno", "extent": box}
    axes[0].imshow(np.arcsinh(lens.data / top * 3), **stretch)
    axes[1].imshow(np.arcsinh(lens.light / top * 3), **stretch)
    axes[2].imshow(rest, vmin=-0.2 * top, vmax=top, **stretch)
    axes[3].imshow(lens.arcs, vmin=-0.2 * top, vmax=top, **stretch)
    if lens.source is not None:
        side = lens.source_half
        axes[4].imshow(lens.source, cmap="inferno", origin="lower", extent=(-side, side, -side, side))
    axes[5].imshow(lens.residual, cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT, extent=box)
    if lens.detection is not None:
        _draw_detection(axes[6], lens.detection, lens.half)
    for axis, name in zip(axes, panels, strict=True):
        axis.set_title(name, fontsize=9)
    names = "einstein_radius", "einstein_radius_sd", "chi_square"
    radius, deviation, chi2 = (values.get(name, np.nan) for name in names)
    text = f"{title}\nθ_E {radius:.3f} ± {deviation:.3f}″, χ²/pixel {chi2:.2f}"
    figure.suptitle(text.replace("$", r"\$"), fontsize=9)
    buffer, path = BytesIO(), Path(folder) / f"{stem}.png"
    figure.savefig(buffer, format="png", dpi=DPI)
    write(path, buffer.getvalue())
    return path


def _draw_detection(axis: Axes, detection: DetectionPanel, half: float) -> None:
    """Squares at the places, a circle about the strongest."""
    x, y = detection.positions.T
    axis.scatter(x, y, c=detection.observed, s=8, marker="s", cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT)
    axis.plot(*detection.strongest, "o", ms=10, mfc="none", mec="k")
    axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
