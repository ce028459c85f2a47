"""What the machine has."""

from darklens import machine


def test_available_memory_is_plausible():
    assert 2**20 < machine.available_memory() < 2**50


def test_available_memory_obeys_control_groups(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n",
        "/proc/self/cgroup": "0::/slurm/job_7/step_0\n",
        "/sys/fs/cgroup/slurm/job_7/step_0/memory.max": "max\n",
        "/sys/fs/cgroup/slurm/job_7/memory.max": "8000000000\n",
        "/sys/fs/cgroup/slurm/job_7/memory.stat": "anon 3000000000\nfile 4000000000\n",
    }
    monkeypatch.setattr(machine, "_read_text", lambda path: files.get(str(path), ""))
    assert machine.available_memory() == 5_000_000_000
    files["/proc/self/cgroup"] = "11:cpu,cpuacct:/slurm\n4:memory:/slurm/job_7\n0::/\n"
    files["/sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes"] = "2000000000\n"
    files["/sys/fs/cgroup/memory/slurm/job_7/memory.stat"] = "cache 5\nrss 1\ntotal_rss 500000000\n"
    assert machine.available_memory() == 1_500_000_000
    files["/proc/self/cgroup"] = ""
    assert machine.available_memory() == 32_000_000 * 1024
