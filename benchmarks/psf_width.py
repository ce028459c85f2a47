"""Does the flexible source's fit say that the PSF is not as wide as assumed, and what does the error do to ln B?

    python benchmarks/psf_width.py --count 4                                # PSFs 10, 20, 80% wider, 10, 20% narrower
    python benchmarks/psf_width.py --count 17 --widths 1                    # false flags
    python benchmarks/psf_width.py --count 10 --widths 1 --seed 6           # on lenses that chose no threshold

Lenses of Model J, with its source or with structured ones (`j_sources`), whose PSF is so many times as wide as the fit
takes it to be; noise measured in each image. Prints how many are flagged, and medians and largest values of ln B and
chi-square a pixel. Seconds are of one core: run it with OMP_NUM_THREADS=1.
"""

import argparse
import time

import numpy as np

from darklens.fit.assumptions import smooth_model
from darklens.fit.psf_width import NARROWER, WIDER
from darklens.fit.result import Fit, join
from darklens.fit.structured import fit_structured
from darklens.simulation.recipe_file import parse_recipe, recipe_dict
from darklens.simulation.recipes import RECIPES
from darklens.simulation.render import simulate

WIDTHS = 1.1, 1.2, 1.8, 0.9, 0.8
GROUPS = ("no",), ("sphere", "vort")


def fits(preset: str, width: float, name: str, count: int, seed: int) -> Fit:
    """Of lenses whose PSF is `width` times as wide as the preset's."""
    tables = recipe_dict(RECIPES[preset])
    tables["psf"]["fwhm"] *= width
    config, model = parse_recipe(tables), smooth_model(RECIPES[preset])
    images = (simulate(config, name, [i], seed).astype(float) for i in range(count))
    return join([fit_structured(image, model).fit for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4, help="lenses a class (4)")
    parser.add_argument("--widths", type=float, nargs="+", default=WIDTHS, help="of the PSF over the fit's")
    parser.add_argument("--presets", nargs="+", default=["j_sources", "j"])
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    print("| preset | PSF | classes | wider, narrower | ln B | chi-square | s |   medians (largest)", flush=True)
    for preset in args.presets:
        for width in args.widths:
            for names in GROUPS:
                start = time.process_time()
                result = join([fits(preset, width, name, args.count, args.seed) for name in names])
                seconds = (time.process_time() - start) / len(result)
                print(f"| {preset} | {width:g} | {', '.join(names)} | {row(result)} | {seconds:.1f} |", flush=True)


def row(result: Fit) -> str:
    """Cells of the table."""
    wider, narrower = (int((result.flag == flag).sum()) for flag in (WIDER, NARROWER))
    log_b, chi_square = result.log_bayes_factor, result.chi_square
    return (
        f"{wider}, {narrower} of {len(result)} | {np.median(log_b):.0f} ({log_b.max():.0f})"
        f" | {np.median(chi_square):.2f} ({chi_square.max():.2f})"
    )


if __name__ == "__main__":
    main()
