"""How far a long piece of work is: a bar on a terminal, a line a minute elsewhere, as in a batch system's log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from time import monotonic

INTERVAL = 60.0  # seconds between two lines


class progress:
    """A context that is told what has been done.

    >>> with progress(len(paths), "predicting", unit="img", quiet=False) as bar:
    ...     for batch in batches:
    ...         bar.update(len(batch), "loss 0.31")

    total, start: of the work, and how much of it was done before, in units; quiet: say nothing. On a terminal a bar,
    which `leave` lets stay; elsewhere lines on standard error, an interval apart, so that short work has none:

        epoch 3/30: 812 of 2344 steps, loss 0.312, 318 img/s, 0:05:09 left
    """

    def __init__(
        self, total: int, title: str, unit: str = "img", quiet: bool = False, start: int = 0, leave: bool = False
    ):
        self.total, self.title, self.unit, self.done = total, title, unit, start
        self._bar, self._start, self._images = None, start, 0
        self._began = self._told = monotonic()
        self._lines = not quiet and not _on_terminal()
        if not quiet and not self._lines:
            from tqdm import tqdm

            scale = unit == "B"
            self._bar = tqdm(total=total, initial=start, desc=title, unit=unit, leave=leave, unit_scale=scale)

    def update(self, units: int = 1, note: str = "", images: int | None = None) -> None:
        """So much more is done. note: what else to say of it; images: in these units, where they are no images."""
        self.done += units
        self._images += units if images is None else images
        if self._bar is not None:
            speed = f"{self._speed(self._images):.0f} img/s" if images is not None else ""
            self._bar.set_postfix_str(", ".join(filter(None, (note, speed))), refresh=False)
            self._bar.update(units)
        elif self._lines and monotonic() - self._told >= INTERVAL:
            self._told = monotonic()
            with suppress(OSError, ValueError):  # nobody reads it any more: no reason to stop
                print(self.line(note, images is not None), file=sys.stderr, flush=True)

    def line(self, note: str = "", in_images: bool = False) -> str:
        """What has been done, how fast, and how long the rest takes at that speed."""
        speed = self._speed(self.done - self._start)
        remaining = str(timedelta(seconds=round((self.total - self.done) / speed))) if speed else "?"
        rate = f"{self._speed(self._images):.3g} img/s" if in_images else f"{speed:.3g} {self.unit}/s"
        plural = "s" if self.unit == "step" else ""
        parts = (f"{self.done} of {self.total} {self.unit}{plural}", note, rate, f"{remaining} left")
        return f"{self.title}: {', '.join(filter(None, parts))}"

    def _speed(self, count: int) -> float:
        """A second, since the beginning."""
        return count / max(monotonic() - self._began, 1e-9)

    def over(self, items: Iterable) -> Iterator:
        """The items, each of which is one unit."""
        with self:
            for item in items:
                yield item
                self.update()

    def __enter__(self) -> progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _on_terminal() -> bool:
    with suppress(AttributeError, ValueError):  # no standard error, or a closed one
        return sys.stderr.isatty()
    return False
