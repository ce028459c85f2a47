"""What goes wrong, as the user meets it: one line that names the file, nothing executed, nothing lost.

The malformed things themselves are in corpus.py. All goes through `main.main`, in this process.
"""

import contextlib
import datetime
import errno
import hashlib
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import corpus
import numpy as np
import pytest
import torch
from conftest import ROOT, program_environment, write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import final

from darklens import machine
from darklens.classifier.saved import load_model
from darklens.commands import run as commands_run
from darklens.data.source import Files
from darklens.errors import CheckpointError
from darklens.reports import equivariance
from darklens.storage import checkpoint, runs
from darklens.training import evaluate, state, trainer

SMALL = ["--N", "2", "--arch", "compact", "--epochs", "2", "--batch_size", "8", "--use_cuda", "False", "--quiet"]
TRAIN = ["--data_dir", "images_t", *SMALL]
TEST = ["--test_time", "latest", "--use_cuda", "False", "--quiet"]
NAME = "images_t_C_2"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(equivariance, "MOST", 1)
    monkeypatch.setenv("LENS_PICTURES", "none")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A data set and a run of two epochs."""
    here = tmp_path_factory.mktemp("template")
    write_images(here / "images_t", counts={"train": 4, "val": 2}, size=corpus.SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("LENS_PICTURES", "none")
        assert commands_run.main(TRAIN) == 0
    return here


@pytest.fixture
def here(template, tmp_path, monkeypatch) -> Path:
    """A copy of the template, which is the current folder."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(template, tmp_path, monkeypatch) -> Path:
    """A copy of the data set alone, below the current folder."""
    shutil.copytree(template / "images_t", tmp_path / "images_t")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images_t"


def folder_of(here: Path) -> Path:
    (found,) = here.glob(f"{NAME}/*")
    return found


def tree(root: Path) -> dict[str, str]:
    """What lies below `root`: kind and content of everything but logs."""
    return {str(path.relative_to(root)): _digest(path) for path in root.rglob("*") if not path.name.startswith("log_")}


def _digest(path: Path) -> str:
    kind = stat.S_IFMT(path.lstat().st_mode)
    small = stat.S_ISREG(kind) and path.lstat().st_size < 10**9
    with contextlib.suppress(PermissionError):
        return f"{kind} {hashlib.sha256(path.read_bytes()).hexdigest() if small else ''}"
    return str(kind)


def refusal(capsys, *arguments) -> str:
    """The one line with which the program refuses; nothing on the disk has changed; `--debug` shows where."""
    before = tree(Path.cwd())
    capsys.readouterr()
    status = _run(*arguments)
    error = capsys.readouterr().err
    lines = error.strip().split("\n")
    usage = [] if status == 1 else [line for line in lines[:-1] if line.startswith(("usage:", " "))]
    assert status in (1, 2) and "Traceback" not in error
    assert len(lines) - len(usage) == 1, error
    assert re.match(r"error: |main\.py: error: ", lines[-1])
    assert tree(Path.cwd()) == before
    with pytest.raises(Exception if status == 1 else SystemExit):
        commands_run.main([*arguments, "--debug"])
    assert tree(Path.cwd()) == before
    return lines[-1]


def _run(*arguments) -> int:
    try:
        return commands_run.main(list(arguments))
    except SystemExit as stopped:
        return stopped.code


def of(faults: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=list(faults))


@contextlib.contextmanager
def as_nobody():
    """Root may read and write everywhere: be somebody else."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def elsewhere(template, monkeypatch) -> Path:
    """A copy of the template where anybody may go, which is the current folder."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(template, name, dirs_exist_ok=True)
        os.chmod(name, 0o755)
        monkeypatch.chdir(name)
        yield Path(name)


# --- images and data folders ----------------------------------------------------------------------------------


@of(corpus.IMAGES)
def test_malformed_images(data, capsys, fault):
    """Not the first image of the data set, which says what the others must be like."""
    fault.make(data / "train" / "no" / "0003.npy")
    line = refusal(capsys, *TRAIN)
    assert "train/no/0003.npy: " in line and re.search(fault.says, line), line


