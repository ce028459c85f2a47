"""Turn class folders of images into a data set: the later DeepLense data (Models I to III), or one's own.

    python dataset.py convert Model_I lenses                        # or: python convert.py Model_I lenses
    python dataset.py convert survey lenses --val 0.2 --test 0.2 --seed 1

SRC holds a folder for each class, two or more, of square images that are all alike in size: .npy, FITS, PNG, TIFF
(see images.py), and DeepLense's `[image, mass]` pairs, which are pickled. DST, which must not exist yet or be
empty, receives DST/{train,val,test}/CLASS/*.npy, plain arrays in their own number type, and DST/convert.json: where
each came from, its mass, and what was done. SRC is only read.

The split is made class by class. What decides where an image goes is the SHA-256 of seed, class and file name, so it
depends on nothing else; equal calls give equal bytes. DST appears when it is complete: until then the work is in a
hidden folder beside it, `.DST.<random>.partial`, which goes away however the program ends, but for SIGKILL.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import pickletools
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import images
from command import UsageError, run_command
from images import DataError, Picture

SPLITS = ("train", "val", "test")


class Source(NamedTuple):
    """An image to convert, and where to: `target` is SPLIT/CLASS/NAME.npy."""

    path: Path
    name: str
    target: str


def convert(
    src: str | Path, dst: str | Path, val: float = 0.1, test: float = 0.1, seed: int = 0, quiet: bool = False
) -> dict:
    """Convert the class folders under `src` into the data set `dst`; returns the contents of its convert.json.

    val, test: the fractions of each class that go there, rounded, at least one image unless the fraction is 0.
    Raises UsageError, DataError for an image or folder that can't be used, OSError if `dst` can't be written.
    """
    src, dst = Path(src), Path(os.path.realpath(dst))
    _check_call(src, dst, val, test)
    sources, skipped = find_sources(src, val, test, seed)
    part = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.partial")
    try:
        channels, size, files = _write_images(sources, part, quiet)
        record = {"source": str(src), "seed": seed, "val": val, "test": test, "channels": channels, "size": size}
        record |= {"skipped": skipped, "images": _count(sources), "files": files}
        (part / "convert.json").write_text(json.dumps(record, indent=1) + "\n")
        if os.name == "nt" and dst.is_dir():  # elsewhere an empty folder gives way
            dst.rmdir()
        part.rename(dst)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return record


def _check_call(src: Path, dst: Path, val: float, test: float) -> None:
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise UsageError(f"expected 0 < val, 0 <= test and val + test < 1, found val {val}, test {test}")
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    if dst.is_relative_to(os.path.realpath(src)):
        raise UsageError(f"{dst} lies in {src}, which is only read: choose another folder")
    if not dst.parent.is_dir():
        raise UsageError(f"{dst.parent}: no such folder to make {dst.name} in")
    if os.path.lexists(dst) and not (dst.is_dir() and not os.listdir(dst)):
        raise UsageError(f"{dst}: expected no such folder yet, or an empty one: choose another, or remove it")


# --- find and split -----------------------------------------------------------------------------------------


def find_sources(src: Path, val: float, test: float, seed: int) -> tuple[list[Source], int]:
    """All images under `src` in order of class and name, with their splits, and the number of strays passed over."""
    names, skipped = _list(src, lambda entry: entry.is_dir() and not entry.name.startswith("__"))
    if len(names) < 2:
        raise DataError(f"{src}: expected two or more folders, one for each class, found {', '.join(names) or 'none'}")
    if set(names) <= set(SPLITS):
        raise DataError(f"{src}: expected folders named after classes, found {', '.join(names)}: it is split already")
    sources = []
    for name in names:
        files, strays = _list(src / name, lambda entry: entry.is_file() and bool(images.find_extension(entry.name)))
        skipped += strays
        splits = _split(files, name, val, test, seed)
        targets = [f"{splits[file]}/{name}/{target}" for file, target in zip(files, _rename(files), strict=True)]
        if "train" not in splits.values():
            raise DataError(f"{src / name}: expected images for train, val and test in this class, found {len(files)}")
        sources += [Source(src / name / file, f"{name}/{file}", t) for file, t in zip(files, targets, strict=True)]
    return sources, skipped


def _list(folder: Path, keep: Callable[[os.DirEntry], bool]) -> tuple[list[str], int]:
    """Sorted names of the entries to keep, none of them hidden, and the number of the others."""

    def kept(entry: os.DirEntry) -> bool:
        try:
            return not entry.name.startswith(".") and keep(entry)
        except OSError:  # a link to itself
            return False

    try:
        with os.scandir(folder) as entries:
            verdicts = [(entry.name, kept(entry)) for entry in entries]
    except OSError as error:
        raise DataError(f"{folder}: cannot list this folder ({error.strerror or error})") from None
    names = sorted(name for name, verdict in verdicts if verdict)
    return names, len(verdicts) - len(names)


def _split(files: Sequence[str], class_name: str, val: float, test: float, seed: int) -> dict[str, str]:
    """File name -> split."""

    def key(file: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{class_name}/{file}")).digest()

    counts = {name: max(1, round(part * len(files))) if part else 0 for name, part in (("val", val), ("test", test))}
    splits = [name for name, count in counts.items() for _ in range(count)]
    splits += ["train"] * max(0, len(files) - len(splits))
    return dict(zip(sorted(files, key=key), splits, strict=False))


def _rename(files: Sequence[str]) -> list[str]:
    """a.npy, b.fits -> a.npy, b.npy; where a name is taken, capitals or not, the next free of a-2.npy, a-3.npy, ..."""
    taken, names = set(), []
    for file in files:
        stem, number = file[: -len(images.find_extension(file))], 1
        while (name := f"{stem}.npy" if number == 1 else f"{stem}-{number}.npy").casefold() in taken:
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _count(sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """{split: {class: images}}"""
    found: dict[str, dict[str, int]] = {}
    for split, name in (source.target.split("/")[:2] for source in sources):
        found.setdefault(split, {}).setdefault(name, 0)
        found[split][name] += 1
    return {split: found[split] for split in SPLITS if split in found}


# --- read and write -----------------------------------------------------------------------------------------


def _write_images(sources: Sequence[Source], part: Path, quiet: bool) -> tuple[int, int, dict[str, dict]]:
    """Write every image below `part`; (channels, size, {target: its record})."""
    for folder in {(part / source.target).parent for source in sources}:
        folder.mkdir(parents=True, exist_ok=True)
    expected, records = None, {}
    for source in tqdm(sources, desc="converting", unit="img", disable=quiet or None):  # None: quiet if no terminal
        picture, mass = read_source(source.path)
        expected = expected or picture.pixels.shape
        if picture.pixels.shape != expected or expected[1] != expected[2]:
            like = f"like {sources[0].name}" if expected[1] == expected[2] else "which is square"
            raise DataError(f"{source.path}: expected (channels, height, width) {like}, found {picture.pixels.shape}")
        np.save(part / source.target, picture.pixels[0] if len(picture.pixels) == 1 else picture.pixels)
        entry = {"source": source.name, "mass": mass, "unit": picture.unit, "note": picture.note}
        records[source.target] = {key: value for key, value in entry.items() if value not in (None, "")}
    return expected[0], expected[1], records


def read_source(path: str | Path) -> tuple[Picture, float | None]:
    """An image of any kind that is known, and its mass where it's an `[image, mass]` pair. Raises DataError."""
    if images.find_extension(path) == ".npy":
        try:
            with images.open_file(path) as file:
                if images.read_header(path, file).descr == "|O":
                    return _read_pair(path, file.read(MAX_PICKLE + 1))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return images.read_picture(path), None


