"""Is the mass fraction in subhalos that detections and their absence give the one that was hidden in the lenses?

    python benchmarks/subhalo_fraction.py --lenses 100 --source sersic     # smooth sources and fits
    python benchmarks/subhalo_fraction.py --lenses 100 --injected 40       # sources with structure, flexible fits

Lenses of the recipe `hst` (WFC3/IR F160W) without lens light, sources as in `hst_sky` or smooth, PSF known, noise white
and measured in each image; point-mass subhalos of 1e8 to 1e10 Msun, dN / dm ~ m^-1.9, within 3". Each is fitted with a
flexible source; a lens whose detection maps exceed the threshold anywhere, or whose smooth fit fails, counts as a
detection. A flexible source takes over part of a subhalo: how much of what the maps expect is left, lenses with one
subhalo say (--injected). Smooth lenses of the same kind say how often there is a detection without any. Prints the
likelihood's interval for the hidden fraction, and for none in half of the smooth lenses with the false alarms of the
other half. Seconds are of one core: run it with OMP_NUM_THREADS=1.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from darklens.fit import SmoothModel, detect, fit
from darklens.fit.assumptions import smooth_model
from darklens.fit.detect import DetectionMap, grid
from darklens.fit.structured import fit_structured
from darklens.fit.structured_map import detect_structured
from darklens.posterior.detections import THRESHOLD, detectable, fraction_likelihood
from darklens.simulation.draw import draw
from darklens.simulation.recipe_file import parse_recipe, recipe_dict
from darklens.simulation.recipes import RECIPES, SimulationConfig
from darklens.simulation.render import simulate

MASSES = 1e9, 1e10
STEP = 3  # pixels between places
BATCH = 5
FRACTIONS = np.linspace(-3.5, -0.8, 55)  # log10
INJECTED = {"profile": "point", "count": 1, "mass": [1e9, 1e10], "slope": -1.0, "radius": [0.4, 1.8]}
SEEN = 25.0  # delta chi-square
AROUND = 0.08 * np.stack(np.meshgrid(*[np.arange(-3, 4)] * 2), -1).reshape(-1, 2)  # arcsec, the middle is (0, 0)
POOR = 1.3  # chi-square a pixel: the smooth lens failed, which counts as a detection too


def recipe(fraction: float, source: str) -> SimulationConfig:
    """The lenses, with a fraction of their mass in subhalos on average."""
    tables = recipe_dict(RECIPES["hst"])
    tables.pop("lens_light")
    if source == "flexible":
        tables["source"]["structure"] = recipe_dict(RECIPES["hst_sky"])["source"]["structure"]
    tables["noise"]["correlation"] = 0.0
    tables["psf"]["fwhm"] = 0.15
    subhalos = {"profile": "point", "mass_fraction": fraction, "mass": [1e8, 1e10], "slope": -1.9, "radius": [0, 3]}
    tables["classes"]["sphere"]["subhalos"] = subhalos
    return parse_recipe(tables)


def fitted_maps(
    images: np.ndarray, model: SmoothModel, masses: Sequence[float], places: np.ndarray, total: np.ndarray
) -> tuple[DetectionMap, np.ndarray]:
    """Maps of images (B, n, n), and chi-square a pixel (B,); `model.source` says which fit."""
    if model.source == "flexible":
        structured = fit_structured(images, model, lenses=True)
        return detect_structured(structured, masses, places, total), structured.fit.chi_square
    fits = fit(images, model, score_test=False)
    return detect(fits, masses, places, total), fits.chi_square


def maps_of(
    config: SimulationConfig, name: str, count: int, seed: int, source: str
) -> tuple[DetectionMap, np.ndarray, np.ndarray]:
    """Maps of the lenses, the mass (B,) within their Einstein radii (Msun), and chi-square a pixel (B,)."""
    model, places = model_of(config, source), grid(95, config.image.pixel_scale, STEP, reach=0.6)
    totals, parts, chi_square = [], [], []
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        images = simulate(config, name, numbers, seed, "test").astype(float)
        totals.append(draw(config, name, seed, "test", numbers)["lens.total_mass"])
        for values, each in zip(
            (parts, chi_square), fitted_maps(images, model, MASSES, places, totals[-1]), strict=True
        ):
            values.append(each)
        print(f"  {name}: {numbers.stop} of {count}", flush=True)
    expected, observed = (np.concatenate([getattr(part, key) for part in parts]) for key in ("expected", "observed"))
    whole = DetectionMap(places, parts[0].masses, expected, observed)
    return whole, np.concatenate(totals), np.concatenate(chi_square)


def model_of(config: SimulationConfig, source: str) -> SmoothModel:
    """What is fitted."""
    return dataclasses.replace(smooth_model(config), source=source)


def responses(config: SimulationConfig, count: int, seed: int, source: str) -> np.ndarray:
    """(K,) the highest that is observed AROUND single subhalos over the root of expected, where that is above SEEN."""
    tables, model, values = recipe_dict(config), model_of(config, source), []
    tables["classes"]["sphere"]["subhalos"] = INJECTED
    alone = parse_recipe(tables)
    for number in range(count):
        image = simulate(alone, "sphere", [number], seed, "test").astype(float)
        lens = draw(alone, "sphere", seed, "test", [number])
        mass, x, y = (float(lens.subhalos[key][0, 0]) for key in ("mass", "x", "y"))
        maps, _ = fitted_maps(image, model, [mass], AROUND + [x, y], lens["lens.total_mass"])
        if (expected := maps.expected[0, 0, len(AROUND) // 2]) > SEEN:
            values.append(maps.observed.max() / expected**0.5)
        print(f"  injected: {number + 1} of {count}", flush=True)
    return np.array(values)


def report(label: str, numbers: np.ndarray, detected: np.ndarray, false_alarms: float) -> None:
    """Print the interval of the fraction."""
    likelihood = fraction_likelihood(numbers, detected, FRACTIONS, false_alarms=false_alarms)
    low, middle, high = 10 ** np.array(likelihood.interval())
    limit = 10 ** float(likelihood.quantile(0.95))
    print(
        f"{label}: {detected.sum()} of {len(detected)} with a detection; fraction {middle:.4f} [{low:.4f}, {high:.4f}] "
        f"(68%), below {limit:.4f} (95%)"
    )


def alarm_rate(by_chance: np.ndarray) -> float:
    """False alarms a lens, from which smooth lenses (B,) have a detection."""
    return float(-np.log1p(-(by_chance.sum() + 0.5) / (len(by_chance) + 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, default=100)
    parser.add_argument("--fraction", type=float, default=0.01, help="the hidden mass fraction (0.01)")
    parser.add_argument("--source", choices=("sersic", "flexible"), default="flexible", help="of lenses and fits")
    parser.add_argument("--injected", type=int, default=0, help="lenses with one subhalo that calibrate the maps (0)")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    args = parser.parse_args()
    config, start = recipe(args.fraction, args.source), time.process_time()
    held = responses(config, args.injected, args.seed + 6, args.source) if args.injected else np.ones(1)
    print(f"observed over the root of expected, {len(held)} injected: {np.quantile(held, (0.16, 0.5, 0.84)).round(2)}")
    results = {}
    for name, seed in (("no", args.seed + 1), ("sphere", args.seed)):
        maps, total, chi_square = maps_of(config, name, args.lenses, seed, args.source)
        highest, poor = maps.observed.max((1, 2)), chi_square > POOR
        above = int((highest > args.threshold).sum())
        print(f"{name}: {above} of {args.lenses} above {args.threshold} sigma, {poor.sum()} poor fits")
        cell = (STEP * config.image.pixel_scale) ** 2
        numbers = detectable(
            maps, cell, config.classes["sphere"].subhalos, total, threshold=args.threshold, responses=held
        )
        results[name] = numbers, (highest > args.threshold) | poor
    numbers, detected = results["sphere"]
    print(f"detectable subhalos a lens, of a fraction {args.fraction}: {args.fraction * numbers.mean():.3f}")
    smooth_numbers, by_chance = results["no"]
    report(f"hidden {args.fraction}", numbers, detected, alarm_rate(by_chance))
    half = len(by_chance) // 2
    report("hidden 0, the second half", smooth_numbers[half:], by_chance[half:], alarm_rate(by_chance[:half]))
    print(f"{(time.process_time() - start) / (2 * args.lenses):.1f} s a lens")


if __name__ == "__main__":
    main()
