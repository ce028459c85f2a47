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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from darklens.classifier.classifier import Classifier
from darklens.errors import ResultsError
from darklens.storage.files import cannot_write, read_json, save_json
from darklens.survey.catalogue import Catalogue
from darklens.survey.tables import Writer, npy_header, printable

PARTIAL = ".partial"


def part_name(path: str | Path, part: tuple[int, int]) -> Path:
    """predictions.csv -> predictions-03-of-16.csv: in order of name they are in order of part."""
    path, (number, parts) = Path(path), part
    return path.with_name(f"{path.stem}-{number:0{len(str(parts))}d}-of-{parts}{path.suffix}")


def origin(classifier: Classifier, survey: Catalogue, flags: dict) -> dict:
    """What decides the rows of a part, but for the pixels in the files: network, list and flags."""
    network = hashlib.sha256()
    described = [classifier.classes, classifier.temperature, classifier.preprocess.to_dict()]
    extras = (classifier.novelty, classifier.inference)
    described += [classifier.network.config, *(extra and extra.to_dict() for extra in extras)]
    network.update(repr(described).encode())
    for name, values in sorted(classifier.network.state_dict().items()):
        network.update(name.encode() + values.detach().cpu().contiguous().numpy().tobytes())
    entries = hashlib.sha256(
        repr((survey.columns, list(map(tuple, survey.entries)))).encode("utf-8", "backslashreplace")
    )
    return {"network": network.hexdigest(), **flags, "list": entries.hexdigest()}


@contextlib.contextmanager
def part(
    output: Path, embeddings: Path | None, names: Sequence[str], survey: Catalogue, width: int, made_of: dict
) -> Iterator[tuple[Writer, int]]:
    """A writer that goes on after the rows that there are, and how many these are: all of them in a complete part.

    Raises ResultsError where the files were made of something else, or by nobody known, or cannot be written.
    """
    try:
        _check_origin(output, made_of)
        if output.exists():
            _finish(embeddings)
            writer = Writer(io.StringIO(), None, names, width)
            yield writer, len(_kept(output, output.read_bytes(), names, survey, writer)[1])
            return
        save_json(output.with_name(output.name + ".json"), made_of)
        with contextlib.ExitStack() as stack:
            table = _open(stack, output)
            features = None if embeddings is None else _open(stack, embeddings)
            yield _go_on(output, table, features, names, survey, width)
            for file in filter(None, (table, features)):
                file.flush()
                os.fsync(file.fileno())
        _finish(output)
        _finish(embeddings)
    except OSError as error:
        raise cannot_write(output, error) from error


def _check_origin(output: Path, made_of: dict) -> None:
    """Raise ResultsError for rows that were not made of the same."""
    partial = output.with_name(output.name + PARTIAL)
    there = [path for path in (output, partial) if path.exists()]
    if not there:
        return
    known, hint = read_json(output.with_name(output.name + ".json")), "remove it, or choose another --output"
    if not known:
        raise ResultsError(f"{there[0]}: exists, and {output.name}.json does not say what it was made of: {hint}")
    if other := [key for key, value in made_of.items() if known.get(key) != json.loads(json.dumps(value))]:
        what = {"network": "another network", "list": "another list of images"}.get(other[0], f"another --{other[0]}")
        raise ResultsError(f"{there[0]}: was made with {what}: {hint}")


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


def _go_on(
    output: Path, table: IO[bytes], features: IO[bytes] | None, names: Sequence[str], survey: Catalogue, width: int
) -> tuple[Writer, int]:
    """The writer after the last whole row in both files, and the number of rows before it."""
    begin = npy_header(len(survey.entries), width)
    most = len(survey.entries)
    if features is not None:
        most = max(features.seek(0, os.SEEK_END) - len(begin), 0) // (4 * width)
    writer = Writer(io.TextIOWrapper(table, "utf-8", newline="", write_through=True), features, names, width)
    head, ends = _kept(output, table.read(), names, survey, writer, most)
    table.seek(0)
    table.truncate(ends[-1] if ends else head)
    table.seek(0, os.SEEK_END)
    if not head:
        writer.table.writerow(names)
    if features is not None:
        features.seek(0)
        features.write(begin)
        features.truncate(len(begin) + 4 * width * len(ends))
        features.seek(0, os.SEEK_END)
    return writer, len(ends)


def _kept(
    output: Path, content: bytes, names: Sequence[str], survey: Catalogue, writer: Writer, most: int | None = None
) -> tuple[int, list[int]]:
    """Where the line of names ends (0: it is not whole), and each whole row after it; the writer counts them.

    Raises ResultsError where they are not those of the survey.
    """
    ends = _row_ends(content)[: None if most is None else most + 1]
    text = content[: ends[-1] if ends else 0].decode("utf-8", "replace")
    rows = csv.reader(io.StringIO(text, newline=""))
    if ends and next(rows) != list(names):
        raise ResultsError(f"{output}: has other columns: remove it, or choose another --output")
    for entry, row in zip(survey.entries, rows, strict=False):
        if row[0] != printable(entry.file):
            raise ResultsError(f"{output}: has other images: remove it, or choose another --output")
        writer.count(bool(row[names.index("class")]), bool(row[names.index("flag")]))
    return (ends[0] if ends else 0), ends[1:]


def _row_ends(content: bytes) -> list[int]:
    """Where each whole row ends: at a line's end that lies in no quotes."""
    ends, quotes, begin = [], 0, 0
    for line in content.split(b"\r\n")[:-1]:
        quotes += line.count(b'"')
        begin += len(line) + 2
        if quotes % 2 == 0:
            ends.append(begin)
    return ends


def _finish(path: Path | None) -> None:
    """Give a complete file its name, where it has not got it yet."""
    if path is not None and (partial := path.with_name(path.name + PARTIAL)).exists():
        os.replace(partial, path)
