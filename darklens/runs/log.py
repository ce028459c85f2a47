"""What a run writes down before anything is trained: its record, its code, and the first lines of its log."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from darklens.data.batches import Batches
from darklens.data.endless import Endless
from darklens.errors import ResultsError
from darklens.runs.data import RunData
from darklens.runs.run import Run
from darklens.simulation.recipes import named
from darklens.storage.run_record import RUN_FILE, RunRecord
from darklens.training import trainer


def start_log(run: Run, data: RunData, batches: dict[str, Batches], record: RunRecord) -> None:
    """`run.json` and `code.py` of a new run, and what the log says first. Raises ResultsError."""
    if not (run.folder / RUN_FILE).exists():
        _copy_code(run.folder / "code.py")
        record.save(run.folder)
    for line in [*_of_images(data, batches, record), *_of_training(record)]:
        run.log(line)
    for split in batches.values():
        for warning in split.warnings:
            run.log(f"warning: {warning}")


def _of_images(data: RunData, batches: dict[str, Batches], record: RunRecord) -> list[str]:
    folder, counts = data.folder, ", ".join(f"{count} {name}" for name, count in record.images.items())
    classes = ", ".join(folder.classes)
    lines = [f"{folder.root}: {counts} images of {folder.size} x {folder.size}, classes {classes}"]
    if isinstance(train := batches["train"], Endless):
        lines.insert(0, f"training images: {len(train.labels)} to the epoch, simulated ({named(train.recipe)})")
    if side := folder.side_files:
        lines.append(f"{len(side)} masks, noise maps, PSFs or the like passed over by their names ({side[0]}, ...)")
    if folder.skipped:
        lines.append(f"{folder.skipped} stray files and folders skipped")
    if "test" not in batches:
        lines.append("no test split: val both picks the best epoch and is what is reported, as in the original")
    return lines


def _of_training(record: RunRecord) -> list[str]:
    lines = ["network: " + ", ".join(f"{key} {value}" for key, value in record.network.items())]
    if record.weights:
        lines.append(record.weights)
    if record.class_weights:
        each = ", ".join(f"{name} {weight:.3g}" for name, weight in record.class_weights.items())
        lines.append(f"balance: an image counts in the training loss, by its class, {each}")
    recipe = {} if record.recipe is None else asdict(record.recipe)
    lines.append(f"recipe: {', '.join(f'{key} {value}' for key, value in recipe.items())}")
    several = f"{record.ranks} processes, each with " if record.ranks > 1 else ""
    lines.append(f"seed {record.seed}, {record.precision}, {several}{record.device}, {record.threads} threads")
    return lines


def _copy_code(path: Path) -> None:
    """The training loop as it was, beside its results."""
    try:
        shutil.copyfile(trainer.__file__, path)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written ({error.strerror}); free some space") from error
