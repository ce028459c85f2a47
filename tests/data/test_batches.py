"""Batches: the same bits from memory and from disk, in any order and size; bad files; processes."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from data_sets import SIZE, assert_one_line, assert_same, make_folder, open_batches, paths, picture

from darklens.data.batches import Batches
from darklens.data.folder import scan
from darklens.data.image import read_image
from darklens.data.transforms import ORIGINAL, default_preprocess
from darklens.errors import DataError


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_nan() -> bytes:
    image = picture(3, dtype="float32")
    image[5, 7] = np.nan
    return npy(image)


BAD_FILES = {  # name -> the file's bytes; None: removed
    "half": npy(picture(4))[:1000],
    "another size": npy(picture(4, (41, 41))),
    "NaN": with_nan(),
    "objects": npy(np.full((SIZE, SIZE), 7, object)),
    "gone": None,
}


def test_evaluation_is_in_file_order_and_complete(tmp_path):
    batches = open_batches(make_folder(tmp_path), "val", batch_size=4)
    assert len(batches) == 3
    found = list(batches.epoch())
    assert [len(batch.images) for batch in found] == [4, 4, 1]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(9))
    labels = torch.cat([batch.labels for batch in found])
    assert labels.dtype == torch.int64 and labels.tolist() == batches.labels.tolist()
    assert batches.path(found[1].indices[0]) == tmp_path / "val" / "sphere" / "val_001.npy"
    raw = np.stack([read_image(batches.path(index)) for index in range(9)])
    truth = batches.preprocess(torch.from_numpy(raw))
    torch.testing.assert_close(torch.cat([batch.images for batch in found]), truth, atol=1e-6, rtol=0)
    assert_same(found, batches.epoch(5))


def test_training_epochs_differ_and_repeat(tmp_path):
    make_folder(tmp_path)
    batches = open_batches(tmp_path, train=True, seed=3)
    orders = [torch.cat([batch.indices for batch in batches.epoch(epoch)]).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(21)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert_same(batches.epoch(2), open_batches(tmp_path, train=True, seed=3).epoch(2))
    other = torch.cat([batch.indices for batch in open_batches(tmp_path, train=True, seed=4).epoch(0)]).tolist()
    assert other != orders[0]


def test_an_image_looks_the_same_in_batches_of_any_size(tmp_path):
    make_folder(tmp_path)
    views = []
    for size in (1, 4, 21):
        found = list(open_batches(tmp_path, batch_size=size, train=True).epoch(1))
        views.append((torch.cat([b.indices for b in found]), torch.cat([b.images for b in found])))
    for indices, images in views[1:]:
        assert torch.equal(indices, views[0][0])
        torch.testing.assert_close(images, views[0][1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["uint16", ">f8"])
def test_streaming_gives_the_bits_of_memory(tmp_path, train, workers, dtype):
    make_folder(tmp_path, dtype=dtype)
    memory = open_batches(tmp_path, train=train, seed=1)
    stream = open_batches(tmp_path, train=train, seed=1, workers=workers, memory_limit=0)
    assert memory.in_memory and not stream.in_memory
    state = torch.get_rng_state()
    assert_same(memory.epoch(1), stream.epoch(1))
    assert torch.equal(state, torch.get_rng_state())


def test_mixed_number_types_give_the_same_bits_too(tmp_path):
    make_folder(tmp_path)
    kinds = ["uint8", "int8", "uint16", "int16", "float16", "int32", ">f4", "float64", "uint64"]
    for path, kind in zip(sorted((tmp_path / "train").rglob("*.npy")), kinds * 3, strict=False):
        np.save(
            path,
            np.clip(np.load(path), 0, 127).astype(kind) if kind == "int8" else np.load(path).astype(kind),
        )
    memory = open_batches(tmp_path, train=True)
    assert memory.in_memory
    assert_same(memory.epoch(), open_batches(tmp_path, train=True, memory_limit=0, workers=0).epoch())


def test_mixed_number_types_that_outgrow_the_memory_are_streamed(tmp_path):
    make_folder(tmp_path)
    np.save(tmp_path / "train" / "vort" / "train_006.npy", picture(5, dtype="float32"))
    limit = 21 * SIZE * SIZE * 3  # enough for two bytes a pixel, not for four
    stream = open_batches(tmp_path, memory_limit=limit)
    assert not stream.in_memory
    assert_same(stream.epoch(), open_batches(tmp_path).epoch())


@pytest.mark.parametrize("memory_limit", [None, 0])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_resuming_within_an_epoch_is_skipping(tmp_path, memory_limit, start):
    make_folder(tmp_path)
    batches = open_batches(tmp_path, train=True, memory_limit=memory_limit, workers=1)
    assert_same(batches.epoch(2, start=start), list(batches.epoch(2))[start:])
    assert list(batches.epoch(2, start=6)) == list(batches.epoch(2, start=9)) == []


@pytest.mark.parametrize("shape", [(SIZE, SIZE, 3), (3, SIZE, SIZE)])
def test_three_channels(tmp_path, shape):
    batches = open_batches(make_folder(tmp_path, 2, 1, shape=shape))
    assert next(batches.epoch()).images.shape == (4, 3, 33, 33)


@pytest.mark.parametrize("memory_limit", [None, 0])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_anywhere_is_one_line_in_the_main_process(tmp_path, memory_limit, workers, kind):
    make_folder(tmp_path)
    victim = tmp_path / "train" / "vort" / "train_005.npy"
    folder = scan(tmp_path)
    victim.write_bytes(BAD_FILES[kind]) if BAD_FILES[kind] else victim.unlink()
    with pytest.raises(DataError) as error:
        batches = Batches(
            folder.splits["train"],
            folder,
            default_preprocess(SIZE),
            4,
            workers=workers,
            memory_limit=memory_limit,
            progress=False,
        )
        list(batches.epoch())
    assert_one_line(error, victim)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_constant_images_are_counted_and_the_first_named(tmp_path, memory_limit):
    make_folder(tmp_path)
    for name, value in (("no/train_003", 0), ("vort/train_001", 7)):
        np.save(tmp_path / "train" / f"{name}.npy", np.full((SIZE, SIZE), value, np.uint16))
    batches = open_batches(tmp_path, memory_limit=memory_limit)
    for _ in range(2):
        images = torch.cat([batch.images for batch in batches.epoch()])
    assert images.isfinite().all()
    (line,) = batches.warnings
    assert str(tmp_path / "train" / "no" / "train_003.npy") in line and "2 of 21 train" in line
    assert open_batches(tmp_path, "val", memory_limit=memory_limit).warnings == []


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_images_with_a_filled_border_are_counted_and_the_first_named(tmp_path, memory_limit):
    make_folder(tmp_path)
    for name in ("no/train_003", "vort/train_001"):
        image = np.load(path := tmp_path / "train" / f"{name}.npy").astype("f4")
        image[:2, :5] = np.nan
        np.save(path, image)
    batches = open_batches(tmp_path, memory_limit=memory_limit)
    assert torch.cat([batch.images for batch in batches.epoch()]).isfinite().all()
    (line,) = batches.warnings
    said = "NaN at the edges, filled with the median of the outer half, as in 2 of 21 train images"
    assert line == f"{tmp_path / 'train' / 'no' / 'train_003.npy'}: {said}"


def test_images_smaller_than_the_window_are_refused_at_once(tmp_path):
    with pytest.raises(DataError) as error:
        open_batches(make_folder(tmp_path, 1, 1), preprocess=ORIGINAL)
    assert_one_line(error, tmp_path, "128 pixels or more", f"found {SIZE}")


def test_streaming_starts_without_reading_everything(tmp_path):
    make_folder(tmp_path)
    stream = open_batches(tmp_path, memory_limit=0, workers=1, batch_size=1)
    for path in paths(stream.split)[10:]:
        path.write_bytes(b"damaged")
    epoch = stream.epoch()
    assert next(epoch).images.shape == (1, 1, 33, 33)
    epoch.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_workers_outlive_signals_to_the_whole_group(tmp_path, name):
    make_folder(tmp_path)
    stream = open_batches(tmp_path, memory_limit=0, batch_size=1)
    handler = signal.getsignal(signal.SIGCHLD)
    epoch = stream.epoch()
    count = len(next(epoch).images)
    assert signal.getsignal(signal.SIGCHLD) == handler and not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    # from another process, as a scheduler does: workers do obey SIGTERM from the one that started them
    subprocess.run(["sh", "-c", f"kill -{name} {' '.join(str(worker.pid) for worker in workers)}"], check=True)
    count += sum(len(batch.images) for batch in epoch)
    assert count == 21
    assert not multiprocessing.active_children()


ABANDON = """
import sys
from dataset import Batches, default_preprocess, scan
folder = scan(sys.argv[1])
preprocess = default_preprocess(folder.size)
batches = Batches(folder.splits["train"], folder, preprocess, 1, workers=2, memory_limit=0)
epoch = batches.epoch()
next(epoch)
print(*[p.pid for p in __import__("multiprocessing").active_children()])
sys.exit(3)
"""


def test_a_program_that_ends_within_an_epoch_leaves_no_processes(tmp_path):
    make_folder(tmp_path, train=30)
    done = subprocess.run([sys.executable, "-c", ABANDON, tmp_path], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 3 and not done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_is_killed_is_one_line(tmp_path):
    make_folder(tmp_path, train=30)
    epoch = open_batches(tmp_path, memory_limit=0, workers=1, batch_size=1).epoch()
    next(epoch)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.5)  # nothing is raised in the middle of other work
    with pytest.raises(DataError) as error:
        list(epoch)
    assert_one_line(error, "train", "died")


def test_progress_bar_is_quiet_where_there_is_no_terminal(tmp_path, capsys):
    make_folder(tmp_path)
    open_batches(tmp_path, progress=True)
    assert capsys.readouterr() == ("", "")
