"""Go on with a run after an interruption."""

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from darklens.commands import flags
from darklens.data.folder import LensFolder
from darklens.errors import ResultsError, UsageError
from darklens.storage import checkpoint, runs
from darklens.training.ranks import world_size
from darklens.training.trainer import Trainer


def resumed_run(settings: Namespace, given: set[str]) -> tuple[Path, Namespace, dict]:
    """The run to go on with, the settings it was started with, and its record."""
    try:
        folder = runs.find_run(settings.results_dir, settings.resume)
    except ResultsError as error:
        raise UsageError(f"--resume: {error}") from error
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text())
        arguments = record["arguments"]
        flags.check(arguments)
        record["images"], record["classes"], record["precision"], record["threads"], record["preprocess"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise UsageError(f"--resume: {path} is missing or damaged: this run cannot be resumed ({error})") from error
    free = {"resume", "results_dir", "quiet", "debug", "num_workers"}
    for name in sorted(given - free):
        if arguments.get(name) != getattr(settings, name):
            raise UsageError(f"--{name} {getattr(settings, name)} contradicts the run, which has {arguments.get(name)}")
    _check_same_ranks(record, bool(arguments.get("deterministic_ranks")))
    same = {name: getattr(settings, name) for name in free} | {"demo": False, "cuda_asked": False}
    return folder, Namespace(**flags.DEFAULTS | arguments | same), record


def _check_same_ranks(record: dict, deterministic: bool) -> None:
    """Another number of processes would add in another order, unless that order is fixed."""
    then, now = record.get("ranks", 1), world_size()
    if then != now and not deterministic:
        raise UsageError(
            f"--resume: the run has {then} process{'es' * (then > 1)}, here are {now}: other bits; start as many with "
            "torchrun --nproc_per_node (a run begun with --deterministic_ranks goes on with 1, 2, 4 or 8)"
        )


def check_same_data(record: dict | None, data: LensFolder) -> None:
    """A run goes on only with the images it was started with. record: None for a new run."""
    found = {name: len(split) for name, split in data.splits.items()}
    if record and (record.get("images") != found or record.get("classes") != list(data.classes)):
        raise UsageError(f"--resume: {data.root} has changed: the run began with {record.get('images')}, found {found}")


def go_on(run: Trainer, log: Callable[[str], None]) -> None:
    """Return to the saved state, or start again where the run was stopped before it saved one."""
    then, now = run.classifier.record["threads"], torch.get_num_threads()
    if then != now:
        log(f"warning: the run began with {then} threads and goes on with {now}: it may end with other bits")
    state = run.folder / "last-state.pt"
    if os.path.lexists(state) or os.path.lexists(checkpoint.previous_of(state)):
        note = run.resume()
        log(f"{note}; " * bool(note) + f"going on at epoch {run.epoch + 1}, step {run.step + 1}")
    else:
        log("no state was saved: starting again")
