"""How a training state is put on disk so that it is never lost, never half-read and never executes anything.

    save({"model": net.state_dict(), "epoch": 3}, "run/last.pt")
    payload = load("run/last.pt")                  # or CheckpointError, one line that names the file
    payload, note = load_newest("run/last.pt")     # what a resumed run wants: else the previous generation
    weights = load_foreign("old/best.pt")          # a bare state_dict that plain torch.save wrote

Never lost: a file is complete and synced under another name before it takes its own, and the generation
before it stays as `<name>.previous`. Never half-read: the file is an ordinary torch.save archive (plain
`torch.load` reads it) whose ZIP comment is the SHA-256 of all that comes before it. Never executes: on top of
`weights_only=True`, the names that a file's pickle wants to import are looked at before it is read.
Needs POSIX renames and process ids.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import math
import os
import pickletools
import random
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

FORMAT = 1  # raise it when an older program could no longer use the payload

_PREFIX = b"sha256:"
_COMMENT = len(_PREFIX) + 64
_END_RECORD = 22  # the ZIP end-of-central-directory record; its last two bytes are the comment's length
_END_MAGIC, _ZIP_MAGIC = b"PK\5\6", b"PK\3\4"
_CONTAINERS = (dict, OrderedDict, list, tuple)
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_SCALARS = (str, int, float, bool, type(None))
_EXPECTED = "dense tensors, str, int, float, bool, None in dicts, lists and tuples; convert it"
_HARMLESS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch \w+Storage|torch\.storage UntypedStorage|torch (bfloat|float|complex|u?int)\d\w*"
)
_NAMING = ("GLOBAL", "INST", "STACK_GLOBAL")  # the pickle opcodes that name something to import
_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file size limit reached",
    errno.EACCES: "no permission to write there",
    errno.EROFS: "the disk is read-only",
    errno.ENOENT: "the folder does not exist",
}


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or must not be used. One line that names the file."""


def save(payload: dict, path: str | os.PathLike, keep_previous: bool = True) -> None:
    """Put `payload` at `path`. After any failure the whole old file is still there, and no rubbish.

    Args:
        payload: tensors, str, int, float, bool and None in dicts (keys str or int), lists and tuples. The key
            "format" is reserved: it is written here and taken off by `load`.
        keep_previous: keep the file that was there as `<name>.previous`, unless it is damaged.

    Raises:
        CheckpointError: a value that could not be read back (says its key), disk full, no permission.
    """
    path = Path(path)
    archive = _pack(payload, f"{path}: not saved: payload")
    temporary = _temporary(path)
    try:
        _remove_temporaries(path)
        _write(temporary, archive.getbuffer())
        if keep_previous and _is_intact(path):
            _keep_generation(path)
        os.replace(temporary, path)
    except OSError as error:
        reason = _REASONS.get(error.errno, error.strerror or error)
        raise CheckpointError(f"{path}: not saved: {reason}; a file already there is untouched") from error
    finally:
        _remove_temporaries(path)
    _sync_folder(path.parent)


def load(path: str | os.PathLike, map_location: Any = "cpu") -> dict:
    """The payload that `save` put at `path`; tensors on `map_location`.

    Raises:
        CheckpointError: missing, empty, cut short, any byte changed, not written by `save`, another format,
            content other than `save` allows. Names `<name>.previous` if that one is good.
    """
    path = Path(path)
    try:
        return _load(path, map_location)
    except CheckpointError as error:
        previous = previous_of(path)
        with contextlib.suppress(CheckpointError):
            _load(previous, "meta")  # checks everything but copies no tensor
            error = CheckpointError(f"{error}; the generation before it is good: {previous}")
        raise error from None


def load_newest(path: str | os.PathLike, map_location: Any = "cpu") -> tuple[dict, str]:
    """`(payload, note)` from the newest good generation.

    `note` is "" if that is `path`, else one line for the log: why `path` was refused and what was used.

    Raises:
        CheckpointError: no generation is good (the reason is that of `path`).
    """
    path = Path(path)
    try:
        return _load(path, map_location), ""
    except CheckpointError as error:
        with contextlib.suppress(CheckpointError):
            return _load(previous_of(path), map_location), f"{error}; went on from {previous_of(path)}"
        raise


