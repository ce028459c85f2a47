"""Kill training runs again and again: do they end as if nobody had touched them?

  python benchmarks/kill_campaign.py --kills 100                      about 10 minutes on one core
  python benchmarks/kill_campaign.py --kills 8 --kinds fp32 --json

Each run of main.py is stopped a few times, in turn by SIGKILL at a random moment and inside the writing of a
checkpoint, by SIGTERM and by SIGINT, and each time goes on with `--resume latest`. At its end, the best network, the
curves and metrics.json (but for the clock) must have the bytes of a run that was left alone; in between, no file may be
unreadable, and no process may outlive the program.

One process imports PyTorch and is forked for each start of the program, so that a start costs a tenth of a second.
Linux and one thread only.
"""

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy and PyTorch start theirs

import numpy as np
from memory import write_images

from darklens import machine
from darklens.commands import run as commands_run
from darklens.runs import train as runs_train
from darklens.storage import checkpoint
from darklens.training.state import CURVES

COMPACT = ["--arch", "compact", "--epochs", "4", "--batch_size", "4"]


@dataclass(frozen=True)
class Kind:
    """flags of main.py; save_every: seconds between states inside an epoch; streamed: images stay on the disk."""

    flags: list[str]
    share: float
    save_every: float = 0.1
    streamed: bool = False


KINDS = {
    "fp32": Kind([*COMPACT, "--precision", "fp32", "--N", "2", "--recipe", "fast"], share=0.4),
    "bf16": Kind(
        [*COMPACT, "--precision", "bf16", "--sym_group", "Dihyderal", "--N", "2", "--average", "0.9"], share=0.35
    ),
    "streamed": Kind([*COMPACT, "--precision", "fp32", "--num_workers", "1"], share=0.2, streamed=True),
    "resnet": Kind(["--use_CNN", "--epochs", "3", "--batch_size", "8", "--recipe", "fast"], share=0.05, save_every=2),
}


@dataclass(frozen=True)
class Blow:
    """One way to be stopped: by a signal, of which the exit status `status` must then tell.

    group: all processes of the program get it; point: it comes inside the writing of a checkpoint.
    """

    name: str
    number: int
    status: int
    group: bool = False
    point: str = ""


POINTS = "write", "replace", "link", "fsync"  # half written; before a rename; before a generation is kept; unsynced
MOMENT = Blow("moment", signal.SIGKILL, -9)
WRITE, REPLACE, LINK, SYNC = (replace(MOMENT, name="writing", point=point) for point in POINTS)
TERM, INT = Blow("SIGTERM", signal.SIGTERM, 143), Blow("SIGINT", signal.SIGINT, 130)
TERM_ALL, INT_ALL = replace(TERM, group=True), replace(INT, group=True)
PATTERN = MOMENT, TERM_ALL, WRITE, INT, MOMENT, REPLACE, TERM, MOMENT, LINK, INT_ALL, MOMENT, MOMENT, SYNC, WRITE


def blows(kills: int) -> Iterator[Blow]:
    """The pattern over and over, until so many of the blows were SIGKILL; what comes before the next one is kept."""
    for blow in itertools.cycle(PATTERN):
        kills -= blow.number == signal.SIGKILL
        if kills < 0:
            return
        yield blow


# --- one start of the program ---------------------------------------------------------------------------------


