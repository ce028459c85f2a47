"""What this machine has: cores, memory, devices, and the precision that it computes fast in."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from darklens.errors import UsageError


def choose_device(use_cuda: bool = True, index: int = 0, asked: bool = False) -> torch.device:
    """The GPU of that index, or the CPU; where there is no GPU, with a warning if it was asked for.

    Raises UsageError for an index that no GPU has.
    """
    if not use_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if asked:
            print("warning: --use_cuda True, but there is no GPU that PyTorch can use: on the CPU", file=sys.stderr)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if index >= count:
        names = ", ".join(f"{i}: {torch.cuda.get_device_name(i)}" for i in range(count))
        raise UsageError(f"--cuda_idx {index}: there are only the GPUs {names}")
    return torch.device("cuda", index)


def choose_precision(asked: str | None, device: torch.device) -> str:
    """What was asked for, else bf16 where the hardware computes in it."""
    if asked:
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else "fp32"


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def autocast(device: str | torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision where `precision` asks for it; statistics, losses and weights stay in float32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def available_memory() -> int:
    """Bytes that this process may still take, of the machine and of its container or batch job."""
    return max(0, min([_machine_memory(), *_group_memory()]))


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _machine_memory() -> int:
    """What Linux calls available; elsewhere half of what is built in, or 4 GiB where that isn't known."""
    if match := re.search(r"MemAvailable:\s*(\d+) kB", _read_text("/proc/meminfo")):
        return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def _group_memory() -> Iterator[int]:
    """What each control group (cgroup v2, then v1) that this process is in has left, parents too."""
    kinds = [("", "memory.max", "anon"), ("memory", "memory.limit_in_bytes", "total_rss")]
    for controllers, path in re.findall(r"^\d+:(.*?):(/.*)$", _read_text("/proc/self/cgroup"), re.MULTILINE):
        for controller, limit, used in kinds:
            group = Path("/sys/fs/cgroup", controller, path.lstrip("/"))
            for folder in [group, *group.parents] if controller in controllers.split(",") else []:
                bound = _read_text(folder / limit).strip()
                taken = re.search(rf"^{used} (\d+)$", _read_text(folder / "memory.stat"), re.MULTILINE)
                if bound.isdigit():
                    yield int(bound) - int(taken[1] if taken else 0)


def user_cache() -> Path:
    """The folder for what can be made again: $XDG_CACHE_HOME/darklens, or ~/.cache/darklens."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darklens"


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """What a worker process does first: one thread; Ctrl-C is the parent's to handle; never outlive the parent."""

    def follow_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=follow_parent, daemon=True).start()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: where threads split an array decides its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
