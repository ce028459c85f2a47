"""Which perturber makes a real lens most probable, and what changes that? Behind a flexible source and lens light.

    python benchmarks/perturbers.py FOLDER J0946+1006 --mask 1.9 --variants          # one lens, its systematics
    python benchmarks/perturbers.py FOLDER                                           # every lens, as Fit detects
    python benchmarks/perturbers.py docs --figure                                    # docs/subhalo.png, simulated

FOLDER has `slacs/NAME/{image,noise,psf}.fits`, 0.05" a pixel. Prints place (arcsec from the halo's centre, y as FITS
images are shown), squared Einstein radius and that over the halo's (the share of its mass) of the strongest perturber
of positive mass, the fall of chi-square and priors, ln B against none, and the same from a place (--place). Seconds are
of one core: run it with OMP_NUM_THREADS=1.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch

from darklens.fit.descent import Descent
from darklens.fit.flexible import FlexibleLens
from darklens.fit.observed.run import fit_observed
from darklens.fit.perturber import PerturberFit, refine, strongest
from darklens.fit.spline_source import LEVELS
from darklens.plots.lens import plot_lens
from darklens.simulation.psf import gaussian_taps
from darklens.simulation.recipe_file import parse_recipe, recipe_dict
from darklens.simulation.recipes import RECIPES
from darklens.survey.lens_fit import LensImage, fit_lens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fit_data import with_subhalo  # noqa: E402

SCALE = 0.05  # arcsec a pixel
UP = np.array([1.0, -1.0])  # y as FITS images are shown, their first row at the bottom; in the fits it is at the top
QUICK = {"starts": 4, "finalists": 1, "shifts": ()}
STIFF = 1e12  # precision of light that is held
TERMS = ("halo_slope",), ("halo_slope", "multipole_3", "multipole_4")
VARIANTS = {  # terms of the halo, levels of the lattices, whether the light is free
    "isothermal": ((), len(LEVELS), True),
    "power law": (TERMS[0], len(LEVELS), True),
    "power law, m = 3, 4": (TERMS[1], len(LEVELS), True),
    "isothermal, light held": ((), len(LEVELS), False),
    "isothermal, lattices end at 0.04": ((), len(LEVELS) - 1, True),
    "power law, m = 3, 4, lattices end at 0.04": (TERMS[1], len(LEVELS) - 1, True),
}


def fitted(folder: Path) -> FlexibleLens | None:
    """The lens as `--mode Fit --source flexible` leaves it."""
    from astropy.io import fits

    image, noise, psf = (fits.getdata(folder / f"{name}.fits").astype(float) for name in ("image", "noise", "psf"))
    return fit_observed(image, noise, psf, SCALE, source="flexible").lens


def masked(lens: FlexibleLens, radius: float) -> FlexibleLens:
    """Without pixels beyond a radius in arcsec."""
    steps = (np.arange(lens.renderer.size) - (lens.renderer.size - 1) / 2) * SCALE
    inside = torch.as_tensor(np.hypot(steps, steps[:, None]) < radius)
    return dataclasses.replace(lens, weight=torch.where(inside, lens.weight, 0.0))


def variant(lens: FlexibleLens, terms: tuple[str, ...], levels: int, *, free_light: bool) -> FlexibleLens:
    """The lens fitted again with another halo, other lattices or its light held."""
    other = dataclasses.replace(lens, q=lens.q.clone())
    other = other.with_components(*terms) if terms else other
    if not free_light and other.rest_precision is not None:
        other.rest_precision = torch.full_like(other.rest_precision, STIFF)
    with torch.no_grad():
        Descent(other).run(levels, hold=True)
    return other


def centre(lens: FlexibleLens) -> np.ndarray:
    """(2,) of the halo, arcsec."""
    return lens.q[0, [lens.renderer.table.index[f"centre_{axis}"] for axis in "xy"]].numpy()


def line(name: str, lens: FlexibleLens, fit: PerturberFit, seconds: float) -> str:
    """A row of the table."""
    x, y = (fit.place - centre(lens)) * UP
    square, share = 1e3 * fit.square, 1e3 * fit.square / float(lens.q[0, 0]) ** 2
    dx, dy, _ = np.sqrt(fit.covariance.diagonal())
    return (
        f"| {name} | {x:+.3f} ± {dx:.3f}, {y:+.3f} ± {dy:.3f} | {square:.2f} | {share:.2f}"
        f" | {fit.delta_chi_square:.0f} | {fit.log_bayes_factor:+.1f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="lenses (all)")
    parser.add_argument("--mask", type=float, help="without pixels beyond so many arcsec")
    parser.add_argument("--variants", action="store_true", help="with other halos, lattices, light")
    parser.add_argument("--profile", default="point", help="of the perturber (point)")
    parser.add_argument("--place", type=float, nargs=3, help="also from here: x, y of the halo's centre, square / 1e-3")
    parser.add_argument("--figure", action="store_true", help="only draw a simulated lens, into the folder")
    parser.add_argument("--quick", action="store_true", help="four starts, of which one goes on")
    args = parser.parse_args()
    if args.figure:
        return figure(args.folder)
    names = args.names or sorted(path.name for path in (args.folder / "slacs").iterdir() if path.is_dir())
    print("| lens | place | square / 1e-3 arcsec^2 | share of mass / 1e-3 | delta chi-square | ln B | s |", flush=True)
    for name in names:
        lens = fitted(args.folder / "slacs" / name)
        if lens is None:
            print(f"| {name} | no arcs |", flush=True)
            continue
        lens = masked(lens, args.mask) if args.mask else lens
        for label, settings in VARIANTS.items() if args.variants else [(name, None)]:
            report(label, lens, settings, args)


def figure(folder: Path) -> None:
    """A lens of Model J with a clumpy source and one point mass of 7.3e9 Msun, 0.7% of the halo, at (1.09, -0.01)."""
    structure = {"clumps": [3, 12], "clump_fraction": 0.4, "clump_radius": [0.05, 0.2]}
    tables = recipe_dict(RECIPES["j"])
    tables["source"].pop("brightness")
    tables["source"]["structure"], tables["noise"]["peak_snr"] = structure, [22, 30]
    images, _ = with_subhalo(parse_recipe(tables), np.full(2, 7.3e9), np.array([[1.09, -0.01]] * 2), 11)
    taps = gaussian_taps(0.085 / SCALE)
    image = LensImage(images[1].astype(float), SCALE, None, np.outer(taps, taps))
    result = fit_lens(image, "none", pictures=True, source="flexible", detect=True)
    print(result.values)
    plot_lens(folder, "subhalo", result.pictures, result.values, "one subhalo behind a clumpy source")


def report(label: str, lens: FlexibleLens, settings: tuple | None, args: argparse.Namespace) -> None:
    """Print the rows of one lens, or of one variant of it."""
    start = time.process_time()
    if settings is not None or args.mask:
        terms, levels, free_light = settings or VARIANTS["isothermal"]
        lens = variant(lens, terms, levels, free_light=free_light)
    fit = strongest(lens, profile=args.profile, **(QUICK if args.quick else {}))
    print(line(label, lens, fit, time.process_time() - start), flush=True)
    if args.place:
        x, y, square = args.place
        fit = refine(lens, centre(lens) + [x, y] * UP, 1e-3 * square, profile=args.profile)
        print(line(f"{label}, from there", lens, fit, time.process_time() - start), flush=True)


if __name__ == "__main__":
    main()
