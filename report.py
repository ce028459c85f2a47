"""From the logits of one split to `metrics.json` and its pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import metrics
import results
from classifier import Classifier
from dataset import Split, read_image


def write_report(
    folder: Path, classifier: Classifier, logits: np.ndarray, split: Split, details: dict, symmetry: dict | None = None
) -> dict:
    """Evaluate logits (n, K) of the images of `split`, write everything into `folder`, return what was found.

    details: further entries of `metrics.json`; symmetry: from `measure_symmetry`. Raises ResultsError.
    """
    found = metrics.evaluate(logits, split.labels, classifier.classes, temperature=classifier.temperature)
    found |= {"split": split.name, "best_epoch": classifier.epoch, **details}
    if symmetry is not None:
        found["symmetry"] = symmetry
        results.plot_symmetry(folder, symmetry)
    results.save_json(folder / "metrics.json", found)
    _draw(folder, classifier, logits, split, found)
    return found


def _draw(folder: Path, classifier: Classifier, logits: np.ndarray, split: Split, found: dict) -> None:
    probabilities = metrics.softmax(logits)
    calibrated = metrics.softmax(logits / classifier.temperature) if classifier.temperature else None
    results.plot_roc(folder, probabilities, split.labels, classifier.classes, found)
    results.plot_confusion(folder, found["confusion_matrix"], classifier.classes)
    results.plot_reliability(folder, probabilities, split.labels, found, calibrated)
    sureness, predicted = probabilities.max(1), probabilities.argmax(1)
    results.plot_mistakes(folder, _Images(split.paths), split.labels, predicted, sureness, classifier.classes)


class _Images:
    """The images (H, W) of some files, channels averaged, read when they are asked for."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index]).mean(0)


def table(found: dict) -> str:
    """The main figures, for people."""

    def row(name: str, value: float | None, interval: list | None = None) -> str:
        spread = f"   [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        return f"  {name:<28}" + ("      -" if value is None else f"{value:7.4f}{spread}")

    auc = found["auc"]
    rows = [f"{found['split']}: {found['images']} images, epoch {found['best_epoch']}; in brackets 95% intervals"]
    rows.append(row("accuracy", found["accuracy"], found["accuracy_interval"]))
    rows += [row(f"AUC {key} average", auc[key]["value"], auc[key]["interval"]) for key in ("macro", "micro")]
    rows += [row(f"AUC {name}", one["value"], one["interval"]) for name, one in auc["per_class"].items()]
    if auc.get("substructure"):
        rows.append(row("AUC substructure or none", auc["substructure"]["value"], auc["substructure"]["interval"]))
    rows += [row(name.replace("_", " "), found[name]) for name in ("log_loss", "expected_calibration_error")]
    if "symmetry" in found:
        rows.append(
            f"  {'change under exact symmetry':<28}{found['symmetry']['largest_exact_change']:7.1e}   (probabilities)"
        )
    return "\n".join(rows)


def details(record: dict, timing: dict) -> dict:
    """What `metrics.json` says besides the figures. record: of the run; timing: of what has just been done."""
    kept = ("arguments", "network", "recipe", "seed", "precision", "device", "threads", "versions")
    return {key: record[key] for key in kept if key in record} | {"timing": timing}
