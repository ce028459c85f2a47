"""A page of lenses: pictures, what the network says, and labels by keyboard.

    with write_page("predictions.html", PageInfo("predictions.csv", ["no", "sphere", "vort"])) as page:
        for row in rows:
            page.add(row)

Up to INLINE_BYTES of pictures are part of the page, which is then one file. More of them go into the folder
`predictions_pictures` beside it, a file a lens, and are read as they come into view. A page has MAX_ROWS lenses at
most: of more, those that are most useful to label stay. Memory is bounded by these two numbers. The page and its folder
appear when all is written.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from darklens.errors import UsageError
from darklens.page.priority import labelling_order, usefulness
from darklens.page.row import PageInfo, PageRow
from darklens.page.strip import LIMIT, PANELS
from darklens.page.template import class_colours, embed_json, render
from darklens.storage.files import cannot_write, write

INLINE_BYTES = 32 * 2**20  # of PNG in the page itself: about 1,600 lenses of three panels
MAX_ROWS = 20_000
SCRIPTS = ("data.js", "labels.js", "view.js", "cells.js", "list.js", "detail.js", "main.js")


@contextlib.contextmanager
def write_page(
    path: str | Path, info: PageInfo, *, max_rows: int = MAX_ROWS, inline_bytes: int = INLINE_BYTES
) -> Iterator[PageWriter]:
    """A writer of the page `path`, which is written when the block ends without an error.

    max_rows, inline_bytes: see above. Raises UsageError where the folder for its pictures would replace something else,
    ResultsError where a file cannot be written.
    """
    writer = PageWriter(Path(path), info, max_rows, inline_bytes)
    try:
        yield writer
        writer.finish()
    except OSError as error:
        raise cannot_write(Path(path), error) from error
    finally:
        shutil.rmtree(writer.pictures.partial, ignore_errors=True)


def pictures_folder(path: str | Path) -> Path:
    """predictions.html -> predictions_pictures"""
    return Path(path).with_name(f"{Path(path).stem}_pictures")


@dataclass
class PictureStore:
    """PNG files by the number of their lens: in memory, or in a folder once they are many."""

    folder: Path
    inline_bytes: int
    inline: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    spilled: bool = False

    @property
    def partial(self) -> Path:
        """The folder until it is complete."""
        return self.folder.with_name(f".{self.folder.name}.{os.getpid()}.partial")

    def add(self, number: int, png: bytes) -> None:
        """Keep one more; all of them go to the folder where they are too many for a page."""
        self.inline[number] = png
        self.size += len(png)
        if not self.spilled and self.size > self.inline_bytes:
            self.spilled = True
            self.partial.mkdir(exist_ok=True)
        if self.spilled:
            for key, content in self.inline.items():
                (self.partial / f"{key:07d}.png").write_bytes(content)
            self.inline.clear()

    def remove(self, number: int) -> None:
        """Forget one."""
        self.size -= len(self.inline.pop(number, b""))
        if self.spilled:
            (self.partial / f"{number:07d}.png").unlink(missing_ok=True)

    def publish(self) -> None:
        """Put the folder in its place; one of a page that was here before goes."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        if self.spilled:
            self.partial.rename(self.folder)

    def check(self) -> None:
        """Raise UsageError where the folder has something else in it than such pictures."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir() or any(not re.fullmatch(r"\d{7}\.png", name) for name in os.listdir(self.folder)):
            raise UsageError(f"{self.folder}: holds other files than the pictures of a page: choose another --page")


class PageWriter:
    """Takes rows one by one, and writes the page of them."""

    def __init__(self, path: Path, info: PageInfo, max_rows: int, inline_bytes: int):
        self.path, self.info, self.max_rows = path, info, max_rows
        self.pictures = PictureStore(pictures_folder(path), inline_bytes)
        self.pictures.check()
        self.rows: dict[int, PageRow] = {}
        self.useful: list[tuple[float, int]] = []  # a heap: the least useful lens first, of equals the latest
        self.total = 0

    def add(self, row: PageRow) -> None:
        """One lens more, after those before it in the table."""
        number, self.total = self.total, self.total + 1
        self.rows[number] = row if row.strip is None else replace(row, strip=replace(row.strip, png=b""))
        if row.strip is not None:
            self.pictures.add(number, row.strip.png)
        heapq.heappush(self.useful, (_usefulness(row), -number))
        if len(self.rows) > self.max_rows:
            surplus = -heapq.heappop(self.useful)[1]
            del self.rows[surplus]
            self.pictures.remove(surplus)

    def finish(self) -> None:
        """Write the page."""
        content = render("lenses.html", ["page.css", "lenses.css"], SCRIPTS, self._values())
        self.pictures.publish()
        write(self.path, content)

    def _values(self) -> dict[str, Any]:
        """What the template asks for."""
        from markupsafe import Markup

        data, pictures = self._data(), {}
        for number, png in self.pictures.inline.items():
            pictures[number] = base64.b64encode(png).decode()
        return {
            "title": self.info.title,
            "data": Markup(embed_json(data)),
            "pictures": Markup(embed_json(pictures)),
        }

    def _data(self) -> dict[str, Any]:
        """What the scripts read: the rows as lists, in the order of `data.js`."""
        numbers, rows = list(self.rows), list(self.rows.values())
        columns = list(dict.fromkeys(name for row in rows for name in row.columns))
        folder = self.pictures.folder.name if self.pictures.spilled else ""
        return {
            "title": self.info.title,
            "network": self.info.network,
            "key": self.info.storage_key([row.name for row in rows]),
            "classes": list(self.info.classes),
            "colours": class_colours(len(self.info.classes)),
            "calibrated": self.info.calibrated,
            "total": self.total,
            "folder": folder,
            "panels": PANELS,
            "limit": LIMIT,
            "columns": columns,
            "listed": list(self.info.listed),
            "rows": [
                _plain(number, row, int(place), columns)
                for number, row, place in zip(numbers, rows, self._places(rows), strict=True)
            ],
        }

    def _places(self, rows: list[PageRow]) -> np.ndarray:
        """(n,) the order in which to label; rejected files come last."""
        good = np.array([bool(row.class_name) for row in rows], bool)
        places = np.full(len(rows), len(rows))
        classified = [row for row in rows if row.class_name]
        if classified:
            novelty = np.array([np.nan if row.novelty is None else row.novelty for row in classified])
            features = [row.embedding for row in classified if row.embedding is not None]
            complete = len(features) == len(classified)
            probabilities = np.array([row.probabilities for row in classified], float)
            places[good] = labelling_order(probabilities, novelty, np.stack(features) if complete else None)
        return places


def _usefulness(row: PageRow) -> float:
    """As in priority.py; a rejected file has none."""
    if not row.class_name:
        return -1.0
    novelty = np.nan if row.novelty is None else row.novelty
    return float(usefulness(np.array([row.probabilities], float), np.array([novelty]))[0])


def _plain(number: int, row: PageRow, place: int, columns: list[str]) -> list[Any]:
    """One row as JSON has it."""
    numbers = (row.novelty, row.chi_square, row.einstein_radius, row.einstein_radius_sd)
    return [
        number,
        row.name,
        row.class_name,
        row.true,
        [round(float(p), 6) for p in row.probabilities],
        row.flag,
        *(None if value is None or not np.isfinite(value) else float(f"{value:.6g}") for value in numbers),
        place,
        list(row.strip.panels) if row.strip else [],
        [row.columns.get(name, "") for name in columns],
    ]
