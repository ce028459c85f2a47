"""Several processes give what one gives; what dies, ends; what was saved, goes on.

Run by torchrun, this file is the program that the tests compare with one process.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, write_images

from darklens.commands import run as commands_run
from darklens.data.batches import Batches
from darklens.data.folder import scan
from darklens.data.transforms import default_preprocess
from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet
from darklens.training import ranks as training_ranks
from darklens.training import sync_norm
from darklens.training.ranks import Ranks

SIZE = 35
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
TRAIN = "--data_dir images_t --arch compact --recipe fast --epochs 4 --batch_size 8 --use_cuda False --quiet".split()
TRAIN += ["--precision", "fp32"]  # half precision would hide what is the same
COUNTS = {"train": 7, "val": 4, "test": 3}  # per class: 21 images, the last batch has 5


# --- what each process does ---------------------------------------------------------------------------------


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"channels": 1, "classes": 3, "size": SIZE}
    made = build_resnet(config) if kind == "resnet" else build_network({**config, "arch": "compact", "head": kind})
    return made.to(memory_format=torch.channels_last).train()


def gradients(ranks: Ranks, kind: str, images: int, dtype: torch.dtype) -> dict:
    """Gradients of the mean loss over a batch, and the network's state after it."""
    made = network(kind).to(dtype)
    sync_norm.synchronise(made, ranks)
    x, labels = torch.randn(images, 1, SIZE, SIZE, dtype=dtype), torch.arange(images) % 3
    ranks.set_batch(images)
    mine = ranks.share(images)
    loss = F.cross_entropy(made(x[mine]), labels[mine], reduction="none").sum() / images
    loss.backward()
    ranks.add_gradients(list(made.parameters()))
    return {f"gradient {k}": p.grad for k, p in made.named_parameters()} | made.state_dict()


CASES = {  # a batch of 9 does not divide by 2 or 4, of a batch of one image all but one process have none
    "equivariant": ("lifted", 9, torch.float64),
    "resnet": ("resnet", 5, torch.float64),
    "one image": ("pooled", 1, torch.float64),
    "float32": ("lifted", 9, torch.float32),
}


def seen(ranks: Ranks, folder: str) -> torch.Tensor:
    """The images of an epoch, those of all processes joined."""
    data = scan(folder)
    options = {"train": True, "workers": 0, "share": ranks.share, "progress": False}
    batches, found = Batches(data.splits["train"], data, default_preprocess(data.size), 8, **options), []
    for number, batch in enumerate(batches.epoch(3)):
        ranks.set_batch(batches.count(number))
        found.append(ranks.gather_images(batch.indices))
    return torch.cat(found)


def everything(folder: Path | str) -> dict:
    """What the processes compute together."""
    with training_ranks.ranks(torch.device("cpu")) as ranks:
        found = {case: gradients(ranks, *CASES[case]) for case in CASES}
        torch.optim.AdamW(network("pooled").parameters())
        return {**found, "seen": seen(ranks, folder), "agreed": ranks.all_reduce_max(ranks.rank)}


