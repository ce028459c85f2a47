"""The whole program in tests: run here or in a process of its own, and what a run ends with."""

import json
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT, program_environment

from darklens.commands import run as commands_run
from darklens.training import state

SMALL = ["--arch", "compact", "--epochs", "2", "--batch_size", "8", "--use_cuda", "False", "--quiet"]


def run(*arguments) -> int:
    """The program in this process; its exit status."""
    return commands_run.main([str(argument) for argument in arguments])


def trained(here: Path, *arguments) -> Path:
    """The folder of a new run in `here`, which is the current folder."""
    before = set(here.glob("*/*/run.json"))
    assert run("--data_dir", "images_t", *SMALL, *arguments) == 0
    (new,) = set(here.glob("*/*/run.json")) - before
    return new.parent


def start(here: Path, *arguments: str) -> subprocess.Popen:
    """The program in a process, and a process group, of its own."""
    command = [sys.executable, str(ROOT / "main.py"), "--quiet", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=here, env=program_environment(), start_new_session=True, **pipes)


def wait_for(pattern: str, here: Path, process: subprocess.Popen) -> Path:
    """The file of that pattern, as soon as the process has made it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := sorted(here.glob(pattern)):
            return found[-1]
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    raise AssertionError(f"{pattern} did not appear")


def final(folder: Path) -> dict:
    """Everything a run ends with, but for the clock and the folder's name."""
    found = json.loads((folder / "metrics.json").read_text())
    found.pop("timing")
    curves = {name: (folder / f"{name}.npy").read_bytes() for name in state.CURVES}
    return {**found, **curves, "best": (folder / "best-model-parameters.pt").read_bytes()}
