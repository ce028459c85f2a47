"""How fast a survey's images are rendered: against lenstronomy on the same lenses, in one run.

    python benchmarks/survey.py                      # about a minute
    python benchmarks/survey.py --recipe euclid --images 10

CPU time of one thread before noise, the best of some repeats: SIE, shear, source and lens light, with the recipe's
PSF. `--recipe hst` has a Moffat by FFT. The difference is that of the first lens in float32, over the peak.
Needs lenstronomy.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lenses")]

import test_survey_images as checks  # noqa: E402  the translation to lenstronomy that the tests check

from darklens.lenses.drawn import draw  # noqa: E402
from darklens.lenses.psf import moffat_kernel  # noqa: E402
from darklens.lenses.recipe_file import load_recipe  # noqa: E402
from darklens.lenses.recipe_tables import SurveyRecipe  # noqa: E402
from darklens.lenses.survey import simulate  # noqa: E402
from darklens.lenses.survey_render import light_and_sky  # noqa: E402


def per_core(make: Callable, lenses: list, repeats: int = 3) -> float:
    """Images per second of CPU time, the best of some repeats: other programs only slow it."""
    make(lenses[0])
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        for lens in lenses:
            make(lens)
        rates.append(len(lenses) / (time.process_time() - start))
    return max(rates)


def compare(recipe: SurveyRecipe, class_name: str, images: int) -> tuple[float, float, float]:
    """Ours and lenstronomy's images/s per core, and the largest difference over the peak of the first lens."""
    drawn = draw(recipe, class_name, 0, "train", range(images))
    lenses = [drawn[i : i + 1] for i in range(images)]
    pixels = recipe.psf.fwhm.values[0] / recipe.image.pixel_scale
    kernel = moffat_kernel(pixels, recipe.psf.beta.values[0]) if recipe.psf.kind == "moffat" else None
    ours = per_core(lambda lens: light_and_sky(lens, recipe), lenses)
    theirs = per_core(lambda lens: checks.lenstronomy_image(lens, recipe, kernel), lenses)
    expected = checks.lenstronomy_image(lenses[0], recipe, kernel)
    light = light_and_sky(lenses[0], recipe)[0][0].numpy()
    return ours, theirs, float(np.abs(light - expected).max() / expected.max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the rendering of survey images.")
    parser.add_argument("--recipe", default="hst", choices=("euclid", "hst", "rubin"))
    parser.add_argument("--images", type=int, default=10, help="lenses a class (default: 10)")
    args = parser.parse_args()
    fwhm = load_recipe(args.recipe).psf.fwhm.values[0]
    recipe = checks.edited(args.recipe, psf={"fwhm": fwhm, "edges": "zero"})  # their edges; their PSF is fixed
    torch.set_num_threads(1)
    print(f"{args.recipe:8}  ours/s  lenstronomy/s  ratio  difference")
    for class_name in ("no", "sphere"):
        ours, theirs, off = compare(recipe, class_name, args.images)
        print(f"{class_name:8} {ours:7.0f} {theirs:14.1f} {ours / theirs:6.1f} {off:11.1e}")
    noisy = per_core(lambda c: simulate(recipe, c, range(args.images)), ["no"])
    print(f"drawn, rendered and with noise: {noisy * args.images:.0f} images/s per core")


if __name__ == "__main__":
    main()