@of({name: corpus.IMAGES[name] for name in ("empty", "huge shape", "pickle", "object array", "code as shape", "NaN")})
@pytest.mark.parametrize("place", ["train/no/0000.npy", "val/vort/0001.npy"])
def test_malformed_images_first_and_last(data, capsys, fault, place):
    fault.make(data / place)
    line = refusal(capsys, *TRAIN)
    assert f"{place}: " in line and re.search(fault.says, line), line


@of({name: corpus.IMAGES[name] for name in ("empty", "pickle", "another size", "infinite")})
def test_malformed_images_in_test_mode(here, capsys, fault):
    fault.make(here / "images_t" / "val" / "vort" / "0001.npy")
    line = refusal(capsys, *TEST)
    assert "val/vort/0001.npy: " in line and re.search(fault.says, line), line


def test_sparse_first_image(data, capsys):
    """The first image is compared with no other: its own size is the limit."""
    corpus.sparse(data / "train" / "no" / "0000.npy")
    assert "train/no/0000.npy: " in refusal(capsys, *TRAIN)


def test_unreadable_image(elsewhere, capsys):
    path = elsewhere / "images_t" / "train" / "no" / "0003.npy"
    path.chmod(0)
    (elsewhere / "out").mkdir()
    (elsewhere / "out").chmod(0o777)
    with as_nobody():
        line = refusal(capsys, *TRAIN, "--results_dir", "out")
    assert "train/no/0003.npy: cannot be read" in line and "Permission denied" in line


@of(corpus.FOLDERS)
def test_malformed_folders(data, capsys, fault):
    fault.make(data)
    line = refusal(capsys, *TRAIN)
    assert "images_t" in line and re.search(fault.says, line), line
    assert line.isprintable()


@pytest.mark.parametrize("place", [".", "train", "val/vort"])
def test_unreadable_folders(elsewhere, capsys, place):
    (elsewhere / "images_t" / place).chmod(0)
    elsewhere.chmod(0o777)
    try:
        with as_nobody():
            line = refusal(capsys, *TRAIN, "--results_dir", "results")
    finally:
        (elsewhere / "images_t" / place).chmod(0o755)
    assert str(Path("images_t") / place) in line


def test_strays_are_counted(data, capsys):
    for place, make in corpus.STRAYS.items():
        make(data / place)
    assert commands_run.main(TRAIN) == 0
    assert f"{len(corpus.STRAYS)} stray files and folders skipped" in capsys.readouterr().out


# --- checkpoints ----------------------------------------------------------------------------------------------


@of(corpus.CHECKPOINTS)
def test_malformed_checkpoints(here, capsys, fault):
    fault.make(folder_of(here) / corpus.BEST)
    line = refusal(capsys, *TEST)
    assert folder_of(here).name in line and re.search(fault.says, line), line


@of(corpus.STATES)
def test_malformed_states(here, capsys, fault):
    path = folder_of(here) / corpus.LAST
    checkpoint.previous_of(path).unlink()
    fault.make(path)
    line = refusal(capsys, "--resume", "latest", "--quiet")
    assert corpus.LAST in line and re.search(fault.says, line), line


@of(corpus.RECORDS)
def test_malformed_records(here, capsys, fault):
    folder = folder_of(here)
    fault.make(folder / corpus.RECORD)
    line = refusal(capsys, "--resume", folder.name, "--quiet")
    assert folder.name in line and re.search(fault.says, line), line


@of(corpus.NO_RECORDS)
def test_malformed_records_to_start_from(here, capsys, fault):
    path = folder_of(here) / corpus.RECORD
    fault.make(path)
    assert f"--config {path}: expected the run.json of a run" in refusal(capsys, "--config", str(path), "--quiet")


def test_the_previous_state_takes_over(here, capsys):
    """A flipped byte in the newest generation costs an epoch, which is trained again to the same bits."""
    folder = folder_of(here)
    whole = final(folder)
    corpus.STATES["bit in a tensor"].make(folder / corpus.LAST)
    assert commands_run.main(["--resume", "latest", "--quiet"]) == 0
    output = capsys.readouterr().out
    assert "does not match its checksum; went on from" in output and "going on at epoch 2, step 1" in output
    assert final(folder) == whole


def test_another_number_of_threads_is_said(here, capsys):
    """It changes bits, so that a record which names it is a promise."""
    number = torch.get_num_threads()
    corpus.record(lambda found: found.update(threads=number + 1))(folder_of(here) / corpus.RECORD)
    assert commands_run.main(["--resume", "latest", "--quiet"]) == 0
    assert f"began with {number + 1} threads and goes on with {number}" in capsys.readouterr().out


