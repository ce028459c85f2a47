"""How many real images of known class does a network get right?

    python benchmarks/real_panels.py FOLDER                        # every .npz in it, with compact-f and compact-j
    python benchmarks/real_panels.py FOLDER --weights NETWORK.pt

Each .npz holds `images` (n, 150, 150) or (n, 149, 150), of 8 bits or of any unit, and `labels` (n,), names of classes
or their numbers. Of 149 rows the first or the last is missing: both are tried, and the smooth lens that fits better
says which. The figures report; nothing is trained on these images or chosen by them.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

import darklens
from darklens.data.transforms import Preprocess
from darklens.errors import DarkLensError
from darklens.fit import SmoothModel, fit

SIZE = 150


def completed(images: np.ndarray, lens: SmoothModel) -> np.ndarray:
    """(n, 150, 150) float64 of (n, 149 or 150, 150): the missing row as NaN, on the side that fits better."""
    images = images.astype(float)
    if images.shape[1] == SIZE:
        return images
    gap = np.full((len(images), SIZE - images.shape[1], SIZE), np.nan)
    ways = [np.concatenate(parts, 1) for parts in ((gap, images), (images, gap))]
    better = np.argmin([fit(way, lens).chi_square for way in ways], 0)
    return np.where(better[:, None, None] == 0, *ways)


def classify(network, images: np.ndarray) -> np.ndarray:
    """Probabilities (n, K); a missing row lies outside the window."""
    preprocess: Preprocess = network.preprocess
    if preprocess.view == "image":
        images = np.where(np.isfinite(images), images, np.nanmedian(images, (1, 2), keepdims=True))
        return network.predict(images)
    inputs = preprocess(torch.from_numpy(images)[:, None])
    network.network.eval()
    with torch.inference_mode():
        return (network.network(inputs) / (network.temperature or 1)).softmax(1).numpy()


def numbers(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Class numbers of names, or of numbers."""
    return np.array([classes.index(str(label)) if str(label) in classes else int(label) for label in labels])


def report(path: Path, weights: str) -> None:
    """Print the right answers per class of one file."""
    network, data = darklens.load(weights), np.load(path)
    if data["images"].shape[1:] not in ((SIZE, SIZE), (SIZE - 1, SIZE)):
        print(f"{path.name}: passed over, images of {data['images'].shape[1:]} pixels, not 150 x 150 or 149 x 150")
        return
    lens = network.preprocess.smooth_model or SmoothModel()
    images, labels = completed(data["images"], lens), numbers(data["labels"], network.classes)
    said = classify(network, images).argmax(1)
    rows = [f"{name} {(said[labels == k] == k).sum()}/{(labels == k).sum()}" for k, name in enumerate(network.classes)]
    print(f"{path.name}, {weights}: {(said == labels).sum()} of {len(labels)} right ({', '.join(rows)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with .npz files, or one of them")
    parser.add_argument("--weights", nargs="+", default=["compact-f", "compact-j"], metavar="NETWORK")
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.npz")) if args.folder.is_dir() else [args.folder]
    if not (files and files[0].is_file()):
        parser.error(f"{args.folder}: no .npz file there")
    try:
        for path, weights in itertools.product(files, args.weights):
            report(path, weights)
    except DarkLensError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
