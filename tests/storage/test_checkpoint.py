"""Checkpoints: bits come back, damage is found, hostile files do nothing, cut-off saves lose nothing."""

import errno
import io
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT  # noqa: E402
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darklens.errors import CheckpointError
from darklens.storage import checkpoint
from darklens.storage.checkpoint import load, load_foreign, load_newest, previous_of, save

SMALL = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "epoch": 3, "name": "C4"}
FUZZ = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def same(a, b):
    """Equal in type, structure and bits."""
    if isinstance(a, torch.Tensor):
        raw = [x.detach().reshape(-1).contiguous().view(torch.uint8) for x in (a, b)]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*raw)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def refused(read, path, *words):
    """`read(path)` must raise one line that names the file and has the words; returns it."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for word in words:
        assert word in message
    return message


def trained():
    """A network, optimizer and schedule that have made one step."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    adam = torch.optim.Adam(net.parameters(), lr=5e-5, weight_decay=1e-5)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 10)
    net(torch.randn(5, 3)).square().sum().backward()
    adam.step()
    plan.step()
    return {"model": net.state_dict(), "optimizer": adam.state_dict(), "schedule": plan.state_dict()}


def sealed(content: bytes, path: Path) -> Path:
    """Any archive's bytes as a file with a valid checksum, as one who knows the format would forge it."""
    buffer = io.BytesIO(content)
    checkpoint._seal(buffer)
    path.write_bytes(buffer.getvalue())
    return path


def packed(thing, **options) -> bytes:
    """What plain torch.save writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


def run_script(script: str, *arguments) -> str:
    """Run a script that knows `checkpoint`, in a process of its own; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What goes in comes out

PAYLOADS = {
    "empty": {},
    "numbers": {"i": -(2**63), "u": 2**128 - 1, "f": float("nan"), "inf": -float("inf")},
    "constants": {"b": True, "n": None},
    "text": {"s": "naïve \udc80 \n\0", "": "", "class": ["no", "sphere", "vort"]},
    "nested": {"a": {"b": [{"c": (1, [2.5, "x"])}], 7: OrderedDict(z=1, y=torch.ones(2))}},
    "dtypes": {
        str(dtype): torch.arange(5).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint16, torch.bool)
    },
    "shapes": {"none": torch.empty(0, 3), "scalar": torch.tensor(-0.0), "turned": torch.rand(3, 4).T},
    "parameter": {"p": torch.nn.Parameter(torch.rand(3)), "nan": torch.tensor([float("nan")])},
    "training": trained(),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_round_trip(payload, tmp_path):
    save(payload, tmp_path / "a.pt")
    assert same(load(tmp_path / "a.pt"), payload)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_plain_torch_and_zip_read_it(tmp_path):
    save(SMALL, tmp_path / "a.pt")
    plain = torch.load(tmp_path / "a.pt", weights_only=True)
    assert same(plain, {**SMALL, "format": checkpoint.FORMAT})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert re.fullmatch(rb"sha256:[0-9a-f]{64}", archive.comment)


def test_shared_tensors_stay_shared_and_small(tmp_path):
    weights = torch.rand(1000)
    save({"a": weights, "b": weights}, tmp_path / "a.pt")
    back = load(tmp_path / "a.pt")
    assert back["a"].data_ptr() == back["b"].data_ptr()
    assert (tmp_path / "a.pt").stat().st_size < 2 * weights.nbytes


def test_is_ours(tmp_path):
    save(SMALL, tmp_path / "ours.pt")
    torch.save(SMALL, tmp_path / "theirs.pt")
    (tmp_path / "short").write_bytes(b"PK")
    assert checkpoint.is_ours(tmp_path / "ours.pt")
    assert not any(checkpoint.is_ours(tmp_path / name) for name in ("theirs.pt", "short", "missing", ""))


UNNAMED = [torch.empty(2, device="meta"), 1 << 5000]  # found when what was packed is read back