def test_a_damaged_best_network_is_found_before_training_goes_on(here, capsys):
    folder = folder_of(here)
    corpus.CHECKPOINTS["bit in a tensor"].make(folder / corpus.BEST)
    assert f"{corpus.BEST}: damaged" in refusal(capsys, "--resume", "latest", "--quiet")


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_change_of_a_checkpoint_is_refused(template, tmp_path, data):
    """Bytes turned over, cut off, put in or moved: refused by name; put back, it is the same network."""
    good = (folder_of(template) / corpus.BEST).read_bytes()
    path, changed = tmp_path / "a.pt", bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        more = data.draw(st.sampled_from([0, 1, 5, 4096, len(good)]))
        changed[at : at + more] = data.draw(st.binary(max_size=6))
    path.write_bytes(changed)
    try:
        found = load_model(path).network.state_dict()
    except CheckpointError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert changed == good
        assert all(torch.equal(value, checkpoint.load(path)["state"][key]) for key, value in found.items())


# --- disks ----------------------------------------------------------------------------------------------------


def goes_on(template: Path, data: Path, capsys) -> None:
    """After whatever happened: nothing is half there, and the run ends as one that nobody disturbed."""
    folder = folder_of(data.parent)
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
    for path in folder.glob("*.pt*"):
        checkpoint.load(path)
    for path in folder.glob("*.npy"):
        np.load(path)
    again = ["--resume", "latest", "--quiet"] if (folder / corpus.RECORD).exists() else TRAIN
    assert commands_run.main(again) == 0
    finished = max(data.parent.glob(f"{NAME}/*/metrics.json")).parent
    assert final(finished) == final(folder_of(template))
    assert (finished / "code.py").read_bytes() == (ROOT / "darklens/training/trainer.py").read_bytes()


def one_line(capsys, *arguments) -> str:
    """The line with which a run that had begun ends."""
    capsys.readouterr()
    assert _run(*arguments) == 1
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line


@pytest.mark.parametrize("place", ["images_t/train/no/0000.npy", "/proc", "/dev/null/x", "line\nbreak"])
def test_unwritable_results_folder_is_found_before_the_images_are_read(data, capsys, place):
    Path("line\nbreak").write_bytes(b"a file")
    corpus.IMAGES["garbage"].make(data / "val" / "no" / "0001.npy")
    line = refusal(capsys, *TRAIN, "--results_dir", place)
    assert "results" in line and place.replace("\n", r"\n") in line and line.isprintable()


def test_results_folder_without_permission(elsewhere, capsys):
    corpus.IMAGES["garbage"].make(elsewhere / "images_t" / "val" / "no" / "0001.npy")
    elsewhere.chmod(0o555)
    try:
        with as_nobody():
            assert "Permission denied" in refusal(capsys, *TRAIN, "--results_dir", "out")
    finally:
        elsewhere.chmod(0o755)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8, 11, 14, 17])
def test_disk_full_at_any_write(template, data, capsys, monkeypatch, number):
    """The disk, or the quota, has no room from one write on, until the run has ended."""
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= number:
            raise OSError(*[(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "quota")][number % 2])
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    line = one_line(capsys, *TRAIN)
    assert re.search(r"disk full|quota|No space left", line) and NAME in line
    monkeypatch.setattr(os, "fsync", sync)
    goes_on(template, data, capsys)


