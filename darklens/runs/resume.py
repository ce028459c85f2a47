"""Go on with a run after an interruption."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from darklens.data.folder import LensFolder
from darklens.errors import ResultsError, UsageError
from darklens.runs.fingerprint import compare
from darklens.storage import checkpoint, runs
from darklens.storage.run_record import RUN_FILE, RunRecord
from darklens.storage.training_config import TrainingConfig
from darklens.training.ranks import world_size
from darklens.training.state import STATE, TrainingState

FREE = {"resume", "results_dir", "quiet", "num_workers"}  # settings that may differ from those the run began with


def resumed_run(config: TrainingConfig) -> tuple[Path, TrainingConfig, RunRecord]:
    """The run to go on with, the settings it was started with, and its record.

    Raises UsageError where there is no such run, or a setting that was given contradicts it.
    """
    try:
        folder = runs.find_run(config.results_dir, config.resume)
    except ResultsError as error:
        raise UsageError(f"--resume: {error}") from error
    record, settings = _complete_record(folder / RUN_FILE)
    for name in sorted(config.explicit - FREE):
        run_value, value = getattr(settings, name), getattr(config, name)
        if run_value != value:
            raise UsageError(f"--{name} {value} contradicts the run, which has {run_value}")
    _check_same_ranks(record)
    present = {name: getattr(config, name) for name in FREE} | {"demo": False, "explicit": frozenset()}
    return folder, settings.replace(**present), record


def _complete_record(path: Path) -> tuple[RunRecord, TrainingConfig]:
    try:
        record = RunRecord.load(path)
        needed = record.recipe, record.images, record.classes, record.precision, record.threads, record.preprocess
        if record.config is None or not all(needed):
            raise UsageError("not all that a run needs is in it")
    except UsageError as error:
        raise UsageError(f"--resume: {path} is missing or damaged: this run cannot be resumed ({error})") from error
    return record, record.config


def _check_same_ranks(record: RunRecord) -> None:
    """Another number of processes would add in another order."""
    if record.deterministic_ranks:
        raise UsageError(
            "--resume: the run was begun with --deterministic_ranks, which this version does not have: it cannot go "
            "on with the same bits; train anew"
        )
    recorded, current = record.ranks, world_size()
    if recorded != current:
        raise UsageError(
            f"--resume: the run has {recorded} process{'es' * (recorded > 1)}, here are {current}: other bits; start "
            "as many with torchrun --nproc_per_node"
        )


def check_same_data(record: RunRecord | None, folder: LensFolder, log: Callable[[str], None]) -> None:
    """A run goes on only with the images it was started with. record: None for a new run.

    Raises UsageError for other images, in number, class or, as far as the record tells, pixels.
    """
    if record is None:
        return
    images = {name: len(split) for name, split in folder.splits.items()}
    if record.images != images or list(record.classes) != list(folder.classes):
        raise UsageError(f"--resume: {folder.root} has changed: the run began with {record.images}, found {images}")
    replaced, touched = compare(record.fingerprints, folder)
    if replaced:
        raise UsageError(
            f"--resume: the images in {folder.root} ({', '.join(replaced)}) are others than those that the run began "
            "with, under the same names: put those back, or train anew"
        )
    if touched:
        log(
            f"warning: the files of {', '.join(touched)} in {folder.root} were written again; the pixels compared agree"
        )


def go_on(state: TrainingState, record: RunRecord, log: Callable[[str], None]) -> None:
    """Return to the saved state, or start again where the run was stopped before it saved one."""
    recorded, current = record.threads, torch.get_num_threads()
    if recorded != current:
        log(f"warning: the run began with {recorded} threads and goes on with {current}: it may end with other bits")
    path = state.folder / STATE
    if os.path.lexists(path) or os.path.lexists(checkpoint.previous_of(path)):
        note = state.resume()
        log(f"{note}; " * bool(note) + f"going on at epoch {state.epoch + 1}, step {state.step + 1}")
    else:
        log("no state was saved: starting again")
