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
import hashlib
import io
import os
import random
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from darklens.errors import CheckpointError
from darklens.storage.files import replacing
from darklens.storage.safe_pickle import (
    COMMENT,
    END_MAGIC,
    END_RECORD,
    PREFIX,
    REASONS,
    TENSORS,
    check_values,
    describe_value,
    first_line,
    open_archive,
    read_archive,
    read_tail,
)

FORMAT = 1  # raise it when an older program could no longer use the payload


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
    try:
        _remove_temporaries(path)
        with replacing(path, "wb") as file:
            file.write(archive.getbuffer())
            if keep_previous and _is_intact(path):
                _keep_generation(path)
    except OSError as error:
        reason = REASONS.get(error.errno or 0, error.strerror or str(error))
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
    with open_archive(path) as handle:
        if _is_sealed(read_tail(handle)):
            raise CheckpointError(f"{path}: a checkpoint with checksum, not a bare state_dict: use load()")
        payload = read_archive(handle, str(path), map_location, check_crc=True)
    if not isinstance(payload, dict) or not payload:
        raise CheckpointError(f"{path}: expected a state_dict, found {describe_value(payload)}")
    for key, value in payload.items():
        if type(key) is not str or type(value) not in (*TENSORS, int, float, bool):
            raise CheckpointError(f"{path}: expected a state_dict, found {key!r}: {describe_value(value)}")
    return payload


def is_ours(path: str | os.PathLike) -> bool:
    """Whether the file ends as `save` ends one. Reads only its end: `load` says whether it is good."""
    with contextlib.suppress(CheckpointError), open_archive(Path(path)) as handle:
        return _is_sealed(read_tail(handle))
    return False


def previous_of(path: str | os.PathLike) -> Path:
    """Where `save` keeps the generation before `path`."""
    return Path(path).with_name(Path(path).name + ".previous")


def random_state() -> dict:
    """The states of the global generators of Python, NumPy, torch and, where in use, CUDA; fit for `save`."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), *rest],
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


def _pack(payload: dict, name: str) -> io.BytesIO:
    """The file's bytes, read back once: nothing replaces a good file that could not be read itself."""
    if not isinstance(payload, dict) or "format" in payload:
        raise CheckpointError(f"{name} must be a dict without a key 'format', found {describe_value(payload)}")
    check_values(payload, name)
    archive = io.BytesIO()
    try:
        torch.save({**payload, "format": FORMAT}, archive)
    except Exception as error:
        raise CheckpointError(f"{name} cannot be serialised ({first_line(error)})") from error
    _seal(archive)
    read_archive(archive, name, "meta")
    return archive


def _seal(archive: io.BytesIO) -> None:
    """Append the ZIP comment: the SHA-256 of all that comes before it, the comment's length included."""
    with archive.getbuffer() as body:
        body[-2:] = COMMENT.to_bytes(2, "little")
        digest = hashlib.sha256(body).hexdigest()
    archive.seek(0, os.SEEK_END)
    archive.write(PREFIX + digest.encode())


def _keep_generation(path: Path) -> None:
    """Name the present file `<name>.previous` as well: at no instant is it without a name of its own."""
    spare = path.with_name(f"{path.name}.previous.{os.getpid()}.tmp")
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links
        with replacing(spare, "wb") as file:
            file.write(path.read_bytes())
    os.replace(spare, previous_of(path))


def _remove_temporaries(path: Path) -> None:
    """Remove what this process, or one gone from this machine, left of a save; a running one keeps its."""
    pattern = re.compile(r"\.?" + re.escape(path.name) + r"(?:\.previous)?\.(\d+)(?:\.\d+)?\.tmp")
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


def _load(path: Path, map_location: Any) -> dict:
    with open_archive(path) as handle:
        _check_digest(handle, path)
        payload = read_archive(handle, str(path), map_location)
    version = payload.pop("format", None) if isinstance(payload, dict) else None
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: expected a payload with its format number, found {version!r}")
    if version != FORMAT:
        advice = f"use a version of this program that reads format {version}"
        raise CheckpointError(f"{path}: written in format {version}, this program reads {FORMAT}: {advice}")
    return payload


def _is_sealed(tail: bytes) -> bool:
    length = COMMENT.to_bytes(2, "little")
    return tail.startswith(END_MAGIC) and tail[END_RECORD - 2 :].startswith(length + PREFIX)


def _is_intact(path: Path) -> bool:
    with contextlib.suppress(CheckpointError), open_archive(path) as handle:
        _check_digest(handle, path)
        return True
    return False


def _check_digest(handle: BinaryIO, path: Path) -> None:
    tail = read_tail(handle)
    if not _is_sealed(tail):
        raise CheckpointError(f"{path}: no checksum at its end: cut short, or not from this program")
    digest, remaining = hashlib.sha256(), handle.tell() - COMMENT
    handle.seek(0)
    while remaining and (chunk := handle.read(min(remaining, 1 << 20))):
        digest.update(chunk)
        remaining -= len(chunk)
    if tail[-64:] != digest.hexdigest().encode():
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
