"""Which images did somebody label, and how? A table as the page of predictions exports it.

    file,label,class
    field_00/lens_3.fits,perturbed,vort

`file` is relative to the folder that was predicted, with an HDU where a list had one (`cutout.fits[SCI]`), and bytes
that are no UTF-8 as \\xff, as in the table of predictions; other columns are passed over.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

from darklens.errors import DataError

MAX_LABEL = 60  # characters: labels become names of folders


class LabelledFile(NamedTuple):
    """An image with a label. name: as the table has it; hdu: of a FITS file, where the name asks for one."""

    path: Path
    hdu: str | None
    name: str
    label: str


def read_labels(path: str | Path, images: str | Path | None = None) -> list[LabelledFile]:
    """The labelled images, in the table's order, each once. images: the folder of the files; None: the table's own.

    Raises DataError, one line that says what to mend.
    """
    folder = os.path.dirname(path) if images is None else os.fspath(images)
    labelled: dict[str, LabelledFile] = {}
    for line, name, label in _read_rows(path):
        if not label:
            continue
        if problem := label_problem(label):
            raise DataError(f"{path}: line {line}: expected a label that can name a folder, found {label!r}: {problem}")
        if labelled.get(name, (label,))[-1] != label:
            raise DataError(f"{path}: line {line}: {name} has two labels, {labelled[name].label} and {label}")
        labelled[name] = LabelledFile(*_locate(path, line, name, folder), name, label)
    return list(labelled.values())


def label_problem(label: str) -> str:
    """Why a label cannot be the name of a folder; "" if it can. The page of predictions holds its users to the same."""
    if re.search(r"[/\\\x00-\x1f\x7f]", label):
        return "it has a slash or a control character in it"
    if label.startswith((".", "__")):
        return "it begins with a dot or two underscores, as what is hidden does"
    return f"it has more than {MAX_LABEL} characters" if len(label) > MAX_LABEL else ""


def _read_rows(path: str | Path) -> list[tuple[int, str, str]]:
    """Line, file and label of each row."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            if missing := {"file", "label"} - set(rows.fieldnames or ()):
                listing = ", ".join(rows.fieldnames or ())[:200] or "nothing"
                raise DataError(f"{path}: expected the columns file and label, no {min(missing)} in {listing}")
            return [(rows.line_num, row["file"], (row["label"] or "").strip()) for row in rows]
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected text in UTF-8: save the table as CSV (UTF-8)") from None
    except csv.Error as error:
        raise DataError(f"{path}: expected values with commas between them ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _locate(path: str | Path, line: int, name: str, folder: str) -> tuple[Path, str | None]:
    """The file, and the HDU, of a name in the table."""
    from darklens.data.noise_psf import split_hdu  # which takes PyTorch along: `convert` needs none for folders

    for spelling in (name, _unescaped(name)):
        file, hdu = split_hdu(spelling, folder)
        if os.path.isfile(file):
            return Path(file), hdu
    hint = "--images names the folder that was predicted, or that of the list"
    raise DataError(f"{path}: line {line}: no file {name} in {folder or '.'}: {hint}")


def _unescaped(name: str) -> str:
    """The name of a file with bytes that are no UTF-8: \\xff -> that byte."""
    escaped = name.encode("utf-8", "surrogateescape")
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), escaped))
