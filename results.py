"""What a run leaves behind: its folder, log, curves, JSON and pictures.

Everything is written beside its final name and then renamed, so that a reader never sees half a file.
Pictures are PNG with the same as PDF beside it, drawn from arrays that are already there. matplotlib is
imported with the first picture and used through its objects: no window, no global state, no figure left open.

Colours: Petroff 2021, "Accessible Color Sequences for Data Visualization", arXiv:2107.02270.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

TIMESTAMP = "%Y-%m-%d-%H-%M-%S"
STAMPED = re.compile(r"(\d{4}(?:-\d\d){5})(?:-(\d+))?")  # timestamp, and -2 of a second run in that second
MARKS = ("best-model-parameters.pt", "run.json", "last-state.pt")  # a folder with one of these is a run
GROUPS = {"C": "Circular", "D": "Dihyderal"}  # first letter: value of --sym_group
LISTED = 20  # runs named in an error

DPI = 160
COLOURS = ("3f90da", "ffa90e", "bd1f01", "94a4a2", "832db6", "a96b59", "e76300", "b9ac70", "717581", "92dadd")
GRID = np.unique(np.concatenate([np.linspace(0, 1, 201), np.logspace(-4, 0, 401)]))  # false-positive rates
BINS = 15  # of the reliability diagram
GALLERY = 16  # mistakes shown
SPREAD = {  # of the symmetry report
    "max": {"label": "largest of all images", "color": "#bd1f01", "marker": "o", "markersize": 8},
    "mean": {"label": "mean of all images", "color": "#3f90da", "marker": "s", "markersize": 4},
}


class ResultsError(Exception):
    """A results folder that cannot be found, read or written; the message is one line for the user."""


# ---- run folders ----


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


def make_run_folder(results_dir: str | Path, name: str, now: datetime | None = None) -> Path:
    """Create `results_dir/name/timestamp`; a second run in the same second gets `timestamp-2`.

    Raises ResultsError if files cannot be written there: better now than after the first epoch.
    """
    stamp = (now or datetime.now()).strftime(TIMESTAMP)
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


def _new_folder(parent: Path, stamp: str) -> Path:
    """The first of `stamp`, `stamp-2`, `stamp-3`... that no run has; mkdir decides: two can't share one."""
    for number in itertools.count(1):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


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


def find_run(results_dir: str | Path, timestamp: str, name: str | None = None) -> Path:
    """The folder of a finished or interrupted run.

    Parameters
    ----------
    results_dir : holds `name/timestamp` folders, of this program or of the original (`Model_f_C4/timestamp`).
    timestamp : of the run; or the path of a run's folder; or `latest`.
    name : picks between runs with the same timestamp, and restricts `latest`.

    Raises
    ------
    ResultsError : no such run (lists those that exist), or several (names them).
    """
    results_dir, runs = Path(results_dir), _runs(Path(results_dir))
    if timestamp == "latest":
        found = [run for run in runs if name in (None, _name(run))][-1:]
    else:
        paths = [Path(timestamp).expanduser(), results_dir / timestamp] if timestamp else []
        found = [run for run in runs if run.name == timestamp] or list(filter(_is_run, paths))[:1]
    found = [run for run in found if _name(run) == name] or found
    if not found:
        raise ResultsError(f"no run '{timestamp}' with a checkpoint in {results_dir}; {_listing(runs)}")
    if len(found) > 1:
        places = " and ".join(map(str, found))
        raise ResultsError(f"several runs '{timestamp}': {places}; give the path of the one you mean")
    return found[0]


def _listing(runs: list[Path]) -> str:
    """The runs that exist, newest last."""
    if not runs:
        return "there are none: train one first"
    shown = ", ".join(f"{run.name} ({run.parent.name})" for run in runs[-LISTED:])
    more = f" (and {len(runs) - LISTED} older)" if len(runs) > LISTED else ""
    return f"there are: {shown}{more}"


def list_runs(results_dir: str | Path) -> list[dict[str, Any]]:
    """Every run, oldest first, with its main figures; what a run did not record is None."""
    return [_summary(run) for run in _runs(Path(results_dir))]


