"""The image files under a folder."""

from __future__ import annotations

import os
from pathlib import Path

from darklens.data.image import EXTENSIONS, find_extension, unread_kind, why_not
from darklens.data.listing import entries, is_file
from darklens.errors import DataError


def find_pictures(folder: str | Path) -> tuple[str, list[str], int]:
    """(root, names, skipped): the image files under a folder, relative to it, in order; or the one file given.

    Among them are those that may hold images and are not read (image.UNREAD). Links are followed, no folder is entered
    twice. Hidden files and folders, and others than images, are skipped and counted. Raises DataError where there is
    none, or a folder cannot be listed.
    """
    folder = os.fspath(folder)
    if os.path.isfile(folder):
        if find_extension(folder) is None:
            raise DataError(f"{folder}: expected a folder, or an image: {why_not(folder)}")
        return os.path.dirname(folder), [os.path.basename(folder)], 0
    real = os.path.realpath(folder)
    pending, visited, names, skipped = entries(folder)[::-1], {real}, [], 0
    while pending:
        entry = pending.pop()
        if _is_folder(entry, visited, real):
            pending += entries(entry.path)[::-1]
        elif is_file(entry, lambda name: find_extension(name) or unread_kind(name)):
            names.append(os.path.relpath(entry.path, folder))
        else:
            skipped += 1
    if not names:
        raise DataError(f"{folder}: expected images ({', '.join(EXTENSIONS)}), found none; {skipped} other files")
    return folder, names, skipped


def _is_folder(entry: os.DirEntry, visited: set[str], root: str) -> bool:
    """True for a folder to enter, which is then seen: not hidden, no link to what is found without it."""
    try:
        if entry.name.startswith((".", "__")) or not entry.is_dir():
            return False
    except OSError:  # a link to itself
        return False
    real = os.path.realpath(entry.path)
    if real in visited or (entry.is_symlink() and Path(real).is_relative_to(root)):
        return False
    visited.add(real)
    return True
