"""Runs that are killed, again and again, end as if nobody had touched them.

The campaign of benchmarks/kill_campaign.py in short: `python benchmarks/kill_campaign.py --kills 100` is the long one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, program_environment, write_images
from programs import final

from darklens.commands import run as commands_run
from darklens.training import evaluate, trainer


def campaign(kind: str, kills: int) -> dict:
    """What the campaign counts, with one kind of run."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_campaign.py"), "--json", "--kinds", kind]
    options = {"capture_output": True, "text": True, "timeout": 280, "env": program_environment()}
    done = subprocess.run([*command, "--kills", str(kills)], **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_killed_runs_end_as_if_nobody_had_touched_them():
    """SIGKILL at any moment and while a checkpoint is being written; SIGTERM and SIGINT, to all processes too."""
    found = campaign("fp32", kills=8)
    assert (found["kills"], found["writing"], found["SIGTERM"], found["SIGINT"]) == (8, 3, 2, 2)
    assert found["resumed"] >= 8 and found["resumed inside an epoch"] >= 3
    assert (found["unreadable files"], found["final hashes"]) == (0, 1)


@pytest.mark.slow
def test_runs_whose_images_are_read_by_other_processes():
    """SIGTERM reaches the readers too: they don't die first; and they don't outlive a program that was killed."""
    found = campaign("streamed", kills=2)
    assert (found["kills"], found["SIGTERM"], found["SIGINT"]) == (2, 1, 1)
    assert (found["unreadable files"], found["processes left"], found["final hashes"]) == (0, 0, 1)


READER = """
import multiprocessing, os, signal, sys, time
import dataset

folder = dataset.scan(sys.argv[1])
batches = dataset.Batches(
    folder.splits["train"], folder, dataset.default_preprocess(folder.size), 8, workers=1, memory_limit=0
)
epoch = batches.epoch()
next(epoch)
time.sleep(1)  # the next batches are read ahead, into a pipe that is too small for them
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reader_with_a_full_pipe_ends_with_a_killed_program(tmp_path):
    """Its batches of 184 kB wait for somebody to take them from a pipe of 64 kB: nobody will."""
    write_images(tmp_path / "images_t", counts={"train": 16, "val": 1}, size=108)
    command = [sys.executable, "-c", READER, str(tmp_path / "images_t")]
    with open(tmp_path / "reader", "w") as output:
        done = subprocess.run(command, stdout=output, env=program_environment(), timeout=120)
    assert done.returncode == -signal.SIGKILL
    reader = int((tmp_path / "reader").read_text())
    deadline = time.monotonic() + 30
    while runs(reader) and time.monotonic() < deadline:
        time.sleep(0.1)
    if runs(reader):
        os.kill(reader, signal.SIGKILL)
        raise AssertionError("the reader has outlived the program")


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- between the last training step and the next epoch --------------------------------------------------------

FLAGS = "--data_dir images_t --N 2 --arch compact --recipe fast --epochs 2 --batch_size 8 --use_cuda False --quiet"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a data set, which is the current one; no pictures."""
    write_images(tmp_path / "images_t", counts={"train": 4, "val": 6})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENS_PICTURES", "none")
    return tmp_path


@pytest.mark.parametrize("more, times", [([], 3), (["--use_CNN", "--epochs", "1"], 1)], ids=["equivariant", "ResNet"])
def test_a_signal_while_the_network_is_validated(here, monkeypatch, more, times):
    """Validation may take longer than a scheduler waits: it too is interrupted, in the last epoch as in the first.

    Batch norms are already calibrated anew by then, and will be once more.
    """
    new, resume = [*FLAGS.split(), *more], ["--resume", "latest", "--quiet"]
    evaluator, batches = evaluate.evaluator, []

    def struck(*arguments):
        run = evaluator(*arguments)

        def measure(images):
            batches.append(len(images))
            if batches.count(8) in (2, 5, 6):
                os.kill(os.getpid(), signal.SIGTERM)
            return run(images)

        return measure

    monkeypatch.setattr(evaluate, "evaluator", struck)
    statuses = [commands_run.main(new)]
    while statuses[-1] != 0 and len(statuses) < 9:
        statuses.append(commands_run.main(resume))
    assert statuses == [143] * times + [0]
    (broken,) = here.glob("images_t_C*/*")
    monkeypatch.setattr(evaluate, "evaluator", evaluator)
    assert commands_run.main(new) == 0
    (whole,) = set(here.glob("images_t_C*/*")) - {broken}
    assert final(broken) == final(whole)


def test_a_signal_that_comes_when_all_is_trained(here, monkeypatch):
    """Too late for the training, but the caller is told that the report is still missing."""
    finish = trainer.Trainer._finish_epoch

    def struck(self):
        finish(self)
        if self.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "_finish_epoch", struck)
    assert commands_run.main(FLAGS.split()) == 143
    assert not list(here.glob("images_t_C*/*/metrics.json"))
    assert commands_run.main(["--resume", "latest", "--quiet"]) == 0
    assert list(here.glob("images_t_C*/*/metrics.json"))