@pytest.mark.parametrize(
    "value",
    [np.float64(1), np.int64(1), np.zeros(2), np.str_("x"), np.bool_(True), Path("x"), {1}, b"x", 1j, print]
    + [torch.float32, torch.Size([1]), torch.zeros(2).to_sparse(), *UNNAMED],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read_back_is_refused_by_key_and_nothing_is_touched(value, tmp_path):
    save(SMALL, tmp_path / "a.pt")
    message = refused(lambda path: save({"outer": [{"inner": value}]}, path), tmp_path / "a.pt", "not saved")
    assert "'outer.0.inner'" in message or value is UNNAMED[0] or value is UNNAMED[1]
    assert same(load(tmp_path / "a.pt"), SMALL) and os.listdir(tmp_path) == ["a.pt"]


def test_other_payloads_that_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    refused(lambda path: save([1], path), path, "dict", "list")
    refused(lambda path: save({"format": 9}, path), path, "'format'")
    refused(lambda path: save({"a": {np.int64(1): 2}}, path), path, "int64", "'a'")
    refused(lambda path: save({"a": torch.zeros(1).expand(10**6)}, path), path, "'a'", "4000000 bytes")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_random_states_come_back_bit_for_bit(device, tmp_path):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def draw():
        rolls = [random.gauss(0, 1), *np.random.normal(size=3), *torch.randn(3).tolist()]
        return rolls + torch.randn(3, device=device).tolist()

    draw()  # an odd number of normals: Python and NumPy now hold the second of a pair
    save({"random": checkpoint.random_state()}, tmp_path / "a.pt")
    first = draw()
    assert draw() != first
    checkpoint.set_random_state(load(tmp_path / "a.pt")["random"])
    assert draw() == first


# Damage


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "a.pt"
    save(SMALL, path)
    good, end = path.read_bytes(), 110  # the end: ZIP records and checksum, where every bit is tried
    for at in range(len(good)):
        for flip in [1 << bit for bit in range(8)] if at >= len(good) - end else [1 + at % 255]:
            path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            refused(load, path)
        refused(load_foreign, path)  # nor does it pass for a file of another program
    path.write_bytes(good)
    assert same(load(path), SMALL)


def test_every_truncation_and_every_addition_is_found(tmp_path):
    path = tmp_path / "a.pt"
    save(SMALL, path)
    good = path.read_bytes()
    for length in [*range(0, len(good), 64), *range(len(good) - 100, len(good))]:
        path.write_bytes(good[:length])
        refused(load, path, "empty" if length == 0 else "cut short")
        refused(load_foreign, path)
    for content in (good + b"\0", b"\0" + good, good + good, good[:500] + good[501:]):
        path.write_bytes(content)
        refused(load, path)


def test_what_is_no_checkpoint(tmp_path):
    refused(load, tmp_path / "missing", "No such file")
    refused(load, tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refused(load, tmp_path / "pipe", "not a regular file")
    for name, content in {"empty": b"", "text": b"hello\n", "zeros": bytes(5000), "zip": b"PK\3\4"}.items():
        (tmp_path / name).write_bytes(content)
        refused(load, tmp_path / name, "empty" if name == "empty" else "no checksum")
        refused(load_foreign, tmp_path / name)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({**SMALL, "format": checkpoint.FORMAT + 1}, [f"reads format {checkpoint.FORMAT + 1}"]),
        ({**SMALL, "format": "1"}, ["format number", "'1'"]),
        ({**SMALL, "format": True}, ["format number"]),
        (SMALL, ["format number", "None"]),
        ([1, 2], ["format number"]),
    ],
)
def test_other_formats_are_refused(payload, words, tmp_path):
    refused(load, sealed(packed(payload), tmp_path / "a.pt"), *words)


def recompressed(content: bytes) -> bytes:
    """The same archive with compressed members."""
    buffer, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return buffer.getvalue()


def test_archives_that_claim_more_than_they_hold_are_refused(tmp_path):
    path, small = tmp_path / "a.pt", packed({"format": 1, "w": torch.zeros(1000)})
    noise = torch.randint(256, (1000,), dtype=torch.uint8)  # compressed, it is no smaller
    for weights in (torch.zeros(10**6), noise):
        content = recompressed(packed({"format": 1, "w": weights}))
        refused(load, sealed(content, path), "more bytes than the file holds")
        path.write_bytes(content)
        refused(load_foreign, path, "more bytes than the file holds")
    size = (4000).to_bytes(4, "little")  # the weights' size in the central directory: twice, after the CRC
    assert small.count(size * 2) >= 1
    at = small.rindex(size * 2)
    forged = small[:at] + (2**31).to_bytes(4, "little") * 2 + small[at + 8 :]
    refused(load, sealed(forged, path), "more bytes than the file holds")


# Hostile files