@pytest.mark.parametrize("limit", [100, 4_000, 150_000, 500_000])
def test_files_that_may_not_become_so_large(template, data, capsys, limit):
    """A real limit of the system, met in the log, run.json or code.py, the best network and the state."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        line = one_line(capsys, *TRAIN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.search("limit reached|File too large", line) and NAME in line
    goes_on(template, data, capsys)


SMALL_DISK = """if True:
    import os, pathlib, subprocess, sys
    import test_faults
    from darklens.commands import run
    os.environ["LENS_PICTURES"] = "none"
    images, train = os.path.abspath("images_t"), test_faults.TRAIN

    def disk(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "disk"], check=True)
        os.chdir("disk")
        os.path.exists("images_t") or os.symlink(images, "images_t")

    def attempt(name, *arguments):
        print(f"== {name}", file=sys.stderr, flush=True)
        print(name, run.main(list(arguments)), flush=True)

    pathlib.Path("disk").mkdir()
    disk("size=1M")
    attempt("full", *train)
    folder = test_faults.folder_of(pathlib.Path())
    for path in folder.glob("*.pt*"):
        test_faults.checkpoint.load(path)
        print("good", path.name)
    subprocess.run(["mount", "-o", "remount,ro", os.getcwd()], check=True)
    attempt("read-only", *train)
    attempt("resumed read-only", "--resume", "latest", "--quiet")
    subprocess.run(["mount", "-o", "remount,rw,size=20M", os.getcwd()], check=True)
    attempt("enlarged", "--resume", "latest", "--quiet")
    print("same", test_faults.final(folder) == test_faults.final(test_faults.folder_of(pathlib.Path(sys.argv[1]))))
