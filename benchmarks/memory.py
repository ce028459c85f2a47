"""Does a long training run lose memory, files or figures?

  python benchmarks/memory.py --epochs 300

Trains a tiny network for many epochs, with curves drawn every tenth, and prints the slope of its resident memory (least
squares over the epochs after the first third) beside the scatter about that line, and what is open at start and end.
Memory is measured when the curves are drawn, after Python's collector has run and the C library has given back what it
keeps in store: both keep some 50 MB for the next drawing, which is no loss. Linux only.
"""

import argparse
import ctypes
import gc
import os
import tempfile
from pathlib import Path

import numpy as np

from darklens.classifier import saved
from darklens.data import batches as data_batches
from darklens.data import folder as data_folder
from darklens.training import recipes, trainer

CLASSES = "no", "sphere", "vort"


def resident() -> float:
    """kB of memory that this process has in use, garbage and stores left out."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def open_things() -> dict[str, int]:
    """Files, threads and figures that exist now."""
    from matplotlib.figure import Figure

    gc.collect()
    figures = sum(issubclass(type(item), Figure) for item in gc.get_objects())
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "figures": figures,
    }


def write_images(folder: Path) -> Path:
    """Noise of three strengths."""
    dice = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4}.items():
        for k, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                np.save(folder / split / name / f"{i}.npy", dice.poisson(30 * (k + 1), (40, 40)).astype("u2"))
    return folder


def new_trainer(images: Path, folder: Path, epochs: int, streamed: bool):
    """A trainer of a tiny network on these images; streamed: they are read anew in every epoch."""
    data = data_folder.scan(images)
    classifier = saved.new_classifier(data, {"sym_group": "Circular", "N": 2, "arch": "compact", "head": "pooled"})
    recipe = recipes.choose_recipe("original", epochs=epochs, batch_size=8)
    options = {"memory_limit": 0 if streamed else None, "workers": 0, "progress": False}
    batches = data_batches.open_batches(data, ("train", "val"), classifier.preprocess, 8, **options)
    return trainer.Trainer(classifier, batches["train"], batches["val"], recipe, folder, quiet=True)


def measure(run, every: int) -> np.ndarray:
    """Fit, drawing the curves every so many epochs; returns epoch and memory (kB) then, (n, 2)."""
    found = []

    def after_epoch(curves: dict, learning_rate: float) -> None:
        epoch = len(curves["train_loss"])
        due = epoch % every == 0
        run.plotted_at = -np.inf if due else np.inf  # the curves are drawn, or not, right after this
        if due:
            found.append((epoch, resident()))

    run.on_epoch, run.log = after_epoch, lambda line: None
    run.fit()
    return np.array(found)


def report(found: np.ndarray) -> str:
    """The slope after warming up, and the scatter about it."""
    epochs, memory = found[len(found) // 3 :].T
    slope, offset = np.polyfit(epochs, memory, 1)
    scatter = np.std(memory - (slope * epochs + offset))
    return (
        f"{slope:+.2f} kB an epoch over epochs {epochs[0]:.0f} to {epochs[-1]:.0f} (scatter {scatter:.0f} kB), "
        f"{memory[0] / 1024:.1f} MB at first, {memory[-1] - memory[0]:+.0f} kB at the end"
    )


def main() -> None:
    """Measure both ways of reading images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--draw_every", type=int, default=10, help="epochs between drawings of the curves (10)")
    options = parser.parse_args()
    for streamed in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            images = write_images(Path(folder) / "images")
            run = new_trainer(images, Path(folder), options.epochs, streamed)
            before = open_things()
            memory = measure(run, options.draw_every)
            after = open_things()
        print(f"images {'streamed' if streamed else 'in memory'}: {report(memory)}")
        print("  " + ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before))


if __name__ == "__main__":
    main()
