"""Processes that read ahead, and outlive the signals that the main process decides about."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

from torch.utils.data import DataLoader

HELD = (signal.SIGINT, signal.SIGTERM)


def unchanged(item: object) -> object:
    """What a DataLoader is to make of what its reader returns: nothing else."""
    return item


def start_workers(loader: DataLoader) -> Iterator:
    """Start worker processes with signals held back until `outlive_signals` has made them ready.

    Puts back the SIGCHLD handler that torch replaces: its own raises the error of a dead worker in the middle
    of whatever runs. Without it, the next batch fails, within seconds.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    mask, handler = signal.pthread_sigmask(signal.SIG_BLOCK, HELD), signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def outlive_signals(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes: the main one decides, its workers serve on.

    They obey SIGTERM from the main process alone, which is how Python ends those left over at exit. (Where a
    system, such as macOS, doesn't tell the sender, they obey any.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        parent = multiprocessing.parent_process()
        number = parent.pid if parent else os.getppid()
        # `start_workers` still holds SIGTERM back
        threading.Thread(target=_obey, args=(number,), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _obey(parent: int) -> None:
    """End this process when its parent says so, or was killed: torch's own watch is not enough, since a worker that
    has a batch in a pipe which nobody reads any more waits for ever."""
    while os.getppid() == parent:
        info = signal.sigtimedwait([signal.SIGTERM], 2)  # seconds
        if info and info.si_pid == parent:
            break
    os._exit(0)
