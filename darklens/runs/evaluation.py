"""Test a trained network: its figures, how well it keeps its symmetry, and what it looks at."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darklens.data import batches
from darklens.data.batches import Batches
from darklens.data.folder import LensFolder, Split, scan
from darklens.errors import DataError, ResultsError
from darklens.machine import choose_precision
from darklens.page.run_page import write_run_page
from darklens.posterior.training import coverage_details
from darklens.reports import report as reports
from darklens.reports.equivariance import equivariance_of, multiplications, sample_size
from darklens.reports.explain import explain
from darklens.reports.sensitivity import sensitivity
from darklens.runs.trained import TrainedNetwork, check_classes
from darklens.simulation.truth import is_simulated
from darklens.storage import runs
from darklens.storage.training_config import TrainingConfig
from darklens.survey.pages import check_labelled_page, write_labelled_page
from darklens.survey.stream import NetworkRun
from darklens.training.evaluate import evaluate


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """data_dir, precision, batch_size: None: those of the run; results_dir: for networks that belong to no run.

    page: an .html file with all tested images, to look at and to label.
    """

    __test__ = False  # pytest: not a class of tests

    data_dir: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    precision: str | None = None
    results_dir: str = "."
    explain: bool = False
    export: bool = False
    page: str | None = None
    quiet: bool = False
    of_run: bool = True  # the network is that of a run, whose folder gets the figures


def test(trained: TrainedNetwork, config: TestConfig) -> tuple[Path, str]:
    """Measure a trained network; the folder with its figures, and the main ones as text.

    Raises UsageError for data that are not of its kind, DataError for a bad image, ResultsError.
    """
    classifier, trained_config = trained.classifier, trained.classifier.record.config
    folder = scan(config.data_dir or (trained_config or TrainingConfig()).data_dir)
    check_classes(classifier, folder)
    split = folder.splits["test" if "test" in folder.splits else "val"]
    if config.page:
        check_labelled_page(config.page, split)
    tested = _batches(folder, split.name, trained, config)
    precision = choose_precision(config.precision or classifier.record.precision, trained.device)
    start = time.perf_counter()
    logits = evaluate(classifier.network, tested, precision)
    seconds = time.perf_counter() - start
    target = _target(trained, folder, config)
    timing = {"seconds": seconds, "images_per_second": len(logits) / seconds}
    details = reports.details(classifier.record.replace(precision=precision), timing)
    details |= coverage_details(classifier, folder.root, tested.split, target, config.quiet)
    symmetry = equivariance_of(classifier, tested)
    metrics = reports.write_report(target, classifier, logits, tested.split, details, symmetry)
    _look_closer(trained, folder, tested.split, logits, target, config)
    write_run_page(target)
    if config.page:
        network = NetworkRun(classifier, precision, device=trained.device, workers=config.num_workers)
        write_labelled_page(config.page, network, split, quiet=config.quiet)
    return target, reports.table(metrics)


def _batches(folder: LensFolder, name: str, trained: TrainedNetwork, config: TestConfig) -> Batches:
    """The batches of a split."""
    trained_config, preprocess = trained.classifier.record.config, trained.classifier.preprocess
    batch_size = config.batch_size or (trained_config and trained_config.batch_size) or 64
    splits = batches.open_batches(
        folder,
        (name,),
        preprocess,
        batch_size,
        trained.device,
        workers=config.num_workers,
        progress=not config.quiet,
    )
    return splits[name]


def _target(trained: TrainedNetwork, folder: LensFolder, config: TestConfig) -> Path:
    """The run's own folder, or one inside it where other data than the run's are tested; a new one without a run."""
    if not config.of_run:
        return runs.make_run_folder(config.results_dir, f"weights_{trained.path.stem}")
    trained_config, name = trained.classifier.record.config, folder.root.resolve().name
    if trained_config is None or Path(trained_config.data_dir).resolve().name == name:
        return trained.path.parent
    target = trained.path.parent / f"test_{name}"
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{target}: cannot be created: {error.strerror}") from error
    return target


def _look_closer(
    trained: TrainedNetwork, folder: LensFolder, split: Split, logits: np.ndarray, target: Path, config: TestConfig
) -> None:
    """What depends on settings, or on the data having been simulated."""
    classifier = trained.classifier
    if is_simulated(folder.root):
        names = reports.predictions_of(logits, split, folder.classes).names.tolist()
        try:
            sensitivity(folder.root, split.name, names, split.labels, logits, classifier.classes, folder=target)
        except DataError as error:
            print(f"warning: no sensitivity.png: {error}")
    if config.explain:
        scored = sample_size(multiplications(classifier)) // 4  # a map takes 32 passes forward and back
        explain(classifier, split, logits, target, scored=max(scored, 2))
    if config.export:
        from darklens.classifier.export import export_network  # takes torch.export along

        for path in export_network(classifier, target):
            print(f"exported: {path}")
