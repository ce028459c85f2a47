"""What a run leaves behind: its folder, log, curves and predictions. Its pictures are drawn by plots.py."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from darklens.errors import ResultsError
from darklens.storage.files import read_json
from darklens.storage.run_record import RunRecord

TIMESTAMP = "%Y-%m-%d-%H-%M-%S"
STAMPED = re.compile(r"(\d{4}(?:-\d\d){5})(?:-(\d+))?")  # timestamp, and -2 of a second run in that second
MARKS = ("best-model-parameters.pt", "run.json", "last-state.pt")  # a folder with one of these is a run
GROUPS = {"C": "Circular", "D": "Dihyderal"}  # first letter: value of --sym_group
LISTED = 20  # runs named in an error
NETWORK = {"group": "sym_group", "order": "N", "arch": "arch", "head": "head"}  # a network's configuration
STATES = {True: "finished", False: "unfinished", None: "-"}


def run_folder_name(data_dir: str | Path, sym_group: str, N: int, cnn: bool) -> str:
    """`images_j_D_8`: data set, first letter of the group, order; `images_j_CNN` for ResNet-18."""
    name = Path(os.path.abspath(data_dir)).name
    return f"{name}_CNN" if cnn else f"{name}_{sym_group[0]}_{N}"


def original_group(folder_name: str) -> tuple[str, int] | str | None:
    """(sym_group, N) of a folder like `Model_f_C4` or `images_j_D_8`, "CNN" of `images_j_CNN`, else None."""
    match = re.search(r"_(?:(CNN)|([CD])_?(\d+))$", folder_name)
    if not match:
        return None
    cnn, letter, order = match.groups()
    return cnn or (GROUPS[letter], int(order))


def make_run_folder(results_dir: str | Path, name: str, time: datetime | None = None) -> Path:
    """Create `results_dir/name/timestamp`; a second run in the same second gets `timestamp-2`.

    Raises ResultsError if files cannot be written there: better now than after the first epoch.
    """
    stamp = (time or datetime.now()).strftime(TIMESTAMP)
    parent = Path(results_dir) / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(parent, stamp)
        probe = folder / ".probe"
        probe.write_bytes(b"can this folder be written to?")
        probe.unlink()
    except OSError as error:
        raise ResultsError(
            f"{parent}: expected a folder to write results in, found: {error.strerror}; choose another one"
        ) from error
    return folder


def nearest_existing(path: Path) -> Path:
    """The path, or the first of the folders above it that is there."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove the folder of a run that has written nothing, and those above it that are empty then, below `top`."""
    for path in itertools.takewhile(lambda path: path != top, (folder, *folder.parents)):
        try:
            path.rmdir()
        except OSError:
            return


