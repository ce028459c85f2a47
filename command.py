"""What the commands of dataset.py have in common: one line for what goes wrong, and a status that says so."""

import signal
import sys
from collections.abc import Callable

from images import DataError


class UsageError(DataError):
    """A call that can't be meant."""


def run_command(work: Callable[[], str], prog: str, dst: str | None) -> int:
    """Do the work and print the line that it returns; the exit status: 2 for a UsageError, 1 for bad files or disks.

    SIGTERM ends it as an exception would, so that `work` cleans up. dst: what could not be written, where the system
    does not name it.
    """
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(work())
    except (DataError, OSError) as error:
        if isinstance(error, OSError):
            error = DataError(f"cannot write to {error.filename or dst}: {error.strerror or error}")
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted, nothing is left", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)
    return 0
