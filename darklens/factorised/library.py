"""Compiles cpu.cpp for this processor on first use, and keeps the result."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from darklens import machine

SOURCE = Path(__file__).with_name("cpu.cpp")
log = logging.getLogger(__name__)
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-w"]


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled loops, built on first use into the user's cache folder; None where that isn't possible."""
    try:
        path = _cached()
        if not path.exists():
            _build(path)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # damaged
            _build(path)
            return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.debug("convolutions stay dense: %s", error)
        return None


def _compiler() -> list[str]:
    command = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not command or sys.platform == "win32":
        raise OSError("no C++ compiler was found")
    return command.split()


def _cached() -> Path:
    """Where the library is kept: its name tells source, compiler, flags and processor."""
    target = [SOURCE.read_text(), platform.machine(), _processor(), *_compiler(), *FLAGS]
    name = hashlib.sha256("\n".join(target).encode()).hexdigest()[:20]
    return machine.user_cache() / f"steering-{name}.so"


def _build(path: Path) -> None:
    """Two processes may do so at once: each in a folder of its own, moved into place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / "steering.so"
        subprocess.run([*_compiler(), *FLAGS, str(SOURCE), "-o", str(built)], check=True, capture_output=True)
        os.replace(built, path)


def _processor() -> str:
    """What the processor can do: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()
