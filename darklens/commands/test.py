"""Test a trained network."""

import time
from argparse import Namespace
from pathlib import Path

from darklens import machine
from darklens.classifier.classifier import Classifier
from darklens.commands.trained import load_network
from darklens.data import batches
from darklens.data.folder import LensFolder, Split, scan
from darklens.errors import DataError, ResultsError, UsageError
from darklens.posterior import training as inference
from darklens.reports import report
from darklens.reports.equivariance import equivariance_of, multiplications, sample_size
from darklens.reports.explain import explain
from darklens.reports.sensitivity import sensitivity
from darklens.simulation.truth import is_simulated
from darklens.storage import runs
from darklens.training import evaluate


def test(settings: Namespace, given: set[str]) -> None:
    """Measure a trained network: its figures, and how well it keeps its symmetry."""
    path, classifier, device = load_network(settings, given)
    trained = classifier.record.get("arguments", {})
    data_dir = settings.data_dir if "data_dir" in given else trained.get("data_dir", settings.data_dir)
    data = scan(data_dir)
    check_classes(classifier, data)
    tested = _tested_batches(data, classifier, settings, device)
    precision = machine.choose_precision(settings.precision or classifier.record.get("precision"), device)
    start = time.perf_counter()
    logits = evaluate.evaluate(classifier.network, tested, precision)
    seconds = time.perf_counter() - start
    timing = {"seconds": seconds, "images_per_second": len(logits) / seconds}
    target = _new_folder(settings, path) if settings.weights else _test_folder(path.parent, data.root, trained)
    details = report.details(classifier.record | {"precision": precision}, timing)
    details |= inference.coverage_details(classifier, data.root, tested.split, target, settings.quiet)
    found = report.write_report(target, classifier, logits, tested.split, details, equivariance_of(classifier, tested))
    print(report.table(found))
    _look_closer(settings, classifier, data, tested.split, logits, target)
    print(f"results: {target}")


def _look_closer(settings: Namespace, classifier: Classifier, data, split: Split, logits, folder: Path) -> None:
    """What depends on flags, or on the data having been simulated."""
    if is_simulated(data.root):
        names = report.predictions_of(logits, split, data.classes).names
        try:
            sensitivity(data.root, split.name, names, split.labels, logits, classifier.classes, folder)
        except DataError as error:
            print(f"warning: no sensitivity.png: {error}")
    if settings.explain:
        scored = sample_size(multiplications(classifier)) // 4  # a map takes 32 passes forward and back
        explain(classifier, split, logits, folder, scored=max(scored, 2))
    if settings.export:
        _export(classifier, folder)


def _new_folder(settings: Namespace, path: Path) -> Path:
    """A folder for the figures of a network that belongs to no run here."""
    return runs.make_run_folder(settings.results_dir, f"weights_{path.stem}")


def _tested_batches(data: LensFolder, classifier: Classifier, settings: Namespace, device) -> batches.Batches:
    """The batches of the test split, or of val where there is none."""
    batch_size = settings.batch_size or classifier.record.get("arguments", {}).get("batch_size", 64)
    name = "test" if "test" in data.splits else "val"
    options = {"workers": settings.num_workers, "progress": not settings.quiet}
    return batches.open_batches(data, (name,), classifier.preprocess, batch_size, device, **options)[name]


def check_classes(classifier: Classifier, data: LensFolder) -> None:
    """Raise UsageError unless the data are of the kind that the network was trained on."""
    found, channels = list(data.classes), classifier.channels
    if classifier.record.get("original") and len(found) == len(classifier.classes):
        classifier.classes = found  # the original's checkpoints do not name their classes
    if found != classifier.classes:
        raise UsageError(f"{data.root} has the classes {', '.join(found)}, the network {', '.join(classifier.classes)}")
    if data.channels != channels:
        raise UsageError(f"{data.root} has images of {data.channels} channels, the network takes {channels}")


def _test_folder(folder: Path, data_dir: Path, trained: dict) -> Path:
    """The run's own folder, or one inside it where other data than the run's are tested."""

    def name(path: str | Path) -> str:
        return Path(path).resolve().name

    if not trained or name(trained["data_dir"]) == name(data_dir):
        return folder
    target = folder / f"test_{name(data_dir)}"
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{target}: cannot be created: {error.strerror}") from error
    return target


def _export(classifier: Classifier, folder: Path) -> None:
    from darklens.classifier.export import export_network  # takes torch.export along

    for path in export_network(classifier, folder):
        print(f"exported: {path}")
