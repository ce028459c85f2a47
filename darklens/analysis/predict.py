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
    einstein_radius, shear, source_x, ... and their standard deviations ..._sd, chi_square per pixel: of the smooth
                  lens (arcsec, radians), where the network sees what it leaves of the image
    CLASS_...     how much dark matter, given the class: median, 16% and 84% of its posterior, ..._above_limit the
                  probability of more than the detection limit; where the network has learned it
    flag          empty, or what to beware of, or why the file was rejected
    unit          of the pixels, where the file says; nothing depends on it
    note          what the reader of the file has to say

Images larger than the network's input are cropped, each axis about its own centre; what is not looked at need not be
finite. Smaller ones, or with another number of channels, are rejected, never resized: a lens has the size on the
detector that it has. The network knows arcseconds only as pixels of its training images (0.05" in the simulated ones),
and no file is checked for that.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from darklens import machine
from darklens.analysis.pictures import find_pictures
from darklens.classifier.classifier import Classifier
from darklens.classifier.features import Probe
from darklens.data.checks import central
from darklens.data.image import check_channels, read_picture
from darklens.data.outputs import check_output
from darklens.data.reader import read_ahead
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.storage.files import cannot_write, replacing
from darklens.storage.progress import progress

UNLIKE, CONSTANT, FILLED = "unlike training data", "constant image", "NaN border filled"


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


@dataclass(eq=False)
class Item:
    """One file: what the network sees of it (C, S, S), or None and the reason why it was rejected.

    lens: the table of its smooth lens, where the network sees residuals. figures: class, probabilities, calibrated
    ones and novelty, as text, and dark_matter: what its posterior says, once the network has seen the image.
    """

    name: str
    image: np.ndarray | None = None
    reason: str = ""
    flags: list[str] = field(default_factory=list)
    unit: str = ""
    note: str = ""
    lens: dict[str, float] = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)
    dark_matter: list[float] = field(default_factory=list)


