"""Open a run: its settings, its folder and log, its device, and the processes that share it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from darklens import machine
from darklens.classifier.classifier import Classifier
from darklens.errors import Interrupted, TrainingError, UsageError
from darklens.runs import resume, weights
from darklens.storage import records, runs
from darklens.storage.run_record import RunRecord
from darklens.storage.training_config import TrainingConfig, TrainingRecipe
from darklens.training import ranks as processes
from darklens.training.ranks import Ranks
from darklens.training.recipes import recipe_of
from darklens.training.tensorboard import Board, check


@dataclass(frozen=True)
class Run:
    """What is settled before the data are opened.

    config: with what the network of `--weights`, or the run that is gone on with, settles; record: of that run;
    trained: the network of `--weights`; log: writes a line; board: of `--tensorboard`, in the first process.
    """

    config: TrainingConfig
    recipe: TrainingRecipe
    folder: Path
    device: torch.device
    ranks: Ranks
    log: Callable[[str], None]
    board: Board | None = None
    record: RunRecord | None = None
    trained: Classifier | None = None


@contextlib.contextmanager
def open_run(config: TrainingConfig) -> Iterator[Run]:
    """A new run, or the one to go on with. Nothing is left of one that ends before it has written anything.

    Raises UsageError where there is no such run or network, ResultsError where the folder cannot be written.
    """
    folder = record = trained = None
    if config.resume:
        folder, config, record = resume.resumed_run(config)
    elif config.weights:
        trained, config = weights.with_weights(config)
    if config.tensorboard:
        check()
    with processes.ranks(_device(config)) as ranks:
        config = config.replace(quiet=config.quiet or not ranks.first)
        existing = runs.nearest_existing(Path(config.results_dir))
        folder = folder or ranks.broadcast(lambda: _new_folder(config))
        board = Board(folder) if config.tensorboard and ranks.first else None
        try:
            with records.Log(folder / f"log_{folder.name}.txt") as lines:
                log = lines.write if ranks.first else lambda line: None
                run = Run(config, recipe_of(config), folder, ranks.device, ranks, log, board, record, trained)
                with _log_reasons(run):
                    yield run
        finally:
            if ranks.first:
                runs.remove_empty(folder, existing)


def _device(config: TrainingConfig) -> torch.device:
    several = processes.world_size() > 1
    if several and (config.compile or "cuda_idx" in config.explicit):
        raise UsageError("with torchrun, no --compile, and no --cuda_idx: each process takes the GPU of its number")
    index = processes.local_rank() if several else config.cuda_idx
    return machine.choose_device(config.use_cuda, index, config.cuda_asked)


def _new_folder(config: TrainingConfig) -> Path:
    name = runs.run_folder_name(config.data_dir, config.sym_group, config.N, config.use_CNN)
    return runs.make_run_folder(config.results_dir, name)


@contextlib.contextmanager
def _log_reasons(run: Run) -> Iterator[None]:
    """The log says why a run was stopped."""
    try:
        yield
    except Interrupted:
        several = f"torchrun --nproc_per_node={run.ranks.neighbours}"
        program = "python" if run.ranks.single_process else several
        run.log(f"stopped; go on with: {program} main.py --resume {run.folder.name}")
        raise
    except TrainingError as error:
        run.log(f"stopped: {error}")
        raise
