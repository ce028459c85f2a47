"""A training run, step by step: open it, open its data, build the network, train, report.

folder = train(TrainingConfig.of(data_dir="images_f", arch="compact", recipe="fast"))
"""

from __future__ import annotations

from pathlib import Path

from darklens.classifier.classifier import Classifier
from darklens.data.batches import Batches
from darklens.runs import log, resume
from darklens.runs.data import RunData, open_data, read_images
from darklens.runs.networks import build_equivariant, build_resnet, new_record
from darklens.runs.report import report
from darklens.runs.run import Run, open_run
from darklens.storage.training_config import TrainingConfig
from darklens.training.loss import class_weights
from darklens.training.trainer import Trainer


def train(config: TrainingConfig) -> Path:
    """Train a network, or go on training one, and report its best epoch; the run's folder. The steps are main.py's.

    Raises UsageError for settings that don't fit the data, DataError for bad images, TrainingError where training
    cannot go on, Interrupted after a signal, CheckpointError and ResultsError where the disk is full.
    """
    with open_run(config) as run:
        data = open_data(run)
        classifier = build_resnet(run, data) if run.config.use_CNN else build_equivariant(run, data)
        batches = read_images(run, data)
        trainer = build_trainer(run, data, classifier, batches)
        trainer.fit()
        report(run, data, batches, trainer)
    return run.folder


def build_trainer(run: Run, data: RunData, classifier: Classifier, batches: dict[str, Batches]) -> Trainer:
    """The trainer of a new run, or of the one to go on with at its last saved step; the log says which."""
    record = run.record or new_record(run, data, classifier)
    if run.config.balance and not run.record:
        values = class_weights(batches["train"].labels, len(record.classes)).tolist()
        record = record.replace(class_weights=dict(zip(record.classes, values, strict=True)))
    classifier.record = record.replace(fingerprints={})  # a copy of the data set gives the same checkpoints
    if run.ranks.first:
        log.start_log(run, data, batches, record)
    trainer = Trainer(
        classifier,
        batches["train"],
        batches["val"],
        run.recipe,
        run.folder,
        log=run.log,
        precision=record.precision or "fp32",
        compiled=run.config.compile,
        quiet=run.config.quiet,
        ranks=run.ranks,
        class_weights=record.class_weights,
        on_epoch=run.board.epoch if run.board else None,
    )
    if run.record:
        resume.go_on(trainer, record, run.log)
    return trainer
