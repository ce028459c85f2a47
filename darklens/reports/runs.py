"""The runs of a comparison: their predictions, of the same images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import load_model
from darklens.data.batches import open_batches
from darklens.data.folder import LensFolder
from darklens.errors import ResultsError
from darklens.reports import report
from darklens.storage import records
from darklens.storage.records import PIXELS, Predictions
from darklens.storage.run_record import RunRecord
from darklens.storage.runs import describe_network, run_name, spell_group
from darklens.training import evaluate


@dataclass(frozen=True)
class Run:
    """A trained network and what it says of some images. record: how it was trained, as in `run.json`."""

    folder: Path
    record: RunRecord
    predictions: Predictions


def load_run(folder: str | Path) -> Run:
    """A finished run, from what it left behind. Raises ResultsError where it has no predictions."""
    try:
        return Run(Path(folder), RunRecord.of_folder(Path(folder)), records.load_predictions(folder))
    except ResultsError as error:
        raise ResultsError(f"{error}; finish or test the run, or evaluate all runs now with --data_dir DIR") from error


def evaluate_runs(
    folders: Iterable[str | Path],
    data: LensFolder,
    device: Any = "cpu",
    precision: str = "fp32",
    batch_size: int = 64,
    **options: Any,
) -> list[Run]:
    """The best networks of some runs, evaluated now on the test split of `data`, or on val where it has none.

    options: as `Batches` takes them. Images are read once for each kind of preprocessing. Raises ResultsError for a
    network that is not made for such data, CheckpointError, DataError.
    """
    paths = [Path(folder) for folder in folders]
    classifiers = [load_model(folder / "best-model-parameters.pt", device) for folder in paths]
    for folder, classifier in zip(paths, classifiers, strict=True):
        _check_fit(folder, classifier, data)
    split = data.splits.get("test", data.splits["val"])
    kinds = {classifier.preprocess for classifier in classifiers}
    batches = {
        kind: open_batches(data, (split.name,), kind, batch_size, device, **options)[split.name] for kind in kinds
    }
    runs = []
    for folder, classifier in zip(paths, classifiers, strict=True):
        logits = evaluate.evaluate(classifier.network, batches[classifier.preprocess], precision)
        network = {"kind": classifier.kind, **classifier.config}
        predictions = report.predictions_of(logits, split, data.classes)
        runs.append(Run(folder, classifier.record.replace(network=network), predictions))
    return runs


def _check_fit(folder: Path, classifier: Classifier, data: LensFolder) -> None:
    """The classes of the original's checkpoints have no names: there, their number must do."""
    classes, channels = classifier.classes, classifier.channels
    if classifier.record.original and len(classes) == len(data.classes):
        classes = list(data.classes)
    if (classes, channels) != (list(data.classes), data.channels):
        raise ResultsError(
            f"{data.root}: {_kind(data.classes, data.channels)}, but the network in {folder} is for "
            f"{_kind(classes, channels)}; choose data that all of the networks are for"
        )


def _kind(classes: Sequence[str], channels: int) -> str:
    return f"images of {channels} channels, classes {', '.join(classes)}"


def check_same_images(runs: Sequence[Run]) -> None:
    """Raises ResultsError unless there are two runs or more, all different, all of them for the same images."""
    if len(runs) < 2:
        raise ResultsError(f"expected two runs or more to compare, found {len(runs)}")
    first, folders = runs[0], set()
    for run in runs:
        if run.folder.resolve() in folders:
            raise ResultsError(f"{run.folder} is named twice; name different runs to compare")
        folders.add(run.folder.resolve())
        difference = _difference(first.predictions, run.predictions)
        if difference:
            raise ResultsError(
                f"{first.folder} and {run.folder} were not tested on the same images: {difference}; "
                "--data_dir DIR evaluates all of them on one set"
            )


def _difference(a: Predictions, b: Predictions) -> str | None:
    """The first difference between the images of two runs."""
    if a.classes != b.classes:
        return f"classes {', '.join(a.classes)} and {', '.join(b.classes)}"
    for one, other in zip(a.names, b.names, strict=False):
        if one != other:
            return f"{_place(a)} has {one} where {_place(b)} has {other}"
    if len(a.names) != len(b.names):
        return f"{_place(a)} has {len(a.names)} of them, {_place(b)} {len(b.names)}"
    wrong = np.flatnonzero(a.labels != b.labels)
    if len(wrong):
        labels = (predictions.classes[predictions.labels[wrong[0]]] for predictions in (a, b))
        return f"{a.names[wrong[0]]} is labelled {' and '.join(labels)}"
    if a.sample != b.sample and a.sample.startswith(PIXELS) == b.sample.startswith(PIXELS):
        return f"the files of {_place(a)} and {_place(b)} have the same names but not the same content"
    return None


def _place(predictions: Predictions) -> str:
    return f"{predictions.data_dir}/{predictions.split}"


def network_facts(run: Run) -> dict[str, Any]:
    """What tells runs apart, the most telling first; None where it is not known or does not apply."""
    network = describe_network(run.record, run_name(run.folder).split("/")[0])
    config, recipe = run.record.config, run.record.recipe
    data = config and config.data_dir
    return {
        "network": spell_group(network["group"], network["order"]) or network["arch"] or "network",
        "data": data and Path(os.path.abspath(data)).name,
        "arch": network["arch"] if network["group"] else None,
        "head": network["head"],
        "recipe": config and config.recipe,
        **{key: recipe and getattr(recipe, key) for key in ("epochs", "batch_size", "lr")},
        "precision": run.record.precision,
        "seed": config and config.seed,
    }


def label_runs(runs: Sequence[Run], seeds: bool = True) -> list[str]:
    """A short name for each run: its group, and whatever else tells it from the other runs with this group."""
    all_facts, names = [network_facts(run) for run in runs], []
    for fact in all_facts:
        rivals = [other for other in all_facts if other["network"] == fact["network"]]
        keys = [key for key in fact if len({rival[key] for rival in rivals}) > 1 and (seeds or key != "seed")]
        shown = {key: fact[key] for key in ("network", *keys) if fact[key] is not None}
        names.append(" ".join(str(v) if isinstance(v, str) else f"{k} {v:g}" for k, v in shown.items()))
    return names


def unique(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Names that many runs have get the timestamp, and, if that is not enough, a number."""
    count = Counter(names)
    names = [name if count[name] == 1 else f"{name} {run.folder.name}" for name, run in zip(names, runs, strict=True)]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
