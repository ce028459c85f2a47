"""Everything malformed that a user, a network or a stranger can put in front of the program.

Registries of `Fault`s, name -> how to make it and what the program must say about it (a regular expression):
IMAGES make one image file, FOLDERS change a data folder, CHECKPOINTS, STATES and RECORDS change a file of a run.
STRAYS are no faults: they are passed over.
Hostile ones would create the file `CANARY` in the current folder if anything in them were ever executed.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from darklens.storage import checkpoint

SIZE = 40  # pixels of the good images around a bad one
CANARY = "executed"
BEST, LAST, RECORD = "best-model-parameters.pt", "last-state.pt", "run.json"


@dataclass(frozen=True)
class Fault:
    """make(path) writes it; says: regular expression, found in the one line that the program must print."""

    make: Callable[[Path], None]
    says: str


class Evil:
    """Unpickles into a shell command."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: _put(path, data)


def _put(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _bytes_of(write: Callable, *things, **options) -> bytes:
    """What `write(file, ...)` writes."""
    buffer = io.BytesIO()
    write(buffer, *things, **options)
    return buffer.getvalue()


# --- images ---------------------------------------------------------------------------------------------------


def npy(array, **options) -> Callable[[Path], None]:
    return content(_bytes_of(np.save, np.asarray(array), **options))


def header(text: str, body: int = 2 * SIZE * SIZE, version: int = 1, claims: int | None = None):
    """A .npy file whose header is `text`, or says it is `claims` bytes long, with `body` bytes of pixels."""
    width = 2 if version == 1 else 4
    length = (len(text) if claims is None else claims).to_bytes(width, "little")
    return content(b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1") + bytes(body))


def described(descr="'<u2'", fortran="False", shape=f"({SIZE}, {SIZE})", more="", **options):
    """A .npy file with these words in its header."""
    return header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}\n", **options)


def spoilt(value: float, dtype: str = "f4") -> Callable[[Path], None]:
    """A good image but for one pixel."""
    image = np.random.default_rng(0).uniform(1, 2, (SIZE, SIZE)).astype(dtype)
    image[3, 4] = value
    return npy(image)


def sparse(path: Path) -> None:
    """A terabyte by its length, nothing on the disk."""
    described("'|u1'", shape="(1000000, 1000000)", body=0)(path)
    os.truncate(path, path.stat().st_size + 10**12)


def _zipped() -> bytes:
    return _bytes_of(np.savez, np.zeros((SIZE, SIZE)))


GOOD = np.ones((SIZE, SIZE), np.uint16) + np.arange(SIZE, dtype=np.uint16)
WHOLE = _bytes_of(np.save, GOOD)
SHELL = f"__import__('os').system('touch {CANARY}')"
NOT_NPY, TYPE, SQUARE, HEADER, REST = (
    "no .npy|expected a .npy",
    "number type",
    "expected an image|rest of the data set",
    "header",
    "rest of the data set",
)
IMAGES = {
    "empty": Fault(content(b""), "empty"),
    "one byte": Fault(content(b"\x93"), NOT_NPY),
    "magic only": Fault(content(WHOLE[:8]), NOT_NPY),
    "truncated header": Fault(content(WHOLE[:40]), HEADER),
    "no pixels": Fault(content(WHOLE[:128]), "truncated"),
    "truncated pixels": Fault(content(WHOLE[: len(WHOLE) // 2]), "truncated"),
    "one byte short": Fault(content(WHOLE[:-1]), "truncated"),
    "trailing byte": Fault(content(WHOLE + b"\0"), "followed"),
    "twice": Fault(content(WHOLE * 2), "followed"),
    "garbage": Fault(content(np.random.default_rng(1).bytes(4000)), NOT_NPY),
    "zeros": Fault(content(bytes(4000)), NOT_NPY),
    "text": Fault(content(b"hello\n" * 100), NOT_NPY),
    "huge header": Fault(header("", version=2, claims=2**32 - 1), HEADER),
    "long header": Fault(described(more=" " * 60_000), HEADER),
    "huge shape": Fault(described(shape="(1000000000, 1000000000)"), "truncated"),
    "shape beyond 64 bits": Fault(described(shape=f"({2**63}, {2**63})"), "truncated"),
    "shape that wraps to 0": Fault(described(shape=f"({2**32}, {2**32})", body=0), "truncated|expected an image"),
    "endless shape": Fault(described(shape="(" + "9" * 5000 + ", 40)"), HEADER),
    "sparse": Fault(sparse, REST),
    "zip": Fault(content(_zipped()), "zip"),
    "pickle": Fault(content(pickle.dumps(Evil())), "pickle"),
    "pickle as text": Fault(content(pickle.dumps(Evil(), 0)), NOT_NPY),
    "gzip": Fault(content(gzip.compress(WHOLE)), "gzip"),
    "HDF5": Fault(content(b"\x89HDF\r\n\x1a\n" + bytes(2000)), "HDF5"),
    "FITS": Fault(content(b"SIMPLE  =                    T".ljust(2880)), "FITS"),
    "PNG": Fault(content(b"\x89PNG\r\n\x1a\n" + bytes(2000)), NOT_NPY + "|PNG"),
    "web page": Fault(content(b"<!DOCTYPE html><html>404</html>"), "web page"),
    "LFS pointer": Fault(content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "LFS"),
    "object array": Fault(npy([Evil(), None], allow_pickle=True), TYPE),
    "object header": Fault(described(descr="'|O'"), TYPE),
    "complex": Fault(npy(GOOD.astype("c8")), TYPE),
    "string": Fault(npy(GOOD.astype("U3")), TYPE),
    "byte string": Fault(npy(GOOD.astype("S3")), TYPE),
    "boolean": Fault(npy(GOOD > 3), TYPE),
    "date": Fault(npy(GOOD.astype("M8[s]")), TYPE),
    "structured": Fault(npy(np.zeros((SIZE, SIZE), [("a", "f4"), ("b", "f4")])), "plain numbers"),
    "unknown type": Fault(described(descr="'<u3'"), TYPE),
    "number": Fault(npy(3.0), SQUARE),
    "one-dimensional": Fault(npy(GOOD.ravel()), SQUARE),
    "four-dimensional": Fault(npy(GOOD[None, None]), SQUARE),
    "not square": Fault(npy(GOOD[:, :-1]), SQUARE),
    "no pixels at all": Fault(npy(GOOD[:0, :0]), SQUARE),
    "too small": Fault(npy(GOOD[:5, :5]), SQUARE),
    "another size": Fault(npy(np.ones((SIZE + 2, SIZE + 2))), REST),
    "three channels": Fault(npy(np.ones((3, SIZE, SIZE))), REST),
    "two channels": Fault(npy(np.ones((2, SIZE, SIZE))), SQUARE),
    "four channels": Fault(npy(np.ones((SIZE, SIZE, 4))), SQUARE),
    "NaN": Fault(spoilt(np.nan), "1 NaN.*row 3, column 4"),
    "infinite": Fault(spoilt(np.inf, "f8"), "1 infinite"),
    "negative infinite": Fault(spoilt(-np.inf, "f2"), "1 infinite"),
    "version 4": Fault(described(version=4), NOT_NPY),
    "version 0": Fault(described(version=0), NOT_NPY),
    "order is no truth value": Fault(described(fortran="Maybe"), HEADER),
    "negative shape": Fault(described(shape="(-40, -40)"), HEADER),
    "fractional shape": Fault(described(shape="(40.0, 40.0)"), HEADER),
    "code as shape": Fault(described(shape=f"({SHELL}, 40)"), HEADER),
    "code as type": Fault(described(descr=SHELL), HEADER),
    "code as header": Fault(header(SHELL), HEADER),
    "no shape": Fault(header("{'descr': '<u2', 'fortran_order': False, }"), HEADER),
    "header of another alphabet": Fault(header("\xff\xfe" * 30), HEADER),
    "deep header": Fault(header("(" * 9000), HEADER),
}


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


def link_up(path: Path) -> None:
    path.symlink_to("..", target_is_directory=True)


def itself(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


STRAYS = {  # relative to the data folder, all passed over and counted
    "train/no/pipe.npy": fifo,
    "train/no/folder.npy": folder_instead,
    "train/vort/dangling.npy": dangling,
    "val/vort/itself.npy": itself,
    "val/no/.DS_Store": content(b"\0\0\0\1Bud1"),
    "val/no/._0001.npy": content(b"\0\5\26\7"),
    "train/sphere/Thumbs.db": content(b"\xd0\xcf"),
    "train/sphere/notes.txt": content(b"?"),
    "train/up": link_up,
    "train/loop": itself,
    "val/.ipynb_checkpoints": Path.mkdir,
    "val/__pycache__": Path.mkdir,
    "train/labels.csv": content(b"a,b\n"),
}


# --- data folders ---------------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return make


def replaced(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """The folder `name` taken away, and what `make` makes put there."""

    def replace(root: Path) -> None:
        shutil.rmtree(root / name)
        make(root / name)

    return replace


def moved(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / old).rename(root / new)


def emptied(*names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)
            (root / name).mkdir()

    return make


def _too_deep(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).rename(root / "all")
        (root / split).mkdir()
        (root / "all").rename(root / split / "images")


def _other_extension(root: Path) -> None:
    for path in (root / "train" / "no").iterdir():
        path.rename(path.with_suffix(".jpg"))


def _only_links_to_nowhere(root: Path) -> None:
    for path in (root / "val" / "vort").iterdir():
        dangling(path)


SAME = "only in train: {}; only in {}: {}"
FOLDERS = {
    "no such folder": Fault(without("."), "no such folder.*simulate.py.*download"),
    "empty": Fault(emptied("."), "no folder train or val.*found: nothing"),
    "a file": Fault(replaced(".", content(b"x")), "cannot list|no such|expected"),
    "a pipe": Fault(replaced(".", fifo), "cannot list|no such|expected"),
    "a link to itself": Fault(replaced(".", itself), "no such folder"),
    "no train": Fault(without("train"), "no folder train"),
    "no val": Fault(without("val"), "no folder val"),
    "train is a file": Fault(replaced("train", content(b"x")), "no folder train"),
    "train is a link to nowhere": Fault(replaced("train", dangling), "no folder train"),
    "train is empty": Fault(emptied("train"), "train.*no class folders"),
    "val is empty": Fault(emptied("val"), "val.*no class folders"),
    "empty class": Fault(emptied("train/sphere"), "train/sphere.*found: nothing"),
    "empty class in val": Fault(emptied("val/sphere"), "val/sphere.*found: nothing"),
    "class missing in val": Fault(without("val/vort"), SAME.format("vort", "val", "none")),
    "class missing in train": Fault(without("train/no"), SAME.format("none", "val", "no")),
    "class of another name": Fault(moved("val/no", "val/none"), SAME.format("no", "val", "none")),
    "class in other letters": Fault(moved("val/no", "val/No"), SAME.format("no", "val", "No")),
    "class with a line break": Fault(moved("val/no", "val/n\no"), SAME.format("no", "val", r"n\\no")),
    "class with an escape": Fault(moved("val/no", "val/\x1b[31mno"), r"only in val: \\x1b\[31mno"),
    "class of no alphabet": Fault(moved("val/no", os.fsdecode(b"val/\xff")), r"only in val: \\udcff"),
    "class is a link up": Fault(replaced("val/no", link_up), SAME.format("no", "val", "none")),
    "third split without classes": Fault(lambda root: (root / "test").mkdir(), "test.*no class folders"),
    "one class": Fault(without("train/no", "train/vort", "val/no", "val/vort"), "found one: sphere"),
    "too deep": Fault(_too_deep, "found one: images"),
    "only strays": Fault(replaced("val/vort", Path.mkdir), "val/vort.*expected .npy images"),
    "another extension": Fault(_other_extension, "train/no.*expected .npy images.*0000.jpg"),
    "links to nowhere": Fault(_only_links_to_nowhere, "val/vort.*expected .npy images"),
}


# --- checkpoints ----------------------------------------------------------------------------------------------


def seal(data: bytes) -> bytes:
    """An archive with a right checksum, as one who knows the format would forge it."""
    buffer = io.BytesIO(data)
    checkpoint._seal(buffer)
    return buffer.getvalue()


def saved(thing, sealed: bool = False, **options) -> Callable[[Path], None]:
    """What plain torch.save writes, with our checksum if `sealed`."""

    def make(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(thing, buffer, **options)
        _put(path, seal(buffer.getvalue()) if sealed else buffer.getvalue())

    return make


def cut(share: float, less: int = 0) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share) - less)


def flipped(find: Callable[[bytes], int]) -> Callable[[Path], None]:
    """One bit turned over in the byte that `find` points to."""

    def make(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[find(data)] ^= 1
        _put(path, bytes(data))

    return make


def changed(*keys: str, value) -> Callable[[Path], None]:
    """A checkpoint, whole and with a right checksum, in which one entry is another; `value` may be a function."""

    def make(path: Path) -> None:
        payload = target = checkpoint.load(path)
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value(target.get(keys[-1])) if callable(value) else value
        _rewrite(path, payload)

    return make


def lacking(*keys: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        payload = target = checkpoint.load(path)
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]
        _rewrite(path, payload)

    return make


def _rewrite(path: Path, payload: dict) -> None:
    checkpoint.save(payload, path, keep_previous=False)


def of_future(path: Path) -> None:
    saved({**checkpoint.load(path), "format": checkpoint.FORMAT + 1}, sealed=True)(path)


def other_weights(path: Path) -> None:
    """Another entry in place of the first."""

    def rename(state: dict) -> dict:
        return {("elsewhere" if number == 0 else key): value for number, (key, value) in enumerate(state.items())}

    changed("state", value=rename)(path)


def first_weight(change: Callable) -> Callable[[Path], None]:
    """The first tensor of the network changed."""

    def edit(state: dict) -> dict:
        key = next(key for key, value in state.items() if value.is_floating_point())
        return {**state, key: change(state[key])}

    return changed("state", value=edit)


def bomb(path: Path) -> None:
    """A compressed archive: 100 kB that become 100 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    _put(path, seal(buffer.getvalue()))


def _middle(data: bytes) -> int:
    return len(data) // 2


BROKEN = "damaged|cut short|no checksum|expected a state_dict"
HOSTILE, UNFIT = "nothing executed", "not a usable network"
DAMAGED = {  # what can happen to any file of ours; read as ours, or as another program's where the end is missing
    "empty": Fault(content(b""), "empty"),
    "one byte": Fault(content(b"P"), BROKEN),
    "garbage": Fault(content(np.random.default_rng(2).bytes(5000)), BROKEN),
    "text": Fault(content(b"404: not found\n"), BROKEN),
    "a quarter": Fault(cut(0.25), BROKEN),
    "half": Fault(cut(0.5), BROKEN),
    "all but the checksum": Fault(cut(1.0, 71), BROKEN),
    "one byte short": Fault(cut(1.0, 1), BROKEN),
    "one byte more": Fault(lambda path: _put(path, path.read_bytes() + b"\0"), BROKEN),
    "bit in the first header": Fault(flipped(lambda data: 5), BROKEN),
    "bit in the pickle": Fault(flipped(lambda data: data.index(b"data.pkl") + 200), BROKEN),
    "bit in a tensor": Fault(flipped(_middle), BROKEN),
    "bit in the directory": Fault(flipped(lambda data: data.rindex(b"PK\1\2") + 20), BROKEN),
    "bit in the checksum": Fault(flipped(lambda data: len(data) - 9), BROKEN),
    "bit in the checksum's name": Fault(flipped(lambda data: data.rindex(b"sha256")), BROKEN),
    "pickle": Fault(content(pickle.dumps(Evil())), f"{HOSTILE}|{BROKEN}"),
    "pickle as text": Fault(content(pickle.dumps(Evil(), 0)), f"{HOSTILE}|{BROKEN}"),
    "hostile archive": Fault(saved({"w": Evil()}), f"{HOSTILE}|{BROKEN}"),
    "hostile archive, old format": Fault(
        saved({"w": Evil()}, _use_new_zipfile_serialization=False), f"{HOSTILE}|{BROKEN}"
    ),
    "hostile archive, checksum forged": Fault(saved({"format": 1, "w": Evil()}, sealed=True), HOSTILE),
    "bomb": Fault(bomb, "more bytes than the file holds"),
    "module": Fault(saved(torch.nn.Linear(1, 1)), f"{HOSTILE}|{BROKEN}"),
    "tensor": Fault(saved(torch.ones(2)), BROKEN),
    "list": Fault(saved([1, 2], sealed=True), "format number"),
    "of the future": Fault(of_future, f"written in format {checkpoint.FORMAT + 1}"),
    "a folder": Fault(folder_instead, "not a regular file"),
    "a pipe": Fault(fifo, "not a regular file"),
    "a link to itself": Fault(itself, "cannot be read|has no best"),
}
CHECKPOINTS = DAMAGED | {
    "of another program": Fault(saved({"model": {"w": torch.ones(1)}, "epoch": 3}), "expected a state_dict.*'model'"),
    "bare state_dict of nobody": Fault(saved({"w": torch.ones(2)}), UNFIT),
    "wrong kind": Fault(changed("kind", value="transformer"), "kind equivariant or resnet, found 'transformer'"),
    "another kind": Fault(changed("kind", value="resnet"), UNFIT),
    "no kind": Fault(lacking("kind"), UNFIT),
    "no weights": Fault(lacking("state"), UNFIT),
    "no network": Fault(lacking("network"), UNFIT),
    "no preprocessing": Fault(lacking("preprocess"), UNFIT),
    "no record": Fault(lacking("record"), UNFIT),
    "no classes": Fault(lacking("classes"), UNFIT),
    "another group": Fault(changed("network", "sym_group", value="Dihyderal"), UNFIT),
    "unknown group": Fault(changed("network", "sym_group", value="Icosahedral"), UNFIT),
    "another order": Fault(changed("network", "N", value=8), UNFIT),
    "order 0": Fault(changed("network", "N", value=0), UNFIT),
    "order is a word": Fault(changed("network", "N", value="four"), UNFIT),
    "order is huge": Fault(changed("network", "N", value=10**9), UNFIT),
    "another architecture": Fault(changed("network", "arch", value="full"), UNFIT),
    "unknown architecture": Fault(changed("network", "arch", value="huge"), UNFIT),
    "another head": Fault(changed("network", "head", value="flatten"), UNFIT),
    "more classes than weights": Fault(changed("network", "classes", value=4), UNFIT),
    "endless classes": Fault(changed("network", "classes", value=10**15), UNFIT),
    "more channels than weights": Fault(changed("network", "channels", value=3), UNFIT),
    "another size": Fault(changed("network", "size", value=61), UNFIT),
    "endless size": Fault(changed("network", "size", value=10**9 + 1), UNFIT),
    "size 0": Fault(changed("network", "size", value=0), UNFIT),
    "network is a list": Fault(changed("network", value=[1, 2]), UNFIT),
    "unknown flag of the network": Fault(changed("network", "colour", value="red"), UNFIT),
    "too few names of classes": Fault(changed("classes", value=["no", "vort"]), UNFIT),
    "classes are numbers": Fault(changed("classes", value=[1, 2, 3]), UNFIT),
    "classes are one word": Fault(changed("classes", value="abc"), UNFIT),
    "one class twice": Fault(changed("classes", value=["no", "no", "vort"]), UNFIT),
    "crop of another size": Fault(changed("preprocess", "crop", value=31), UNFIT),
    "crop is even": Fault(changed("preprocess", "crop", value=40), UNFIT),
    "unknown stretch": Fault(changed("preprocess", "stretch", value="log"), UNFIT),
    "preprocessing is None": Fault(changed("preprocess", value=None), UNFIT),
    "temperature 0": Fault(changed("temperature", value=0.0), UNFIT),
    "temperature is a word": Fault(changed("temperature", value="warm"), UNFIT),
    "temperature is not finite": Fault(changed("temperature", value=float("nan")), UNFIT),
    "record is a word": Fault(changed("record", value="of a run"), UNFIT),
    "arguments are a list": Fault(changed("record", "arguments", value=[1]), UNFIT),
    "data folder is a number": Fault(changed("record", "arguments", "data_dir", value=7), UNFIT),
    "batch size 0": Fault(changed("record", "arguments", "batch_size", value=0), UNFIT),
    "unknown precision": Fault(changed("record", "precision", value="fp8"), UNFIT),
    "novelty is a word": Fault(changed("novelty", value="none"), UNFIT),
    "novelty of nothing": Fault(changed("novelty", value={}), UNFIT),
    "a weight missing": Fault(other_weights, UNFIT),
    "a weight too many": Fault(changed("state", "more", value=torch.ones(1)), UNFIT),
    "weights of another shape": Fault(first_weight(lambda weight: weight[:1]), UNFIT),
    "weights are words": Fault(first_weight(lambda weight: "many"), UNFIT),
    "weights are complex": Fault(first_weight(lambda weight: weight.to(torch.complex64)), UNFIT),
    "NaN weights": Fault(first_weight(lambda weight: weight * float("nan")), UNFIT),
    "infinite weights": Fault(first_weight(lambda weight: weight / 0), UNFIT),
    "a state to resume from": Fault(lambda path: shutil.copyfile(path.with_name(LAST), path), UNFIT),
}


# --- what a run is resumed from -------------------------------------------------------------------------------

OTHER = "last-state.pt: does not fit this run"
STATES = DAMAGED | {
    "no weights": Fault(lacking("state"), OTHER),
    "no optimiser": Fault(lacking("optimiser"), OTHER),
    "no random numbers": Fault(lacking("random"), OTHER),
    "a network": Fault(lambda path: shutil.copyfile(path.with_name(BEST), path), OTHER),
    "a weight too many": Fault(changed("state", "more", value=torch.ones(1)), OTHER),
    "weights of another shape": Fault(first_weight(lambda weight: weight[:1]), OTHER),
    "optimiser is a word": Fault(changed("optimiser", value="adam"), OTHER),
    "epoch -1": Fault(changed("progress", "epoch", value=-1), OTHER),
    "step is a word": Fault(changed("progress", "step", value="first"), OTHER),
    "curves are missing": Fault(changed("curves", value={}), OTHER),
    "random numbers are a word": Fault(changed("random", "python", value="x"), OTHER),
}


def record(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """`run.json` with another content: what `change` returns, or the record that it changed."""

    def make(path: Path) -> None:
        found = json.loads(path.read_text())
        other = change(found)
        path.write_text(json.dumps(found if other is None else other))

    return make


def argument(name: str, value) -> Callable[[Path], None]:
    return record(lambda found: found["arguments"].update({name: value}))


UNREADABLE = "run.json.*damaged"
NO_RECORDS = {
    "empty": Fault(content(b""), UNREADABLE),
    "missing": Fault(Path.unlink, UNREADABLE),
    "half": Fault(cut(0.5), UNREADABLE),
    "garbage": Fault(content(np.random.default_rng(3).bytes(500)), UNREADABLE),
    "zeros": Fault(content(bytes(500)), UNREADABLE),
    "a list": Fault(content(b"[]"), UNREADABLE),
    "deep": Fault(content(b"[" * 100_000), UNREADABLE),
    "a folder": Fault(folder_instead, UNREADABLE),
    "no arguments": Fault(record(lambda found: {}), UNREADABLE),
    "arguments are a word": Fault(record(lambda found: {"arguments": "abc"}), UNREADABLE),
}
RECORDS = NO_RECORDS | {
    "only arguments": Fault(record(lambda found: {"arguments": found["arguments"]}), UNREADABLE),
    "unknown recipe": Fault(argument("recipe", "slow"), UNREADABLE),
    "order is a word": Fault(argument("N", "four"), UNREADABLE),
    "no epochs": Fault(argument("epochs", 0), UNREADABLE),
    "seed is negative": Fault(argument("seed", -1), UNREADABLE),
    "data folder is a list": Fault(argument("data_dir", ["images_t"]), UNREADABLE),
    "another seed": Fault(argument("seed", 77), "of another run: seed 0 there, 77 here"),
    "another head": Fault(argument("head", "pooled"), "of another run: head lifted there, pooled here"),
    "another learning rate": Fault(argument("lr", 0.5), "of another run: lr 5e-05 there, 0.5 here"),
}
