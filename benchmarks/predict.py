"""How fast is `--mode Predict`, against its own parts: the fit and the network alone, on images in memory, in one run?

    python benchmarks/predict.py                     # 2,000 files: a minute or two on two cores
    python benchmarks/predict.py --images 400 --kind fits

The parts: the fits in as many processes as Predict has, then the network on the views. Predict reads, checks, fits,
classifies and writes the table. A ratio of 1 would be reading and writing for nothing. Other programs on the machine
move the seconds that pass by a factor of two; those of the CPU, of all processes together, they hardly do.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens import load, simulate
from darklens.data.reader import read_ahead
from darklens.machine import usable_cores
from darklens.survey.predict import predict_folder

BATCH = 32
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


class Views(Dataset):
    """Batches of views, fitted to images in memory."""

    def __init__(self, images: np.ndarray, preprocess):
        self.images, self.preprocess = images, preprocess

    def __getitem__(self, numbers: np.ndarray) -> torch.Tensor:
        return self.preprocess.with_fit(torch.from_numpy(self.images[numbers].astype(float))[:, None])[0]


def clock() -> np.ndarray:
    """Seconds that have passed, and of the CPU, this process and those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)])


def parts(net, images: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the fits on all cores, and of the network, as of `clock`."""
    start = clock()
    chunks = np.array_split(np.arange(len(images)), -(-len(images) // BATCH))
    views = list(read_ahead(Views(images, net.preprocess), chunks, usable_cores(), "images"))
    fitted, run = clock(), net.observer(precision)
    for batch in views:
        run(batch)
    return fitted - start, clock() - fitted


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
            start = clock()
            predict_folder(net, survey, Path(folder) / "out.csv", precision=args.precision, quiet=True)
            took = clock() - start
            for what, f, n, whole in zip(("passed", "of the CPU"), fits, network, took, strict=True):
                rates = f"parts {args.images / (f + n):.1f} files/s, Predict {args.images / whole:.1f}"
                print(f"{what}: fits {f:.1f} s, network {n:.1f} s; {rates}, ratio {(f + n) / whole:.2f}", flush=True)


if __name__ == "__main__":
    main()
