"""The table of predictions and the array of features, a row an image: whole or not there."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from darklens.classifier.classifier import Classifier, last_linear
from darklens.data.image import open_file
from darklens.data.npy import read_header
from darklens.errors import DataError, UsageError
from darklens.fit.result import STRUCTURED
from darklens.storage.files import cannot_write, replacing
from darklens.survey.items import STRUCTURED_NOTE, Item


def table_columns(classifier: Classifier, listed: Sequence[str] = (), source: str = "sersic") -> list[str]:
    """The names of the table's columns. listed: those of the survey's list that pass through; source: of a fit."""
    return ["file", *listed, *classifier.columns_with(source), "unit", "pixel_scale", "note"]


@dataclass
class Tally:
    """Rows of a table: with an answer, those among them with a flag, rejected; fitted, though without a class; whose
    source may have structure.

    answer: the column that is full where there is one.
    """

    classified: int = 0
    flagged: int = 0
    rejected: int = 0
    fitted: int = 0
    structured: int = 0
    answer: str = "class"

    def count(self, row: Mapping[str, str]) -> None:
        """One row more."""
        answered = bool(row[self.answer])
        fitted = not answered and bool(row.get("einstein_radius"))
        self.classified += answered
        self.fitted += fitted
        self.rejected += not (answered or fitted)
        self.flagged += bool(answered and row["flag"])
        self.structured += STRUCTURED in row["flag"] or STRUCTURED_NOTE in row.get("note", "")


class TableWriter:
    """Writes rows, and the features of each, (D,) float32; counts them."""

    def __init__(
        self, table: IO[str], features: IO[bytes] | None, columns: Sequence[str], width: int, *, answer: str = "class"
    ):
        self.table, self.features, self.width = csv.DictWriter(table, columns, restval=""), features, width
        self.files: list[IO] = [file for file in (features, table) if file is not None]
        self.tally = Tally(answer=answer)

    def write(self, items: Sequence[Item]) -> None:
        """Append items; features of rejected ones are NaN."""
        if self.features is not None:
            rows = [self._features(item) for item in items]
            self.features.write(np.stack(rows).astype("<f4").tobytes())
        for item in items:
            row = {self.tally.answer: "", **item.as_row()}
            self.table.writerow(row)
            self.tally.count(row)
        for file in self.files:
            file.flush()

    def _features(self, item: Item) -> np.ndarray:
        features = None if item.prediction is None else item.prediction.features
        return np.full(self.width, np.nan, "<f4") if features is None else features


def npy_header(rows: int, width: int) -> bytes:
    """How a .npy file of (rows, width) float32 begins: its length is known before the first row."""
    buffer, header = io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def feature_width(classifier: Classifier) -> int:
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
            replaceable = len(header.shape) == 2 and header.shape[1] == width and header.descr == "<f4"
    except FileNotFoundError:
        replaceable = True
    except (OSError, DataError):
        replaceable = False
    if not replaceable:
        raise UsageError(f"--embeddings {path}: there is something else of this name: choose another")
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(f"--embeddings {path}: would be taken for an image in {folder}: choose another folder")


@contextlib.contextmanager
def open_table(
    output: str | Path,
    embeddings: str | Path | None,
    columns: Sequence[str],
    rows: int,
    width: int,
    *,
    answer: str = "class",
) -> Iterator[tuple[TableWriter, int]]:
    """A writer of both files, which take their names when all is written; no row is there. Raises ResultsError."""
    path = output
    try:
        with contextlib.ExitStack() as stack:
            table, features = stack.enter_context(replacing(output)), None
            if embeddings is not None:
                path = embeddings
                features = stack.enter_context(replacing(embeddings, "wb"))
                features.write(npy_header(rows, width))
            writer = TableWriter(table, features, columns, width, answer=answer)
            writer.table.writeheader()
            yield writer, 0
    except OSError as error:
        raise cannot_write(Path(path), error) from error
