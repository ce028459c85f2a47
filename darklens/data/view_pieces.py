"""Pieces of a file of views, kept while it is made: what a killed program has done of slow fits is not done again.

SPLIT-00000.pieces/0000012.npz beside SPLIT-00000.npy: the views of a few images from number 12 on, with their fits. The
folder goes once the file is whole.
"""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from darklens.storage.files import write

FITS = "fits/"  # how the names of the table's columns begin


class Piece(NamedTuple):
    """views (n, C, S, S) float16 of some images; table: of their fits; fingerprints: of the images; filled: numbers of
    those with NaN at their edges."""

    views: np.ndarray
    table: dict[str, np.ndarray]
    fingerprints: list[str]
    filled: list[int]


def folder_of(part: Path) -> Path:
    """Where the pieces of a file of views lie."""
    return part.with_suffix(".pieces")


def save_piece(part: Path, first: int, piece: Piece, stamp: str) -> None:
    """Keep a piece, whose images begin with number `first`; stamp: of their files. Raises ResultsError."""
    table = {FITS + name: values for name, values in piece.table.items()}
    marks = {"fingerprints": np.array(piece.fingerprints), "filled": np.array(piece.filled, dtype=int)}
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, views=piece.views, stamp=np.array(stamp), **marks, **table)
    folder_of(part).mkdir(exist_ok=True)
    write(_path(part, first), buffer.getvalue())


def load_piece(part: Path, first: int, stamp: str) -> Piece | None:
    """The piece that was kept of the same images; None where there is none, or it is damaged."""
    try:
        with np.load(_path(part, first), allow_pickle=False) as file:
            if str(file["stamp"]) != stamp:
                return None
            table = {name.removeprefix(FITS): file[name] for name in file.files if name.startswith(FITS)}
            return Piece(file["views"], table, file["fingerprints"].tolist(), file["filled"].tolist())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _path(part: Path, first: int) -> Path:
    return folder_of(part) / f"{first:07d}.npz"
