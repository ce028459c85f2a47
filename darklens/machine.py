"""What this machine has: cores, memory, devices, and the precision that it computes fast in."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from darklens.errors import CacheError, UsageError

SYSTEM = Path("/")  # where proc and sys are


def choose_device(use_cuda: bool = True, index: int = 0, cuda_asked: bool = False) -> torch.device:
    """The GPU of that index, or the CPU; where there is no GPU, with a warning if it was asked for.

    Raises UsageError for an index that no GPU has.
    """
    if not use_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if cuda_asked:
            print("warning: --use_cuda True, but there is no GPU that PyTorch can use: on the CPU", file=sys.stderr)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if index >= count:
        names = ", ".join(f"{i}: {torch.cuda.get_device_name(i)}" for i in range(count))
        raise UsageError(f"--cuda_idx {index}: there are only the GPUs {names}")
    return torch.device("cuda", index)


def choose_precision(precision: str | None, device: torch.device) -> str:
    """What was asked for, else bf16 where the hardware computes in it."""
    if precision:
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else "fp32"


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def autocast(device: str | torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision where `precision` asks for it; statistics, losses and weights stay in float32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def available_memory(system: Path = SYSTEM) -> int:
    """Bytes that this process may still take, of the machine and of its container or batch job.

    system: the root of the files in which the system says so.
    """
    return max(0, min([_machine_memory(system), *_group_memory(system)]))


def usable_cores(system: Path = SYSTEM) -> int:
    """CPU cores that this process may use: of the machine, its affinity, and its container's CPU quota; 1 or more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([cores, *_cpu_quotas(system)])))


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _machine_memory(system: Path) -> int:
    """What Linux calls available; elsewhere half of what is built in, or 4 GiB where that isn't known."""
    if match := re.search(r"MemAvailable:\s*(\d+) kB", _read_text(system / "proc/meminfo")):
        return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def _group_memory(system: Path) -> Iterator[int]:
    """What each control group (cgroup v2, then v1) that this process is in has left, parents too."""
    for controller, limit, usage in [("", "memory.max", "anon"), ("memory", "memory.limit_in_bytes", "total_rss")]:
        for folder in _control_groups(controller, system):
            bound = _read_text(folder / limit).strip()
            used = re.search(rf"^{usage} (\d+)$", _read_text(folder / "memory.stat"), re.MULTILINE)
            if bound.isdigit():
                yield int(bound) - int(used[1] if used else 0)


def _cpu_quotas(system: Path) -> Iterator[float]:
    """Cores that each control group (cgroup v2, then v1) of this process may keep busy, parents too."""
    for folder in _control_groups("", system):
        yield from _quota(*(_read_text(folder / "cpu.max").split() or ["", ""]))
    for folder in _control_groups("cpu", system):
        yield from _quota(_read_text(folder / "cpu.cfs_quota_us"), _read_text(folder / "cpu.cfs_period_us"))


def _quota(quota: str, period: str = "100000") -> Iterator[float]:
    """Microseconds of work in each period of so many, as cores; none where there is no limit ("max", "-1")."""
    if quota.strip().isdigit() and period.strip().isdigit() and int(period):
        yield int(quota) / int(period)


def _control_groups(controller: str, system: Path) -> Iterator[Path]:
    """The folders of this process's group of a controller, and of its parents. "": of cgroup v2."""
    for names, path in re.findall(r"^\d+:(.*?):(/.*)$", _read_text(system / "proc/self/cgroup"), re.MULTILINE):
        if controller in names.split(","):
            for mount in {controller: None, names: None}:
                top = system / "sys/fs/cgroup" / mount
                group = top / path.lstrip("/")
                yield from [group, *(folder for folder in group.parents if folder.is_relative_to(top))]


def user_cache() -> Path:
    """The folder for what can be made again: $XDG_CACHE_HOME/darklens, or ~/.cache/darklens.

    Raises CacheError where there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darklens"
    except RuntimeError as error:
        raise CacheError("there is no home folder: set XDG_CACHE_HOME to a folder that can be written") from error


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
