"""How fast is `--mode Predict`, against its own parts: the fit and the network alone, on images in memory, in one run?

    python benchmarks/predict.py                     # 2,000 files: a minute or two on two cores
    python benchmarks/predict.py --images 400 --kind fits

The parts: `fit_many` on all cores, then the network on the views. Predict reads, checks, fits, classifies and writes
the table. A ratio of 1 would be reading and writing for nothing. Another program on the machine moves all figures.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from darklens import load, simulate
from darklens.analysis.predict import predict_folder
from darklens.data.residual import view_of
from darklens.lenses.fit import fit_many
from darklens.machine import usable_cores

DISTINCT = 250  # lenses a class: more files are these again


def write(folder: Path, images: np.ndarray, count: int, kind: str) -> None:
    for number in range(count):
        image = images[number % len(images)]
        if kind == "npy":
            np.save(folder / f"{number:06d}.npy", image)
        else:
            from astropy.io import fits

            cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": -0.05 / 3600, "CD2_2": 0.05 / 3600}
            fits.writeto(folder / f"{number:06d}.fits", image.astype("f4"), fits.Header(cards))


def parts(net, images: np.ndarray, precision: str) -> tuple[float, float]:
    """Seconds of the fits on all cores, and of the network."""
    start = time.perf_counter()
    found = fit_many(images, net.preprocess.lens)
    fitted = time.perf_counter()
    views, run = view_of(found, net.preprocess.crop), net.observer(precision)
    for batch in views.split(32):
        run(batch)
    return fitted - start, time.perf_counter() - fitted


def main() -> None:
    parser = argparse.ArgumentParser(description="Time Predict against its parts.")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--weights", default="compact-f")
    parser.add_argument("--kind", choices=("npy", "fits"), default="npy")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    net, each = load(args.weights), min(DISTINCT, -(-args.images // 3))
    lenses = np.concatenate([simulate("f", name, range(each)) for name in ("no", "sphere", "vort")])
    images = lenses[np.arange(args.images) % len(lenses)]
    print(f"{args.images} {args.kind} files, {usable_cores()} cores, torch threads {torch.get_num_threads()}")
    with tempfile.TemporaryDirectory() as folder:
        (survey := Path(folder) / "survey").mkdir()
        write(survey, lenses, args.images, args.kind)
        for _ in range(args.rounds):
            fits, network = parts(net, images, args.precision)
            start = time.perf_counter()
            predict_folder(net, survey, Path(folder) / "out.csv", args.precision, quiet=True)
            took, bare = time.perf_counter() - start, fits + network
            print(f"fit {fits:.1f} s, network {network:.1f} s: {args.images / bare:.1f} files/s")
            print(f"Predict {took:.1f} s: {args.images / took:.1f} files/s, ratio {bare / took:.2f}", flush=True)


if __name__ == "__main__":
    main()
