"""What does a trained network see in images that nobody has labelled?

    classifier = load_model("images_f_D_8/2026-11-22-10-30-00/best-model-parameters.pt")
    counts = predict_folder(classifier, "survey", "predictions.csv")
    print(counts.summary())

Any folder of .npy, FITS, PNG and TIFF files, folders in it too, or one file. Every image file gets a row in a CSV
table (UTF-8, RFC 4180), in order of folder and name:

    file          relative to the folder; bytes that are no UTF-8 as \xff
    class         the likeliest; empty for a file that was rejected
    p_...         probability of each class
    calibrated_...   the same at the temperature fitted on validation images; empty where the network has none
    novelty       above 1.0: unlike the training data; empty where the network has no such score
    flag          empty, or what to beware of, or why the file was rejected
    unit          of the pixels, where the file says; nothing depends on it
    note          what the reader of the file has to say

Images larger than the network's input are cropped about their centre. Smaller, oblong ones, or with another number of
channels, are rejected, never resized: a lens has the size on the detector that it has. The network knows arcseconds
only as pixels of its training images (0.05" in the simulated ones), and no file is checked for that.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch import Tensor

from darklens.analysis.pictures import find_pictures
from darklens.classifier.classifier import Classifier
from darklens.data.image import read_picture
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.storage.files import cannot_write, replacing
from darklens.storage.progress import progress

UNLIKE, CONSTANT, FILLED = "unlike training data", "constant image", "NaN border filled"
THREADS = 4  # that read and preprocess
AHEAD = 4  # batches that may be read before the network asks for them


class Counts(NamedTuple):
    """Files that were classified, those among them with a flag, files rejected; strays and hidden files skipped."""

    classified: int
    flagged: int
    rejected: int
    skipped: int

    def summary(self) -> str:
        """One line for people."""
        why = " (the column `flag` says why)" if self.rejected else ""
        return (
            f"{self.classified} images classified, {self.flagged} of them flagged; {self.rejected} rejected{why}; "
            f"{self.skipped} other files and folders skipped"
        )


@dataclass
class Item:
    """One file: its image (C, S, S), preprocessed, or None and the reason why it was rejected.

    figures: class, probabilities, calibrated ones and novelty, as text, once the network has seen the image.
    """

    name: str
    image: Tensor | None = None
    reason: str = ""
    flags: list[str] = field(default_factory=list)
    unit: str = ""
    note: str = ""
    figures: list[str] = field(default_factory=list)


def predict_folder(
    classifier: Classifier,
    folder: str | Path,
    output: str | Path,
    precision: str = "fp32",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    threads: int = THREADS,
    quiet: bool = False,
) -> Counts:
    """Classify every image under `folder`, or the one file that it is, and write the table to `output`.

    device: None: where the network is. Only names, and a few batches, are ever in memory. The table appears whole
    or not at all: a file that was there stays until the last row is written. The order and, up to rounding, the
    figures depend on neither batch size nor threads.

    Raises DataError if there is no image or if all were rejected, ResultsError if the table cannot be written.
    """
    root, names, skipped = find_pictures(folder)
    read = partial(read_item, root, classifier.preprocess, classifier.network.config["channels"])
    judge = _judge(classifier, precision, device)
    counts, reason = {"classified": 0, "flagged": 0, "rejected": 0}, ""
    bar = progress(len(names), "predicting", "img", quiet)
    items = read_ahead(read, names, threads, AHEAD * batch_size)
    restored = warnings.catch_warnings()  # the readers silence them, each for itself, and may cross in doing so
    with restored, bar, contextlib.closing(items), _table(output) as file:
        table = csv.writer(file)
        table.writerow(columns(classifier.classes))
        for batch in iter(lambda: list(itertools.islice(items, batch_size)), []):
            judge(batch)
            for item in batch:
                table.writerow(_row(item, len(classifier.classes)))
                kind = "classified" if item.image is not None else "rejected"
                counts[kind] += 1
                counts["flagged"] += bool(item.flags)
                reason = reason or item.reason
            bar.update(len(batch))
        if not counts["classified"]:
            raise DataError(f"{folder}: no file of {len(names)} is an image for this network; the first: {reason}")
    return Counts(**counts, skipped=skipped)


@contextlib.contextmanager
def _table(path: str | Path) -> Iterator[TextIO]:
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise cannot_write(Path(path), error) from error


def read_item(root: str, preprocess: Preprocess, channels: int, name: str) -> Item:
    """Read, check, crop and normalise one file; what is wrong with it becomes the item's reason."""
    path = os.path.join(root, name)
    try:
        picture = read_picture(path)
        _check_shape(path, picture.pixels.shape, channels, preprocess.window)
    except DataError as error:
        return Item(name, reason=str(error).removeprefix(str(DataError(f"{path}: "))))
    flags = [CONSTANT] if picture.pixels.min() == picture.pixels.max() else []
    flags += [FILLED] if picture.masked else []
    image = preprocess(torch.from_numpy(picture.pixels)[None])[0]
    return Item(name, image, "", flags, picture.unit or "", picture.note)


def _check_shape(path: str, shape: tuple[int, ...], channels: int, window: int) -> None:
    found, height, width = shape
    if found != channels:
        advice = "; write each plane to a file of its own" if channels == 1 else ""
        raise DataError(f"{path}: expected {channels} channel(s), as in the training data, found {found}{advice}")
    if height != width or height < window:
        raise DataError(f"{path}: expected a square image of {window} pixels or more, found {height} x {width}")


def read_ahead(function: Callable, items: Iterable, threads: int, most: int) -> Iterator:
    """function(item) of each, in order, computed by threads, never more than `most` ahead of what was taken."""
    pool, waiting = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def columns(classes: Sequence[str]) -> list[str]:
    """The names of the table's columns."""
    probabilities = [f"{kind}_{name}" for kind in ("p", "calibrated") for name in classes]
    return ["file", "class", *probabilities, "novelty", "flag", "unit", "note"]


def _judge(classifier: Classifier, precision: str, device) -> Callable[[list[Item]], None]:
    """A function that gives items their figures, and flags those that are unlike the training data."""
    run = classifier.observer(precision, device)

    def judge(items: list[Item]) -> None:
        items = [item for item in items if item.image is not None]
        if not items:
            return
        logits, parts = run(torch.stack([item.image for item in items]))
        scores = classifier.novelty.score(parts).tolist() if classifier.novelty else [None] * len(items)
        for item, cells, score in zip(items, _figures(classifier, logits.cpu().double()), scores, strict=True):
            item.figures = [*cells, "" if score is None else f"{score:.4g}"]
            item.flags += [UNLIKE] if score is not None and score > 1 else []

    return judge


def _figures(classifier: Classifier, logits: Tensor) -> Iterator[list[str]]:
    """Class and probabilities, as text, of each row of logits (B, K)."""
    names, temperature = [classifier.classes[k] for k in logits.argmax(1).tolist()], classifier.temperature
    calibrated = _text((logits / temperature).softmax(1)) if temperature else [[""] * logits.shape[1]] * len(logits)
    for name, plain, tempered in zip(names, _text(logits.softmax(1)), calibrated, strict=True):
        yield [name, *plain, *tempered]


def _text(probabilities: Tensor) -> list[list[str]]:
    return [[f"{p:.6f}" for p in row] for row in probabilities.tolist()]


def _row(item: Item, classes: int) -> list[str]:
    name = os.fsencode(item.name).decode("utf-8", "backslashreplace")
    figures = item.figures or [""] * (2 + 2 * classes)
    return [name, *figures, item.reason or "; ".join(item.flags), item.unit, item.note]
