"""How close does the fit of telescope images come to the Einstein radii of simulated lenses, and what does it flag?

    python benchmarks/sky_radii.py                                       # 20 lenses of each of three recipes
    python benchmarks/sky_radii.py --recipes rubin_sky --count 50 --kind vort

The noise is measured in each image; the PSF is that of the middle of the recipe's range, so it may be a few percent
off. Seconds are of one core: run it with OMP_NUM_THREADS=1.
"""

import argparse
import time

import numpy as np

from darklens.fit.assumptions import smooth_model
from darklens.fit.blur import psf_kernel
from darklens.fit.observed.result import ObservedFit
from darklens.fit.observed.run import fit_observed
from darklens.simulation.draw import draw
from darklens.simulation.recipes import CLASSES, RECIPES
from darklens.simulation.render import simulate

SEED = 78


def measure(recipe: str, kind: str, count: int) -> tuple[np.ndarray, list[ObservedFit]]:
    """Relative deviations (count,) of the Einstein radius, and the fits."""
    config, numbers = RECIPES[recipe], range(count)
    model = smooth_model(config)
    truth = draw(config, kind, SEED, "train", numbers)["lens.einstein_radius"]
    images = simulate(config, kind, numbers, SEED).astype(float)
    fits = [fit_observed(image, None, psf_kernel(model), model.pixel_scale) for image in images]
    return np.array([fit.einstein_radius for fit in fits]) / truth - 1, fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["euclid_sky", "hst_sky", "jwst"], help="their names")
    parser.add_argument("--kind", choices=CLASSES, default="sphere", help="the class (sphere)")
    parser.add_argument("--count", type=int, default=20, help="lenses of each (20)")
    args = parser.parse_args()
    print(
        "| recipe | within 5%, 10% | median deviation, % | flagged; of those within 5% | beyond 5%, 10%, no flag | s |"
    )
    print("|---|---|---|---|---|---|")
    for recipe in args.recipes:
        start = time.process_time()
        off, fits = measure(recipe, args.kind, args.count)
        seconds = (time.process_time() - start) / args.count
        off, flagged = np.abs(off), np.array([bool(fit.flag) for fit in fits])
        print(
            f"| {recipe} | {(off < 0.05).sum()}, {(off < 0.1).sum()} of {args.count} | {100 * np.median(off):.1f} | "
            f"{flagged.sum()}; {(flagged & (off < 0.05)).sum()} | {(~flagged & (off >= 0.05)).sum()}, "
            f"{(~flagged & (off >= 0.1)).sum()} | {seconds:.1f} |",
            flush=True,
        )
        words = [word for fit in fits for word in fit.flag.split()]
        print(
            f"  flags of {recipe}:", ", ".join(f"{word} {words.count(word)}" for word in sorted(set(words))) or "none"
        )


if __name__ == "__main__":
    main()
