"""What a run writes as it goes: its log, its curves and its predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from darklens.errors import ResultsError
from darklens.storage.files import cannot_write, npy_bytes, read_arrays, save_arrays, write

PREDICTIONS = "predictions.npz"
PIXELS = "pixels "  # how a sample of pixels begins; older ones, of files, cannot be compared with it


class Log:
    """`log_[timestamp].txt`: every line is on disk, and on the screen, as soon as it is written.

    >>> with Log(folder / f"log_{folder.name}.txt") as log:
    ...     log.write("epoch 1/30 ...")

    An existing file is continued (a resumed run); a new one is made with the first line. Lines don't tear a progress
    bar. Raises ResultsError.
    """

    def __init__(self, path: str | Path, echo: bool = True):
        self.path, self.echo = Path(path), echo
        self.file: IO[bytes] | None = None

    def write(self, line: str) -> None:
        """Append one line, and show it where `echo` is set."""
        try:
            if self.file is None:
                self.file = open(self.path, "ab", buffering=0)
            self.file.write(f"{line}\n".encode(errors="backslashreplace"))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self.echo:
            bar = sys.modules.get("tqdm")
            (bar.tqdm.write if bar else print)(str(line))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def save_curves(folder: str | Path, curves: dict[str, list[float]]) -> None:
    """Write `[name].npy`, float64, one value an epoch: train_loss, ..., test_accuracy (percent)."""
    for name, values in curves.items():
        write(Path(folder) / f"{name}.npy", npy_bytes(np.asarray(values, dtype=np.float64)))


class Predictions(NamedTuple):
    """What a network says of the images of one split."""

    logits: np.ndarray  # (n, K) float32
    labels: np.ndarray  # (n,) int64
    names: np.ndarray  # (n,) text, `class/file.npy`
    classes: list[str]  # K names
    split: str  # `val` or `test`
    data_dir: str  # name of the data set's folder
    sample: str  # hash of some of the images: two data sets may use the same names


_TEXTS = Predictions._fields[4:]


def save_predictions(folder: str | Path, predictions: Predictions) -> None:
    """Write `predictions.npz`, plain arrays, the same bytes for the same predictions. Raises ResultsError."""
    save_arrays(Path(folder) / PREDICTIONS, predictions._asdict())


def load_predictions(folder: str | Path) -> Predictions:
    """What `save_predictions` wrote. Raises ResultsError for a file that is missing, damaged or another's."""
    path = Path(folder) / PREDICTIONS
    if not path.exists():
        raise ResultsError(f"{folder}: expected a finished run with {PREDICTIONS}, found none")
    arrays = read_arrays(path, Predictions._fields)
    logits, labels, names, classes = (arrays[key] for key in Predictions._fields[:4])
    shapes = [array.shape for array in (logits, labels, names, classes)]
    n, k = len(labels) if labels.ndim else 0, len(classes) if classes.ndim else 0
    kinds = "".join(arrays[key].dtype.kind for key in Predictions._fields)
    if shapes != [(n, k), (n,), (n,), (k,)] or kinds != "fiUUUUU" or not n or any(arrays[key].ndim for key in _TEXTS):
        raise ResultsError(f"{path}: expected logits (n, K) and n labels and names, found arrays of shapes {shapes}")
    return Predictions(logits, labels, names, classes.tolist(), *(str(arrays[key]) for key in _TEXTS))
