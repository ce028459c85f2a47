"""Small data sets for tests: fields of counts that even a tiny network can tell apart."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: bits depend on it, and several tests run at once

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def write_images(folder: Path, classes=("no", "sphere", "vort"), counts=None, size: int = 40, seed: int = 0) -> Path:
    """Counts with a ring, and lumps on it in all classes but the first; {split: images a class} in `counts`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    for split, count in (counts or {"train": 8, "val": 4}).items():
        for k, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                rate = 30 + 300 * np.exp(-((np.hypot(x, y) - size / 4) ** 2) / 8)
                for angle in rng.uniform(0, 2 * np.pi, 2 * k):
                    lump = (x - size / 4 * np.cos(angle)) ** 2 + (y - size / 4 * np.sin(angle)) ** 2
                    rate += 600 * np.exp(-lump / 4)
                np.save(folder / split / name / f"{i:04d}.npy", rng.poisson(rate).astype(np.uint16))
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    return write_images(tmp_path / "images_t")


def program_environment() -> dict:
    """For programs that tests start."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def environment() -> dict:
    return program_environment()
