"""One run of the program: which command it is, and its exit status. Imports nothing heavy before it knows."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType

from darklens.commands import flags
from darklens.commands.flags import Settings
from darklens.errors import DarkLensError, Interrupted, UsageError, one_line
from darklens.storage.training_config import TrainingConfig

MODULES = "torch", "torchvision", "e2cnn", "numpy", "sklearn", "matplotlib", "scipy", "tqdm"
MODES = {
    "Test": "test",
    "Predict": "predict",
    "Fit": "fit",
    "Compare": "compare",
    "Infer": "posterior",
}  # modules of this room
OTHERS = {"simulate": "simulate", "convert": "data", "pack": "data", "verify": "data"}  # commands with their own flags


def main(
    argv: list[str] | None = None,
    manual: str = "",
    prog: str = "main.py",
    train: Callable[[TrainingConfig], object] | None = None,
) -> int:
    """Run the program; returns the exit status.

    argv: the words of the command line, those of this process if None. manual: the text of `--help`. train: what
    `--mode Train` does (None: `darklens.runs.train.train`).
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be of any alphabet
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in OTHERS:
        command = _module(OTHERS[argv[0]])
        if argv[0] == "simulate":  # a parser of its own; the others share one
            return command.main(argv[1:], f"{prog} simulate")
        return command.main(argv, prog)
    settings, parser = flags.parse(manual, argv, prog)
    try:
        _run(settings, train)
        sys.stdout.flush()  # a full disk is found here rather than after the end
        return 0
    except UsageError as error:
        parser.error(one_line(error))
    except BrokenPipeError:  # the reader of our output has gone
        _silence()
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _explain(error, settings)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"darklens.commands.{name}")


def _run(settings: Settings, train: Callable[[TrainingConfig], object] | None) -> None:
    if (settings.list or settings.mode != "Train") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"torchrun is for training: start --mode {settings.mode} with `python main.py`")
    if settings.list:
        _module("runs").show_runs(settings)
    elif settings.mode == "Train":
        train = train or importlib.import_module("darklens.runs.train").train
        train(settings.training_config())
    else:
        getattr(_module(MODES[settings.mode]), settings.mode.lower())(settings)


def _explain(error: Exception, settings: Settings) -> int:
    """One line for an error that a user can mend, the traceback for one of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name in MODULES and not settings.debug:
        print(
            f"error: the package {error.name} is missing here: run `bash create_env.sh`, and see README.md",
            file=sys.stderr,
        )
        return 1
    if settings.debug or not isinstance(error, (DarkLensError, OSError)):
        raise error
    status, text = getattr(error, "status", 1), str(error)
    if isinstance(error, OSError):
        _silence()
        text = f"{error.filename or 'the output'}: {error.strerror or error}"
    if not isinstance(error, Interrupted) or os.environ.get("RANK", "0") == "0":  # the first says it for all
        print(f"error: {one_line(text)}", file=sys.stderr)
    return status


def _silence() -> None:
    """Nothing more can be printed: nor at the end, when Python tries it again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
