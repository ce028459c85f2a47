"""What TensorBoard shows of a run (`--tensorboard`): curves, parameters, pictures and the confusion matrix.

python main.py --data_dir images_f --tensorboard
tensorboard --logdir .
"""

import math
from pathlib import Path

import numpy as np

PICTURES = "ROC", "CM", "reliability", "mistakes", "loss", "accuracy"


class BoardError(RuntimeError):
    """The package tensorboard is missing."""


class Board:
    """Writes a run's events into its folder. Raises BoardError where the package tensorboard is missing."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BoardError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
        self.folder = Path(folder)
        self.writer = SummaryWriter(str(self.folder / "tensorboard"))

    def epoch(self, curves: dict[str, list[float]], learning_rate: float) -> None:
        """The newest point of each curve (`train_loss` becomes loss/train), by epoch from 1."""
        number = len(next(iter(curves.values())))
        for name, values in curves.items():
            split, quantity = name.split("_", 1)
            self.writer.add_scalar(f"{quantity}/{split}", values[-1], number)
        self.writer.add_scalar("learning_rate", learning_rate, number)
        self.writer.flush()

    def finish(self, found: dict) -> None:
        """What is known at the end. found: the content of metrics.json."""
        figures = {"accuracy": found["accuracy"], "macro AUC": found["auc"]["macro"]["value"]}
        figures = {f"best/{name}": value for name, value in figures.items() if value is not None}
        arguments = {key: _plain(value) for key, value in found.get("arguments", {}).items()}
        self.writer.add_hparams(arguments, figures, run_name=".")
        self.writer.add_text("confusion matrix", _markdown(found["confusion_matrix"], found["classes"]))
        for name in PICTURES:
            path = self.folder / f"{name}.png"
            if path.exists():
                self.writer.add_image(name, _read(path), dataformats="HWC")
        self.writer.close()


def _plain(value: object) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, str)) or _is_finite(value) else str(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


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
