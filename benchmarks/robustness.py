"""What happens to a network when images differ from those it was trained on?

    python benchmarks/robustness.py --weights compact-j --model j --count 200

For each kind of change: the accuracy on COUNT test images a class, the share that is flagged (novelty above 1, or a
fit of the smooth lens that says why), and the share flagged among the wrong answers. The images are simulated anew,
from random streams that no data set uses, and changed as the name says.
"""

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

import darklens
from darklens.classifier.classifier import Classifier
from darklens.lenses import draw, physics, render
from darklens.lenses.deflect import grid
from darklens.lenses.light import blur
from darklens.lenses.recipes import CLASSES, RECIPES, Recipe, changed

SEED = 424_242  # of no data set


def expected(recipe: Recipe, kind: str, count: int) -> np.ndarray:
    """Counts without noise (count, n, n) of a class, sky included."""
    return render.render(draw.draw(recipe, kind, SEED, "test", range(count)), recipe).numpy().astype(float)


def noisy(rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(rate).astype(float)


def psf(factor: float) -> Callable:
    def change(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
        other = changed(recipe, {"psf.fwhm": recipe.psf.fwhm.values[0] * factor})
        return noisy(expected(other, kind, count), rng)

    return change


def noise(factor: float) -> Callable:
    """Deviation of the noise multiplied: Poisson counts of an exposure shorter by the square."""

    def change(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
        return noisy(expected(recipe, kind, count) / factor**2, rng)

    return change


def correlated(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise as of a drizzled image: smoothed over 0.6 pixels, its deviation kept."""
    rate = expected(recipe, kind, count)
    white = rng.normal(size=rate.shape)
    smooth = ndimage.gaussian_filter(white, (0, 0.6, 0.6))
    return rate + np.sqrt(rate) * smooth / smooth.std()


def lens_light(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """A lens galaxy (Sersic n = 4, 0.3" radius) with a fifth of the arcs' peak at its effective radius."""
    rate = expected(recipe, kind, count)
    x, y = (axis.double() for axis in grid(changed(recipe, {"image.supersample": 1})))
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    galaxy = physics.sersic(x, y, 4.0, 0.3 * one, 0.8 * one, 0.5 * one)
    galaxy = blur(galaxy, recipe, recipe.psf.fwhm.values[0], 0).numpy()
    return noisy(rate + 0.2 * (rate - recipe.noise.sky.values[0]).max((1, 2), keepdims=True) * galaxy, rng)


def clumpy(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """A source with three clumps of star formation, each with a tenth of its light, of 0.08" radius."""
    lenses = draw.draw(recipe, kind, SEED, "test", range(count))
    rate = render.render(lenses, recipe).numpy().astype(float)
    for _ in range(3):
        step = rng.normal(0, 0.2, (2, count))
        other = {"source.x": lenses["source.x"] + step[0], "source.y": lenses["source.y"] + step[1]}
        other |= {"source.effective_radius": np.full(count, 0.08)}
        light, _ = render.light_and_sky(dataclasses.replace(lenses, values=lenses.values | other), recipe)
        share = 0.1 * (lenses["source.effective_radius"] / 0.08) ** 2  # of the flux, at the same profile
        rate += share[:, None, None] * light.numpy()
    return noisy(rate, rng)


def resampled(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Drawn at 141/129 of its size and back again, bilinear, as by a plot."""
    images = noisy(expected(recipe, kind, count), rng)
    larger = ndimage.zoom(images, (1, 141 / 129, 141 / 129), order=1)
    size = images.shape[-1]
    return ndimage.zoom(larger, (1, size / larger.shape[1], size / larger.shape[2]), order=1)


def eight_bits(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    images = noisy(expected(recipe, kind, count), rng)
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    return np.floor(255 * (images - low) / (high - low))


def unit(function: Callable) -> Callable:
    def change(recipe: Recipe, kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
        return function(noisy(expected(recipe, kind, count), rng), recipe)

    return change


CHANGES = {
    "as trained": noise(1.0),
    "8 bits": eight_bits,
    "half the sky subtracted": unit(lambda image, recipe: image - recipe.sky / 2),
    "twice the sky, without its noise": unit(lambda image, recipe: image + recipe.sky),
    "counts per second": unit(lambda image, recipe: image / 565 - 3),
    "PSF 3% wider": psf(1.03),
    "PSF 5% wider": psf(1.05),
    "PSF 5% narrower": psf(0.95),
    "PSF 10% wider": psf(1.1),
    "noise x 1.2": noise(1.2),
    "correlated noise": correlated,
    "resampled": resampled,
    "a lens galaxy's light": lens_light,
    "clumpy source": clumpy,
}


def observe(network: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (n,), and whether each image is flagged (n,)."""
    raw, run = torch.from_numpy(images)[:, None], network.observer()
    view, found = network.preprocess.with_fit(raw) if network.preprocess.lens else (network.preprocess(raw), None)
    logits, parts = run(view)
    flagged = network.novelty.score(parts).numpy() > 1 if network.novelty else np.zeros(len(images), bool)
    return logits.argmax(1).numpy(), flagged | (found.flag != "" if found else False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="compact-j", metavar="NETWORK")
    parser.add_argument("--model", choices=sorted(RECIPES), default="j")
    parser.add_argument("--count", type=int, default=100, help="images a class and change (100)")
    args = parser.parse_args()
    network, recipe = darklens.load(args.weights), RECIPES[args.model]
    print("| change | accuracy % | flagged % | of the wrong ones % |\n|---|---|---|---|")
    for name, change in CHANGES.items():
        rng, said, flagged = np.random.default_rng(1), [], []
        for kind in CLASSES:
            for part, values in zip(
                (said, flagged), observe(network, change(recipe, kind, args.count, rng)), strict=True
            ):
                part.append(values)
        wrong = np.stack(said) != np.arange(len(CLASSES))[:, None]
        flags = np.stack(flagged)
        share = f"{100 * flags[wrong].mean():.0f} (of {wrong.sum()})" if wrong.any() else "-"
        print(f"| {name} | {100 - 100 * wrong.mean():.1f} | {100 * flags.mean():.1f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