def threads() -> list[str]:
    """Names of this process's threads, Python's or not (Linux)."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def program(path: str, folder: str) -> None:
    found = everything(folder)
    # one that outlives the job may still need the interpreter while it shuts down, and abort the process
    assert not [name for name in threads() if "gloo" in name], threads()
    if os.environ["RANK"] == "0":
        torch.save(found, path)


# --- the same figures ---------------------------------------------------------------------------------------


def environment() -> dict:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def launched(number: int, path: Path, folder: Path) -> dict:
    command = [*LAUNCH, f"--nproc_per_node={number}", __file__, str(path), str(folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return torch.load(path)


def assert_close(found: dict, expected: dict) -> None:
    for case in CASES.keys() & found.keys():
        assert found[case].keys() == expected[case].keys()
        limit = 5e-6 if CASES[case][2] == torch.float32 else 1e-12  # about 1e-6, and a margin for other kernels
        for name, value in expected[case].items():
            torch.testing.assert_close(found[case][name], value, rtol=limit, atol=limit, msg=f"{case} {name}")


@pytest.fixture
def one_thread():
    """Bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_processes_together_are_one(tmp_path, one_thread, number):
    """Gradients, statistics and the order of the images, equal to rounding in float64 and float32."""
    folder = write_images(tmp_path / "images_t", counts={"train": 7, "val": 1}, size=36)
    found, expected = launched(number, tmp_path / "found.pt", folder), everything(folder)
    assert_close(found, expected)
    assert sorted(found["seen"].tolist()) == list(range(21)) and torch.equal(found["seen"], expected["seen"])
    assert found["agreed"] == number - 1


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_all_images_once(world):
    for images in range(1, 40):
        shares = [range(images)[Ranks(rank, world).share(images)] for rank in range(world)]
        assert [i for share in shares for i in share] == list(range(images))
        assert {len(share) for share in shares} <= {images // world, -(-images // world)}


def test_only_training_is_for_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        commands_run.main(["--list"])
    assert stopped.value.code == 2 and "torchrun is for training" in capsys.readouterr().err


# --- the whole program --------------------------------------------------------------------------------------


def start(here: Path, number: int, *arguments: str) -> subprocess.Popen:
    command = [*LAUNCH, f"--nproc_per_node={number}", str(ROOT / "main.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=here, env=environment(), start_new_session=True, **pipes)


def finished(process: subprocess.Popen) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def complete(here: Path, number: int, *arguments: str) -> Path:
    """The folder of the newest run, once it is complete."""
    status, output = finished(start(here, number, *arguments))
    assert status == 0, output
    return max(here.glob("images_t_C_4/*"))


def wait_for_state(here: Path, process: subprocess.Popen, after: float = 0.0) -> float:
    """When last-state.pt was written, once that is later than `after`. (Curves are drawn after the first time.)"""
    while process.poll() is None:
        for path in here.glob("images_t_C_4/*/last-state.pt"):
            if path.stat().st_mtime > after:
                return path.stat().st_mtime
        time.sleep(0.02)
    raise AssertionError(process.stdout.read())


def process_of(rank: int, here: Path) -> int:
    """The process id of a rank of the job that works in that folder (Linux)."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0RANK={rank}\0".encode() in (path / "environ").read_bytes() and (path / "cwd").resolve() == here:
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank}")


def final(folder: Path) -> dict:
    """Everything a run ends with, but for the clock."""
    found = json.loads((folder / "metrics.json").read_text())
    found.pop("timing")
    found["best"] = (folder / "best-model-parameters.pt").read_bytes()
    return found | {path.name: path.read_bytes() for path in folder.glob("*_*.npy")}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images_t", counts=COUNTS, size=40)
    return tmp_path


@pytest.fixture
def plain(monkeypatch) -> None:
    """No pictures."""
    monkeypatch.setenv("LENS_PICTURES", "none")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_stopped_killed_and_resumed(here, plain, one_thread):
    """Two processes, stopped by SIGTERM, resumed, one of them killed, resumed: the bits of two that nobody disturbed.
    All write into one folder."""
    long = [*TRAIN, "--epochs", "10"]  # so that it still trains when the signal arrives
    process = start(here, 2, *long)
    saved = wait_for_state(here, process, wait_for_state(here, process))
    os.kill(process.pid, signal.SIGTERM)
    status, output = finished(process)
    assert status != 0 and output.count("go on with: torchrun --nproc_per_node=2 main.py --resume") == 1, output

    process = start(here, 2, "--resume", "latest", "--quiet")
    wait_for_state(here, process, wait_for_state(here, process, max(saved, time.time())))
    os.kill(process_of(1, here), signal.SIGKILL)
    status, output = finished(process)
    assert status != 0 and output.count("another process of this job has died") == 1, output

    (folder,) = here.glob("images_t_C_4/*")
    assert complete(here, 2, "--resume", "latest", "--quiet") == folder
    assert final(folder) == final(complete(here, 2, *long))


def test_a_run_with_deterministic_ranks_is_refused_in_one_line(here, plain, capsys):
    """The flag is gone: a warning says so; a run that was begun with it cannot have the same bits any more."""
    assert commands_run.main([*TRAIN, "--epochs", "1", "--deterministic_ranks"]) == 0
    assert "--deterministic_ranks is gone" in capsys.readouterr().err
    (path,) = here.glob("images_t_C_4/*/run.json")
    record = json.loads(path.read_text())
    assert "deterministic_ranks" not in record["arguments"]
    record["arguments"]["deterministic_ranks"] = True  # as the version before wrote it
    path.write_text(json.dumps(record))
    with pytest.raises(SystemExit) as stopped:
        commands_run.main(["--resume", "latest"])
    assert stopped.value.code == 2
    assert "begun with --deterministic_ranks, which this version does not have" in capsys.readouterr().err


def test_resume_refuses_another_number_of_processes(here, plain, monkeypatch, capsys):
    assert commands_run.main(TRAIN) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        commands_run.main(["--resume", "latest"])
    assert stopped.value.code == 2 and "the run has 1 process, here are 2" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_one_process(here, plain):
    folder = complete(here, 2, *TRAIN)
    assert commands_run.main(TRAIN) == 0
    (single,) = set(here.glob("images_t_C_4/*")) - {folder}
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (folder, single))
    assert first["confusion_matrix"] == second["confusion_matrix"]
    assert first["auc"]["macro"]["value"] == pytest.approx(second["auc"]["macro"]["value"], abs=1e-6)
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(np.load(folder / f"{name}.npy"), np.load(single / f"{name}.npy"), rtol=1e-3)


if __name__ == "__main__":
    program(*sys.argv[1:])
