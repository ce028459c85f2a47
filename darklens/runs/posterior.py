"""Add the posterior of the dark matter to a trained network."""

from __future__ import annotations

from pathlib import Path

from darklens.classifier.saved import save_model
from darklens.data.folder import scan
from darklens.posterior.training import train_inference
from darklens.runs.trained import TrainedNetwork, check_classes
from darklens.storage import runs
from darklens.storage.training_config import TrainingConfig
from darklens.training.state import BEST


def add_posterior(
    trained: TrainedNetwork,
    *,
    data_dir: str | None = None,
    copy_to: str | None = None,
    workers: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Train it, and write the network's checkpoint again, or a copy of it to a new folder in `copy_to`; its path.

    data_dir: None: the data that the network was trained on. Raises UsageError where their truth is not known.
    """
    classifier = trained.classifier
    folder = scan(data_dir or (classifier.record.config or TrainingConfig()).data_dir)
    check_classes(classifier, folder)
    classifier.inference = train_inference(classifier, folder, workers, seed, quiet)
    path = trained.path
    if copy_to is not None:
        path = runs.make_run_folder(copy_to, f"weights_{path.stem}") / BEST
    save_model(classifier, path)
    return path