# --- pickles, read but never run ----------------------------------------------------------------------------

MAX_PICKLE = 8 * images.MAX_PIXELS + 2**16  # bytes
MAX_STEPS = 10_000  # an `[image, mass]` pair takes about 70
NAMES = {  # all that a pickled array needs; a name that isn't here ends the reading
    **{f"numpy{dot}core.multiarray {name}": name for dot in (".", "._") for name in ("_reconstruct", "scalar")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
VALUES = ["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"]
VALUES += ["SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"]
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
OTHERS = ["PROTO", "FRAME", "STOP", "MARK", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "GLOBAL", "STACK_GLOBAL"]
OTHERS += ["REDUCE", "BUILD", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"]
KNOWN = {op.code: op for op in pickletools.opcodes if op.name in {*VALUES, *CONSTANTS, *TUPLES, *OTHERS}}
MARK = object()


class Refused(Exception):
    """A pickle that is more, or less, than an array of arrays and numbers; says why."""


@dataclass(eq=False, repr=False)  # what a pickle nests may be endless
class Name:
    """A name that a pickle mentions. It stays a name: nothing is imported."""

    name: str


@dataclass(eq=False, repr=False)  # what a pickle nests may be endless
class Made:
    """What a pickle asks to be made, by which function of which arguments, with which state. It isn't made."""

    function: str
    arguments: tuple
    state: object = None


def _read_pair(path: str | Path, data: bytes) -> tuple[Picture, float]:
    """The `[image, mass]` in a pickled object array. data: what follows the .npy header."""
    if len(data) > MAX_PICKLE:
        raise DataError(f"{path}: expected an [image, mass] pair of at most {MAX_PICKLE} bytes")
    try:
        shape, number_type, _, items = _array_parts(parse_pickle(data))
        if number_type != "O" or math.prod(shape) != 2 or type(items) is not list or len(items) != 2:
            raise Refused(f"its pickle has an array {shape} of type {number_type}")
        image, mass = _array(items[0]), _number(items[1])
    except (Refused, ValueError) as error:
        raise DataError(f"{path}: expected a pickled [image, mass], refused: {error}; nothing was run") from None
    return images.make_picture(path, image), mass


def parse_pickle(data: bytes) -> object:
    """What a pickle describes, as lists, tuples, values and `Made`; nothing is imported, called or executed.

    Only the operations that NumPy's arrays are written with are known (protocols 2 to 4). What is held at any time
    is a small multiple of len(data). Raises Refused.
    """
    stack: list = []
    memo: dict[int, object] = {}
    try:
        for name, argument in _operations(io.BytesIO(data)):
            _step(name, argument, stack, memo)
        (result,) = stack
        if result is MARK:
            raise ValueError("a mark without end")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"its pickle is damaged ({' '.join(str(error).split())[:80]})") from None
    return result


def _operations(file: io.BytesIO) -> Iterator[tuple[str, object]]:
    """Name and argument of each operation of a pickle, up to its end, which must be that of the file."""
    for _ in range(MAX_STEPS):
        code = file.read(1).decode("latin1")
        if code not in KNOWN:  # before the argument is read
            raise Refused(f"its pickle has the operation {code!r}" if code else "its pickle is truncated")
        yield KNOWN[code].name, KNOWN[code].arg.reader(file) if KNOWN[code].arg else None
        if KNOWN[code].name == "STOP":
            if file.read(1):
                raise Refused("its pickle is followed by something else")
            return
    raise Refused(f"its pickle takes more than {MAX_STEPS} steps")


def _step(name: str, argument: object, stack: list, memo: dict[int, object]) -> None:
    """One operation of a pickle."""
    if name in VALUES:
        stack.append(argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in TUPLES:
        stack.append(tuple(stack.pop() for _ in range(TUPLES[name]))[::-1])
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name not in ("PROTO", "FRAME", "STOP"):
        stack.append(ACTIONS[name](argument, stack))


def _to_mark(stack: list) -> list:
    """Take what lies above the last mark, and the mark."""
    start = len(stack) - 1
    while stack[start] is not MARK:  # IndexError where there is none
        start -= 1
    items = stack[start + 1 :]
    del stack[start:]
    return items


def _append(items: list, stack: list) -> list:
    target = stack.pop()
    if type(target) is not list:
        raise TypeError("items for what is no list")
    target.extend(items)
    return target


def _mention(name: str) -> Name:
    if name not in NAMES:
        raise Refused(f"its pickle asks for {name.replace(' ', '.')[:80]}")
    return Name(NAMES[name])


def _stack_global(_: None, stack: list) -> Name:
    name, module = stack.pop(), stack.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError("a name that is no text")
    return _mention(f"{module} {name}")


def _reduce(_: None, stack: list) -> Made:
    arguments, function = stack.pop(), stack.pop()
    if type(function) is not Name or type(arguments) is not tuple:
        raise TypeError("a call of what is no function")
    return Made(function.name, arguments)


def _build(_: None, stack: list) -> Made:
    state, made = stack.pop(), stack.pop()
    if type(made) is not Made or made.state is not None:
        raise TypeError("a state for what has none")
    made.state = state
    return made


ACTIONS: dict[str, Callable[[object, list], object]] = {  # operation -> what it leaves on the stack
    "MARK": lambda _, stack: MARK,
    "TUPLE": lambda _, stack: tuple(_to_mark(stack)),
    "EMPTY_LIST": lambda _, stack: [],
    "APPEND": lambda _, stack: _append([stack.pop()], stack),
    "APPENDS": lambda _, stack: _append(_to_mark(stack), stack),
    "GLOBAL": lambda name, stack: _mention(name),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _bytes(data: object) -> bytes:
    """Bytes, also where Python 2 wrote text, or protocol 2 a call of encode(text, "latin1")."""
    if type(data) is Made and data.function == "encode" and data.arguments[1:] == ("latin1",):
        data = data.arguments[0]
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) is not bytes:
        raise Refused("its pickle has something else where bytes should be")
    return data


def _array_parts(made: object) -> tuple[tuple[int, ...], str, bool, object]:
    """Shape, number type, order and data of what should be an array."""
    state = made.state if type(made) is Made and made.function == "_reconstruct" else None
    if type(state) is not tuple or len(state) not in (4, 5):  # version 0 and 1 of the format
        raise Refused("its pickle has something else where an array should be")
    shape, number_type, fortran, data = state[-4:]
    if type(shape) is not tuple or len(shape) > 3 or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("its pickle has an array of impossible shape")
    return shape, _number_type(number_type), bool(fortran), data


def _number_type(made: object) -> str:
    """'<f8' and the like, or 'O' for objects."""
    whole = type(made) is Made and made.function == "dtype" and made.arguments and type(made.state) is tuple
    if not whole or any(part is not None for part in made.state[2:5]):  # fields, or arrays within
        raise Refused("its pickle has something else where a number type should be")
    kind, order = made.arguments[0], *made.state[1:2]
    if type(kind) is str and kind in ("O", "O4", "O8"):
        return "O"
    if not (type(kind) is type(order) is str and images.NUMBERS.fullmatch(order + kind)):
        found = kind[:20] if type(kind) is str else type(kind).__name__
        raise Refused(f"its pickle has numbers of type {found!r}, expected integers or float16/32/64")
    return order + kind


def _array(made: object) -> np.ndarray:
    """An array of numbers."""
    shape, number_type, fortran, data = _array_parts(made)
    return _numbers(shape, number_type, data, "F" if fortran else "C")


def _numbers(shape: tuple[int, ...], number_type: str, data: object, order: str = "C") -> np.ndarray:
    if number_type == "O":
        raise Refused("its pickle has objects where numbers should be")
    promised, data = math.prod(shape) * np.dtype(number_type).itemsize, _bytes(data)
    if promised != len(data):
        raise Refused(f"its pickle has an array {shape} of {promised} bytes, and {len(data)} bytes for it")
    return np.frombuffer(data, number_type).reshape(shape, order=order).copy()


def _number(made: object) -> float:
    """A finite number: Python's, NumPy's, or an array of one."""
    if type(made) is Made and made.function == "scalar" and len(made.arguments) == 2:
        made = _numbers((), _number_type(made.arguments[0]), made.arguments[1]).item()
    elif type(made) is Made:
        array = _array(made)
        made = array.item() if array.size == 1 else None
    if type(made) not in (int, float) or not abs(made) < 1e300:
        raise Refused("its pickle has something else where a finite mass should be")
    return float(made)


# --- command line -------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, prog: str = "convert.py") -> int:
    """Run the command line; returns the exit status: 2 for a call that can't be meant, 1 for bad files or disks."""
    args = _parse(arguments, prog)
    return run_command(lambda: _summary(convert(**vars(args)), args.dst), prog, args.dst)


def _parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("src", metavar="SRC", help="folder that holds a folder of images for each class")
    parser.add_argument("dst", metavar="DST", help="folder to make")
    parser.add_argument("--val", type=float, default=0.1, help="fraction of each class for val (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.1, help="fraction for test, or 0 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def _summary(record: dict, dst: str) -> str:
    counts = "; ".join(
        f"{split}: {', '.join(f'{count} {name}' for name, count in classes.items())}"
        for split, classes in record["images"].items()
    )
    strays = f"; {record['skipped']} other entries passed over" if record["skipped"] else ""
    filled = sum("NaN" in entry.get("note", "") for entry in record["files"].values())
    filled = f"; a border of NaN filled in {filled}" if filled else ""
    text = f"{dst}: {record['size']} x {record['size']} pixels, channels {record['channels']}; {counts}{strays}{filled}"
    return str(DataError(text))


if __name__ == "__main__":
    sys.exit(main())
