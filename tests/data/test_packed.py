"""shards.py and pack.py: the bits of the folder, and whatever can be wrong with a packed data set."""

import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, write_images
from data_sets import paths

from darklens.classifier import calibrate
from darklens.classifier.classifier import Classifier
from darklens.commands import data as commands_data
from darklens.commands import run as commands_run
from darklens.commands.data import main as dataset_main
from darklens.data import pack
from darklens.data import packed as data_packed
from darklens.data.batches import Batches
from darklens.data.folder import scan
from darklens.data.image import read_image
from darklens.data.transforms import default_preprocess
from darklens.errors import DataError, Interrupted
from darklens.networks.equivariant import build_network
from darklens.storage.run_record import RunRecord
from darklens.training import recipes, trainer

SIZE = 36
RECIPE = recipes.TrainingRecipe("adamw", 1e-3, 1e-2, "one-cycle", epochs=2, batch_size=5, recalibrate=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_images(
        tmp_path_factory.mktemp("data") / "images_t", counts={"train": 7, "val": 3, "test": 2}, size=SIZE
    )


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    """The folder, packed; five images a shard."""
    pack.pack(folder, folder.with_name("whole"), 5 * SIZE * SIZE * 2)
    return folder.with_name("whole")


@pytest.fixture
def packed(whole, tmp_path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "packed")


def open_batches(folder: Path, split: str = "train", batch_size: int = 4, train: bool = True, **options) -> Batches:
    data = scan(folder)
    preprocess = default_preprocess(data.size)
    return Batches(data.splits[split], data, preprocess, batch_size, train=train, progress=False, **options)


def assert_same(first, second) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- the same as the folder ---------------------------------------------------------------------------------


def test_scan_finds_what_the_folder_has(folder, whole):
    data, same = scan(folder), scan(whole)
    assert (data.classes, data.channels, data.size) == (same.classes, same.channels, same.size)
    for name, split in data.splits.items():
        found = same.splits[name]
        assert np.array_equal(split.labels, found.labels) and split.labels.dtype == found.labels.dtype
        assert split.images.names() == found.images.names() and split.images.shape == found.images.shape
        assert [p.relative_to(folder) for p in paths(split)] == [p.relative_to(whole) for p in paths(found)]
        assert all(np.array_equal(split.images.read(i).values, found.images.read(i).values) for i in range(len(found)))
    assert len(list(whole.glob("train-0*.npy"))) == 5
    with pytest.raises(IndexError):
        found.images.name(len(found))


KINDS = {
    "uint8": (["uint8"], None),
    "uint16": (["uint16"], None),
    "float64, big-endian": ([">f8"], None),
    "float16": (["float16"], None),
    "colours last": (["uint8"], -1),
    "colours first": (["float32"], 0),
    "mixed": (["uint8", "uint8", "uint16", "float64", "int32", ">f4", "uint64"], None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_the_bits_of_the_folder(tmp_path, kind):
    folder, (kinds, axis) = write_images(tmp_path / "a", counts={"train": 3, "val": 2}, size=SIZE), KINDS[kind]
    for path, dtype in zip(sorted(folder.rglob("*.npy")), kinds * 99, strict=False):
        image = np.load(path) % 200
        np.save(path, (image if axis is None else np.stack([image, image // 2, image + 1], axis)).astype(dtype))
    pack.pack(folder, tmp_path / "b", 4 * SIZE * SIZE)
    for split, train in (("train", True), ("val", False)):
        expected = list(open_batches(folder, split, train=train).epoch(1))
        for limit, workers in ((None, 0), (0, 0), (0, 2)):
            batches = open_batches(tmp_path / "b", split, train=train, memory_limit=limit, workers=workers)
            assert batches.in_memory == (limit is None)
            assert_same(expected, batches.epoch(1))
    images = scan(tmp_path / "b").splits["train"].images
    for i, path in enumerate(paths(scan(folder).splits["train"])):  # no pixel is changed, and no type
        image = images.read(i).values
        assert np.array_equal(image, read_image(path)) and image.dtype == read_image(path).dtype


@pytest.mark.parametrize("start", [1, 5])
@pytest.mark.parametrize("limit", [None, 0])
def test_going_on_within_an_epoch_is_skipping(whole, start, limit):
    batches = open_batches(whole, memory_limit=limit, workers=1)
    assert_same(batches.epoch(2, start=start), list(batches.epoch(2))[start:])


def make(folder: Path, out: Path) -> trainer.Trainer:
    torch.manual_seed(0)
    data, options = scan(folder), {"seed": 0, "workers": 0, "memory_limit": 0}
    config = {"channels": 1, "classes": len(data.classes), "size": default_preprocess(data.size).crop}
    network = build_network({**config, "arch": "compact", "head": "pooled"})
    train, val = (open_batches(folder, name, 5, name == "train", **options) for name in ("train", "val"))
    out.mkdir(exist_ok=True)
    model = Classifier(network, list(data.classes), train.preprocess, record=RunRecord(seed=0))
    return trainer.Trainer(model, train, val, RECIPE, out, log=lambda line: None, quiet=True)


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory) -> trainer.Trainer:
    """A run on the folder."""
    run = make(folder, tmp_path_factory.mktemp("runs") / "unbroken")
    run.fit()
    return run


@pytest.mark.parametrize("first, second", [("images_t", "whole"), ("whole", "images_t")])
def test_a_run_on_either_goes_on_with_either(folder, whole, unbroken, tmp_path, monkeypatch, first, second):
    """Stopped by SIGTERM within the second epoch, resumed in a fresh trainer: the bits of the unbroken run."""
    step, done = trainer.Trainer._train_step, []

    def stop_after(self, batch):
        done.append(step(self, batch))
        if len(done) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return done[-1]

    monkeypatch.setattr(trainer.Trainer, "_train_step", stop_after)
    with pytest.raises(Interrupted):
        make(folder.with_name(first), tmp_path / "broken").fit()
    resumed = make(folder.with_name(second), tmp_path / "broken")
    resumed.resume()
    assert (resumed.epoch, resumed.step) == (1, 2)
    resumed.fit()
    assert unbroken.curves == resumed.curves
    a, b = unbroken.network.state_dict(), resumed.network.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_whole_program_writes_the_same_files(folder, whole, tmp_path, monkeypatch):
    """Trained and tested on the folder and on its shards, both called images_t."""
    monkeypatch.setattr(calibrate, "MAX_IMAGES", 8)
    monkeypatch.setenv("LENS_PICTURES", "none")
    hashes = []
    for name, source in (("a", folder), ("b", whole)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images_t").symlink_to(source)
        monkeypatch.chdir(tmp_path / name)
        flags = ["--data_dir", "images_t", "--use_cuda", "False", "--quiet"]
        assert commands_run.main([*flags, "--arch", "compact", "--epochs", "1", "--batch_size", "8"]) == 0
        assert commands_run.main([*flags, "--mode", "Test", "--test_time", "latest"]) == 0
        (run,) = (path.parent for path in (tmp_path / name).rglob("run.json"))
        names = ["best-model-parameters.pt", "predictions.npz", "train_loss.npy"]
        hashes.append([hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names])
    assert hashes[0] == hashes[1]


def test_goes_to_other_processes_without_its_files(whole):
    images = scan(whole).splits["train"].images
    first = images.read(0).values
    assert images._files and not pickle.loads(pickle.dumps(images))._files
    assert np.array_equal(pickle.loads(pickle.dumps(images)).read(0).values, first)


def test_anybody_opens_them_with_numpy(folder, whole):
    """Plain arrays, and one JSON of names and checksums."""
    index = json.loads((whole / "shards.json").read_text())["index"]
    assert {path.name for path in whole.iterdir() if path.suffix != ".npy"} == {"shards.json"}
    for split, entry in index["splits"].items():
        parts = [np.load(path, mmap_mode="r") for path in sorted(whole.glob(f"{split}-*.npy"))]
        assert [len(part) for part in parts] == [shard["images"] for shard in entry["shards"]]
        images = np.concatenate(parts)
        labels = np.repeat(index["classes"], entry["counts"])
        assert len(images) == len(labels) == len(entry["names"]) == len(entry["crc32"])
        for image, label, name, crc in zip(images, labels, entry["names"], entry["crc32"], strict=True):
            assert np.array_equal(image[0], np.load(folder / split / label / name))
            assert crc == zlib.crc32(image.tobytes())


def test_names_of_every_kind(tmp_path):
    """In capitals, not of ASCII, not of UTF-8."""
    folder = write_images(tmp_path / "f", counts={"train": 4, "val": 1}, size=SIZE)
    for number, name in enumerate(["B.NPY", "é ü 星.npy", os.fsdecode(b"caf\xe9.npy")]):
        try:
            (folder / "train" / "no" / f"000{number}.npy").rename(folder / "train" / "no" / name)
        except OSError:
            pytest.skip("this file system refuses such names")
    pack.pack(folder, tmp_path / "s")
    data, same = (scan(tmp_path / name).splits["train"] for name in "fs")
    assert data.images.names() == same.images.names()
    assert all(np.array_equal(same.images.read(i).values, read_image(path)) for i, path in enumerate(paths(data)))


def test_the_first_version_is_refused_in_one_line(packed):
    top(version=1)[1](packed)
    with pytest.raises(DataError, match="expected version 2, found 1; pack the images again"):
        scan(packed)


def test_keeps_few_files_open(whole, monkeypatch):
    monkeypatch.setattr(data_packed, "MAX_OPEN", 2)
    batches = open_batches(whole, memory_limit=0, workers=0)
    assert_same(batches.epoch(), open_batches(whole).epoch())
    assert len(batches.split.images._files) == 2


# --- pack ---------------------------------------------------------------------------------------------------


def test_packing_is_said_in_one_line_and_verified(folder, tmp_path, capsys):
    (folder / "manifest.json").write_text("{}")
    assert dataset_main(["pack", str(folder), str(tmp_path / "s"), "--shard_size", "10K"]) == 0
    assert dataset_main(["verify", str(tmp_path / "s")]) == 0
    lines = capsys.readouterr()
    assert len(lines.out.splitlines()) == 2 and lines.err == ""
    assert "36 images in" in lines.out and "as they were packed" in lines.out
    assert (tmp_path / "s" / "manifest.json").read_text() == "{}"
    (folder / "manifest.json").unlink()


def test_equal_folders_give_equal_bytes(folder, tmp_path):
    for name in "ab":
        pack.pack(folder, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    "call, status, words",
    [
        ("pack {folder} {whole}", 2, "no such folder yet"),
        ("pack {folder} {folder}/train/no/0000.npy", 2, "no such folder yet"),
        ("pack {folder} {folder}/new", 2, "only read"),
        ("pack {folder} {here}/a/b", 2, "no such folder to make b in"),
        ("pack {whole} {here}/new", 2, "found shards"),
        ("pack {here}/nothing {here}/new", 1, "no such folder"),
        ("verify {folder}", 2, "no shards.json"),
    ],
)
def test_calls_that_cannot_be_meant(folder, whole, tmp_path, capsys, call, status, words):
    before = sorted(folder.rglob("*"))
    assert dataset_main(call.format(folder=folder, whole=whole, here=tmp_path).split()) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not list(tmp_path.iterdir()) and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "256MB", "", "1" * 99])
def test_shard_sizes_that_are_none(size, capsys):
    with pytest.raises(SystemExit, match="2"):
        dataset_main(["pack", "a", "b", "--shard_size", size])
    assert "--shard_size" in capsys.readouterr().err


def test_a_bad_image_is_named_and_nothing_is_left(tmp_path, capsys):
    folder = write_images(tmp_path / "f", counts={"train": 2, "val": 1}, size=SIZE)
    np.save(folder / "val" / "vort" / "0000.npy", np.full((SIZE, SIZE), np.nan))
    assert dataset_main(["pack", str(folder), str(tmp_path / "s")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / "val" / "vort" / "0000.npy") in line
    assert os.listdir(tmp_path) == ["f"]


def test_a_disk_without_room_is_one_line(folder, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        status = dataset_main(["pack", str(folder), str(tmp_path / "s")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 1 and "cannot write to" in line and not list(tmp_path.iterdir())


def test_stopped_while_packing(folder, tmp_path, monkeypatch):
    """SIGTERM, when all but the index is written."""
    monkeypatch.setattr(pack, "_write_index", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="143"):
        dataset_main(["pack", str(folder), str(tmp_path / "s")])
    assert not list(tmp_path.iterdir())


def test_killed_while_packing(folder, tmp_path):
    """SIGKILL, when all but the index is written: what is left can't be taken for a data set."""
    code = "import os, sys; from darklens.data import pack; pack._write_index = lambda *_: os.kill(os.getpid(), 9); "
    code += "pack.pack(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "s")]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=99).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".s.") and len(list(left.glob("train-*.npy"))) == 1 and not data_packed.is_packed(left)
    with pytest.raises(DataError):
        scan(left)


# --- damaged and hostile ------------------------------------------------------------------------------------


def edit(packed: Path, change) -> None:
    """Change the index and seal it again, as a forger would."""
    whole = json.loads((packed / "shards.json").read_text())
    change(whole["index"])
    whole["sha256"] = data_packed.seal(whole["index"])
    (packed / "shards.json").write_text(json.dumps(whole))


def forge(packed: Path, name: str, array: np.ndarray, **entry) -> None:
    """Replace a file, and what the index says about it."""
    np.save(packed / name, array)
    split, number = name.removesuffix(".npy").split("-")
    entry = {"sha256": data_packed.sha256_of(packed / name)} | entry
    edit(packed, lambda index: index["splits"][split]["shards"][int(number)].update(entry))


def top(**changes):
    def change(packed: Path) -> None:
        path = packed / "shards.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return "shards.json", change


def index(**changes):
    return "shards.json", lambda packed: edit(packed, lambda index: index.update(changes))


def train(**changes):
    return "shards.json", lambda packed: edit(packed, lambda index: index["splits"]["train"].update(changes))


def shard(**changes):
    def change(index: dict) -> None:
        index["splits"]["train"]["shards"][0].update(changes)

    return "shards.json", lambda packed: edit(packed, change)


def name(new: object, number: int = 3):
    """One image of the training split gets another name."""

    def change(index: dict) -> None:
        index["splits"]["train"]["names"][number] = new

    return "shards.json", lambda packed: edit(packed, change)


def crc32(new: object, number: int = 3):
    """One image of the training split gets another checksum."""

    def change(index: dict) -> None:
        index["splits"]["train"]["crc32"][number] = new

    return "shards.json", lambda packed: edit(packed, change)


def cut(kind: str):
    return "shards.json", lambda packed: edit(packed, lambda index: index["splits"]["train"][kind].pop())


def raw(file: str, content):
    """content: bytes, or a function of the bytes that are there."""

    def change(packed: Path) -> None:
        path = packed / file
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return file, change


def other(file: str, array):
    return file, lambda packed: forge(packed, file, array(np.load(packed / file)))


def link(file: str):
    def change(packed: Path) -> None:
        (packed / file).rename(packed.parent / file)
        (packed / file).symlink_to(packed.parent / file)

    return file, change


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def with_shape(array: np.ndarray, *shape: int) -> bytes:
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + array.tobytes()


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def objects(data: bytes) -> bytes:
    array = np.empty(5, object)
    array[0] = Canary()
    Path("objects.npy").unlink(missing_ok=True)
    np.save("objects.npy", array, allow_pickle=True)
    return Path("objects.npy").read_bytes()


def huge(packed: Path) -> None:
    """Index and header promise a petabyte, in agreement."""
    raw("train-00000.npy", lambda data: with_shape(np.zeros(9, "u2"), 10**11, 1, SIZE, SIZE))[1](packed)
    edit(packed, lambda index: index["splits"]["train"]["shards"][0].update(images=10**11))


MALFORMED = {
    "index is empty": raw("shards.json", b""),
    "index is not JSON": raw("shards.json", b"train-00000.npy"),
    "index is a pickle": raw("shards.json", pickle.dumps({"format": "lens-shards"})),
    "index is a list": raw("shards.json", b"[]"),
    "index is endless": raw("shards.json", b"[" * 200_000),
    "index has huge numbers": raw("shards.json", b'{"format": ' + b"9" * 10_000 + b"}"),
    "index of another format": top(format="mds"),
    "index of another version": top(version=3),
    "index of the first version": top(version=1),
    "index without version": top(version=None),
    "index changed": raw("shards.json", lambda data: data.replace(b'"vort"', b'"vorT"')),
    "index is no object": top(index=5, sha256=data_packed.seal(5)),
    "no classes": index(classes=[]),
    "one class": index(classes=["no"]),
    "a class twice": index(classes=["no", "no", "vort"]),
    "classes out of order": index(classes=["vort", "no", "sphere"]),
    "a class that is no text": index(classes=["no", 5, "vort"]),
    "a class that leads out": index(classes=["../no", "sphere", "vort"]),
    "a class that leads up": index(classes=["..", "sphere", "vort"]),
    "an absolute class": index(classes=["/etc", "sphere", "vort"]),
    "two channels": index(channels=2),
    "no size": index(size=None),
    "a size of zero": index(size=0),
    "a size that is true": index(size=True),
    "a size that is NaN": index(size=float("nan")),
    "no val": ("shards.json", lambda packed: edit(packed, lambda index: index["splits"].pop("val"))),
    "a split that leads out": ("shards.json", lambda packed: edit(packed, lambda i: i["splits"].update({"../x": {}}))),
    "splits are a list": index(splits=["train", "val"]),
    "split is empty": index(splits={"train": {}, "val": {}}),
    "labels beyond the classes": train(counts=[7, 7, 6, 1]),
    "labels of too few classes": train(counts=[7, 14]),
    "negative counts": train(counts=[28, -14, 7]),
    "counts that do not add up": train(counts=[7, 7, 8]),
    "no shards": train(shards=[]),
    "a negative shard": shard(images=-5),
    "a shard with too many images": shard(images=10**30),
    "an unknown number type": shard(dtype="<c8"),
    "an object number type": shard(dtype="|O"),
    "a number type that is a list": shard(dtype=["<u2"]),
    "missing shard": ("train-00001.npy", lambda packed: (packed / "train-00001.npy").unlink()),
    "shard is a folder": (
        "train-00001.npy",
        lambda packed: ((packed / "train-00001.npy").unlink(), (packed / "train-00001.npy").mkdir()),
    ),
    "shard is a link": link("train-00001.npy"),
    "truncated shard": raw("train-00001.npy", lambda data: data[:-1]),
    "shard cut within the header": raw("train-00001.npy", lambda data: data[:50]),
    "shard is empty": raw("train-00001.npy", b""),
    "shard is followed by more": raw("train-00001.npy", lambda data: data + b"\0"),
    "shard is a pickle": raw("train-00001.npy", objects),
    "shard of another type": other("train-00000.npy", lambda array: array.view("i2")),
    "shard in other byte order": other("train-00000.npy", lambda array: array.view(">u2")),
    "shard of another shape": other("train-00000.npy", lambda array: array[:, 0]),
    "shard in Fortran order": other("train-00000.npy", np.asfortranarray),
    "a shape beyond the file": ("train-00000.npy", huge),
    "names missing": train(names=None),
    "names cut": cut("names"),
    "names are numbers": train(names=list(range(21))),
    "names are one text": train(names="0" * 21),
    "a name that is a number": name(3),
    "a name that is a list": name(["0003.npy"]),
    "a name twice": name("0002.npy"),
    "names out of order": name("0009.npy"),
    "a name that leads out": name("../../x.npy"),
    "an absolute name": name("/etc/x.npy"),
    "a name with a backslash": name("..\\x.npy"),
    "a hidden name": name(".x.npy", 0),
    "an empty name": name("", 0),
    "a name of something else": name("0003.pkl"),
    "a name with a zero": name("0003\0.npy"),
    "a name without end": name("0003" * 10_000 + ".npy"),
    "a changed name": raw("shards.json", lambda data: data.replace(b'"0003.npy"', b'"0003a.npy"', 1)),
    "checksums missing": train(crc32=None),
    "checksums cut": cut("crc32"),
    "checksums are text": train(crc32=["0"] * 21),
    "a checksum that is true": crc32(True),
    "a checksum that is negative": crc32(-1),
    "a checksum of 33 bits": crc32(2**32),
    "a checksum with a fraction": crc32(0.5),
    "index is a link": link("shards.json"),
}


def assert_one_line(error, path: Path) -> None:
    text = str(error.value)
    assert str(path) in text and len(text.splitlines()) == 1 and text.isprintable(), text


@pytest.mark.parametrize("kind", MALFORMED)
def test_refused_in_one_line_before_anything_is_read(packed, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    file, spoil = MALFORMED[kind]
    spoil(packed)
    with pytest.raises(DataError) as error:
        scan(packed)
    assert_one_line(error, packed / file)
    assert not Path("canary").exists()


def exchange(packed: Path) -> None:
    first, second = packed / "train-00001.npy", packed / "train-00002.npy"
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0]), first.write_bytes(contents[1])


PIXELS = {
    "a byte flipped": raw("train-00002.npy", lambda data: flip(data, 5000)),
    "two images exchanged": other("train-00002.npy", lambda array: array[[1, 0, 2, 3, 4]]),
    "two shards exchanged": ("train-0000[12].npy", exchange),
    "all zeros": other("train-00002.npy", np.zeros_like),
}


@pytest.mark.parametrize("limit, workers", [(None, 0), (0, 0), (0, 2)])
@pytest.mark.parametrize("kind", PIXELS)
def test_damaged_pixels_are_found_in_training(packed, kind, limit, workers):
    """Also where a forger has put the new SHA-256 into the index, but for that of the checksums."""
    file, spoil = PIXELS[kind]
    spoil(packed)
    with pytest.raises(DataError, match=f"{file}: damaged, .* does not match its checksum") as error:
        list(open_batches(packed, memory_limit=limit, workers=workers).epoch())
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_pixels_are_refused_though_their_checksums_fit(tmp_path, value):
    folder = write_images(tmp_path / "f", counts={"train": 2, "val": 1}, size=SIZE)
    for path in folder.rglob("*.npy"):
        np.save(path, np.load(path).astype("f4"))
    pack.pack(folder, tmp_path / "s")
    array = np.load(tmp_path / "s" / "train-00000.npy")
    array[2, 0, 5, 5] = value
    forge(tmp_path / "s", "train-00000.npy", array)
    sums = [zlib.crc32(image) for image in array]
    edit(tmp_path / "s", lambda index: index["splits"]["train"].update(crc32=sums))
    with pytest.raises(DataError, match="NaN or infinity in") as error:
        list(open_batches(tmp_path / "s").epoch())
    assert_one_line(error, tmp_path / "s" / "train" / "sphere" / "0000.npy")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_shrinks_while_it_is_read_is_one_line(packed, workers):
    batches = open_batches(packed, memory_limit=0, workers=workers)
    os.truncate(packed / "train-00002.npy", 200)
    with pytest.raises(DataError) as error:
        list(batches.epoch())
    assert_one_line(error, packed / "train-00002.npy")


def test_any_flipped_byte_is_found(packed, capsys):
    """By opening, reading or verifying; in the index with its names and checksums, in headers and pixels."""
    dice, files = random.Random(0), sorted(packed.glob("*.npy")) + [packed / "shards.json"] * 3
    for _ in range(60):
        path = dice.choice(files)
        data = path.read_bytes()
        place = dice.randrange(len(data)) if dice.random() < 0.5 else dice.randrange(min(len(data), 300))
        path.write_bytes(flip(data, place))
        assert commands_data.main(["verify", str(packed)]) == 1, (path, place)
        (line,) = capsys.readouterr().err.splitlines()
        assert path.name in line
        path.write_bytes(data)
    assert commands_data.main(["verify", str(packed)]) == 0
