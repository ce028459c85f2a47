"""How fast the simulator is: against lenstronomy on the same lenses, and from nothing to files on the disk.

    python benchmarks/simulator.py                   # about a minute on two cores
    python benchmarks/simulator.py --images 50 --written 900 --device cuda

"Per core" is CPU time of one thread, the best of some repeats, ours of one batch; the rest is time on the clock.
Needs lenstronomy.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from darklens import machine
from darklens.simulation import draw, recipes, render, writer

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the translation that the tests check
PUBLISHED = 82_500  # images of a published data set: 25,000 + 2,500 in each of three classes


def per_core(make: Callable[[draw.LensSample], object], lenses: list, repeats: int = 5) -> float:
    """Images per second of CPU time, the best of some repeats: other programs only slow it."""
    make(lenses[0])
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        for lens in lenses:
            make(lens)
        rates.append(len(lenses) / (time.process_time() - start))
    return max(rates)


def compare(recipe: recipes.SimulationConfig, class_name: str, images: int) -> tuple[float, float, float]:
    """Per core on the same lenses, before noise: ours, lenstronomy's, and the largest difference over the
    peak (of the first lens).

    lenstronomy has no rod: a vortex is 25 point masses there, as many as a lens has subhalos, too few to be
    the same image. It is compared in speed alone (the difference is NaN).
    """
    from lenstronomy_reference import lenstronomy_image

    drawn = draw.draw(recipe, class_name, 0, "train", range(images))
    lenses = [drawn[i : i + 1] for i in range(images)]
    ours = per_core(lambda batch: render.render(batch, recipe), [drawn]) * images
    theirs = per_core(lambda lens: lenstronomy_image(lens, recipe, nodes=25), lenses)
    if class_name == "vort":
        return ours, theirs, float("nan")
    expected = lenstronomy_image(lenses[0], recipe)
    light = render.light_and_sky(lenses[0], recipe)[0][0].numpy()
    return ours, theirs, float(np.abs(light - expected).max() / expected.max())


def written_per_second(recipe: recipes.SimulationConfig, images: int, device: str) -> tuple[float, float]:
    """Images/s of a whole `write_dataset`, and once its processes run: a small one's time taken off."""
    counts, seconds = (210, images), []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            writer.write_dataset(folder, recipe, {"train": count // 3}, device=device, quiet=True)
            seconds.append(time.perf_counter() - start)
    return images / seconds[1], (counts[1] - counts[0]) / (seconds[1] - seconds[0])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the simulator.")
    parser.add_argument("--model", choices=("f", "j"), default="f")
    parser.add_argument("--images", type=int, default=30, help="lenses a class for the comparison (default: 30)")
    parser.add_argument("--written", type=int, default=3000, help="images to write (default: 3000)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what writes them (default: cpu)")
    args = parser.parse_args()
    recipe = recipes.RECIPES[args.model]
    torch.set_num_threads(1)

    print("class    ours/s  lenstronomy/s  ratio  difference   (per core, before noise, ours in float32)")
    rates = [compare(recipe, class_name, args.images) for class_name in recipes.CLASSES]
    for class_name, (ours, theirs, off) in zip(recipes.CLASSES, rates, strict=True):
        print(f"{class_name:7} {ours:7.0f} {theirs:14.1f} {ours / theirs:6.1f} {off:11.1e}")
    ours, theirs = (statistics.harmonic_mean(column) for column in list(zip(*rates, strict=True))[:2])
    print(f"all     {ours:7.0f} {theirs:14.1f} {ours / theirs:6.1f}")

    noisy = per_core(lambda c: render.simulate(recipe, c, range(args.images)), list(recipes.CLASSES))
    print(f"drawn, rendered and with noise: {noisy * args.images:.0f} images/s per core")
    whole, steady = written_per_second(recipe, args.written, args.device)
    print(f"written to disk, {args.device}, {machine.usable_cores()} cores: {whole:.0f} images/s,", end=" ")
    print(f"{steady:.0f} once started: {PUBLISHED / steady / 60:.1f} min for {PUBLISHED} images")


if __name__ == "__main__":
    main()
