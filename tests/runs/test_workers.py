"""Predict starts as many processes as `--num_workers` says."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, program_environment

from darklens.simulation.recipes import RECIPES
from darklens.simulation.render import simulate


def children(process: int) -> list[str]:
    """The processes that it has started and that run the program, not a compiler."""
    numbers = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [number for number in numbers if b"main.py" in Path(f"/proc/{number}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("workers", [0, 1])
def test_predict_heeds_num_workers(tmp_path, workers):
    (tmp_path / "images").mkdir()
    image = simulate(RECIPES["f"], "no", [0])[0]
    for number in range(80):
        np.save(tmp_path / "images" / f"{number}.npy", image)
    flags = ["--mode", "Predict", "--weights", "compact-f", "--data_dir", "images", "--quiet", "--use_cuda", "False"]
    command = [sys.executable, str(ROOT / "main.py"), *flags, "--num_workers", str(workers)]
    process = subprocess.Popen(command, cwd=tmp_path, env=program_environment(), stdout=subprocess.DEVNULL)
    count = 0
    while process.poll() is None:
        try:
            count = max(count, len(children(process.pid)))
        except OSError:  # one has just ended
            continue
        time.sleep(0.02)
    assert process.wait(timeout=60) == 0 and (tmp_path / "predictions.csv").exists()
    assert count == workers
