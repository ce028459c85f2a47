"""Substructure or none behind a lens galaxy, without training: ln B of the flexible source on telescope images.

    python benchmarks/galaxy_sources.py                                      # hst_sky, 20 lenses a class
    python benchmarks/galaxy_sources.py --recipe jwst --count 30
    python benchmarks/galaxy_sources.py --white --count 30                   # noise of neighbours not correlated
    python benchmarks/galaxy_sources.py --count 4 --picture flexible_galaxy.png

Lenses of a recipe with lens galaxies of two components, sources with structure and correlated noise. Each image has a
noise map and the PSF it was made with. Prints AUC, quantiles of ln B, chi-square round the arcs with a source of
positive Gaussians and with a flexible one, Einstein radii, seconds of one core (run it with OMP_NUM_THREADS=1).
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from darklens.fit.observed.result import ObservedFit
from darklens.fit.observed.run import fit_observed
from darklens.simulation.draw import LensSample, draw
from darklens.simulation.psf import moffat_kernel
from darklens.simulation.recipe_file import parse_recipe, recipe_dict
from darklens.simulation.recipes import CLASSES, RECIPES, SimulationConfig
from darklens.simulation.render import light_and_sky, simulate

SEED = 11


@dataclasses.dataclass(frozen=True)
class Observation:
    """A simulated lens as an archive has it."""

    image: np.ndarray  # (n, n)
    noise: np.ndarray  # (n, n) standard deviations
    psf: np.ndarray  # (k, k)
    pixel_scale: float  # arcsec
    einstein_radius: float  # arcsec, the truth


def recipe(name: str, white: bool) -> SimulationConfig:
    """A recipe, its noise white if that is asked for."""
    tables = recipe_dict(RECIPES[name])
    if white:
        tables["noise"]["correlation"] = 0
    return parse_recipe(tables)


def noise_map(lenses: LensSample, light: np.ndarray, sky: float, config: SimulationConfig) -> np.ndarray:
    """(n, n) standard deviations in the image's unit, for light (n, n) and sky in electrons/s."""
    seconds, n = float(lenses["noise.exposure_time"][0]), config.noise
    rms, read_noise = (float(lenses[f"noise.{name}"][0]) for name in ("background_rms", "read_noise"))
    background = sky / seconds + n.exposures * read_noise**2 / seconds**2
    variance = light / seconds + (background if np.isnan(rms) else (rms * n.gain) ** 2)
    return np.sqrt(variance) / n.gain


def observe(config: SimulationConfig, class_name: str, number: int) -> Observation:
    """Lens `number` of a class."""
    lenses = draw(config, class_name, SEED, "train", [number])
    light, sky = light_and_sky(lenses, config)
    image = simulate(config, class_name, [number], SEED)[0].astype(float)
    sigma = noise_map(lenses, light[0].double().numpy(), float(sky[0]), config)
    scale = config.image.pixel_scale
    psf = moffat_kernel(float(lenses["psf.fwhm"][0]) / scale, float(lenses["psf.beta"][0]))
    return Observation(image, sigma, psf, scale, float(lenses["lens.einstein_radius"][0]))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An observation, its fits, and seconds of the whole fit with a flexible source."""

    truth: Observation
    gaussians: ObservedFit  # the source that today's fit ends with
    flexible: ObservedFit
    seconds: float

    @property
    def log_bayes_factor(self) -> float:
        """0 where nothing was fitted."""
        return float(np.nan_to_num(self.flexible.log_bayes_factor))


def measure(config: SimulationConfig, class_name: str, number: int) -> Outcome:
    """Observe and fit one lens."""
    truth = observe(config, class_name, number)
    arguments = truth.image, truth.noise, truth.psf, truth.pixel_scale
    gaussians, start = fit_observed(*arguments), time.process_time()
    flexible = fit_observed(*arguments, source="flexible")
    return Outcome(truth, gaussians, flexible, time.process_time() - start)


def summary(name: str, outcomes: list[Outcome]) -> str:
    """A class's line."""
    quantiles = np.quantile([each.log_bayes_factor for each in outcomes], (0.1, 0.5, 0.9, 1.0))
    fits = [[each.gaussians for each in outcomes], [each.flexible for each in outcomes]]
    chi_square = [np.median([fit.chi_square for fit in part]) for part in fits]
    truth = np.array([each.truth.einstein_radius for each in outcomes])
    off = [100 * np.abs(np.array([fit.einstein_radius for fit in part]) / truth - 1) for part in fits]
    return (
        f"{name:7} ln B at 10, 50, 90, 100%: {' '.join(f'{q:.1f}' for q in quantiles)}; chi-square a pixel, medians: "
        f"Gaussians {chi_square[0]:.2f}, flexible {chi_square[1]:.2f}; Einstein radius off by (median, above 2%): "
        f"{np.median(off[0]):.2f}% ({(off[0] > 2).sum()}), {np.median(off[1]):.2f}% ({(off[1] > 2).sum()}); "
        f"{np.median([each.seconds for each in outcomes]):.1f} s a lens"
    )


def draw_fits(outcomes: list[Outcome], path: Path) -> None:
    """Image, lens light subtracted, arcs, source, residuals of both sources, a row a lens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = "image", "less the galaxy", "arcs", "source", "residual, Gaussians", "residual, flexible"
    figure, axes = plt.subplots(
        len(outcomes), 6, figsize=(12, 2.1 * len(outcomes)), squeeze=False, layout="constrained"
    )
    for row, each in zip(axes, outcomes, strict=True):
        fit, before = each.flexible, each.gaussians
        cutout, reach = fit.cutout, min(2.2 * fit.einstein_radius, fit.cutout.half)
        part = slice(*np.searchsorted(cutout.steps, (-reach, reach)))
        arcs = (cutout.data - fit.light) / cutout.sigma
        style = {"cmap": "inferno", "vmin": -2, "vmax": np.percentile(arcs[part, part], 99.7)}
        row[0].imshow(np.arcsinh(cutout.data / cutout.sigma / 5)[part, part], cmap="inferno")
        row[1].imshow(arcs[part, part], **style)
        row[2].imshow((fit.arcs / cutout.sigma)[part, part], **style)
        row[3].imshow(fit.source, origin="lower", cmap="inferno")
        for axis, residual in zip(row[4:], (before.residual, fit.residual), strict=True):
            axis.imshow(residual[part, part], cmap="RdBu_r", vmin=-5, vmax=5)
        row[4].set_xlabel(f"chi-square {before.chi_square:.2f}")
        row[5].set_xlabel(f"chi-square {fit.chi_square:.2f}, ln B = {fit.log_bayes_factor:.1f}")
        for axis in row:
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="hst_sky")
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=CLASSES)
    parser.add_argument("--count", type=int, default=20, help="lenses a class (20)")
    parser.add_argument("--white", action="store_true", help="noise of neighbouring pixels is not correlated")
    parser.add_argument("--picture", type=Path, help="file for a picture of the first lens of each class")
    args = parser.parse_args()
    config = recipe(args.recipe, args.white)
    outcomes = {}
    for name in args.classes:
        outcomes[name] = [measure(config, name, number) for number in range(args.count)]
        print(summary(name, outcomes[name]), flush=True)
    values = [each.log_bayes_factor for part in outcomes.values() for each in part]
    labels = np.repeat([name != "no" for name in outcomes], args.count)
    if len(set(labels)) == 2:
        print(f"AUC of `no` against the rest {roc_auc_score(labels, values):.3f}, {args.count} lenses a class")
    if args.picture:
        draw_fits([part[0] for part in outcomes.values()], args.picture)


if __name__ == "__main__":
    main()
