"""The table of predictions and the array of features, a row an image: whole or not there."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from darklens.classifier.classifier import Classifier, last_linear
from darklens.data.image import open_file
from darklens.data.npy import read_header
from darklens.errors import DataError, UsageError
from darklens.storage.files import cannot_write, replacing
from darklens.survey.items import Item


def columns(classifier: Classifier, passed: Sequence[str] = ()) -> list[str]:
    """The names of the table's columns. passed: those of the survey's list that pass through."""
    probabilities = [f"{kind}_{name}" for kind in ("p", "calibrated") for name in classifier.classes]
    lens = classifier.preprocess.smooth_model
    smooth = [] if lens is None else [name for name in lens.columns if name != "flag"]
    smooth += classifier.inference.columns() if classifier.inference else []
    return ["file", *passed, "class", *probabilities, "novelty", *smooth, "flag", "unit", "pixel_scale", "note"]


class Writer:
    """Writes rows, and counts them by kind: classified, rejected, and those of the classified that have a flag."""

    def __init__(self, table: IO[str], features: IO[bytes] | None, names: Sequence[str], width: int):
        self.table, self.features, self.names, self.width = csv.writer(table), features, names, width
        self.files, self.counts = [file for file in (features, table) if file is not None], Counter()

    def write(self, items: Sequence[Item]) -> None:
        """Append items; features of rejected ones are NaN."""
        if self.features is not None:
            nothing = np.full(self.width, np.nan, "<f4")
            rows = [nothing if item.features is None else item.features for item in items]
            self.features.write(np.stack(rows).astype("<f4").tobytes())
        for item in items:
            self.table.writerow(self._row(item))
            self.count(item.image is not None, bool(item.flags))
        for file in self.files:
            file.flush()

    def count(self, classified: bool, flagged: bool) -> None:
        """One row more."""
        self.counts["classified" if classified else "rejected"] += 1
        self.counts["flagged"] += classified and flagged

    def _row(self, item: Item) -> list[str]:
        last = [item.reason or "; ".join(item.flags), item.unit, item.scale, item.note]
        begin = [printable(item.entry.file), *item.entry.cells]
        numbers = (*item.lens.values(), *item.dark_matter)
        middle = [*item.figures, *("" if math.isnan(value) else f"{value:.6g}" for value in numbers)]
        return [*begin, *middle, *[""] * (len(self.names) - len(begin) - len(middle) - len(last)), *last]


def printable(name: str) -> str:
    """The name of a file as the table has it: bytes that are no UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def npy_header(rows: int, width: int) -> bytes:
    """How a .npy file of (rows, width) float32 begins: its length is known before the first row."""
    buffer, about = io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def width(classifier: Classifier) -> int:
    """How many features the network's last layer reads."""
    return last_linear(classifier.network).in_features


def check_embeddings(path: str | Path | None, output: str | Path, folder: str | Path, width: int) -> None:
    """Raise UsageError where `path` is no name for features of that width, or of an image, which it would replace."""
    if path is None:
        return
    if Path(path).suffix != ".npy" or os.path.realpath(path) == os.path.realpath(output):
        raise UsageError(f"--embeddings {path}: expected a name that ends in .npy")
    try:
        with open_file(path) as file:
            header = read_header(path, file)
            ours = len(header.shape) == 2 and header.shape[1] == width and header.descr == "<f4"
    except FileNotFoundError:
        ours = True
    except (OSError, DataError):
        ours = False
    if not ours:
        raise UsageError(f"--embeddings {path}: there is something else of this name: choose another")
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(f"--embeddings {path}: would be taken for an image in {folder}: choose another folder")


@contextlib.contextmanager
def whole(
    output: str | Path, embeddings: str | Path | None, names: Sequence[str], rows: int, width: int
) -> Iterator[tuple[Writer, int]]:
    """A writer of both files, which take their names when all is written; 0 rows are there. Raises ResultsError."""
    path = output
    try:
        with contextlib.ExitStack() as stack:
            table, features = stack.enter_context(replacing(output)), None
            if embeddings is not None:
                path = embeddings
                features = stack.enter_context(replacing(embeddings, "wb"))
                features.write(npy_header(rows, width))
            csv.writer(table).writerow(names)
            yield Writer(table, features, names, width), 0
    except OSError as error:
        raise cannot_write(Path(path), error) from error