def start(arguments: list[str], here: Path, prepare: Callable[[], None]) -> int:
    """Run main.py in the folder `here`, in a process group of its own; returns the process id."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.chdir(here)
    for stream in (1, 2):
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    status = 1
    try:
        prepare()
        status = commands_run.main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def prepare(kind: Kind, death: tuple[str, int] | None = None) -> None:
    """States every moment, no pictures; death at one of POINTS, when it is reached for so many times."""
    runs_train.Trainer = functools.partial(runs_train.Trainer, save_every=kind.save_every)
    os.environ["LENS_PICTURES"] = "none"
    if kind.streamed:
        machine.available_memory = lambda: 0
    if death:
        die_inside_a_save(*death)


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_inside_a_save(point: str, turn: int) -> None:
    """SIGKILL when half a checkpoint is written, or before it is synced, linked or renamed for the turn-th time."""
    saving, steps, save = [], itertools.count(1), checkpoint.save
    owner, name = (checkpoint, "replacing") if point == "write" else (os, point)
    real = getattr(owner, name)

    @contextlib.contextmanager
    def half_written(*arguments):
        with real(*arguments) as file:
            due = next(steps) == turn
            yield SimpleNamespace(write=lambda content: die(file.write(content[: len(content) // 2]))) if due else file

    def deadly(*arguments, **options):
        if saving and next(steps) == turn:
            die()
        return real(*arguments, **options)

    def watched(*arguments, **options):
        saving.append(True)
        save(*arguments, **options)
        saving.pop()

    checkpoint.save = watched
    setattr(owner, name, half_written if point == "write" else deadly)


def members(groups: list[int]) -> list[int]:
    """The processes of these process groups that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            found += [int(path.parent.name)] if int(group) in groups and state != "Z" else []
    return found


def wait(process: int, until: Callable[[], bool]) -> int | None:
    """The exit status (minus the signal), or None as soon as `until()` while the process still runs."""
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if until():
            return None
        time.sleep(0.002)


# --- one run --------------------------------------------------------------------------------------------------


