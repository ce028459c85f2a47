"""What lies in a folder: the one place that lists them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from darklens.errors import DataError


def entries(folder: str | Path) -> list[os.DirEntry]:
    """Everything in a folder, by name. Raises DataError where it cannot be listed."""
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        advice = "; expected the folder with train/ and val/ in it" if isinstance(error, NotADirectoryError) else ""
        raise DataError(f"{folder}: cannot list this folder ({error.strerror or error}){advice}") from None


def names(folder: str | Path, keep: Callable[[os.DirEntry], bool]) -> tuple[list[str], int]:
    """Sorted names of the entries to keep, and the number of the others. Raises DataError."""
    listing = entries(folder)
    chosen = [entry.name for entry in listing if keep(entry)]
    return chosen, len(listing) - len(chosen)


def is_folder(entry: os.DirEntry) -> bool:
    """True for a folder that may be a split or class: not hidden, no link to a folder that it lies in."""
    try:
        if entry.name.startswith((".", "__")) or not entry.is_dir():
            return False
    except OSError:  # a link to itself
        return False
    parent = Path(os.path.realpath(os.path.dirname(entry.path)))
    return not (entry.is_symlink() and parent.is_relative_to(os.path.realpath(entry.path)))


def is_file(entry: os.DirEntry, accept: Callable[[str], object]) -> bool:
    """True for a file that isn't hidden, whose name is accepted; a link that leads nowhere is none."""
    try:
        return not entry.name.startswith(".") and bool(accept(entry.name)) and entry.is_file()
    except OSError:
        return False


def is_npy(entry: os.DirEntry) -> bool:
    """True for an image of a data set, *.npy in capitals or not."""
    return is_file(entry, lambda name: name.lower().endswith(".npy"))


def contents(folder: str | Path) -> str:
    """What a folder holds, for error messages: 'found: a, b, c and 7 more'."""
    listing = [entry.name for entry in entries(folder)]
    rest = f" and {len(listing) - 5} more" if len(listing) > 5 else ""
    return f"found: {', '.join(listing[:5]) or 'nothing'}{rest}"