def _summary(run: Path) -> dict[str, Any]:
    curve, metrics = _read_curve(run / "test_accuracy.npy"), _read_json(run / "metrics.json")
    auc = metrics.get("auc", {}) if isinstance(metrics.get("auc"), dict) else {}
    value = {key: (auc.get(key) or {}).get("value") for key in ("macro", "micro_logits")}
    return {
        "name": _name(run),
        "timestamp": run.name if STAMPED.fullmatch(run.name) else None,
        "folder": str(run),
        "epochs": len(curve) if curve is not None else None,
        "best_accuracy_percent": float(np.max(curve)) if curve is not None else None,
        "accuracy_percent": metrics.get("accuracy_percent"),
        "macro_auc": value["macro"],
        "micro_auc_logits": value["micro_logits"],
    }


def _read_curve(path: Path) -> np.ndarray | None:
    """A curve, if that is what the file holds (mapped: a header cannot ask for more than the file has)."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(values, dtype=np.float64).ravel()
    except (OSError, ValueError, EOFError, TypeError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- log, JSON, curves ----


class Log:
    """`log_[timestamp].txt`: every line is on disk, and on the screen, as soon as it is written.

    >>> with Log(folder / f"log_{folder.name}.txt") as log:
    ...     log.write("epoch 1/30 ...")

    An existing file is continued (a resumed run). Lines don't tear a progress bar. Raises ResultsError.
    """

    def __init__(self, path: str | Path, echo: bool = True):
        self.path, self.echo = Path(path), echo
        try:
            self.file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def write(self, line: str) -> None:
        """Append one line, and show it where `echo` is set."""
        try:
            self.file.write(f"{line}\n".encode())
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        if self.echo:
            bar = sys.modules.get("tqdm")
            (bar.tqdm.write if bar else print)(str(line))

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _cannot_write(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"{path}: cannot be written ({error.strerror}); free some space or choose another folder"
    )


def _write(path: str | Path, content: bytes) -> None:
    """All of the file or nothing: written beside it, flushed to the disk, renamed. Raises ResultsError."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as JSON; arrays become lists, and NaN, which JSON does not have, becomes null."""
    _write(path, (json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _plain(obj: Any) -> Any:
    """Only what JSON knows."""
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if isinstance(obj, (np.ndarray, np.generic)):
        return _plain(obj.tolist())
    if isinstance(obj, float):
        return obj if np.isfinite(obj) else None
    return str(obj) if isinstance(obj, Path) else obj


def save_curves(folder: str | Path, curves: dict[str, list[float]]) -> None:
    """Write `[name].npy`, float64, one value an epoch: train_loss, ..., test_accuracy (percent)."""
    for name, values in curves.items():
        buffer = BytesIO()
        np.save(buffer, np.asarray(values, dtype=np.float64))
        _write(Path(folder) / f"{name}.npy", buffer.getvalue())


# ---- pictures ----


def _figure(width: float, height: float):
    """An empty figure of so many inches, known to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, folder: str | Path, stem: str) -> Path:
    """Write `stem.png` and `stem.pdf`, empty the figure, return the path of the PNG."""
    options = {
        "png": {"dpi": DPI},
        "pdf": {"metadata": {"CreationDate": None}},
    }  # undated: same data, same file
    for kind, chosen in options.items():
        buffer = BytesIO()
        figure.savefig(buffer, format=kind, **chosen)
        figure.set_layout_engine("none")  # laid out once is enough
        _write(Path(folder) / f"{stem}.{kind}", buffer.getvalue())
    figure.clear()
    return Path(folder) / f"{stem}.png"


def _colour(number: int) -> str:
    """Class k has the same colour in every picture."""
    return f"#{COLOURS[number % len(COLOURS)]}"


def _labels(classes: list[str], width: int = 24) -> list[str]:
    """Class names that fit, that differ, and in which $ is only a $."""
    half = width // 2
    labels = [name if len(name) <= width else f"{name[:half]}…{name[1 - half :]}" for name in classes]
    if len(set(labels)) < len(labels):
        labels = [f"{number} {label}" for number, label in enumerate(labels)]
    return [label.replace("$", r"\$") for label in labels]


def plot_curves(folder: str | Path, curves: dict[str, list[float]]) -> list[Path]:
    """Curves named `*_loss` -> loss.png, `*_accuracy` (percent) -> accuracy.png; returns what was drawn."""
    titles = {"loss": "cross-entropy loss", "accuracy": "accuracy (%)"}
    return [_plot_curve(folder, curves, kind, title) for kind, title in titles.items() if _of(curves, kind)]


def _of(curves: dict[str, list[float]], kind: str) -> dict[str, list[float]]:
    """`train_loss`, `test_loss` -> train, test."""
    return {name.removesuffix(f"_{kind}"): v for name, v in curves.items() if name.endswith(f"_{kind}")}


def _plot_curve(folder: str | Path, curves: dict[str, list[float]], kind: str, title: str) -> Path:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(6.4, 4.4)
    axis = figure.subplots()
    for number, (name, values) in enumerate(_of(curves, kind).items()):
        epochs = np.arange(1, len(values) + 1)
        marker = "o" if len(values) <= 50 else None
        axis.plot(epochs, values, label=name, color=_colour(2 * number), marker=marker, markersize=3.5)
    axis.set(xlabel="epoch", ylabel=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return _save(figure, folder, kind)


def plot_roc(
    folder: str | Path,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    metrics: dict[str, Any],
    resamples: int = 200,
    seed: int = 0,
) -> Path:
    """ROC.png: every class against the rest, micro and macro average; at the right, the corner that matters.

    Parameters
    ----------
    probabilities : (n, K). labels : (n,) int. classes : K names.
    metrics : its `auc` has `{"value", "interval"}` for `macro`, `micro` and, in `per_class`, each class.
    resamples, seed : of the images, behind the 95% band of the macro average.
    """
    onehot = labels[:, None] == np.arange(len(classes))
    problems = [(onehot[:, k], probabilities[:, k]) for k in range(len(classes))]
    auc, curves = metrics["auc"], []  # curves: label, false- and true-positive rates, style
    for k, label in enumerate(_labels(classes)):
        label = _auc_label(label, auc["per_class"][classes[k]])
        curves.append((label, *_roc(problems[k]), {"color": _colour(k)}))
    micro = _roc((onehot.ravel(), probabilities.ravel()))
    curves.append((_auc_label("micro average", auc["micro"]), *micro, {"color": "0.35", "linestyle": ":"}))
    macro = np.append(0, GRID), np.append(0, _macro_curve(problems))
    curves.append((_auc_label("macro average", auc["macro"]), *macro, {"color": "black", "linestyle": "--"}))
    return _draw_roc(folder, curves, _macro_band(problems, len(labels), resamples, seed))


def _roc(problem: tuple[np.ndarray, np.ndarray], weights: np.ndarray | None = None) -> tuple:
    """False- and true-positive rates of (positive, scores); empty where one side has no images."""
    from sklearn.metrics import roc_curve

    counts = np.bincount(problem[0], weights, minlength=2)
    return roc_curve(*problem, sample_weight=weights)[:2] if counts.all() else (np.empty(0), np.empty(0))


def _macro_curve(problems: list[tuple], weights: np.ndarray | None = None) -> np.ndarray:
    """Mean true-positive rate, on GRID, of the classes that have one; NaN if none has."""
    curves = [_roc(problem, weights) for problem in problems]
    rates = [np.interp(GRID, false, true) for false, true in curves if len(false)]
    return np.mean(rates, axis=0) if rates else np.full(len(GRID), np.nan)


def _macro_band(problems: list[tuple], n: int, resamples: int, seed: int) -> np.ndarray:
    """95% band (2, grid) of the macro average over resampled images."""
    rng = np.random.default_rng(seed)
    counts = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(resamples))
    curves = np.array([_macro_curve(problems, weights) for weights in counts])
    defined = curves[np.isfinite(curves[:, 0])]
    return np.percentile(defined, [2.5, 97.5], axis=0) if len(defined) else np.full((2, len(GRID)), np.nan)


def _auc_label(label: str, auc: dict[str, Any]) -> str:
    """`sphere: 0.9942 [0.9930, 0.9954]`."""
    if auc["value"] is None:
        return f"{label}: not defined"
    interval = "" if auc["interval"] is None else " [{:.4f}, {:.4f}]".format(*auc["interval"])
    return f"{label}: {auc['value']:.4f}{interval}"


def _draw_roc(folder: str | Path, curves: list[tuple], band: np.ndarray) -> Path:
    from sklearn.metrics import RocCurveDisplay

    figure = _figure(15, 5.4)
    axes = figure.subplots(1, 2)
    for axis in axes:
        lines = [RocCurveDisplay(fpr=x, tpr=y).plot(ax=axis).line_ for _, x, y, _ in curves]
        for line, (*_, style) in zip(lines, curves, strict=True):
            line.set(**style)
        axis.fill_between(GRID, *band, color="black", alpha=0.12, linewidth=0)
        axis.plot(GRID, GRID, color="0.6", linewidth=0.8)
        axis.set(xlabel="false-positive rate", ylabel="true-positive rate", aspect="auto")
        axis.grid(alpha=0.3, which="both")
    axes[0].set(title="each class against the rest")
    axes[1].set(title="the same, few false positives", xscale="log", xlim=(1e-4, 1))
    names = [curve[0] for curve in curves]
    figure.legend(lines, names, loc="outside right upper", title="AUC [95% interval]", frameon=False)
    return _save(figure, folder, "ROC")


def plot_confusion(folder: str | Path, matrix: Any, classes: list[str]) -> Path:
    """CM.png from counts (K, K), rows the true class; each cell shows the count and its share of the row."""
    from sklearn.metrics import ConfusionMatrixDisplay

    matrix = np.asarray(matrix)
    total = matrix.sum(axis=1)
    percent = 100 * matrix / np.maximum(total, 1)[:, None]
    names = _labels(classes, 16)
    figure = _figure(2.4 + 0.85 * len(classes), 2.2 + 0.85 * len(classes))
    display = ConfusionMatrixDisplay(percent, display_labels=names)
    display.plot(ax=figure.subplots(), cmap="Blues", im_kw={"vmin": 0, "vmax": 100}, colorbar=False)
    for (row, column), text in np.ndenumerate(display.text_):
        share = f"{percent[row, column]:.1f}%" if total[row] else "–"
        colour = "white" if percent[row, column] > 55 else "black"
        text.set(text=f"{matrix[row, column]}\n{share}", color=colour)
    if max(map(len, names)) > 8:
        for label in display.ax_.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    display.ax_.set(xlabel="predicted", ylabel="true", title=f"{np.trace(matrix)} of {total.sum()} right")
    return _save(figure, folder, "CM")


def plot_reliability(
    folder: str | Path,
    probabilities: np.ndarray,
    labels: np.ndarray,
    metrics: dict[str, Any],
    calibrated: np.ndarray | None = None,
) -> Path:
    """reliability.png: how often the network is right, against how sure it is, and of how many images.

    Parameters
    ----------
    probabilities, calibrated : (n, K), before and after the temperature. labels : (n,) int.
    metrics : `expected_calibration_error`, and `temperature` and `calibrated` where there is one.
    """
    figure = _figure(5.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    error = metrics["expected_calibration_error"]
    _draw_reliability(upper, lower, probabilities, labels, f"as trained: ECE {error:.4f}", 0)
    if calibrated is not None:
        error, temperature = metrics["calibrated"]["expected_calibration_error"], metrics["temperature"]
        name = f"temperature {temperature:.2f}: ECE {error:.4f}"
        _draw_reliability(upper, lower, calibrated, labels, name, 2)
    upper.set(ylabel="fraction right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.set(
        xlabel="probability of the predicted class",
        ylabel="images",
        yscale="log",
        ylim=(0.5, 2 * len(labels)),
    )
    upper.legend(loc="upper left", frameon=False)
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return _save(figure, folder, "reliability")


def _draw_reliability(
    upper, lower, probabilities: np.ndarray, labels: np.ndarray, name: str, colour: int
) -> None:
    """Fraction right in each bin of the top probability, with its 95% Wilson interval, and the histogram."""
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    number = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(number, minlength=BINS)
    filled = images > 0
    n = images[filled]
    sure, fraction = (np.bincount(number, values, BINS)[filled] / n for values in (top, right))
    centre = (fraction + 1.92 / n) / (1 + 3.84 / n)
    half = 1.96 * np.sqrt(fraction * (1 - fraction) / n + 0.96 / n**2) / (1 + 3.84 / n)
    spread = np.clip([fraction - centre + half, centre + half - fraction], 0, None)
    style = {"color": _colour(colour), "label": name}
    upper.errorbar(
        sure, fraction, spread, marker="o", markersize=7 - colour, linewidth=1.2, capsize=2, **style
    )
    lower.stairs(images, np.linspace(0, 1, BINS + 1), linewidth=1.4, **style)


def plot_symmetry(folder: str | Path, report: dict[str, list[dict]]) -> Path:
    """symmetry.png: how much the probabilities change when the image is turned or mirrored.

    `report` has `exact`, a list of `{"name", "max", "mean"}` (turns and mirrors that only move pixels), and
    may have `interpolated`, a list of `{"angle" in degrees, "max", "mean"}` (the image itself is resampled).
    """
    exact, turned = report.get("exact", []), report.get("interpolated", [])
    figure = _figure(11 if turned else 6, max(4, 1.8 + 0.32 * len(exact)))
    axes = figure.subplots(1, 2 if turned else 1, squeeze=False)[0]
    _draw_exact(axes[0], exact)
    if turned:
        _draw_turned(axes[1], sorted(turned, key=lambda element: element["angle"]))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return _save(figure, folder, "symmetry")


def _draw_exact(axis, exact: list[dict]) -> None:
    """Largest and mean change of each element, on a log axis that ends in a true zero."""
    place = np.arange(len(exact))
    changes = {kind: np.array([element[kind] for element in exact], dtype=float) for kind in SPREAD}
    for kind, style in SPREAD.items():
        axis.plot(changes[kind], place, linestyle="", **style)
    positive = [change for values in changes.values() for change in values if change > 0]
    least = 10.0 ** np.floor(np.log10(min(positive, default=1e-9)))
    axis.set_xscale("symlog", linthresh=least, linscale=0.5)
    axis.set(xlim=(-least / 4, 3 * max(positive, default=least)), xlabel="change of the probabilities")
    axis.set_title("exact: the pixels only move")
    axis.set_yticks(place, [element["name"] for element in exact])
    axis.invert_yaxis()


def _draw_turned(axis, turned: list[dict]) -> None:
    """Largest and mean change against the angle."""
    from matplotlib.ticker import MaxNLocator

    angles = [element["angle"] for element in turned]
    for kind, style in SPREAD.items():
        axis.plot(angles, [element[kind] for element in turned], **style)
    axis.set(xlabel="angle (degrees)", ylabel="change of the probabilities")
    axis.set_title("interpolated: the image is resampled")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 4.5, 9, 10]))


def plot_mistakes(
    folder: str | Path,
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    classes: list[str],
) -> Path:
    """mistakes.png: the images that the network got wrong and was most sure of.

    Parameters
    ----------
    images : m images (H, W) or (1, H, W), by index; only those shown are asked for. true, predicted : (m,) int.
        Those that agree are left out.
    probability : (m,) of the predicted class.
    """
    wrong = np.flatnonzero(np.asarray(true) != np.asarray(predicted))
    worst = wrong[np.argsort(-np.asarray(probability)[wrong], kind="stable")][:GALLERY]
    rows, names = -(-len(worst) // 4), _labels(classes, 16)
    figure = _figure(8.8, 0.7 + 2.6 * rows)
    bare = {"xticks": [], "yticks": []}
    axes = figure.subplots(rows, 4, squeeze=False, subplot_kw=bare).ravel() if rows else []
    for axis in axes[len(worst) :]:
        axis.remove()
    for axis, k in zip(axes, worst, strict=False):
        image = np.asarray(images[k])
        axis.imshow(image.reshape(image.shape[-2:]), cmap="inferno")
        says = f"{names[predicted[k]]} {probability[k]:.1%}"
        axis.set_title(f"true: {names[true[k]]}\nsays: {says}", fontsize=9)
    found = f"the {len(worst)} most confident of {len(wrong)} mistakes" if rows else "no mistakes"
    figure.suptitle(f"{found} in {len(true)} images")
    return _save(figure, folder, "mistakes")
