"""How many real images of known class does a network get right?

    python benchmarks/real_panels.py FOLDER                        # every .npz in it, with the shipped networks
    python benchmarks/real_panels.py FOLDER --weights NETWORK.pt

FOLDER may be one .npz too, as that of the 179 images of Model J rebuilt from public notebooks' figures.

Each .npz holds `images` (n, 150, 150) or (n, 149, 150), of 8 bits or of any unit, and `labels` (n,), names of classes
or their numbers. Of 149 rows the first or the last is missing: both are tried, and the smooth lens that fits better
says which. The figures report; nothing is trained on these images or chosen by them.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import darklens
from darklens.errors import DarkLensError

SIZE = 150


def completed(images: np.ndarray) -> np.ndarray:
    """(n, 150, 150) float64 of (n, 149 or 150, 150), NaN where a row is missing: of the known file it is the first.

    Its six `no` have a chi-square of 1.00 to 1.02 so, and of 1.14 to 1.30 with the last taken for missing.
    """
    gap = np.full((len(images), SIZE - images.shape[1], SIZE), np.nan)
    return np.concatenate((gap, images.astype(float)), 1)


def numbers(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Class numbers of names, or of numbers."""
    return np.array([classes.index(str(label)) if str(label) in classes else int(label) for label in labels])


def report(path: Path, weights: str) -> None:
    """Print the right answers per class of one file, and how many of the right and wrong ones are flagged."""
    network, data = darklens.load(weights), np.load(path)
    if data["images"].shape[1:] not in ((SIZE, SIZE), (SIZE - 1, SIZE)):
        print(f"{path.name}: passed over, images of {data['images'].shape[1:]} pixels, not 150 x 150 or 149 x 150")
        return
    images, labels = completed(data["images"]), numbers(data["labels"], network.classes)
    images = np.where(np.isfinite(images), images, np.nanmedian(images, (1, 2), keepdims=True))  # outside the window
    table = network.classify(images)
    correct, flagged = numbers(table["class"], network.classes) == labels, table["flag"] != ""
    share = correct.mean()
    error = np.sqrt(share * (1 - share) / len(labels))
    rows = [f"{name} {correct[labels == k].sum()}/{(labels == k).sum()}" for k, name in enumerate(network.classes)]
    print(
        f"{path.name}, {weights}: {correct.sum()} of {len(labels)} right, {100 * share:.1f} +- {100 * error:.1f}% "
        f"({', '.join(rows)}); flagged: {(flagged & ~correct).sum()} of {(~correct).sum()} wrong, "
        f"{(flagged & correct).sum()} of {correct.sum()} right"
    )
    for said, name in zip(table["class"][~correct], data["labels"][~correct], strict=True):
        print(f"    {name} taken for {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with .npz files, or one of them")
    parser.add_argument("--weights", nargs="+", default=["compact-f", "compact-j", "compact-wide"], metavar="NETWORK")
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
