"""Reads a torch archive without executing anything in it: `weights_only`, and checks around it."""

import contextlib
import errno
import itertools
import math
import os
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from darklens.errors import CheckpointError

PREFIX = b"sha256:"
COMMENT = len(PREFIX) + 64
_EXPECTED = "dense tensors, str, int, float, bool, None in dicts, lists and tuples; convert it"


def read_tail(handle: BinaryIO) -> bytes:
    """The end of the file, as long as the ZIP end record and our comment."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, size - END_RECORD - COMMENT))
    return handle.read()


END_RECORD = 22  # the ZIP end-of-central-directory record; its last two bytes are the comment's length
END_MAGIC, _ZIP_MAGIC = b"PK\5\6", b"PK\3\4"
_CONTAINERS = (dict, OrderedDict, list, tuple)
TENSORS = (torch.Tensor, torch.nn.Parameter)
_SCALARS = (str, int, float, bool, type(None))
_HARMLESS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch \w+Storage|torch\.storage UntypedStorage|torch (bfloat|float|complex|u?int)\d\w*"
)
_NAMING = ("GLOBAL", "INST", "STACK_GLOBAL")  # the pickle opcodes that name something to import
REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file size limit reached",
    errno.EACCES: "no permission to write there",
    errno.EROFS: "the disk is read-only",
    errno.ENOENT: "the folder does not exist",
}


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[BinaryIO]:
    """The file opened for reading, known to be regular (a pipe would wait for ever) and not empty."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a regular file")
        with open(path, "rb") as handle:
            if os.fstat(handle.fileno()).st_size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            yield handle
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_archive(handle: BinaryIO, name: str, map_location: Any, check_crc: bool = False) -> Any:
    """What the torch file holds, checked before, while and after it is read. `name` opens the messages."""
    size = handle.seek(0, os.SEEK_END)
    try:
        _check_calls(handle, size, name, check_crc)
        handle.seek(0)
        payload = torch.load(handle, map_location=map_location, weights_only=True, mmap=False)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file makes these readers raise nearly anything
        raise CheckpointError(f"{name} is damaged or no torch file ({first_line(error)})") from error
    check_values(payload, name, size)
    return payload


def _check_calls(handle: BinaryIO, size: int, name: str, check_crc: bool) -> None:
    """Refuse a file whose pickles name anything but what rebuilds a plain tensor."""
    handle.seek(0)
    if handle.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
        pickles: list[Any] = list(_zip_pickles(handle, size, name, check_crc))
    else:  # torch's old format, five pickles in a row: magic number, version, system, payload, storage keys
        handle.seek(0)
        pickles = [handle] * 5
    for opcode, argument, _ in itertools.chain.from_iterable(map(pickletools.genops, pickles)):
        if opcode.name in _NAMING and not _HARMLESS.fullmatch(argument or ""):
            named = (argument or "a hidden name").replace(" ", ".")
            raise CheckpointError(f"{name} holds more than tensors ({named}): refused, nothing executed")


def _zip_pickles(handle: BinaryIO, size: int, name: str, check_crc: bool) -> list[bytes]:
    """The pickles of a torch archive in which nothing is compressed and nothing claims more than is there."""
    if check_crc and read_tail(handle)[-END_RECORD:][:4] != END_MAGIC:
        raise CheckpointError(f"{name} is cut short, or something follows its end")
    with zipfile.ZipFile(handle) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > size:
            raise CheckpointError(f"{name} claims more bytes than the file holds: refused")
        if check_crc and (damaged := archive.testzip()):
            raise CheckpointError(f"{name} is damaged: wrong CRC-32 in {damaged!r}")
        return [archive.read(member) for member in members if member.filename.endswith(".pkl")]


def check_values(payload: Any, name: str, limit: float = math.inf) -> None:
    """Refuse what is not of the plain kinds, and tensors of more than `limit` bytes, at any depth."""
    stack, visited = [("", payload)], set()  # visited: a hostile file may hold a list in itself
    while stack:
        where, value = stack.pop()
        if type(value) in _CONTAINERS:
            stack += [] if id(value) in visited else _items(where, value, name)
            visited.add(id(value))
        elif type(value) not in _SCALARS and not _is_dense(value):
            raise CheckpointError(f"{name} key '{where}' is {describe_value(value)}: expected {_EXPECTED}")
        elif type(value) not in _SCALARS and value.nbytes > limit:
            raise CheckpointError(f"{name} key '{where}' claims {value.nbytes} bytes, the file has {limit}")


def _is_dense(value: Any) -> bool:
    return type(value) in TENSORS and value.layout == torch.strided and not value.is_quantized


def _items(where: str, container: Any, name: str) -> list[tuple[str, Any]]:
    """`(dotted key, value)` of one dict, list or tuple."""
    items = list(container.items() if isinstance(container, dict) else enumerate(container))
    for key, _ in items:
        if type(key) not in (str, int):
            raise CheckpointError(f"{name} has the key {key!r} in '{where}': expected a str or an int")
    return [(f"{where}.{key}".lstrip("."), value) for key, value in items]


def describe_value(value: Any) -> str:
    """The type of a value, and of a dict the first keys, for messages: "dict with keys a, b"."""
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    keys = ", ".join(str(key)[:40] for key in list(value)[:3]) if isinstance(value, dict) else ""
    return f"{kind} with keys {keys}" if keys else kind


def first_line(error: Exception) -> str:
    """One short line of an error; torch puts its own reason last."""
    reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return f"{type(error).__name__}: {reason[:120]}" if reason else type(error).__name__
