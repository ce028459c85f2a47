"""Fits of the smooth lens: the image, the model, and what the model leaves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darklens.fit import Fit
from darklens.plots.style import RESIDUAL, new_figure, picture, save_figure

MOST_ROWS = 12


@picture("fits")
def plot_fits(folder: str | Path, images: Sequence[np.ndarray], fits: Fit, titles: Sequence[str]) -> Path:
    """fits.png: one row a lens (the first twelve), with image, smooth model and residual in standard deviations.

    images: (H, W) each, of which the middle was fitted. Raises ResultsError.
    """
    rows = min(len(fits), MOST_ROWS)
    figure = new_figure(8.4, 0.5 + 2.6 * max(rows, 1))
    axes = figure.subplots(max(rows, 1), 3, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for k in range(rows):
        _draw_row(figure, axes[k], images[k], fits, k, titles[k])
    for axis, name in zip(axes[0], ("image", "best smooth lens", "residual / σ"), strict=True):
        axis.text(0.5, 1.14, name, transform=axis.transAxes, ha="center", weight="bold")
    return save_figure(figure, folder, "fits")


def _draw_row(figure, axes: np.ndarray, image: np.ndarray, fits: Fit, k: int, title: str) -> None:
    model, residual = fits.image[k], fits.residual[k]
    size = len(model)
    row, column = (np.array(image.shape) - size) // 2
    window = image[row : row + size, column : column + size]
    low, high = np.nanmin(window), np.nanmax(window)
    scale = {"cmap": "inferno", "vmin": low, "vmax": max(high, low + 1e-30)}
    axes[0].imshow(window, **scale)
    axes[1].imshow(model, **scale)
    shown = axes[2].imshow(residual, **RESIDUAL)
    figure.colorbar(shown, ax=axes[2], fraction=0.05)
    table = {name: values[k] for name, values in fits.table().items()}
    axes[0].set_title(title, fontsize=9, loc="left")
    axes[1].set_title(f"θ_E {table['einstein_radius']:.3f}″, shear {table['shear']:.3f}", fontsize=9, loc="left")
    axes[2].set_title(f"χ²/pixel {table['chi_square']:.2f} {table['flag']}", fontsize=9, loc="left")
