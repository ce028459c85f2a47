"""From the logits of one split to `metrics.json`, `predictions.npz` and pictures."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darklens.classifier.classifier import Classifier
from darklens.data.checks import MIN_SIZE
from darklens.data.folder import Split
from darklens.data.image import fingerprint
from darklens.data.source import ImageSource
from darklens.data.views import Views
from darklens.errors import DataError, ResultsError
from darklens.metrics import coverage, summary
from darklens.metrics.auc import UNTRAINED, bootstrapped_auc, without_substructure
from darklens.metrics.probabilities import softmax
from darklens.plots import roc, run
from darklens.reports.shown import Shown, show
from darklens.storage import files, records
from darklens.storage.records import PIXELS, Predictions
from darklens.storage.run_record import RunRecord

SAMPLE = 16  # files that stand for a data set


def write_report(
    folder: Path, classifier: Classifier, logits: np.ndarray, split: Split, details: dict, symmetry: dict | None = None
) -> dict:
    """Evaluate logits (n, K) of the images of `split`, write everything into `folder`, return the metrics.

    details: further entries of `metrics.json`; symmetry: from `measure_equivariance`. Raises ResultsError.
    """
    metrics = summary.evaluate(logits, split.labels, classifier.classes, temperature=classifier.temperature)
    metrics |= {"split": split.name, "best_epoch": classifier.epoch, **details}
    metrics["auc"] |= _auc_without_training(split, classifier.classes)
    if symmetry is not None:
        metrics["symmetry"] = symmetry
        run.plot_symmetry(folder, symmetry)
    files.save_json(folder / "metrics.json", metrics)
    records.save_predictions(folder, predictions_of(logits, split, classifier.classes))
    _draw(folder, classifier, logits, split, metrics)
    return metrics


def _auc_without_training(split: Split, classes: Sequence[str]) -> dict[str, dict]:
    """How well a column of the fits alone tells substructure from none, by its name, where the split has such fits.

    Where a fit has none (there is no lens) it counts as no sign of substructure.
    """
    none = without_substructure(classes)
    fits = split.images.fits() if isinstance(split.images, Views) else {}
    columns = {name: np.array(fits[name], dtype=float) for name in UNTRAINED if name in fits}
    if none is None:
        return {}
    return {
        name: bootstrapped_auc(np.nan_to_num(scores, nan=np.nanmin(scores) - 1), split.labels != none)
        for name, scores in columns.items()
        if len(scores) == len(split.labels) and np.isfinite(scores).any()
    }


def predictions_of(logits: np.ndarray, split: Split, classes: Sequence[str]) -> Predictions:
    """The logits (n, K) with the images and labels that they are of. Raises ResultsError for a file that has gone."""
    names = np.array(split.images.names())
    root = Path(os.path.abspath(split.images.folder)).parent
    logits, labels = np.asarray(logits, dtype=np.float32), np.asarray(split.labels, dtype=np.int64)
    return Predictions(logits, labels, names, list(classes), split.name, root.name, _sample(split.images.originals))


def _sample(images: ImageSource) -> str:
    """A hash of the pixels of some of the images, evenly taken: other data sets may have files of the same names."""
    digest = hashlib.sha256()
    for index in np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int):
        try:
            digest.update(fingerprint(images.read(index, MIN_SIZE).values).encode())
        except DataError as error:
            raise ResultsError(str(error)) from error
    return PIXELS + digest.hexdigest()


def _draw(folder: Path, classifier: Classifier, logits: np.ndarray, split: Split, metrics: dict) -> None:
    probabilities = softmax(logits)
    calibrated = softmax(logits / classifier.temperature) if classifier.temperature else None
    roc.plot_roc(folder, probabilities, split.labels, classifier.classes, metrics)
    run.plot_confusion(folder, metrics["confusion_matrix"], classifier.classes)
    run.plot_reliability(folder, probabilities, split.labels, metrics, calibrated)
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)

    def show_image(index: int) -> Shown:
        return show(split.images, index, classifier.preprocess)

    run.plot_mistakes(folder, show_image, split.labels, predicted, confidence, classifier.classes)


def table(metrics: dict) -> str:
    """The main figures, for people."""

    def row(name: str, value: float | None, interval: list | None = None) -> str:
        spread = f"   [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        return f"  {name:<28}" + ("      -" if value is None else f"{value:7.4f}{spread}")

    auc = metrics["auc"]
    rows = [f"{metrics['split']}: {metrics['images']} images, epoch {metrics['best_epoch']}; in brackets 95% intervals"]
    rows.append(row("accuracy", metrics["accuracy"], metrics["accuracy_interval"]))
    rows += [row(f"AUC {key} average", auc[key]["value"], auc[key]["interval"]) for key in ("macro", "micro")]
    rows += [row(f"AUC {name}", one["value"], one["interval"]) for name, one in auc["per_class"].items()]
    if auc.get("substructure"):
        rows.append(row("AUC substructure or none", auc["substructure"]["value"], auc["substructure"]["interval"]))
    for untrained in (auc[name] for name in UNTRAINED if name in auc):
        rows.append(row("AUC the same, no training", untrained["value"], untrained["interval"]))
    rows += [row(name.replace("_", " "), metrics[name]) for name in ("log_loss", "expected_calibration_error")]
    if metrics.get("calibrated"):
        calibrated = metrics["calibrated"]
        rows.append(row("temperature, fitted on val", metrics["temperature"]))
        rows.append(row("log loss with it", calibrated["log_loss"]))
        rows.append(row("calibration error with it", calibrated["expected_calibration_error"]))
    if metrics.get("inference"):
        rows.append(coverage.table(metrics["inference"]))
    if "symmetry" in metrics:
        rows.append(
            f"  {'equivariance error (exact)':<28}{metrics['symmetry']['largest_exact_change']:7.1e}   (probabilities)"
        )
    return "\n".join(rows)


def details(record: RunRecord, timing: dict) -> dict:
    """What `metrics.json` says besides the figures. record: of the run; timing: of what has just been done."""
    return record.reported() | {"timing": timing}
