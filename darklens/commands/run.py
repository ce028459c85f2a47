"""One run of the program: which command it is, and its exit status. Imports nothing heavy before it knows."""

import contextlib
import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable

from darklens.commands import flags
from darklens.errors import DarkLensError, Interrupted, UsageError, one_line

MODULES = "torch", "torchvision", "e2cnn", "numpy", "sklearn", "matplotlib", "scipy", "tqdm"
MODES = {mode: mode.lower() for mode in flags.MODES}  # modules of this room
# commands with flags of their own
OTHERS = {
    "simulate": "simulate",
    "convert": "data",
    "pack": "data",
    "verify": "data",
}


def main(argv: list[str] | None = None, manual: str = "", prog: str = "main.py") -> int:
    """Run the program; returns the exit status.

    argv: the words of the command line, those of this process if None. manual: the text of `--help`.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be of any alphabet
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in OTHERS:
        command = _module(OTHERS[argv[0]])
        if argv[0] == "simulate":  # a parser of its own; the others share one
            return command.main(argv[1:], f"{prog} simulate")
        return command.main(argv, prog)
    settings, given, parser = flags.parse(manual, argv, prog)
    try:
        status = _command(settings)(settings, given) or 0
        sys.stdout.flush()  # a full disk is found here rather than after the end
        return status
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


def _module(name: str):
    return importlib.import_module(f"darklens.commands.{name}")


def _command(settings: Namespace) -> Callable[[Namespace, set[str]], int | None]:
    if (settings.list or settings.mode != "Train") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"torchrun is for training: start --mode {settings.mode} with `python main.py`")
    if settings.list:
        return _module("runs").show_runs
    return getattr(_module(MODES[settings.mode]), settings.mode.lower())


def _explain(error: Exception, settings: Namespace) -> int:
    """One line for an error that a user can mend, the traceback for one of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name in MODULES and not settings.debug:
        print(
            f"error: the package {error.name} is missing here: run `bash create_env.sh`, and see README.md",
            file=sys.stderr,
        )
        return 1
    if settings.debug or not isinstance(error, (DarkLensError, OSError)):
        raise error
    status, text = getattr(error, "status", 1), error
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
