"""Which images is a survey made of? Those of a folder, one file, or the rows of a table `list.csv`.

The table has commas between its columns and names them in its first line: `file` (or another that is named), paths
relative to the table's folder; `noise_map`, `psf` and `mask` (not 0 where a pixel must not count), files too, for the
fit of the smooth lens; `pixel_scale`, arcsec, for files that don't say it; what else there is passes through to the
table of predictions, or of fits.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from darklens.data.image import find_extension
from darklens.data.noise_psf import split_hdu
from darklens.data.side_names import side_files
from darklens.errors import DataError, UsageError
from darklens.survey.image_files import find_pictures

SIDE_FILES = "noise_map", "psf", "mask"
SCALE = "pixel_scale"
FIRST_ROWS = 100  # of a list, that tell whether a column has files
SPELLINGS = {  # of columns that are read, as others name them: without capitals, blanks, - and _
    "noise_map": {"noisemap", "noise", "noisefile", "noisepath", "rms", "rmsmap", "rmsfile", "err", "error", "errormap"}
    | {"errmap", "sigma", "sigmamap", "var", "variance", "varmap", "ivar", "invvar", "weight", "weightmap", "wht"},
    "psf": {"psf", "psffile", "psfpath", "psfmap", "psfimage", "psfkernel", "kernel"},
    "mask": {"mask", "maskfile", "maskpath", "maskimage", "maskmap", "masks", "badpixels"},
    "pixel_scale": {"pixelscale", "pixscale", "pixelscalearcsec", "pixelsize"},
}


class Entry(NamedTuple):
    """An image: its file, as the table of predictions names it; files beside it; the cells that pass through.

    pixel_scale: arcsec, where the list says it.
    """

    file: str
    noise_map: str = ""
    psf: str = ""
    pixel_scale: float | None = None
    cells: tuple[str, ...] = ()
    mask: str = ""


class Catalogue(NamedTuple):
    """All images of a survey, or of a part of it. skipped: other files in a folder; columns: that pass through.

    side_files: the columns of files for the fit that the list has; misspelt: columns that pass through, and those that
    seem to be meant.
    """

    root: str
    entries: Sequence[Entry]
    columns: tuple[str, ...] = ()
    skipped: int = 0
    side_files: tuple[str, ...] = ()
    misspelt: tuple[tuple[str, str], ...] = ()

    def part(self, number: int, parts: int) -> Catalogue:
        """The number-th, from 1, of contiguous parts that differ in length by one at most."""
        first, last = ((number - 1 + k) * len(self.entries) // parts for k in (0, 1))
        return self._replace(entries=self.entries[first:last], skipped=self.skipped if number == 1 else 0)


def find_survey(path: str | Path, file_column: str = "file") -> Catalogue:
    """The images of a folder, the one file given, or those that a .csv file lists. Raises DataError.

    Noise maps, masks and the like in a folder are told by their names and skipped, unless there is nothing else.
    """
    if str(path).lower().endswith(".csv") and not os.path.isdir(path):
        return read_list(path, file_column)
    root, names, skipped = find_pictures(path)
    beside = set(side_files(names))
    images = [name for name in names if name not in beside] or names
    return Catalogue(root, [Entry(name) for name in images], skipped=skipped + len(names) - len(images))


def read_list(path: str | Path, file_column: str = "file") -> Catalogue:
    """The images that a table lists, in its order. Raises DataError, one line that says what to mend."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True, skipinitialspace=True)
            header = _header(path, [cell.strip() for cell in next(rows, [])], file_column)
            entries = [_entry(path, rows.line_num, header, row, file_column) for row in rows if row]
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected text in UTF-8: save the table as CSV (UTF-8)") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: expected values with commas between them ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not entries:
        raise DataError(f"{path}: expected a row for each image, found none below the columns' names")
    passed = tuple(name for name in header if name not in (file_column, *SIDE_FILES, SCALE))
    files = tuple(name for name in SIDE_FILES if name in header)
    return Catalogue(os.path.dirname(path), entries, passed, 0, files, _misspelt(header, passed, entries))


def _misspelt(header: list[str], passed: tuple[str, ...], entries: Sequence[Entry]) -> tuple[tuple[str, str], ...]:
    """Columns that pass through although they seem to name noise maps, PSFs, masks, and how these are spelt."""
    pairs = []
    for place, name in enumerate(passed):
        plain = re.sub(r"[\W_]+", "", name).lower()
        for meant in (meant for meant, spellings in SPELLINGS.items() if plain in spellings and meant not in header):
            files = any(find_extension(split_hdu(entry.cells[place].strip())[0]) for entry in entries[:FIRST_ROWS])
            if files or meant == SCALE or plain in (meant.replace("_", ""), "noise"):
                pairs.append((name, meant))
    return tuple(pairs)


def _header(path: str | Path, names: list[str], file_column: str) -> list[str]:
    listed = ", ".join(names)[:200] or "nothing"
    if file_column not in names:
        commas = "; expected commas between them" if len(names) == 1 and set(names[0]) & set("\t;|") else ""
        raise DataError(
            f"{path}: expected a column {file_column} in its first line, found {listed}{commas}; --file_column names it"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or "" in names:
        hint = "; pandas: to_csv(..., index=False)" if names[0] == "" else ""
        raise DataError(f"{path}: expected a name of its own for each column, found {listed}{hint}")
    return names


def _entry(path: str | Path, line: int, header: list[str], row: list[str], file_column: str) -> Entry:
    if len(row) != len(header):
        raise DataError(f"{path}: line {line}: expected {len(header)} values, one a column, found {len(row)}")
    cells = dict(zip(header, row, strict=True))
    file, noise_map, psf, mask = cells.pop(file_column), *(cells.pop(name, "").strip() for name in SIDE_FILES)
    scale = _scale(path, line, cells.pop(SCALE, "").strip())
    return Entry(file, noise_map, psf, scale, tuple(cells.values()), mask)


def _scale(path: str | Path, line: int, cell: str) -> float | None:
    """Arcsec; None of an empty cell."""
    try:
        scale = float(cell) if cell else None
    except ValueError:
        scale = math.nan
    if scale is None or 0 < scale < math.inf:
        return scale
    raise DataError(f"{path}: line {line}: expected a {SCALE} in arcsec above 0, or an empty cell, found {cell!r}")


def check_columns(path: str | Path, written: Sequence[str], columns: Sequence[str]) -> None:
    """Raise UsageError where a column that passes through has the name of one of the table of predictions."""
    if clash := [name for name in columns if name in written]:
        raise UsageError(f"{path}: its column {clash[0]} has the name of one that is written: give it another")


def printable(name: str) -> str:
    """The name of a file as the table has it: bytes that are no UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
