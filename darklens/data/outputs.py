"""May this be written? Never over what is read, nor among images under the name of one."""

from __future__ import annotations

import os
from pathlib import Path

from darklens.data.image import find_extension, unread_kind
from darklens.errors import UsageError


def check_output(flag: str, output: str | Path, folder: str | Path | None = None, *inputs: str | Path) -> None:
    """Raise UsageError where `output`, which `flag` asks for, is one of the inputs, or would be taken for an image.

    folder: of images, or one image; inputs: other files that are read.
    """
    for read in (path for path in (folder, *inputs) if path is not None):
        if os.path.realpath(output) == os.path.realpath(read) or _same_file(output, read):
            if not os.path.isdir(read):
                raise UsageError(f"{flag} {output}: that is what is read: choose another name")
    if not (find_extension(output) or unread_kind(output)):
        return
    if os.path.lexists(output):
        raise UsageError(f"{flag} {output}: there is a file with the name of an image: choose another name")
    if folder is not None and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(f"{flag} {output}: a name of an image in {folder}, whose images are read: choose another")


def _same_file(one: str | Path, other: str | Path) -> bool:
    """Also by another name, as a link or in capitals."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
