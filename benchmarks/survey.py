"""How fast a survey's images are rendered: against lenstronomy on the same lenses, in one run.

    python benchmarks/survey.py                      # about a minute
    python benchmarks/survey.py --recipe euclid --images 10

CPU time of one thread before noise, the best of some repeats: SIE, shear, source and lens light, with the recipe's
PSF. `--recipe hst` has a Moffat by FFT. The difference is that of the first lens in float32, over the peak.
Needs lenstronomy.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))  # the translation to lenstronomy that the tests check
from lenstronomy_reference import lenstronomy_image  # noqa: E402
from simulated import edited  # noqa: E402

from darklens.simulation.draw import draw  # noqa: E402
from darklens.simulation.psf import moffat_kernel  # noqa: E402
from darklens.simulation.recipes import SimulationConfig, load_recipe  # noqa: E402
from darklens.simulation.render import light_and_sky, simulate  # noqa: E402

CLASSES = {  # those of Model F: lenstronomy has no rod, a vortex is 25 point masses there, and compared in speed alone
    "no": {},
    "sphere": {"subhalos": {"count": 25, "mass": [1e6, 1e10], "slope": -0.9, "radius": [0, 2]}},
    "vort": {"vortex": {"mass_fraction": 0.04, "length": 2}},
}


def rate(make: Callable[[], object], images: int, repeats: int = 3) -> float:
    """Images per second of CPU time, the best of some repeats: other programs only slow it."""
    make()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        make()
        seconds.append(time.process_time() - start)
    return images / min(seconds)


def compare(recipe: SimulationConfig, class_name: str, images: int) -> tuple[float, float, float]:
    """Ours and lenstronomy's images/s per core, and the largest difference over the peak of the first lens."""
    drawn = draw(recipe, class_name, 0, "train", range(images))
    points = draw(recipe, "sphere", 0, "train", range(images)) if class_name == "vort" else drawn
    lenses = [points[i : i + 1] for i in range(images)]
    pixels = recipe.psf.fwhm.values[0] / recipe.image.pixel_scale
    kernel = moffat_kernel(pixels, recipe.psf.beta.values[0]) if recipe.psf.kind == "moffat" else None
    ours = rate(lambda: light_and_sky(drawn, recipe), images)
    theirs = rate(lambda: [lenstronomy_image(lens, recipe, kernel) for lens in lenses], images)
    if class_name == "vort":
        return ours, theirs, float("nan")
    expected = lenstronomy_image(lenses[0], recipe, kernel)
    light = light_and_sky(lenses[0], recipe)[0][0].numpy()
    return ours, theirs, float(np.abs(light - expected).max() / expected.max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the rendering of survey images.")
    parser.add_argument("--recipe", default="hst", choices=("euclid", "hst", "rubin"))
    parser.add_argument("--images", type=int, default=20, help="lenses a class (default: 20)")
    args = parser.parse_args()
    fwhm = load_recipe(args.recipe).psf.fwhm.values[0]
    table = {"psf": {"fwhm": fwhm, "edges": "zero"}, "image": {"supersample": 2}}  # their edges; their PSF is fixed
    own = edited(args.recipe, **table)
    recipe = edited(args.recipe, **table, classes=CLASSES)
    torch.set_num_threads(1)
    print(f"{args.recipe:11} ours/s  lenstronomy/s  ratio  difference")
    rates = {name: compare(recipe, name, args.images) for name in CLASSES}
    for name, (ours, theirs, off) in rates.items():
        print(f"{name:11} {ours:6.0f} {theirs:14.1f} {ours / theirs:6.1f} {off:11.1e}")
    ours, theirs = (statistics.harmonic_mean([r[k] for r in rates.values()]) for k in (0, 1))
    print(f"{'all':11} {ours:6.0f} {theirs:14.1f} {ours / theirs:6.1f}")
    ours, theirs, off = compare(own, "sphere", args.images)
    print(f"{'tnfw':11} {ours:6.0f} {theirs:14.1f} {ours / theirs:6.1f} {off:11.1e}")
    noisy = rate(lambda: simulate(own, "no", range(args.images)), args.images)
    print(f"drawn, rendered and with noise, class no: {noisy:.0f} images/s per core")


if __name__ == "__main__":
    main()
