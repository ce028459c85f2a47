"""Substructure or none, without training: how well does the residual's significance tell, how often is it wrong?

    PYTHONPATH=. python benchmarks/residual_significance.py auc --count 1000                # Models F and J, a class
    PYTHONPATH=. python benchmarks/residual_significance.py alarms --count 5000             # `no` lenses of F, J, wide
    PYTHONPATH=. python benchmarks/residual_significance.py alarms --count 1500 --recipes f --correlation 0.6
    PYTHONPATH=. python benchmarks/residual_significance.py panels --folder DIR             # rebuilt_179.npz in DIR

auc      AUC of `no` against the rest by `residual_significance` of `darklens.fit`, with a 95% interval
         (bootstrap), and by chi-square
alarms   share of `no` lenses above the level that 1% should exceed, with a 95% interval (Wilson 1927). --free: with the
         lens's centre and the halo's shape free; --correlation PIXELS: with noise of one variance that was smoothed
panels   the same AUC on real images of Model J, rebuilt from public figures; nothing without the folder
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score

from darklens.fit import Fit, SmoothModel, fit_many
from darklens.fit.assumptions import smooth_model
from darklens.simulation import draw, render
from darklens.simulation.recipes import CLASSES, SimulationConfig, load_recipe

CHUNK = 500  # images in memory at a time
SEED = 7
DEVIATION = 8.0  # counts, of correlated noise


def fits(name: str, class_name: str, count: int, *, free: bool = False, correlation: float = 0.0) -> list[Fit]:
    """Fits without pictures of test images of a recipe. free: centre and halo; correlation: pixels, of the noise."""
    recipe = load_recipe(name)
    model = SmoothModel() if name in ("f", "j") else smooth_model(recipe)
    model = replace(model, free_centre=True, free_halo=True) if free else model
    parts = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    return [fit_many(images(recipe, class_name, rows, correlation), model, pictures=False) for rows in parts]


def images(recipe: SimulationConfig, class_name: str, rows: range, correlation: float) -> np.ndarray:
    """(n, H, W) test images; with a correlation Gaussian noise smoothed by so many pixels instead of counts."""
    if correlation == 0:
        return render.simulate(recipe, class_name, rows, SEED, "test").astype(float)
    clean = render.render(draw.draw(recipe, class_name, SEED, "test", rows), recipe, dtype=torch.float64).numpy()
    noise = np.random.default_rng(rows.start).normal(size=clean.shape)
    noise = ndimage.gaussian_filter(noise, (0, correlation, correlation), mode="wrap")
    return clean + DEVIATION * noise / noise.std()


def column(parts: list[Fit], name: str) -> np.ndarray:
    """(count,) of a column."""
    return np.concatenate([getattr(part, name) for part in parts])


def auc_text(labels: np.ndarray, scores: np.ndarray, draws: int = 2000) -> str:
    """AUC with its 95% interval from the bootstrap."""
    random, values = np.random.default_rng(0), []
    for _ in range(draws):
        rows = random.integers(len(labels), size=len(labels))
        if 0 < labels[rows].sum() < len(rows):
            values.append(roc_auc_score(labels[rows], scores[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{roc_auc_score(labels, scores):.4f} [{low:.4f}, {high:.4f}]"


def auc(names: list[str], count: int) -> None:
    """AUC of `no` against the rest."""
    for name in names:
        parts_of = [fits(name, class_name, count) for class_name in CLASSES]
        labels = np.concatenate([np.full(count, class_name != "no") for class_name in CLASSES])
        for score in ("residual_significance", "chi_square"):
            values = np.concatenate([column(parts, score) for parts in parts_of])
            print(f"{name}: {count} a class, AUC by {score} {auc_text(labels, values)}", flush=True)


def alarms(names: list[str], count: int, free: bool, correlation: float, level: float = 0.01) -> None:
    """How often `no` lenses exceed the level: all of them, and those whose fit has no flag."""
    for name in names:
        parts = fits(name, "no", count, free=free, correlation=correlation)
        values, good = column(parts, "residual_significance"), column(parts, "flag") == ""
        above = values > stats.norm.isf(level)
        for kind, rows in (("all", np.ones_like(good)), ("unflagged", good)):
            number, total = int(above[rows].sum()), int(rows.sum())
            low, high = stats.binomtest(number, total).proportion_ci(method="wilson")
            print(
                f"{name}: {total} `no` lenses, {kind}: {100 * number / total:.2f}% [{100 * low:.2f}, {100 * high:.2f}] "
                f"above the level of {100 * level:g}%; mean {values[rows].mean():.3f}, standard deviation "
                f"{values[rows].std():.3f}",
                flush=True,
            )


def panels(folder: Path | None) -> None:
    """Real images of Model J."""
    path = None if folder is None else folder / "rebuilt_179.npz"
    if path is None or not path.exists():
        print("panels: skipped, no folder with rebuilt_179.npz")
        return
    file = np.load(path)
    labels = np.array([str(label) not in ("no", str(CLASSES.index("no"))) for label in file["labels"]])
    result = fit_many(file["images"].astype(float), SmoothModel(), pictures=False)
    for score in ("residual_significance", "chi_square"):
        print(
            f"{path.name}: {len(labels)} images, {(~labels).sum()} `no`, AUC by {score} "
            f"{auc_text(labels, getattr(result, score))}"
        )
    print(
        f"largest of `no` {result.residual_significance[~labels].max():.2f}, "
        f"smallest of the rest {result.residual_significance[labels].min():.2f}"
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("auc", "alarms", "panels"))
    parser.add_argument("--recipes", nargs="+", help="(f j; f j wide)")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--correlation", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "auc":
        auc(given.recipes or ["f", "j"], given.count)
    elif given.what == "alarms":
        alarms(given.recipes or ["f", "j", "wide"], given.count, given.free, given.correlation)
    else:
        panels(given.folder)


if __name__ == "__main__":
    main()