def predict_folder(
    classifier: Classifier,
    folder: str | Path,
    output: str | Path,
    precision: str = "fp32",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Counts:
    """Classify every image under `folder`, or the one file that it is, and write the table to `output`.

    device: None: where the network is. workers: processes that read, and fit (None: one a core). Only names, and a few
    batches, are ever in memory. The table appears whole or not at all: a file that was there stays until the last row
    is written. The order and, up to rounding, the figures depend on neither batch size nor workers.

    Raises DataError if there is no image or if all were rejected, UsageError if the table would replace an image,
    ResultsError if it cannot be written.
    """
    check_output("--output", output, folder)
    root, names, skipped = find_pictures(folder)
    reader = Items(root, names, classifier.preprocess, classifier.channels)
    chunks = [np.arange(i, min(i + batch_size, len(names))) for i in range(0, len(names), batch_size)]
    workers = machine.usable_cores() if workers is None else workers
    items = read_ahead(reader, chunks, workers if len(chunks) > 1 else 0, str(folder))
    classify = _classify(classifier, precision, device)
    counts, reason = {"classified": 0, "flagged": 0, "rejected": 0}, ""
    with progress(len(names), "predicting", quiet=quiet) as bar, contextlib.closing(items), _table(output) as file:
        table = csv.writer(file)
        table.writerow(columns(classifier))
        for batch in items:
            classify(batch)
            for item in batch:
                table.writerow(_row(item, columns(classifier)))
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


class Items(Dataset):
    """The files of a folder, read, checked and as the network sees them, by their numbers."""

    def __init__(self, root: str, names: Sequence[str], preprocess: Preprocess, channels: int):
        self.root, self.names, self.preprocess, self.channels = root, names, preprocess, channels

    def __getitem__(self, numbers: np.ndarray) -> list[Item]:
        return [read_item(self.root, self.preprocess, self.channels, self.names[i]) for i in numbers]


def read_item(root: str, preprocess: Preprocess, channels: int, name: str) -> Item:
    """Read and check one file, and what the network sees of it; what is wrong with it becomes the item's reason."""
    path = os.path.join(root, name)
    try:
        picture = read_picture(path, window=preprocess.window)
        check_channels(path, len(picture.pixels), channels)
    except DataError as error:
        return Item(name, reason=str(error).removeprefix(str(DataError(f"{path}: "))))
    window = picture.pixels[(..., *central(*picture.pixels.shape[1:], preprocess.window))]
    flags = [CONSTANT] if window.min() == window.max() else []
    flags += [FILLED] if picture.masked else []
    item = Item(name, None, "", flags, picture.unit or "", picture.note)
    pixels = torch.from_numpy(picture.pixels)[None]
    if preprocess.view == "image":
        item.image = preprocess(pixels)[0].numpy()
        return item
    view, found = preprocess.with_fit(pixels)
    table, item.image = found.table(), view[0].numpy()
    item.lens = {name: table[name][0] for name in preprocess.lens.columns if name != "flag"}
    item.flags += [f"smooth lens: {reason}" for reason in table["flag"] if reason]
    return item


def columns(classifier: Classifier) -> list[str]:
    """The names of the table's columns."""
    probabilities = [f"{kind}_{name}" for kind in ("p", "calibrated") for name in classifier.classes]
    dark_matter = classifier.inference.columns() if classifier.inference else []
    return [
        "file",
        "class",
        *probabilities,
        "novelty",
        *_lens_columns(classifier),
        *dark_matter,
        "flag",
        "unit",
        "note",
    ]


def _lens_columns(classifier: Classifier) -> list[str]:
    """Of the smooth lens: each parameter and its standard deviation, chi-square per pixel."""
    lens = classifier.preprocess.lens
    return [] if lens is None else [name for name in lens.columns if name != "flag"]


def _classify(classifier: Classifier, precision: str, device) -> Callable[[list[Item]], None]:
    """A function that gives items their figures, and flags those that are unlike the training data."""
    probe = Probe() if classifier.inference else None
    run = classifier.observer(precision, device, probe)

    def classify(items: list[Item]) -> None:
        items = [item for item in items if item.image is not None]
        if not items:
            return
        logits, parts = run(torch.from_numpy(np.stack([item.image for item in items])))
        scores = classifier.novelty.score(parts).tolist() if classifier.novelty else [None] * len(items)
        for item, cells, score in zip(items, _figures(classifier, logits.cpu().double()), scores, strict=True):
            item.figures = [*cells, "" if score is None else f"{score:.4g}"]
            item.flags += [UNLIKE] if score is not None and score > 1 else []
        if probe:
            fits = {name: np.array([item.lens[name] for item in items]) for name in items[0].lens}
            for item, row in zip(items, classifier.inference.rows(probe.take(), fits), strict=True):
                item.dark_matter = row.tolist()

    return classify


def _figures(classifier: Classifier, logits: Tensor) -> Iterator[list[str]]:
    """Class and probabilities, as text, of each row of logits (B, K)."""
    names, temperature = [classifier.classes[k] for k in logits.argmax(1).tolist()], classifier.temperature
    calibrated = _text((logits / temperature).softmax(1)) if temperature else [[""] * logits.shape[1]] * len(logits)
    for name, plain, tempered in zip(names, _text(logits.softmax(1)), calibrated, strict=True):
        yield [name, *plain, *tempered]


def _text(probabilities: Tensor) -> list[list[str]]:
    return [[f"{p:.6f}" for p in row] for row in probabilities.tolist()]


def _row(item: Item, names: Sequence[str]) -> list[str]:
    """The cells of one file. names: of the columns."""
    name = os.fsencode(item.name).decode("utf-8", "backslashreplace")
    last = [item.reason or "; ".join(item.flags), item.unit, item.note]
    numbers = [f"{value:.6g}" for value in [*item.lens.values(), *item.dark_matter]]
    empty = [""] * (len(names) - 1 - len(last) - len(item.figures) - len(numbers))
    return [name, *item.figures, *numbers, *empty, *last]
