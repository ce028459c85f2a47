"""What the machine has: written into files as the kernel's are, and read."""

from pathlib import Path

import pytest

from darklens import machine


@pytest.fixture
def system(tmp_path):
    """A function that writes the files of a system, and its root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_available_memory_is_plausible():
    assert 2**20 < machine.available_memory() < 2**50


def test_available_memory_obeys_control_groups(system):
    root = system(
        {
            "proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n",
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            "sys/fs/cgroup/slurm/job_7/step_0/memory.max": "max\n",
            "sys/fs/cgroup/slurm/job_7/memory.max": "8000000000\n",
            "sys/fs/cgroup/slurm/job_7/memory.stat": "anon 3000000000\nfile 4000000000\n",
        }
    )
    assert machine.available_memory(root) == 5_000_000_000
    system(
        {
            "proc/self/cgroup": "11:cpu,cpuacct:/slurm\n4:memory:/slurm/job_7\n0::/\n",
            "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": "2000000000\n",
            "sys/fs/cgroup/memory/slurm/job_7/memory.stat": "cache 5\nrss 1\ntotal_rss 500000000\n",
        }
    )
    assert machine.available_memory(root) == 1_500_000_000
    system({"proc/self/cgroup": ""})
    assert machine.available_memory(root) == 32_000_000 * 1024


V1 = "4:cpu,cpuacct:/docker/7\n0::/\n"


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 16),
        ({"proc/self/cgroup": "0::/pod/7\n", "sys/fs/cgroup/pod/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, 16),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/docker/7/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/docker/7/cpu.cfs_period_us": "50000\n",
            },
            5,
        ),
    ],
)
def test_cores_obey_the_quota_of_a_container(system, monkeypatch, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert machine.usable_cores(system(files)) == cores
