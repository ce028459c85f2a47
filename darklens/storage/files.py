"""Files that are whole or not there: JSON, and plain arrays that give the same bytes for the same values.

Everything is written beside its final name and then renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from darklens.errors import ResultsError

FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def cannot_write(path: Path, error: OSError) -> ResultsError:
    """The error for a file that the system would not write."""
    advice = "free some space or choose another folder" if error.errno in FULL else "choose another place"
    return ResultsError(f"{path}: cannot be written ({error.strerror}); {advice}")


def write(path: str | Path, content: bytes) -> None:
    """All of the file or nothing: written beside it, flushed to the disk, renamed. Raises ResultsError."""
    try:
        with replacing(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise cannot_write(Path(path), error) from error


@contextmanager
def replacing(path: str | Path, mode: str = "w", sync: bool = True) -> Iterator[IO]:
    """A file, text in UTF-8 or bytes, that takes the name `path` once it is complete; else `path` stays as it was.

    sync: flush it to the disk before it is renamed. Raises OSError where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    newline, encoding = (None, None) if "b" in mode else ("", "utf-8")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder", str(path))
        with open(temporary, mode, newline=newline, encoding=encoding) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of a `.npy` file."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def save_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON; arrays become lists, and NaN, which JSON does not have, becomes null."""
    write(path, (json.dumps(_plain(obj), indent=2, allow_nan=False) + "\n").encode())


def _plain(obj: Any) -> Any:
    """Only what JSON knows."""
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if isinstance(obj, (np.ndarray, np.generic)):
        return _plain(obj.tolist())
    if isinstance(obj, float):
        return obj if np.isfinite(obj) else None
    return str(obj) if isinstance(obj, Path) else obj


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a file; nothing of a file that is missing, damaged, or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def save_arrays(path: str | Path, arrays: dict[str, Any]) -> None:
    """Write numbers and text as an `.npz` file. Equal arrays give equal bytes: no times, no compressor in it."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:  # dated 1980
                np.lib.format.write_array(file, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
    write(path, buffer.getvalue())


def read_arrays(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Some of the arrays that `save_arrays` wrote, read-only.

    Executes nothing, and allocates no more than the file is long. Raises ResultsError for any other file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_array(archive, f"{name}.npy") for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise ResultsError(
            f"{path}: expected the arrays {', '.join(names)}, found a damaged file ({reason})"
        ) from error


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(name) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is not in version 1.0 of the format")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
        values = np.frombuffer(file.read(), dtype)
    if columns_first and len(shape) > 1:
        raise ValueError(f"{name} is in Fortran order")
    return values.reshape(shape)
