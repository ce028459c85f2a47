"""A part of a survey's table, for job arrays: rows are kept as they come, and a killed part goes on where it stopped.

predictions-03-of-16.csv.partial    while it is at work: whole rows, perhaps half of one more
predictions-03-of-16.csv            once it is complete; with those of the other parts, less their first lines,
                                    the table of the whole survey
predictions-03-of-16.csv.json       what it was made of: network, list, flags
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from darklens.classifier.classifier import Classifier
from darklens.errors import ResultsError
from darklens.storage.files import cannot_write, read_json, save_json
from darklens.survey.catalogue import Catalogue, printable
from darklens.survey.tables import TableWriter, npy_header

PARTIAL = ".partial"


def part_name(path: str | Path, part: tuple[int, int]) -> Path:
    """predictions.csv -> predictions-03-of-16.csv: in order of name they are in order of part."""
    path, (number, parts) = Path(path), part
    return path.with_name(f"{path.stem}-{number:0{len(str(parts))}d}-of-{parts}{path.suffix}")


def origin_of(classifier: Classifier, survey: Catalogue, flags: Mapping[str, object]) -> dict[str, object]:
    """What decides the rows of a part, but for the pixels in the files: network, list and flags."""
    return {"network": network_digest(classifier), **flags, "list": list_digest(survey)}


def network_digest(classifier: Classifier) -> str:
    """Of all that decides what a network says."""
    network = hashlib.sha256()
    described: list[object] = [classifier.classes, classifier.temperature, classifier.preprocess.to_dict()]
    extras = (classifier.novelty, classifier.inference)
    described += [classifier.config, *(extra and extra.to_dict() for extra in extras)]
    network.update(repr(described).encode())
    for name, values in sorted(classifier.network.state_dict().items()):
        network.update(name.encode() + values.detach().cpu().contiguous().numpy().tobytes())
    return network.hexdigest()


def list_digest(survey: Catalogue) -> str:
    """Of the columns and entries of a list; an entry without a mask as before there were masks."""
    entries = [tuple(entry) if entry.mask else tuple(entry)[:-1] for entry in survey.entries]
    return hashlib.sha256(repr((survey.columns, entries)).encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(frozen=True)
class Part:
    """A part of a survey and its files: images, columns and features' width of its rows, and what they are made of."""

    survey: Catalogue
    columns: Sequence[str]
    width: int
    origin: Mapping[str, object]
    output: Path
    embeddings: Path | None = None
    answer: str = "class"  # the column that is full where an image has an answer


@contextlib.contextmanager
def open_part(part: Part) -> Iterator[tuple[TableWriter, int]]:
    """A writer that goes on after the rows that there are, and how many these are: all of them in a complete part.

    Raises ResultsError where the files were made of something else, or by nobody known, or cannot be written.
    """
    output = part.output
    try:
        _check_origin(output, part.origin)
        if output.exists():
            _finish(part.embeddings)
            writer = TableWriter(io.StringIO(), None, part.columns, part.width, answer=part.answer)
            yield writer, len(_read_rows(part, output.read_bytes(), writer)[1])
            return
        save_json(output.with_name(output.name + ".json"), part.origin)
        with contextlib.ExitStack() as stack:
            table = _open(stack, output)
            features = None if part.embeddings is None else _open(stack, part.embeddings)
            yield _go_on(part, table, features)
            for file in filter(None, (table, features)):
                file.flush()
                os.fsync(file.fileno())
        _finish(output)
        _finish(part.embeddings)
    except OSError as error:
        raise cannot_write(output, error) from error


def _check_origin(output: Path, origin: Mapping[str, object]) -> None:
    """Raise ResultsError for rows that were not made of the same."""
    partial = output.with_name(output.name + PARTIAL)
    existing = [path for path in (output, partial) if path.exists()]
    if not existing:
        return
    recorded, hint = read_json(output.with_name(output.name + ".json")), "remove it, or choose another --output"
    if not recorded:
        raise ResultsError(f"{existing[0]}: exists, and {output.name}.json does not say what it was made of: {hint}")
    if changed := [key for key, value in origin.items() if recorded.get(key) != json.loads(json.dumps(value))]:
        kinds = {"network": "another network", "list": "another list of images"}
        kind = kinds.get(changed[0], f"another --{changed[0]}")
        raise ResultsError(f"{existing[0]}: was made with {kind}: {hint}")


def _open(stack: contextlib.ExitStack, path: Path) -> IO[bytes]:
    """The unfinished file, for this process alone, at its beginning."""
    path = path.with_name(path.name + PARTIAL)
    file = stack.enter_context(open(path, "r+b" if path.exists() else "w+b"))
    with contextlib.suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultsError(f"{path}: another process is writing it") from None
        except OSError:  # a file system without locks
            pass
    return file


def _go_on(part: Part, table: IO[bytes], features: IO[bytes] | None) -> tuple[TableWriter, int]:
    """The writer after the last whole row in both files, and the number of rows before it."""
    header, rows, row_bytes = npy_header(len(part.survey.entries), part.width), len(part.survey.entries), 4 * part.width
    if features is not None:
        rows = max(features.seek(0, os.SEEK_END) - len(header), 0) // row_bytes
    text = io.TextIOWrapper(table, "utf-8", newline="", write_through=True)
    writer = TableWriter(text, features, part.columns, part.width, answer=part.answer)
    head, ends = _read_rows(part, table.read(), writer, rows)
    table.seek(0)
    table.truncate(ends[-1] if ends else head)
    table.seek(0, os.SEEK_END)
    if not head:
        writer.table.writeheader()
    if features is not None:
        features.seek(0)
        features.write(header)
        features.truncate(len(header) + row_bytes * len(ends))
        features.seek(0, os.SEEK_END)
    return writer, len(ends)


def _read_rows(part: Part, content: bytes, writer: TableWriter, limit: int | None = None) -> tuple[int, list[int]]:
    """Where the line of names ends (0: it is not whole), and each whole row after it; the writer counts them.

    Raises ResultsError where they are not those of the survey.
    """
    ends = _row_ends(content)[: None if limit is None else limit + 1]
    text = content[: ends[-1] if ends else 0].decode("utf-8", "replace")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if ends and rows.fieldnames != list(part.columns):
        raise ResultsError(f"{part.output}: has other columns: remove it, or choose another --output")
    for entry, row in zip(part.survey.entries, rows, strict=False):
        if row["file"] != printable(entry.file):
            raise ResultsError(f"{part.output}: has other images: remove it, or choose another --output")
        writer.tally.count(row)
    return (ends[0] if ends else 0), ends[1:]


def _row_ends(content: bytes) -> list[int]:
    """Where each whole row ends: at a line's end that lies in no quotes."""
    ends, quotes, position = [], 0, 0
    for line in content.split(b"\r\n")[:-1]:
        quotes += line.count(b'"')
        position += len(line) + 2
        if quotes % 2 == 0:
            ends.append(position)
    return ends


def _finish(path: Path | None) -> None:
    """Give a complete file its name, where it has not got it yet."""
    if path is not None and (partial := path.with_name(path.name + PARTIAL)).exists():
        os.replace(partial, path)
