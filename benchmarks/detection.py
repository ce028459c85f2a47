"""Does the detection map find the subhalo, foresee what a re-fit finds, and keep still where there is none?

python benchmarks/detection.py                     # 100 lenses of each of f and j, an hour of one core
python benchmarks/detection.py --toy               # a few lenses, a minute
python benchmarks/detection.py --parts peak wrong --models j
python benchmarks/detection.py --figure docs       # docs/detection.png

peak      the observed map's peak beside one point mass, 1e9 to 1e10 Msun (uniform in the logarithm), 0.4" to 1.9"
          from the centre; the images are noisy, and the halo has lost what the point mass has
expected  the expected map beside the chi-square of the best smooth fit to the noise-free image with a point mass
smooth    the observed map of images without substructure, and how high it gets by chance
wrong     the same, where the smooth lens that is fitted isn't the one of the image
classes   the peak in images with many subhalos, or a vortex
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from darklens.fit import Fit, SmoothModel, detect, fit, highest_by_chance, peak
from darklens.fit.detect import MASSES
from darklens.plots.detection import ALARM
from darklens.simulation import draw, render
from darklens.simulation.recipes import RECIPES, SimulationConfig, changed
from darklens.simulation.truth import heaviest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fit_data import with_subhalo  # noqa: E402

DETECTABLE, CLOSE = 50.0, 0.1  # in expected delta chi-square; arcsec
WRONG = {  # what is changed in the recipe, and what may be freed for it
    "as fitted": ({}, ["free_index", "free_centre", "free_psf", "free_halo"]),
    "PSF 5% wider": ({"robust.psf_width": 1.05}, ["free_psf"]),
    "PSF 5% narrower": ({"robust.psf_width": 0.95}, ["free_psf"]),
    "lens off the centre by 0.1 pixels": ({"robust.registration": 0.1}, ["free_centre"]),
    "halo's axis ratio 0.95": ({"lens.axis_ratio": 0.95, "lens.angle": [0, 360]}, ["free_halo"]),
    "Sersic index 2 for 1.5": ({"source.sersic_index": 2.0}, ["free_index"]),
}


def subhalos(count: int, low: float, high: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Masses (count,) in Msun, uniform in the logarithm, and positions (count, 2) in arcsec."""
    rng = np.random.default_rng(seed)
    mass = 10 ** rng.uniform(np.log10(low), np.log10(high), count)
    radius, angle = rng.uniform(0.4, 1.9, count), rng.uniform(0, 2 * np.pi, count)
    return mass, np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def at(found: Fit, masses: np.ndarray, places: np.ndarray, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    """Expected and observed (B,) of one mass at one place in each fit."""
    maps = [detect(found[k : k + 1], (m,), places[k : k + 1], **settings) for k, m in enumerate(masses)]
    return np.array([m.expected[0, 0, 0] for m in maps]), np.array([m.observed[0, 0, 0] for m in maps])


def quantiles(values: np.ndarray) -> str:
    return "median {:.3f}, 95% {:.3f}, largest {:.3f}".format(*np.quantile(values, [0.5, 0.95, 1]))


def noise_free(recipe: SimulationConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of the lenses that `with_subhalo` puts one into, and their noise."""
    drawn = draw.draw(recipe, "no", 0, "test", range(count))
    clean = render.render(drawn, recipe, dtype=torch.float64).numpy()
    return clean, np.sqrt(clean)


def left_over(clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """(B,) chi-square of the best smooth lens."""
    known = fit(clean, noise=noise)
    return known.chi_square * known.pixels


def report_peak(recipe: SimulationConfig, count: int) -> None:
    mass, place = subhalos(count, 1e9, 1e10)
    images, clean = with_subhalo(recipe, mass, place)
    chi2, found, clock = left_over(clean, noise_free(recipe, count)[1]), fit(images), time.process_time()
    seen = detect(found)
    clock = (time.process_time() - clock) / count
    top, there = peak(found, seen), at(found, mass, place)[1]
    off, big = np.hypot(*(top.position - place).T), chi2 > DETECTABLE
    print(f"  {clock:.2f} s of a core a lens, {len(seen.positions)} places, {len(MASSES)} masses")
    print(
        f"  peak within {CLOSE} arcsec: {(off[big] <= CLOSE).sum()} of {big.sum()}; offset {quantiles(off[big])} arcsec"
    )
    middling = (chi2 > 25) & ~big
    print(f"  expected delta chi-square of 25 to 50: {(off[middling] <= CLOSE).sum()} of {middling.sum()}")
    for k in np.flatnonzero(big & (off > CLOSE)):
        print(
            f"    offset {off[k]:.2f} arcsec, expected {chi2[k]:.0f}, at {np.hypot(*place[k]):.2f}: the residual "
            f"prefers the peak to the truth by {top.observed[k] ** 2 - there[k] ** 2:.1f}"
        )
    pull, ratio = (there - np.sqrt(chi2))[big], np.log10(top.mass / mass)[big]
    print(f"  observed at the truth less sqrt(expected): {pull.mean():.2f} +- {pull.std():.2f}")
    print(f"  log10 of the peak's mass over the true one: {ratio.mean():.3f} +- {ratio.std():.3f}")


def report_expected(recipe: SimulationConfig, count: int) -> None:
    clean, noise = noise_free(recipe, count)
    found, (_, place) = fit(clean, noise=noise), subhalos(count, 1e9, 1e10, seed=2)
    print("  | mass | median | first order | of finite mass | the same, the noise of the image with it |")
    for mass in MASSES:
        with_one = with_subhalo(recipe, np.full(count, mass), place)[1]
        chi2, own = left_over(with_one, noise), left_over(with_one, np.sqrt(with_one))
        linear = 1e4 * at(found, np.full(count, mass / 100), place, dtype=torch.float64)[0]
        exact = at(found, np.full(count, mass), place)[0]
        cells = (f"{r.min():.3f} to {r.max():.3f}, {(abs(r - 1) > 0.1).sum()} beyond 10%" for r in
                 (linear / chi2, exact / chi2, exact / own))  # fmt: skip
        print(f"  | {mass:.0e} | {np.median(chi2):.3g} | {' | '.join(cells)} |", flush=True)


def report_smooth(recipe: SimulationConfig, count: int) -> None:
    found = fit(render.simulate(recipe, "no", range(count), 0, "test"))
    seen = detect(found)
    highest, few = seen.observed.max((1, 2)), found[: max(count // 4, 2)]
    chance = highest_by_chance(few)
    print(f"  values: mean {seen.observed.mean():.3f}, standard deviation {seen.observed.std():.3f}")
    print(f"  highest of a map of {count} images: {quantiles(highest)}")
    levels = np.quantile(chance, [0.5, 0.95, 0.99])
    print(f"  by chance, {chance.size} residuals of noise of {len(few)} lenses: 50, 95, 99% {levels.round(2)} sigma")
    print(f"  1% level of single lenses: {quantiles(np.quantile(chance, 0.99, 1))}")
    above = [f"{(highest > level).mean():.3f}" for level in levels]
    print(f"  share of the {count} images above these: {', '.join(above)}")
    one = np.quantile(highest_by_chance(few, (1e9,)), [0.5, 0.95, 0.99])
    print(f"  of the map of 1e9 Msun alone: {one.round(2)}", flush=True)


def report_wrong(recipe: SimulationConfig, count: int) -> None:
    print(f"  share of {count} images with a place above {ALARM} sigma, median of the highest; then with that free")
    for name, (keys, free) in WRONG.items():
        images = render.simulate(changed(recipe, keys), "no", range(count), 0, "test")
        fits = fit(images), fit(images, SmoothModel(**dict.fromkeys(free, True)))
        highest = [detect(found, (1e9,)).observed.max((1, 2)) for found in fits]
        cells = (f"{(h > ALARM).sum()} of {count}, {np.median(h):.1f}" for h in highest)
        print(f"  | {name} | {' | '.join(cells)} |", flush=True)


def report_classes(recipe: SimulationConfig, count: int) -> None:
    for kind in ("sphere", "vort"):
        found = fit(render.simulate(recipe, kind, range(count), 0, "test"))
        top, drawn = peak(found, detect(found, (1e9, 1e10))), draw.draw(recipe, kind, 0, "test", range(count))
        print(f"  {kind}: above {ALARM} sigma {(top.observed > ALARM).sum()} of {count}")
        if kind == "sphere":
            x, y, mass = heaviest(drawn)
            off = np.hypot(*(top.position - np.stack([x, y], 1)).T)
            print(f"    peak within 0.1 arcsec of the heaviest subhalo: {(off < 0.1).sum()}; 0.3: {(off < 0.3).sum()}")
            s = drawn.subhalos
            heavy = np.where(s["mass"] > 1e9, 0, np.inf)
            near = np.hypot(s["x"] - top.position[:, :1], s["y"] - top.position[:, 1:]) + heavy
            print(
                f"    of any above 1e9 Msun: {(near.min(1) < 0.1).sum()}; 0.3: {(near.min(1) < 0.3).sum()}", flush=True
            )


def figure(folder: str) -> None:
    """Two lenses of Model J without substructure, and with one subhalo; one with many, and with a vortex."""
    from darklens.plots.detection import plot_detection
    from darklens.reports.attribution import segments
    from darklens.simulation.truth import Truth

    recipe, place = RECIPES["j"], np.array([[0.9, 0.9], [-1.2, 0.35]])
    images = [render.simulate(recipe, "no", [0], 0, "test"), with_subhalo(recipe, np.array([5e9, 2e9]), place)[0]]
    pieces = [np.zeros((0, 4)), *(np.tile(p, 2)[None] for p in place)]
    for kind in ("sphere", "vort"):
        images.append(render.simulate(recipe, kind, [1], 0, "test"))
        pieces += segments(Truth(draw.draw(recipe, kind, 0, "test", [1]), recipe))
    images = np.concatenate(images).astype(float)
    titles = [
        "no substructure",
        "the same with one of 5e9",
        "another with one of 2e9",
        "many (circles: above 1e9)",
        "vortex",
    ]
    found = fit(images)
    plot_detection(folder, images, found, detect(found, (1e9,)), titles, pieces)


PARTS = {name.removeprefix("report_"): part for name, part in list(globals().items()) if name.startswith("report_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["f", "j"], help="recipes (f j)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (all)")
    parser.add_argument("--lenses", type=int, default=100, help="lenses of each (100)")
    parser.add_argument("--toy", action="store_true", help="three lenses of each")
    parser.add_argument("--figure", metavar="FOLDER", help="only draw detection.png there")
    options = parser.parse_args()
    if options.figure:
        return figure(options.figure)
    for name in options.models:
        for part in options.parts:
            print(f"{name}, {part}:", flush=True)
            PARTS[part](RECIPES[name], 3 if options.toy else options.lenses)


if __name__ == "__main__":
    main()