def _new_folder(parent: Path, stamp: str) -> Path:
    """The first of `stamp`, `stamp-2`, `stamp-3`... that no run has; mkdir decides: two can't share one."""
    for number in itertools.count(1):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("itertools.count ends nowhere")


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _folders(folder: Path) -> list[Path]:
    """Visible subfolders, by name; none of a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []


def _runs(results_dir: Path) -> list[Path]:
    """All run folders, oldest first: `name/timestamp`, and `name` where a checkpoint sits directly in it."""
    candidates = itertools.chain.from_iterable((top, *_folders(top)) for top in _folders(results_dir))
    return sorted(filter(_is_run, candidates), key=_age)


def _age(run: Path) -> tuple[str, int, str]:
    """Sorts by time, then by the suffix of a second run, then by place; what has no timestamp comes first."""
    match = STAMPED.fullmatch(run.name)
    return (match[1], int(match[2] or 1), str(run)) if match else ("", 0, str(run))


def _name(run: Path) -> str:
    """`images_j_D_8` of `images_j_D_8/2026-...`, and of a run that sits directly in it."""
    return run.parent.name if STAMPED.fullmatch(run.name) else run.name


def run_name(run: Path) -> str:
    """`images_j_D_8/2026-11-22-10-30-00`, or `Model_f_C4` of a run that sits directly in it."""
    return f"{_name(run)}/{run.name}" if STAMPED.fullmatch(run.name) else run.name


def find_run(results_dir: str | Path, timestamp: str, name: str | None = None, holding: str = "") -> Path:
    """The folder of a finished or interrupted run.

    Parameters
    ----------
    results_dir : holds `name/timestamp` folders, of this program or of the original (`Model_f_C4/timestamp`).
    timestamp : of the run; or the path of a run's folder; or `latest`.
    name : picks between runs with the same timestamp, and restricts `latest`.
    holding : a file that `latest` must have.

    Raises
    ------
    ResultsError : no such run (lists those that exist), or several (names them).
    """
    results_dir, runs = Path(results_dir), _runs(Path(results_dir))
    if timestamp == "latest":
        matches = [run for run in runs if name in (None, _name(run)) and os.path.lexists(run / holding)][-1:]
    else:
        paths = [Path(timestamp).expanduser(), results_dir / timestamp] if timestamp else []
        matches = [run for run in runs if run.name == timestamp] or list(filter(_is_run, paths))[:1]
    matches = [run for run in matches if _name(run) == name] or matches
    if not matches:
        raise ResultsError(f"no run '{timestamp}' with a checkpoint in {results_dir}; {_listing(runs)}")
    if len(matches) > 1:
        places = " and ".join(map(str, matches))
        raise ResultsError(f"several runs '{timestamp}': {places}; give the path of the one you mean")
    return matches[0]


def _listing(runs: list[Path]) -> str:
    """The runs that exist, newest last."""
    if not runs:
        return "there are none: train one first"
    shown = ", ".join(f"{run.name} ({run.parent.name})" for run in runs[-LISTED:])
    older = f" (and {len(runs) - LISTED} older)" if len(runs) > LISTED else ""
    return f"there are: {shown}{older}"


def list_runs(results_dir: str | Path) -> list[dict[str, Any]]:
    """Every run, oldest first, with its main figures; what a run did not record is None."""
    return [_summary(run) for run in _runs(Path(results_dir))]


def describe_network(record: RunRecord, name: str) -> dict[str, Any]:
    """`group` (a value of --sym_group), `order`, `arch` and `head`; None is what neither record nor name says.

    name: of the run's folder, `Model_f_C4`.
    """
    network, group = record.network, original_group(name)
    if not network:
        network = {"kind": "resnet"} if group == "CNN" else dict(zip(("sym_group", "N"), group or (), strict=False))
    if network.get("kind") == "resnet":
        return {"group": None, "order": None, "arch": "ResNet-18", "head": None}
    return {key: network.get(name) for key, name in NETWORK.items()}


def spell_group(group: str | None, order: int | None) -> str | None:
    """`D8` of ("Dihyderal", 8)."""
    return f"{group[0]}{order}" if group else None


def _summary(run: Path) -> dict[str, Any]:
    curve, metrics = _read_curve(run / "test_accuracy.npy"), read_json(run / "metrics.json")
    record = RunRecord.of_folder(run)
    auc = metrics.get("auc", {}) if isinstance(metrics.get("auc"), dict) else {}
    value = {key: (auc.get(key) or {}).get("value") for key in ("macro", "micro_logits")}
    epochs, planned = None if curve is None else len(curve), record.recipe and record.recipe.epochs
    return {
        "name": _name(run),
        "timestamp": run.name if STAMPED.fullmatch(run.name) else None,
        "folder": str(run),
        **describe_network(record, _name(run)),
        "epochs": epochs,
        "epochs_asked": planned,
        "finished": bool(metrics) and (epochs or 0) >= planned if planned else None,
        "best_accuracy_percent": None if curve is None or not epochs else float(np.max(curve)),
        "accuracy_percent": metrics.get("accuracy_percent"),
        "macro_auc": value["macro"],
        "micro_auc_logits": value["micro_logits"],
    }


def runs_table(runs: list[dict[str, Any]]) -> str:
    """One line for each of `list_runs`, for people."""
    titles = ["run", "group", "arch", "head", "epochs", "macro AUC", "accuracy", "state"]
    return align([titles, *map(_line, runs)])


def _line(run: dict[str, Any]) -> list[str]:
    accuracy, auc = run["accuracy_percent"], run["macro_auc"]
    return [
        "/".join(filter(None, (run["name"], run["timestamp"]))),
        spell_group(run["group"], run["order"]),
        run["arch"],
        run["head"],
        f"{run['epochs'] or 0}/{run['epochs_asked'] or '?'}",
        None if auc is None else f"{auc:.4f}",
        None if accuracy is None else f"{accuracy:.2f}%",
        STATES[run["finished"]],
    ]


def align(rows: Iterable[Sequence[str | None]]) -> str:
    """Rows of text in columns; None is shown as -."""
    lines = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _read_curve(path: Path) -> np.ndarray | None:
    """A curve, if that is what the file holds (mapped: a header cannot ask for more than the file has)."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(values, dtype=np.float64).ravel()
    except (OSError, ValueError, EOFError, TypeError):
        return None