def load_foreign(path: str | os.PathLike, map_location: Any = "cpu") -> dict:
    """A flat dict of tensors and numbers, as plain `torch.save(state_dict, path)` writes it, now or long ago.

    Raises:
        CheckpointError: as `load`, with the CRC-32 of ZIP members for a checksum; a key not a str; a value
            neither tensor nor number; a file that `save` wrote.
    """
    path = Path(path)
    with _opened(path) as handle:
        if _is_sealed(_tail(handle)):
            raise CheckpointError(f"{path}: a checkpoint with checksum, not a bare state_dict: use load()")
        payload = _read(handle, str(path), map_location, check_crc=True)
    if not isinstance(payload, dict) or not payload:
        raise CheckpointError(f"{path}: expected a state_dict, found {_describe(payload)}")
    for key, value in payload.items():
        if type(key) is not str or type(value) not in (*_TENSORS, int, float, bool):
            raise CheckpointError(f"{path}: expected a state_dict, found {key!r}: {_describe(value)}")
    return payload


def is_ours(path: str | os.PathLike) -> bool:
    """Whether the file ends as `save` ends one. Reads only its end: `load` says whether it is good."""
    with contextlib.suppress(CheckpointError), _opened(Path(path)) as handle:
        return _is_sealed(_tail(handle))
    return False


def previous_of(path: str | os.PathLike) -> Path:
    """Where `save` keeps the generation before `path`."""
    return Path(path).with_name(Path(path).name + ".previous")


def random_state() -> dict:
    """The states of the global generators of Python, NumPy, torch and, where in use, CUDA; fit for `save`."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict) -> None:
    """Undo everything drawn since `random_state()`, bit for bit; GPUs that are gone are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for index, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(words.cpu(), index)


# Writing


def _pack(payload: dict, name: str) -> io.BytesIO:
    """The file's bytes, read back once: nothing replaces a good file that could not be read itself."""
    if not isinstance(payload, dict) or "format" in payload:
        raise CheckpointError(f"{name} must be a dict without a key 'format', found {_describe(payload)}")
    _check_values(payload, name)
    archive = io.BytesIO()
    try:
        torch.save({**payload, "format": FORMAT}, archive)
    except Exception as error:
        raise CheckpointError(f"{name} cannot be serialised ({_first_line(error)})") from error
    _seal(archive)
    _read(archive, name, "meta")
    return archive


def _seal(archive: io.BytesIO) -> None:
    """Append the ZIP comment: the SHA-256 of all that comes before it, the comment's length included."""
    with archive.getbuffer() as body:
        body[-2:] = _COMMENT.to_bytes(2, "little")
        digest = hashlib.sha256(body).hexdigest()
    archive.seek(0, os.SEEK_END)
    archive.write(_PREFIX + digest.encode())