"""


def test_a_disk_that_is_really_full(template, data):
    """A disk of two megabytes in a name space of its own, made read-only, then enlarged."""
    apart = ["unshare", "-Urm"]
    if not shutil.which("unshare") or subprocess.run([*apart, "mount", "-t", "tmpfs", "x", str(data)]).returncode:
        pytest.skip("this system lets nobody mount a disk")
    environment = {**program_environment(), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(map(str, [Path(__file__).parent, ROOT / "tests"]))
    command = [*apart, sys.executable, "-c", SMALL_DISK, str(template)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    found = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if re.match(r"[a-z -]+ \S+$", line))
    said = {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in done.stderr.split("== ")[1:]}
    assert (found["full"], found["read-only"], found["resumed read-only"], found["enlarged"]) == ("1", "1", "1", "0")
    assert re.fullmatch(r"error: images_t_C_2/.*disk full.*\n", said["full"])
    assert re.fullmatch(r"error: images_t_C_2: .*Read-only file system.*\n", said["read-only"])
    assert re.fullmatch(r"error: images_t_C_2/.*Read-only file system.*\n", said["resumed read-only"])
    assert found["good"] == corpus.BEST and found["same"] == "True"


def test_log_on_a_full_disk(here, capsys):
    log = folder_of(here) / f"log_{folder_of(here).name}.txt"
    log.unlink()
    log.symlink_to("/dev/full")
    line = refusal(capsys, "--resume", "latest", "--quiet")
    assert f"{log.name}: cannot be written (No space left on device)" in line


def test_output_on_a_full_disk(here, capsys, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert commands_run.main(["--resume", "latest", "--quiet"]) == 1
    assert capsys.readouterr().err == "error: the output: No space left on device\n"


def test_two_runs_in_one_second(data, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(sys.modules[runs.make_run_folder.__module__], "datetime", Clock)
    for _ in range(2):
        assert commands_run.main([*TRAIN, "--epochs", "1"]) == 0
    names = ["2026-01-02-03-04-05", "2026-01-02-03-04-05-2"]
    assert sorted(path.name for path in data.parent.glob(f"{NAME}/*")) == names
    assert all((data.parent / NAME / name / "metrics.json").exists() for name in names)


# --- what happens while a run goes on -------------------------------------------------------------------------


@pytest.fixture
def streamed(monkeypatch):
    """The images do not fit in memory."""
    monkeypatch.setattr(machine, "available_memory", lambda: 0)


def test_a_bad_image_is_met_in_the_middle_of_training(template, data, capsys, streamed):
    """Then it is too late to leave no folder; when the image is mended, the run goes on to the same end."""
    path = data / "val" / "vort" / "0001.npy"
    good = path.read_bytes()
    corpus.IMAGES["truncated pixels"].make(path)
    assert "val/vort/0001.npy: truncated" in one_line(capsys, *TRAIN)
    path.write_bytes(good)
    goes_on(template, data, capsys)


def test_the_first_batch_does_not_wait_for_all_images(data, streamed, monkeypatch):
    read, step, before = Files.read, trainer.Trainer._train_step, []

    def counted(files, index, *rest):
        before.append(files.name(index))
        return read(files, index, *rest)

    def first(self, batch):
        monkeypatch.setattr(trainer.Trainer, "_train_step", step)
        before.append(len(before))
        return step(self, batch)

    monkeypatch.setattr(Files, "read", counted)
    monkeypatch.setattr(trainer.Trainer, "_train_step", first)
    assert commands_run.main([*TRAIN, "--epochs", "1", "--batch_size", "2", "--num_workers", "0"]) == 0
    (number,) = (item for item in before if isinstance(item, int))
    assert 2 <= number <= 2 + 2  # the batch, and an image of each split for its number type


def test_constant_and_negative_images_are_legal(data, capsys):
    """Zeros, a constant, and sky-subtracted data: a warning a split, and finite figures."""
    sky = np.random.default_rng(0).normal(0, 3, (corpus.SIZE, corpus.SIZE)).astype("f4")
    for name, image in {"0001": 0 * sky, "0002": 0 * sky + 7, "0003": sky}.items():
        np.save(data / "train" / "no" / f"{name}.npy", image)
    assert commands_run.main(TRAIN) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "0001.npy" in warnings[0] and "2 of 12" in warnings[0]
    assert all(np.isfinite(np.load(folder_of(data.parent) / f"{name}.npy")).all() for name in state.CURVES)


def failing_after(steps: int, result) -> object:
    """`Trainer._loss` that goes wrong after some steps: raises `result`, or returns it as the loss."""
    loss, done = trainer.Trainer._loss, []

    def wrong(self, batch):
        done.append(batch)
        if len(done) <= steps:
            return loss(self, batch)
        if isinstance(result, Exception):
            raise result
        return loss(self, batch)[0], torch.tensor(result)

    return wrong


@pytest.mark.parametrize(
    "result, says",
    [
        (float("nan"), "the loss is nan at epoch 2, step 1, learning rate 5.00e-05.*Lower --lr"),
        (-float("inf"), "the loss is -inf at epoch 2, step 1"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "memory is full at batch size 8: lower --batch_size"),
    ],
    ids=["nan", "inf", "memory"],
)
def test_a_run_that_cannot_go_on_keeps_its_last_good_network(template, data, capsys, monkeypatch, result, says):
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_loss", failing_after(2, result))
        line = one_line(capsys, *TRAIN)
    assert re.search(says, line)
    folder = folder_of(data.parent)
    assert load_model(folder / corpus.BEST).epoch == 1
    log = (folder / f"log_{folder.name}.txt").read_text()
    assert f"stopped: {line.removeprefix('error: ')}" in log
    assert "memory" in says or log.count("images_t/train/") == 8  # the files of the batch
    goes_on(template, data, capsys)


def test_a_learning_rate_that_is_far_too_high(data, capsys):
    line = one_line(capsys, *TRAIN, "--lr", "1e30", "--batch_size", "4")
    assert re.search(r"the loss is (nan|inf) at epoch 1, step [23], learning rate 1.00e\+30", line)
    assert not (folder_of(data.parent) / corpus.BEST).exists()


def test_memory_of_the_gpu_when_testing_and_when_going_on(here, capsys, monkeypatch):
    """The batch size is that of the run, which the command line does not repeat."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(evaluate, "evaluator", full)
    assert "at batch size 8" in refusal(capsys, *TEST)
    (folder_of(here) / corpus.LAST).unlink()  # the generation before it has an epoch to go
    assert "at batch size 8" in one_line(capsys, "--resume", "latest", "--quiet")


def test_no_gpu(data, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commands_run.main([*TRAIN, "--epochs", "1", "--use_cuda", "True"]) == 0
    (warning,) = capsys.readouterr().err.strip().split("\n")
    assert warning.startswith("warning: --use_cuda True, but there is no GPU")


def test_no_such_gpu(data, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Graphics {index}")
    line = refusal(capsys, *TRAIN, "--use_cuda", "True", "--cuda_idx", "2")
    assert "--cuda_idx 2" in line and "0: Graphics 0, 1: Graphics 1" in line


@pytest.mark.parametrize("name", ["im\nages", "images_\x1b[31m", os.fsdecode(b"images_\xff"), "images $x$ {}"])
def test_names_of_any_kind(data, capsys, name):
    """A data folder may be called anything."""
    data.rename(name)
    assert commands_run.main(["--data_dir", name, *SMALL, "--epochs", "1"]) == 0
    assert commands_run.main(TEST) == 0
