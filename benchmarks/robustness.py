"""What happens to a network when images differ from those it was trained on?

    python benchmarks/robustness.py --weights compact-j --model j --count 200

For each kind of change: the accuracy on COUNT test images a class, the share that is flagged (novelty above 1, or a
fit of the smooth lens that says why), and the share flagged among the wrong answers. The images are simulated anew,
from random streams that no data set uses, and changed as the name says.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

import darklens
from darklens.classifier.classifier import Classifier
from darklens.simulation import draw, render
from darklens.simulation.recipes import CLASSES, RECIPES, SimulationConfig, changed

SEED = 424_242  # of no data set
Images = Callable[[SimulationConfig, str, int], np.ndarray]  # recipe, class, count -> (count, n, n)


def drawn_from(**changes: object) -> Images:
    """Images of the recipe with some keys changed, TABLE__KEY=value."""
    keys = {name.replace("__", "."): value for name, value in changes.items()}
    return lambda recipe, kind, count: plain(changed(recipe, keys), kind, count)


def plain(recipe: SimulationConfig, kind: str, count: int) -> np.ndarray:
    return render.simulate(recipe, kind, range(count), SEED, "test").astype(float)


def noise(factor: float) -> Images:
    """The noise's deviation over the signal multiplied: an exposure shorter by the square."""

    def make(recipe: SimulationConfig, kind: str, count: int) -> np.ndarray:
        sky, light = (float(prior.quantile(0.5)) / factor**2 for prior in (recipe.noise.sky, recipe.source.brightness))
        return drawn_from(noise__sky=sky, source__brightness=light)(recipe, kind, count)

    return make


def after(function: Callable[[np.ndarray], np.ndarray]) -> Images:
    """Images that something was done to."""
    return lambda recipe, kind, count: function(plain(recipe, kind, count))


def resampled(images: np.ndarray) -> np.ndarray:
    """Drawn at 141/129 of the size and back again, bilinear, as by a plot."""
    larger = ndimage.zoom(images, (1, 141 / 129, 141 / 129), order=1)
    size = images.shape[-1]
    return ndimage.zoom(larger, (1, size / larger.shape[1], size / larger.shape[2]), order=1)


def clumpy(recipe: SimulationConfig, kind: str, count: int) -> np.ndarray:
    """A source with three clumps of star formation, each with a tenth of its light and a radius of 0.08"."""
    rng, lenses = np.random.default_rng(1), draw.draw(recipe, kind, SEED, "test", range(count))
    rate = render.render(lenses, recipe).numpy().astype(float)
    sky = float(recipe.noise.sky.quantile(0.5))
    for _ in range(3):
        values = dict(lenses.values)
        share = 0.1 * (values["source.effective_radius"] / 0.08) ** 2  # a tenth of the flux of the same profile
        values |= {f"source.{axis}": values[f"source.{axis}"] + rng.normal(0, 0.2, count) for axis in "xy"}
        values |= {"source.effective_radius": np.full(count, 0.08), "source.axis_ratio": np.ones(count)}
        clump = render.render(draw.LensSample(values, lenses.subhalos, lenses.profile), recipe).numpy() - sky
        rate += share[:, None, None] * clump
    return rng.poisson(rate).astype(float)


CHANGES: dict[str, Images] = {
    "as published": plain,
    "8 bits": drawn_from(robust__eight_bits=True),
    "counts per second, half of the sky subtracted": after(lambda image: (image - 6) / 565),
    "twice the sky, without its noise": after(lambda image: image + 12),
    "PSF 3% wider": drawn_from(robust__psf_width=1.03),
    "PSF 5% wider": drawn_from(robust__psf_width=1.05),
    "PSF 5% narrower": drawn_from(robust__psf_width=0.95),
    "PSF 10% wider": drawn_from(robust__psf_width=1.1),
    "noise x 1.2": noise(1.2),
    "correlated noise, 0.6 pixels": drawn_from(noise__correlation=0.6),
    "resampled by a plot": after(resampled),
    "lens centre off by 1 pixel": drawn_from(robust__registration=1),
    "halo's axis ratio 0.8": drawn_from(lens__axis_ratio=0.8, lens__angle=[0, 360]),
    "source's Sersic index 2.5": drawn_from(source__sersic_index=2.5),
    "a lens galaxy with a tenth of the light": drawn_from(
        lens_light={"flux_ratio": 0.1, "effective_radius": 0.3, "axis_ratio": 0.8}
    ),
    "clumpy source": clumpy,
}


def observe(network: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (n,), and whether each image is flagged (n,)."""
    raw, run = torch.from_numpy(images)[:, None], network.observer()
    preprocess = network.preprocess
    view, found = preprocess.with_fit(raw) if preprocess.smooth_model else (preprocess(raw), None)
    logits, parts = run(view)
    flagged = network.novelty.score(parts).numpy() > 1 if network.novelty else np.zeros(len(images), bool)
    return logits.argmax(1).numpy(), flagged | (found.flag != "" if found else False)


def row(network: Classifier, recipe: SimulationConfig, name: str, count: int) -> str:
    """One line of the table."""
    said, flags = zip(*(observe(network, CHANGES[name](recipe, kind, count)) for kind in CLASSES), strict=True)
    wrong, flags = np.stack(said) != np.arange(len(CLASSES))[:, None], np.stack(flags)
    share = f"{100 * flags[wrong].mean():.0f} of {wrong.sum()}" if wrong.any() else "-"
    return f"| {name} | {100 - 100 * wrong.mean():.1f} | {100 * flags.mean():.1f} | {share} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="compact-j", metavar="NETWORK")
    parser.add_argument("--model", choices=("f", "j"), default="j")
    parser.add_argument("--count", type=int, default=100, help="images a class and change (100)")
    args = parser.parse_args()
    network, recipe = darklens.load(args.weights), RECIPES[args.model]
    print("| change | accuracy % | flagged % | of the wrong ones flagged, % |\n|---|---|---|---|")
    for name in CHANGES:
        print(row(network, recipe, name, args.count), flush=True)


if __name__ == "__main__":
    main()