def _write(path: Path, content: bytes | memoryview) -> None:
    with open(path, "xb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _keep_generation(path: Path) -> None:
    """Name the present file `<name>.previous` as well: at no instant is it without a name of its own."""
    spare = _temporary(previous_of(path))
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links
        _write(spare, path.read_bytes())
    os.replace(spare, previous_of(path))


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def _remove_temporaries(path: Path) -> None:
    """Remove what this process, or one gone from this machine, left of a save; a running one keeps its."""
    pattern = re.compile(re.escape(path.name) + r"(?:\.previous)?\.(\d+)\.tmp")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            match = pattern.fullmatch(name)
            if match and not _is_another_alive(int(match[1])):
                path.with_name(name).unlink(missing_ok=True)


def _is_another_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 is not delivered, it only asks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _sync_folder(folder: Path) -> None:
    """Make the renames last through a power cut, where the file system can (some network ones refuse)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading: one open handle is checked and then read, so a file replaced meanwhile does no harm


def _load(path: Path, map_location: Any) -> dict:
    with _opened(path) as handle:
        _check_digest(handle, path)
        payload = _read(handle, str(path), map_location)
    version = payload.pop("format", None) if isinstance(payload, dict) else None
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: expected a payload with its format number, found {version!r}")
    if version != FORMAT:
        advice = f"use a version of this program that reads format {version}"
        raise CheckpointError(f"{path}: written in format {version}, this program reads {FORMAT}: {advice}")
    return payload


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
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


def _tail(handle: BinaryIO) -> bytes:
    """The end of the file, as long as the ZIP end record and our comment."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, size - _END_RECORD - _COMMENT))
    return handle.read()


def _is_sealed(tail: bytes) -> bool:
    length = _COMMENT.to_bytes(2, "little")
    return tail.startswith(_END_MAGIC) and tail[_END_RECORD - 2 :].startswith(length + _PREFIX)


def _is_intact(path: Path) -> bool:
    with contextlib.suppress(CheckpointError), _opened(path) as handle:
        _check_digest(handle, path)
        return True
    return False


def _check_digest(handle: BinaryIO, path: Path) -> None:
    tail = _tail(handle)
    if not _is_sealed(tail):
        raise CheckpointError(f"{path}: no checksum at its end: cut short, or not from this program")
    digest, left = hashlib.sha256(), handle.tell() - _COMMENT
    handle.seek(0)
    while left and (chunk := handle.read(min(left, 1 << 20))):
        digest.update(chunk)
        left -= len(chunk)
    if tail[-64:] != digest.hexdigest().encode():
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")


def _read(handle: BinaryIO, name: str, map_location: Any, check_crc: bool = False) -> Any:
    """What the torch file holds, checked before, while and after it is read. `name` opens the messages."""
    size = handle.seek(0, os.SEEK_END)
    try:
        _check_calls(handle, size, name, check_crc)
        handle.seek(0)
        payload = torch.load(handle, map_location=map_location, weights_only=True, mmap=False)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file makes these readers raise nearly anything
        raise CheckpointError(f"{name} is damaged or no torch file ({_first_line(error)})") from error
    _check_values(payload, name, size)
    return payload


def _check_calls(handle: BinaryIO, size: int, name: str, check_crc: bool) -> None:
    """Refuse a file whose pickles name anything but what rebuilds a plain tensor."""
    handle.seek(0)
    if handle.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
        pickles = _zip_pickles(handle, size, name, check_crc)
    else:  # torch's old format, five pickles in a row: magic number, version, system, payload, storage keys
        handle.seek(0)
        pickles = [handle] * 5
    for opcode, argument, _ in itertools.chain.from_iterable(map(pickletools.genops, pickles)):
        if opcode.name in _NAMING and not _HARMLESS.fullmatch(argument or ""):
            found = (argument or "a hidden name").replace(" ", ".")
            raise CheckpointError(f"{name} holds more than tensors ({found}): refused, nothing executed")


def _zip_pickles(handle: BinaryIO, size: int, name: str, check_crc: bool) -> list[bytes]:
    """The pickles of a torch archive in which nothing is compressed and nothing claims more than is there."""
    if check_crc and _tail(handle)[-_END_RECORD:][:4] != _END_MAGIC:
        raise CheckpointError(f"{name} is cut short, or something follows its end")
    with zipfile.ZipFile(handle) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > size:
            raise CheckpointError(f"{name} claims more bytes than the file holds: refused")
        if check_crc and (damaged := archive.testzip()):
            raise CheckpointError(f"{name} is damaged: wrong CRC-32 in {damaged!r}")
        return [archive.read(member) for member in members if member.filename.endswith(".pkl")]


# Payloads


def _check_values(payload: Any, name: str, limit: float = math.inf) -> None:
    """Refuse what is not of the plain kinds, and tensors of more than `limit` bytes, at any depth."""
    stack, seen = [("", payload)], set()  # seen: a hostile file may hold a list in itself
    while stack:
        where, value = stack.pop()
        if type(value) in _CONTAINERS:
            stack += [] if id(value) in seen else _items(where, value, name)
            seen.add(id(value))
        elif type(value) not in _SCALARS and not _is_dense(value):
            raise CheckpointError(f"{name} key '{where}' is {_describe(value)}: expected {_EXPECTED}")
        elif type(value) not in _SCALARS and value.nbytes > limit:
            raise CheckpointError(f"{name} key '{where}' claims {value.nbytes} bytes, the file has {limit}")


def _is_dense(value: Any) -> bool:
    return type(value) in _TENSORS and value.layout == torch.strided and not value.is_quantized


def _items(where: str, container: Any, name: str) -> list[tuple[str, Any]]:
    """`(dotted key, value)` of one dict, list or tuple."""
    items = list(container.items() if isinstance(container, dict) else enumerate(container))
    for key, _ in items:
        if type(key) not in (str, int):
            raise CheckpointError(f"{name} has the key {key!r} in '{where}': expected a str or an int")
    return [(f"{where}.{key}".lstrip("."), value) for key, value in items]


def _describe(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    keys = ", ".join(str(key)[:40] for key in list(value)[:3]) if isinstance(value, dict) else ""
    return f"{kind} with keys {keys}" if keys else kind


def _first_line(error: Exception) -> str:
    """One short line of an error; torch puts its own reason last."""
    reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return f"{type(error).__name__}: {reason[:120]}" if reason else type(error).__name__
