"""SIGTERM and SIGINT, collected so that a loop can stop between two steps."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def collect_signals() -> Iterator[list[int]]:
    """The numbers of the signals received so far; their handlers are put back at the end."""
    received: list[int] = []
    previous = {
        s: signal.signal(s, lambda number, frame: received.append(number)) for s in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
