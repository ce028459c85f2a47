"""What TensorBoard shows of a run (`--tensorboard`): curves, parameters, pictures and the confusion matrix.

python main.py --data_dir images_f --tensorboard
tensorboard --logdir .
"""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darklens.errors import PackageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PICTURES = "ROC", "CM", "reliability", "mistakes", "loss", "accuracy"
SPLITS = {"train": "train", "test": "val"}  # the curve `test_loss`, named as in the original, is of the split val
ARGUMENTS = "data_dir", "sym_group", "N", "use_CNN", "arch", "head", "recipe", "seed"
TOGETHER = {name: ["Multiline", [f"{name}/train", f"{name}/val"]] for name in ("loss", "accuracy")}


def check() -> None:
    """Raise PackageError where the package tensorboard is missing."""
    if not importlib.util.find_spec("tensorboard"):
        raise PackageError("--tensorboard needs the package tensorboard: pip install tensorboard")


class Board:
    """Writes a run's events into its folder, from the first one on.

    Raises PackageError where the package tensorboard is missing.
    """

    def __init__(self, folder: Path):
        check()
        self.folder = Path(folder)

    @functools.cached_property
    def writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.folder / "tensorboard"))
        writer.add_custom_scalars({"train and val": TOGETHER})
        return writer

    def epoch(self, curves: dict[str, list[float]], learning_rate: float) -> None:
        """The newest point of each curve (`test_loss` becomes loss/val), by epoch from 1."""
        number = len(next(iter(curves.values())))
        for name, values in curves.items():
            split, quantity = name.split("_", 1)
            self.writer.add_scalar(f"{quantity}/{SPLITS[split]}", values[-1], number)
        self.writer.add_scalar("learning_rate", learning_rate, number)
        self.writer.flush()

    def finish(self, metrics: dict[str, Any]) -> None:
        """What is known at the end. metrics: the content of metrics.json."""
        figures = {"accuracy": metrics["accuracy"], "macro AUC": metrics["auc"]["macro"]["value"]}
        figures = {f"best/{name}": value for name, value in figures.items() if value is not None}
        self.writer.add_hparams(_parameters(metrics), figures, run_name=".")
        self.writer.add_text("confusion matrix", _markdown(metrics["confusion_matrix"], metrics["classes"]))
        for name in PICTURES:
            path = self.folder / f"{name}.png"
            if path.exists():
                self.writer.add_image(f"pictures/{name}", _read(path), dataformats="HWC")
        self.writer.close()


def _parameters(metrics: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """What tells runs apart: the network's choices, the recipe with the numbers it was run with, seed, precision."""
    arguments = metrics.get("arguments", {})
    chosen = {key: arguments[key] for key in ARGUMENTS if key in arguments} | {"precision": metrics.get("precision")}
    return {key: _plain(value) for key, value in (chosen | metrics.get("recipe", {})).items()}


def _plain(value: object) -> bool | int | float | str:
    finite = isinstance(value, float) and math.isfinite(value)
    return value if isinstance(value, (bool, int, str)) or (finite and isinstance(value, float)) else str(value)


def _markdown(matrix: list[list[int]], classes: list[str]) -> str:
    """A table of the counts, rows are the true class."""
    rows = ["| true / predicted | " + " | ".join(classes) + " |", "|" + "---|" * (len(classes) + 1)]
    return "\n".join(
        [*rows, *(f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(classes, matrix, strict=True))]
    )


def _read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    from PIL import Image  # matplotlib needs it too

    with Image.open(path) as picture:
        picture.thumbnail((1200, 1200))
        return np.asarray(picture.convert("RGB"))