class Evil:
    """Unpickles into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker: Path) -> dict:
    """Pickles that would make `marker`, or take all memory."""
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True
    )
    return {
        "system": Evil(os.system, f"touch '{marker}'"),
        "eval": Evil(eval, f"open({str(marker)!r}, 'w')"),
        "open": Evil(open, str(marker), "w"),
        "bytearray": Evil(bytearray, 1 << 45),
        "tensor": Evil(torch.FloatTensor, 1 << 45),
        "rebuild": Evil(torch._utils._rebuild_tensor_v2, storage, 0, (1 << 40,), (1,), False, {}),
        "expand": torch.zeros(1).expand(1 << 40),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", hostile(Path()))
def test_hostile_pickles_are_refused_and_nothing_is_executed(kind, zipped, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "a.pt"
    payload = {"format": checkpoint.FORMAT, "w": hostile(marker)[kind]}
    content = packed(payload, _use_new_zipfile_serialization=zipped)
    path.write_bytes(content)
    message = refused(load_foreign, path)
    assert "nothing executed" in message or kind in ("rebuild", "expand")
    if zipped:
        refused(load, sealed(content, path))
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickles_are_refused_and_nothing_is_executed(protocol, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(hostile(marker)["system"], protocol))
    refused(load_foreign, path)
    refused(load, path)
    refused(load, sealed(path.read_bytes(), path))
    assert not marker.exists()


def test_lists_that_hold_themselves_end(tmp_path):
    loop = [1]
    loop.append(loop)
    doubled = [1]
    for _ in range(60):  # 2**60 paths through it
        doubled = [doubled, doubled]
    save({"loop": loop, "doubled": doubled}, tmp_path / "a.pt")
    back = load(tmp_path / "a.pt")["loop"]
    assert back[1] is back


@FUZZ
@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\3\4", b"\x80\x02"]))
def test_any_bytes_are_refused(tmp_path, content, start):
    path = tmp_path / "a.pt"
    path.write_bytes(start + content)
    refused(load, path)
    refused(load_foreign, path)
    refused(load, sealed(start + content + b"PK\5\6" + bytes(18), path))


@FUZZ
@given(st.data(), st.booleans())
def test_changed_files_with_a_forged_checksum_are_read_or_refused(tmp_path, data, zipped):
    weights = {"format": 1, "w": torch.arange(3), "b": torch.ones(2, dtype=torch.bfloat16)}
    content = bytearray(packed(weights, _use_new_zipfile_serialization=zipped))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 1 << 20)) % (len(content) - 25)
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "a.pt"
    for read in (load_foreign, load):
        path.write_bytes(content) if read is load_foreign else sealed(bytes(content), path)
        try:
            assert isinstance(read(path), dict)
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error)


# Files of other programs


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_state_dicts_load(zipped, tmp_path):
    weights = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    weights["scale"] = 2.5
    torch.save(weights, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    back = load_foreign(tmp_path / "a.pt")
    assert same(dict(back), dict(weights))
    refused(load, tmp_path / "a.pt", "not from this program")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ({"model": {"w": torch.ones(1)}, "epoch": 1}, ["'model'", "dict with keys w"]),
        ({"w": torch.ones(1), "name": "x"}, ["'name'", "str"]),
        ({1: torch.ones(1)}, ["1: torch.Tensor"]),
        ({}, ["found dict"]),
        (torch.ones(2), ["torch.Tensor"]),
        (torch.nn.Linear(1, 1), ["torch.nn.modules.linear.Linear", "nothing executed"]),
    ],
)
def test_other_foreign_files_are_refused(thing, words, tmp_path):
    torch.save(thing, tmp_path / "a.pt")
    refused(load_foreign, tmp_path / "a.pt", *words)


def test_our_own_file_is_not_foreign(tmp_path):
    save({"w": torch.ones(1)}, tmp_path / "a.pt")
    refused(load_foreign, tmp_path / "a.pt", "load()")


def test_changed_weights_of_a_foreign_file_are_found(tmp_path):
    path, weights = tmp_path / "a.pt", torch.rand(50)
    content = packed({"w": weights})
    at = content.index(weights.numpy().tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    refused(load_foreign, path, "CRC-32")


# Generations


def test_two_generations_are_kept(tmp_path):
    path = tmp_path / "a.pt"
    for epoch in range(4):
        save({"epoch": epoch}, path)
    assert load(path) == {"epoch": 3} and load(previous_of(path)) == {"epoch": 2}
    save({"epoch": 4}, path, keep_previous=False)
    assert load(path) == {"epoch": 4} and load(previous_of(path)) == {"epoch": 2}
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.previous"]


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_the_previous_generation_is_offered_and_used(damage, tmp_path):
    path = tmp_path / "a.pt"
    save({"epoch": 0}, path)
    save({"epoch": 1}, path)
    assert load_newest(path) == ({"epoch": 1}, "")
    path.write_bytes(path.read_bytes()[:-1] + b"?") if damage == "flipped" else path.unlink()
    refused(load, path, f"good: {previous_of(path)}")
    payload, note = load_newest(path)
    assert payload == {"epoch": 0}
    assert note.startswith(f"{path}: ") and note.endswith(f"went on from {previous_of(path)}")
    previous_of(path).write_bytes(b"garbage")
    assert "before it is good" not in refused(load, path)
    refused(load_newest, path)


def test_a_damaged_file_does_not_push_out_a_good_generation(tmp_path):
    path = tmp_path / "a.pt"
    save({"epoch": 0}, path)
    save({"epoch": 1}, path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    save({"epoch": 2}, path)
    assert load(path) == {"epoch": 2} and load(previous_of(path)) == {"epoch": 0}


def test_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_two_generations_are_kept(tmp_path)


def test_leftovers_of_killed_saves_go_and_those_of_running_ones_stay(tmp_path):
    path, gone = tmp_path / "a[1].pt", int(run_script("import os; print(os.getpid())"))
    theirs = [f"a[1].pt.{gone}.tmp", f"a[1].pt.previous.{gone}.tmp", f"a[1].pt.{os.getpid()}.tmp"]
    kept = [f"a[1].pt.{os.getppid()}.tmp", f"b.pt.{gone}.tmp", "a[1].pt.tmp", "a[1].pt.x.tmp"]
    for name in theirs + kept:
        (tmp_path / name).write_bytes(b"half")
    save(SMALL, path)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *kept])


# Saves that are cut off


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_fault_at_any_step_leaves_the_old_file_and_no_rubbish(fault, call, turn, tmp_path, monkeypatch):
    path, real, calls = tmp_path / "a.pt", getattr(os, call), []
    save({"epoch": 0}, path)
    save({"epoch": 1}, path)

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == turn:
            raise fault
        return real(*arguments)

    monkeypatch.setattr(os, call, failing)
    try:
        save({"epoch": 2}, path)
    except (CheckpointError, KeyboardInterrupt) as error:
        assert isinstance(error, KeyboardInterrupt) or re.search(r"a\.pt: not saved: disk full", str(error))
        assert load(path)["epoch"] == 1 or (call, turn) == ("fsync", 2)
    else:  # links have a fallback; a folder that cannot be synced does not undo the save
        assert load(path) == {"epoch": 2}
    assert load(path)["epoch"] in (1, 2) and load(previous_of(path))["epoch"] in (0, 1)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.previous"]


def test_a_write_that_really_stops_half_way(tmp_path):
    path, limits = tmp_path / "a.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    save({"epoch": 0}, path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        refused(lambda path: save({"w": torch.zeros(100_000)}, path), path, "file size limit", "is untouched")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(path) == {"epoch": 0} and os.listdir(tmp_path) == ["a.pt"]


def test_a_folder_that_may_not_be_written(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        path, user = Path(folder) / "a.pt", os.geteuid()
        save({"epoch": 0}, path)
        os.chmod(folder, 0o555)
        try:
            if user == 0:  # root may write everywhere
                os.seteuid(65534)
            refused(lambda path: save({"epoch": 1}, path), path, "no permission")
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
        assert load(path) == {"epoch": 0}
    refused(lambda path: save({"epoch": 1}, path), tmp_path / "nowhere" / "a.pt", "folder does not exist")


KILLED = """if True:
    import itertools, os, random, signal, sys, time, torch
    from darklens.storage import checkpoint
    torch.set_num_threads(1)
    path = sys.argv[1]

    def in_child(work):
        # fork, so that torch is imported once
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        return child

    def die_at(turn):
        # save once, killed just before the turn-th call that changes the disk
        calls = itertools.count(1)
        def deadly(real):
            def call(*arguments, **options):
                if next(calls) == turn:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)
            return call
        for name in ("fsync", "link", "replace", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        save_next()

    def save_next():
        step = checkpoint.load(path)["step"] + 1
        checkpoint.save({"step": step, "w": torch.full((100_000,), float(step))}, path)

    def save_for_ever():
        while True:
            save_next()

    def check():
        now, before = checkpoint.load(path), checkpoint.load(path + ".previous")
        for payload in (now, before):
            assert (payload["w"] == payload["step"]).all()
        assert now["step"] - before["step"] in (0, 1), (now["step"], before["step"])
        return now["step"]

    checkpoint.save({"step": 0, "w": torch.zeros(100_000)}, path)
    save_next()
    deaths = 0
    for turn in range(1, 8):
        deaths += os.WIFSIGNALED(os.waitpid(in_child(lambda: die_at(turn)), 0)[1])
        check()
    moments, before = random.Random(0), check()
    for _ in range(10):
        child = in_child(save_for_ever)
        time.sleep(moments.uniform(0.02, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check()
    print(deaths, check() - before)
    save_next()
"""


def test_sigkill_at_every_step_and_at_random_moments_loses_nothing(tmp_path):
    deaths, progress = map(int, run_script(KILLED, tmp_path / "a.pt").split())
    assert deaths >= 5 and progress > 0
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.previous"]