class Run:
    """A training run in a folder of its own that is started, stopped and resumed until it is done."""

    def __init__(self, kind: Kind, here: Path, images: Path):
        self.kind, self.here, self.done, self.groups = kind, here, False, []
        here.mkdir()
        (here / "images_k").symlink_to(images)

    @property
    def folder(self) -> Path | None:
        """The results, once there are any that can be resumed."""
        return next((path.parent for path in self.here.glob("images_k_*/*/run.json")), None)

    def go(self, death: tuple[str, int] | None = None) -> int:
        new = ["--data_dir", "images_k", "--use_cuda", "False", "--quiet", *self.kind.flags]
        arguments = ["--resume", "latest", "--quiet"] if self.folder else new
        self.groups.append(start(arguments, self.here, functools.partial(prepare, self.kind, death)))
        return self.groups[-1]

    def finish(self) -> float:
        """Leave it alone until it is done; returns the seconds that took."""
        began = time.monotonic()
        status = wait(self.go(), lambda: False)
        if status != 0:
            raise RuntimeError(f"the program ended with {status}: {self.output()[-2000:]}")
        self.done = True
        return time.monotonic() - began

    def strike(self, blow: Blow, seconds: float, dice: random.Random) -> bool:
        """Start, and stop it within some seconds; False if it was done before. Raises if it ends in any other way."""
        process = self.go((blow.point, dice.randint(1, 8)) if blow.point else None)
        status = wait(process, self._moment(blow, seconds, dice))
        if status is None:
            (os.killpg if blow.group else os.kill)(process, blow.number)
            status = wait(process, lambda: False)
        self.done = status == 0
        if status not in (0, blow.status):
            raise RuntimeError(f"after {blow.name} the program ended with {status}: {self.output()[-2000:]}")
        return not self.done

    def _moment(self, blow: Blow, seconds: float, dice: random.Random) -> Callable[[], bool]:
        """When the time has come: at random; or soon after a state was saved, since only then training is on."""
        if blow.point:
            return lambda: False
        if blow.number == signal.SIGKILL:
            end = time.monotonic() + dice.uniform(0, seconds)
            return lambda: time.monotonic() > end
        before = self._state()
        return lambda: self._state() != before

    def _state(self) -> int:
        path = self.folder and self.folder / "last-state.pt"
        return path.stat().st_ino if path and path.exists() else 0

    def output(self) -> str:
        return (self.here / "output.txt").read_text()

    def unreadable(self) -> list[str]:
        """Files under their final names that cannot be read."""
        readers = {".pt": checkpoint.load, ".previous": checkpoint.load, ".npy": np.load}
        readers[".json"] = lambda path: json.loads(path.read_text())
        wrong = []
        for path in self.folder.iterdir() if self.folder else []:
            try:
                readers.get(path.suffix, lambda path: None)(path)
            except Exception as error:
                wrong.append(f"{path}: {error}")
        return wrong

    def orphans(self, patience: float = 10.0) -> int:
        """Processes that outlive the program by so many seconds; they are ended here."""
        deadline = time.monotonic() + patience
        while (left := members(self.groups)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            os.kill(process, signal.SIGKILL)
        return len(left)

    def digest(self) -> str:
        """SHA-256 of everything a run ends with, but for the clock."""
        found = json.loads((self.folder / "metrics.json").read_text())
        del found["timing"]
        parts = [json.dumps(found, sort_keys=True).encode(), (self.folder / "best-model-parameters.pt").read_bytes()]
        parts += [(self.folder / f"{name}.npy").read_bytes() for name in CURVES]
        return hashlib.sha256(b"".join(parts)).hexdigest()


# --- the campaign ---------------------------------------------------------------------------------------------


def campaign(name: str, kills: int, seed: int, folder: Path, images: Path) -> dict:
    """Runs of one kind, until so many kills were survived; returns what was counted."""
    began, dice, counts, kind = time.monotonic(), random.Random(f"{name} {seed}"), Counter(), KINDS[name]
    whole = Run(kind, folder / f"{name} whole", images)
    seconds = whole.finish()
    left, hashes, unreadable = deque(blows(kills)), [], []
    while left:
        run = Run(kind, folder / f"{name} {len(hashes)}", images)
        for _ in range(dice.randint(2, 6)):
            if left and not run.done and run.strike(left[0], seconds, dice):
                counts[left.popleft().name] += 1
                unreadable += run.unreadable()
        if not run.done:
            run.finish()
        hashes.append(run.digest())
        resumed = re.findall(r"going on at epoch (\d+), step (\d+)", run.output())
        counts["resumed"] += len(resumed)
        counts["resumed inside an epoch"] += sum(step != "1" for _, step in resumed)
        counts["began anew"] += run.output().count("starting again")
        counts["processes left"] += run.orphans()
        counts["half files left"] += len(list(run.folder.glob("*.tmp")))
    return {
        "kind": name,
        "runs": len(hashes),
        "kills": counts["moment"] + counts["writing"],
        **{key: counts[key] for key in ("writing", "SIGTERM", "SIGINT", "resumed", "resumed inside an epoch")},
        **{key: counts[key] for key in ("began anew", "half files left", "processes left")},
        "unreadable files": len(unreadable),
        "final hashes": len({whole.digest(), *hashes}),
        "seconds a run": round(seconds, 1),
        "seconds": round(time.monotonic() - began),
    }


def warm_up(folder: Path, images: Path) -> None:
    """Import and compile once, before the forks, what each start of the program would import and compile."""
    import tqdm

    tqdm.tqdm.monitor_interval = 0  # a thread, which a fork would lose
    prepare(KINDS["fp32"])
    flags = ["--epochs", "1", "--use_cuda", "False", "--quiet", "--data_dir", str(images), "--results_dir", str(folder)]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        commands_run.main([*KINDS["fp32"].flags, *flags])
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a process with several threads must not be forked")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (100)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="(all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object a kind")
    options = parser.parse_args()
    shares = np.cumsum([0] + [KINDS[name].share for name in options.kinds])
    kills = np.diff(np.round(options.kills * shares / shares[-1])).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        images, found = write_images(Path(folder) / "images"), []
        warm_up(Path(folder), images)
        for name, number in zip(options.kinds, kills, strict=True):
            found.append(campaign(name, int(number), options.seed, Path(folder), images))
            table = ", ".join(f"{key} {value}" for key, value in found[-1].items())
            print(json.dumps(found[-1]) if options.json else table, flush=True)
    bad = sum(one["unreadable files"] + one["processes left"] + one["final hashes"] - 1 for one in found)
    if not options.json:
        print(f"{sum(one['kills'] for one in found)} kills: {'all is well' if not bad else 'SOMETHING WAS LOST'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
