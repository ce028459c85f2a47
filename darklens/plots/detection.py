"""Detection maps: where a subhalo would be seen in a lens, and where its residual favours one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darklens.fit import DetectionMap, Fit
from darklens.plots.style import new_figure, picture, save_figure

SHOWN = 1e9  # Msun: the map of the mass nearest to it is drawn
LEVELS = (10.0, 50.0)  # of the expected delta chi-square
ALARM = 4.1  # standard deviations: 1% of smooth lenses reach it (docs/where.md)
COLOUR_LIMIT = 6.0  # standard deviations: the ends of the observed map's colours stand for at least this
COLUMNS = "image", "expected Δχ²", "observed / σ"


@picture("detection")
def plot_detection(
    folder: str | Path,
    images: Sequence[np.ndarray],
    fits: Fit,
    maps: DetectionMap,
    titles: Sequence[str],
    pieces: Sequence[np.ndarray] | None = None,
) -> Path:
    """detection.png: one row a fit, with image, expected delta chi-square and observed significance.

    images: (H, W) each, of which the middle was fitted. maps: of a square grid, one a fit. pieces: known dark
    matter of each lens, (m, 4) arcsec, x and y of both ends. Lines: expected `LEVELS`, observed `ALARM`; grey, half of
    the light's maximum. Raises ResultsError.
    """
    rows, mass = len(fits), int(np.abs(np.log(maps.masses / SHOWN)).argmin())
    figure = new_figure(8.8, 0.6 + 2.6 * max(rows, 1))
    axes = figure.subplots(max(rows, 1), 3, squeeze=False)
    for k in range(rows):
        _draw_row(axes[k], images[k], fits, maps, k, mass)
        axes[k, 0].set_title(titles[k], fontsize=9, loc="left")
        for axis, colour in zip(axes[k], ("w", "w", "k"), strict=True):
            _draw_pieces(axis, [] if pieces is None else list(pieces[k]), colour)
    for axis, name in zip(axes[0], COLUMNS, strict=True):
        axis.text(0.5, 1.14, name, transform=axis.transAxes, ha="center", weight="bold")
    return save_figure(figure, folder, "detection")


def _draw_row(axes: np.ndarray, image: np.ndarray, fits: Fit, maps: DetectionMap, k: int, mass: int) -> None:
    figure, model, side = axes[0].figure, fits.image[k], round(len(maps.positions) ** 0.5)
    half = fits.model.pixel_scale * len(model) / 2
    row, column = (np.array(image.shape) - len(model)) // 2
    axes[0].imshow(
        image[row : row + len(model), column : column + len(model)], cmap="inferno", extent=[-half, half] * 2
    )
    expected, observed = (values[k, mass].reshape(side, side) for values in (maps.expected, maps.observed))
    _draw_expected(figure, axes[1], expected, maps.positions)
    _draw_observed(figure, axes[2], observed, maps.positions)
    axes[1].set_title(f"{_power(maps.masses[mass])}: up to {expected.max():.3g}", fontsize=9, loc="left")
    axes[2].set_title(f"{observed.min():.1f} to {observed.max():.1f} {fits.flag[k]}", fontsize=9, loc="left")
    for axis in axes[1:]:
        _contour(axis, model, half * (1 - 1 / len(model)), [(model.min() + model.max()) / 2], "0.6")
    for axis in axes:
        axis.set(xlim=(-half, half), ylim=(-half, half), xticks=[-2, 0, 2] if half > 2 else [0], yticks=[])
        axis.tick_params(labelsize=7)


def _power(mass: float) -> str:
    return f"$10^{{{np.log10(mass):.3g}}}\\,M_\\odot$"


def _draw_expected(figure, axis, values: np.ndarray, positions: np.ndarray) -> None:
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, vmin=0, vmax=max(values.max(), LEVELS[0]))  # even steps in standard deviations
    _draw_map(figure, axis, values, positions, cmap="viridis", norm=norm)
    for level, dashes in zip(LEVELS, ("--", "-"), strict=True):
        _contour(axis, values, positions[:, 0].max(), [level], "w", dashes)


def _draw_observed(figure, axis, values: np.ndarray, positions: np.ndarray) -> None:
    limit = max(COLOUR_LIMIT, np.abs(values).max())
    _draw_map(figure, axis, values, positions, cmap="RdBu_r", vmin=-limit, vmax=limit)
    _contour(axis, values, positions[:, 0].max(), [ALARM], "k")


def _draw_map(figure, axis, values: np.ndarray, positions: np.ndarray, **look: object) -> None:
    edge = positions[:, 0].max() * len(values) / max(len(values) - 1, 1)  # the outer edge of the cells
    shown = axis.imshow(values, extent=[-edge, edge] * 2, **look)
    figure.colorbar(shown, ax=axis, fraction=0.05)


def _contour(axis, values: np.ndarray, reach: float, levels: list[float], colour: str, dashes: str = "-") -> None:
    """Lines of equal value of a square map whose outer cells have their middles at `reach` arcsec."""
    if values.min() < levels[0] < values.max():
        steps = np.linspace(-reach, reach, len(values))
        axis.contour(steps, -steps, values, levels=levels, colors=colour, linewidths=0.7, linestyles=dashes)


def _draw_pieces(axis, pieces: Sequence[np.ndarray], colour: str) -> None:
    """Circles for subhalos, lines for vortices."""
    for x0, y0, x1, y1 in pieces:
        if (x0, y0) == (x1, y1):
            axis.plot(x0, y0, "o", markersize=7, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.9)
        else:
            axis.plot([x0, x1], [y0, y1], color=colour, linewidth=1.2, scalex=False, scaley=False)
