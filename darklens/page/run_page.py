"""What came of a run? `report.html` in its folder: figures with intervals, pictures, settings, links to its files.

It is made of the files that are there, `metrics.json` first of all, so that runs of older versions get one, too.
Pictures are linked, not copied: the page goes with its folder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from darklens.metrics.auc import UNTRAINED
from darklens.page.template import render
from darklens.storage.files import read_json, write

REPORT = "report.html"
PICTURES = {  # stem: (title, alternative text)
    "loss": ("Loss", "cross-entropy loss of train and val against epoch"),
    "accuracy": ("Accuracy", "accuracy of train and val against epoch"),
    "ROC": ("ROC", "true positives against false positives of each class"),
    "reliability": ("Reliability", "fraction right against the probability of the predicted class"),
    "mistakes": ("Mistakes", "the images that the network got wrong and was most sure of"),
    "symmetry": ("Symmetry", "change of the probabilities when images are turned and mirrored"),
    "sensitivity": ("Sensitivity", "completeness against mass and place of the substructure"),
    "coverage": ("Coverage", "ranks and coverage of the posteriors of the dark matter's mass"),
    "explain": ("Which pixels decide", "attribution maps beside the images"),
    "fits": ("Fits", "image, best smooth lens and residual"),
    "detection": ("Detection", "where a subhalo would be seen, and where the residual favours one"),
}
FILES = {
    "best-model-parameters.pt": "the network of the best epoch",
    "metrics.json": "all figures of this page, and more",
    "run.json": "arguments, seed, versions, preprocessing",
    "predictions.npz": "logits, labels and names of the images",
    "network.pt2": "the network for PyTorch without this package",
    "network.onnx": "the network for ONNX Runtime",
}
SCORES = {
    "log_loss": "log loss (nats)",
    "brier_score": "Brier score (0 to 2)",
    "expected_calibration_error": "expected calibration error",
}


class Score(NamedTuple):
    """A figure of merit from 0 to 1 with its 95% interval, for a table and a bar on the scale from `start` to 1."""

    name: str
    value: float | None
    interval: tuple[float, float] | None
    start: float = 0.0

    def place(self, value: float) -> float:
        """Percent along the bar."""
        return round(100 * (value - self.start) / max(1 - self.start, 1e-9), 2)


def write_run_page(folder: str | Path) -> Path | None:
    """Write `report.html` into the folder of a run or a test; None where it has no `metrics.json`.

    Raises ResultsError where it cannot be written.
    """
    folder = Path(folder)
    metrics = read_json(folder / "metrics.json")
    if not metrics:
        return None
    record = metrics | read_json(folder / "run.json")
    values = {
        "title": " / ".join(folder.resolve().parts[-2:]),
        "summary": _summary(metrics),
        "headline": headline(metrics),
        "scores": scores(metrics),
        "classes": _per_class(metrics),
        "confusion": _confusion(metrics),
        "calibration": _calibration(metrics),
        "pictures": [(stem, *text) for stem, text in PICTURES.items() if (folder / f"{stem}.png").exists()],
        "settings": _settings(record),
        "files": _files(folder),
    }
    write(folder / REPORT, render("report.html", ["page.css", "report.css"], [], values))
    return folder / REPORT


def headline(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and interval, as text, of what a reader asks first."""
    auc = metrics.get("auc", {}).get("macro") or {}
    error = (metrics.get("calibrated") or metrics).get("expected_calibration_error")
    rows = [
        ("macro AUC", auc.get("value"), auc.get("interval"), 4),
        ("accuracy", metrics.get("accuracy"), metrics.get("accuracy_interval"), 4),
        ("calibration error", error, None, 4),
    ]
    return [
        (name, f"{value:.{places}f}", f"{interval[0]:.{places}f} to {interval[1]:.{places}f}" if interval else "")
        for name, value, interval, places in rows
        if value is not None
    ]


