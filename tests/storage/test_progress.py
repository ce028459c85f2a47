"""Progress: a bar on a terminal, lines an interval apart elsewhere, nothing where nobody wants to know."""

import io
import sys

import pytest

from darklens.storage import progress as module
from darklens.storage.progress import progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """The clock, moved by hand: clock[0] is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def work(clock: list, steps: int, seconds: float, **options) -> None:
    with progress(steps, "epoch 3/30", "step", **options) as bar:
        for _ in range(steps - options.get("start", 0)):
            clock[0] += seconds
            bar.update(1, "loss 0.310", images=64)


def test_a_line_a_minute_says_how_far_how_fast_and_how_long(clock, capsys):
    work(clock, 100, 3.0)  # five minutes
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "epoch 3/30: 20 of 100 steps, loss 0.310, 21.3 img/s, 0:04:00 left"
    assert lines[4] == "epoch 3/30: 100 of 100 steps, loss 0.310, 21.3 img/s, 0:00:00 left"


@pytest.mark.parametrize("seconds, options", [(0.1, {}), (3.0, {"quiet": True})])
def test_short_or_quiet_work_says_nothing(clock, capsys, seconds, options):
    work(clock, 100, seconds, **options)
    assert capsys.readouterr() == ("", "")


def test_work_that_goes_on_is_timed_from_where_it_was(clock, capsys):
    work(clock, 100, 6.0, start=80)
    assert "90 of 100 steps, loss 0.310, 10.7 img/s, 0:01:00 left" in capsys.readouterr().err


@pytest.mark.parametrize("unit, rate", [("img", "2 img/s"), ("B", "2 B/s")])
def test_other_units(clock, capsys, unit, rate):
    with progress(300, "reading", unit) as bar:
        clock[0] += 60
        bar.update(120)
    assert capsys.readouterr().err == f"reading: 120 of 300 {unit}, {rate}, 0:01:30 left\n"


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    with progress(4, "predicting", leave=True) as bar:
        bar.update(4, "fine")
    assert "predicting: 100%" in sys.stderr.getvalue() and "\n" not in sys.stderr.getvalue().rstrip("\n")


@pytest.mark.parametrize("stream", [None, "closed"])
def test_no_standard_error_is_no_reason_to_stop(monkeypatch, clock, stream):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", stream and closed)
    work(clock, 100, 3.0)


def test_over_counts_items(clock, capsys):
    def slow():
        for item in "abc":
            clock[0] += 60
            yield item

    assert list(progress(3, "validating", "step").over(slow())) == ["a", "b", "c"]
    assert len(capsys.readouterr().err.splitlines()) == 3
