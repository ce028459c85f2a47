"""The end of a training run: its best network measured, completed, and reported in the run's folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from darklens.classifier import calibrate
from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import load_model, save_model
from darklens.data.batches import Batches
from darklens.data.folder import Split
from darklens.networks.conv import set_convolution
from darklens.page.run_page import write_run_page
from darklens.posterior import training as posterior
from darklens.reports import report as reports
from darklens.runs.data import RunData
from darklens.runs.run import Run
from darklens.training.evaluate import evaluate
from darklens.training.state import BEST
from darklens.training.trainer import Trainer


def report(run: Run, data: RunData, batches: dict[str, Batches], trainer: Trainer) -> None:
    """Report the best epoch: on val from the logits it had then, on a test split with one pass over it."""
    best = load_model(run.folder / BEST, run.device)
    set_convolution(best.network, run.config.conv)
    logits, split = _logits(best, batches, trainer)
    if not run.ranks.first:
        return
    _add_novelty(run, best, trainer)
    details = reports.details(best.record, trainer.timing()) | _posterior(run, best, data, split)
    metrics = reports.write_report(run.folder, best, logits, split, details)
    run.log(reports.table(metrics))
    write_run_page(run.folder)
    run.log(f"results: {run.folder}")
    if run.board:
        run.board.finish(metrics)
    if run.config.demo:
        command = "python main.py --mode Test --weights compact-f --data_dir images_demo"
        run.log(f"trained for longer, and shipped: {command}")


def _logits(best: Classifier, batches: dict[str, Batches], trainer: Trainer) -> tuple[np.ndarray, Split]:
    """Logits (n, K) of the split that is reported."""
    if "test" not in batches:
        return trainer.best["logits"].numpy(), batches["val"].split
    logits = evaluate(best.network, batches["test"], trainer.precision, ranks=trainer.ranks)
    return logits, batches["test"].split


def _add_novelty(run: Run, best: Classifier, trainer: Trainer) -> None:
    """What tells images unlike the training data, into the checkpoint."""
    images = [batches.split.images for batches in (trainer.train, trainer.val)]
    try:
        best.novelty = calibrate.fit_on(best, *images, precision=trainer.precision, quiet=run.config.quiet)
        save_model(best, run.folder / BEST)
    except ValueError as error:
        run.log(f"no novelty score: {error}")


def _posterior(run: Run, best: Classifier, data: RunData, split: Split) -> dict[str, Any]:
    """With `--infer`, the posterior of the dark matter, into the checkpoint; its coverage, for `metrics.json`."""
    if not run.config.infer:
        return {}
    best.inference = posterior.train_inference(best, data.folder, seed=run.config.seed, quiet=run.config.quiet)
    save_model(best, run.folder / BEST)
    return posterior.coverage_details(best, data.folder.root, split, run.folder, run.config.quiet)