def scores(metrics: dict[str, Any]) -> list[Score]:
    """Accuracy and the AUCs, on one scale from a round number below all of them."""
    auc = metrics.get("auc", {})
    named = {"AUC, macro average": auc.get("macro"), "AUC, micro average": auc.get("micro")}
    named |= {f"AUC, {name}": one for name, one in auc.get("per_class", {}).items()}
    named |= {"AUC, substructure or none": auc.get("substructure")}
    named |= {"AUC, the same, no training": next((auc[name] for name in UNTRAINED if name in auc), None)}
    rows = [("accuracy", metrics.get("accuracy"), metrics.get("accuracy_interval"))]
    rows += [(name, one.get("value"), one.get("interval")) for name, one in named.items() if one]
    start = scale_start(min((interval[0] for _, _, interval in rows if interval), default=0.0))
    return [Score(name, value, tuple(interval) if interval else None, start) for name, value, interval in rows]


def scale_start(lowest: float) -> float:
    """Where a scale that ends at 1 begins, so that it is 1, 2 or 5 times a power of ten long: 0.84 -> 0.8."""
    span = max(1 - lowest, 1e-4)
    unit = 10.0 ** math.floor(math.log10(span))
    length = next(step * unit for step in (1, 2, 5, 10) if step * unit >= span - 1e-12)
    return round(max(1 - length, 0.0), 6)


def _summary(metrics: dict[str, Any]) -> str:
    """Which images, which epoch."""
    parts = [f"{metrics.get('images', '?')} images of the split {metrics.get('split', '?')}"]
    parts += [f"epoch {metrics['best_epoch']}"] if metrics.get("best_epoch") is not None else []
    return ", ".join(parts)


def _per_class(metrics: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Purity, completeness and the rate at 1% false positives of each class, as text."""
    rates = metrics.get("true_positive_rate", {})
    columns = [metrics.get("purity", {}), metrics.get("completeness", {})]
    names = metrics.get("classes", [])
    return [
        (name, [_share(column.get(name)) for column in columns] + [_share(_at_one_percent(rates.get(name)))])
        for name in names
    ]


def _at_one_percent(rates: Any) -> float | None:
    """Of {"0.01": rate, ...}."""
    values = [value for key, value in rates.items() if float(key) == 0.01] if isinstance(rates, dict) else []
    return values[0] if values else None


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _confusion(metrics: dict[str, Any]) -> list[tuple[str, list[tuple[int, str, int]]]]:
    """Class, and for each predicted class the count, its share of the row, and that in tenths."""
    rows = []
    for name, counts in zip(metrics.get("classes", []), metrics.get("confusion_matrix", []), strict=False):
        total = max(sum(counts), 1)
        rows.append((name, [(count, f"{count / total:.1%}", round(10 * count / total)) for count in counts]))
    return rows


def _calibration(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Scores of the probabilities as trained, and at the fitted temperature."""
    calibrated = metrics.get("calibrated") or {}

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    return [(title, text(metrics.get(key)), text(calibrated.get(key))) for key, title in SCORES.items()]


def _settings(record: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of names and values."""
    groups = {
        "Arguments": record.get("arguments"),
        "Training recipe": record.get("recipe"),
        "Network": record.get("network"),
        "Versions": record.get("versions"),
    }
    machine = {key: record[key] for key in ("device", "precision", "threads", "seed") if key in record}
    groups["Machine"] = machine | {name: f"{value:.4g}" for name, value in _numbers(record.get("timing")).items()}
    return [
        (title, [(str(name), _text(value)) for name, value in group.items() if value not in (None, "")])
        for title, group in groups.items()
        if isinstance(group, dict) and group
    ]


def _numbers(timing: Any) -> dict[str, float]:
    """Those entries that are numbers."""
    entries = timing.items() if isinstance(timing, dict) else ()
    return {name.replace("_", " "): value for name, value in entries if isinstance(value, (int, float))}


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _files(folder: Path) -> list[tuple[str, str, str]]:
    """Name, size and meaning of the files that a reader may want."""
    logs = {path.name: "one line an epoch" for path in sorted(folder.glob("log_*.txt"))}
    named = [(name, text, folder / name) for name, text in (FILES | logs).items()]
    return [(name, _size(path.stat().st_size), text) for name, text, path in named if path.exists()]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
