"""Does the fit say when it is the source that it does not describe, and only then?

    python benchmarks/source_test.py                                  # the smooth lens of compact-wide
    python benchmarks/source_test.py --weights compact-j --stamps FOLDER

Fresh lenses of Models F and J, of `wide`, of `j_sources`, and with --stamps of Model J with pictures of galaxies as
sources. Prints how many are flagged for a source with structure, for something else, and not at all, and what the test
adds to the time of the fits (run it with OMP_NUM_THREADS=1).
"""

import argparse
import time

from structured_sources import recipe

from darklens.classifier import saved
from darklens.fit import fit
from darklens.fit import result as results
from darklens.fit.model import SmoothModel
from darklens.simulation.recipes import CLASSES, RECIPES, SimulationConfig
from darklens.simulation.render import simulate

SEED = 301


def measure(config: SimulationConfig, label: str, model: SmoothModel, count: int) -> None:
    """A line a class."""
    for name in CLASSES:
        images = simulate(config, name, range(count), SEED).astype(float)
        start = time.process_time()
        flags = fit(images, model, pictures=False).flag
        seconds = (time.process_time() - start) / count
        structured, none = (flags == results.STRUCTURED).sum(), (flags == "").sum()
        others = count - structured - none
        print(f"{label:12} {name:7} structure {structured:3}, other flags {others:3}, none {none:3}; {seconds:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="compact-wide", help="whose smooth lens is fitted")
    parser.add_argument("--stamps", help="folder of pictures of galaxies, 0.02 arcsec a pixel")
    parser.add_argument("--count", type=int, default=40, help="lenses a class (40)")
    args = parser.parse_args()
    model = saved.load_model(saved.find_weights(args.weights)).preprocess.smooth_model
    for name in ("f", "j", "wide", "j_sources"):
        measure(RECIPES[name], name, model, args.count)
    if args.stamps:
        measure(recipe("clumpy", args.stamps), "galaxies", model, args.count)


if __name__ == "__main__":
    main()
