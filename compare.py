"""Which of several networks is better, and could that be chance? Their predictions for the same images, side by side.

runs = [load_run(folder) for folder in folders]         # or evaluate_runs(folders, dataset.scan("images_f"))
found = compare(runs, results.make_run_folder(".", "compare"))
print(table(found))

References: DeLong et al. 1988, Biometrics 44:837 (AUC of a class); Efron & Tibshirani 1993 (paired bootstrap of the
macro AUC); McNemar 1947, Psychometrika 12:153 (accuracy); Holm 1979, Scand. J. Stat. 6:65 (many pairs).
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import metrics
import plots
import report
import results
import trainer
from classifier import Classifier, load_model
from dataset import Batches, LensFolder
from results import Predictions, ResultsError

ALL_PAIRS = 6  # runs up to which every pair is tested; beyond, each against the first
LEVEL = 0.05  # a corrected p below this is called a real difference
FIGURES = {"accuracy": "accuracy", "macro_auc": "macro AUC", "micro_auc": "micro AUC", "log_loss": "log loss"}
RESULTS_ONLY = {  # arguments that do not change what is learned
    *("seed", "results_dir", "mode", "resume", "test_time", "export", "demo", "quiet", "debug"),
    *("num_workers", "cuda_idx", "cuda_asked"),
}


@dataclass(frozen=True)
class Run:
    """A trained network and what it says of some images. record: how it was trained, as in `run.json`."""

    folder: Path
    record: dict[str, Any]
    predictions: Predictions


# ---- the runs ----


def load_run(folder: str | Path) -> Run:
    """A finished run, from what it left behind. Raises ResultsError where it has no predictions."""
    try:
        return Run(Path(folder), results.read_record(Path(folder)), results.load_predictions(folder))
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
    folders = [Path(folder) for folder in folders]
    classifiers = [load_model(folder / "best-model-parameters.pt", device) for folder in folders]
    for folder, classifier in zip(folders, classifiers, strict=True):
        _check_fit(folder, classifier, data)
    split = data.splits.get("test", data.splits["val"])
    kinds = {classifier.preprocess for classifier in classifiers}
    batches = {kind: Batches(split, data, kind, batch_size, device, **options) for kind in kinds}
    runs = []
    for folder, classifier in zip(folders, classifiers, strict=True):
        logits = trainer.evaluate(classifier.network, batches[classifier.preprocess], precision)
        network = {"kind": classifier.kind, **classifier.network.config}
        predictions = report.predictions_of(logits, split, data.classes)
        runs.append(Run(folder, {"network": network, **classifier.record}, predictions))
    return runs


def _check_fit(folder: Path, classifier: Classifier, data: LensFolder) -> None:
    """The classes of the original's checkpoints have no names: there, their number must do."""
    ours, channels = classifier.classes, classifier.network.config["channels"]
    if classifier.record.get("original") and len(ours) == len(data.classes):
        ours = list(data.classes)
    if (ours, channels) != (list(data.classes), data.channels):
        raise ResultsError(
            f"{data.root}: {_kind(data.classes, data.channels)}, but the network in {folder} is for "
            f"{_kind(ours, channels)}; choose data that all of the networks are for"
        )


def _kind(classes: Sequence[str], channels: int) -> str:
    return f"images of {channels} channels, classes {', '.join(classes)}"


def check_same_images(runs: Sequence[Run]) -> None:
    """Raises ResultsError unless there are two runs or more, all different, all of them for the same images."""
    if len(runs) < 2:
        raise ResultsError(f"expected two runs or more to compare, found {len(runs)}")
    first, seen = runs[0], set()
    for run in runs:
        if run.folder.resolve() in seen:
            raise ResultsError(f"{run.folder} is named twice; name different runs to compare")
        seen.add(run.folder.resolve())
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
    if a.sample != b.sample:
        return f"the files of {_place(a)} and {_place(b)} have the same names but not the same content"
    return None


def _place(predictions: Predictions) -> str:
    return f"{predictions.data_dir}/{predictions.split}"


# ---- names and groups ----


def _facts(run: Run) -> dict[str, Any]:
    """What tells runs apart, the most telling first; None where it is not known or does not apply."""
    network = results.describe_network(run.record, results.run_name(run.folder).split("/")[0])
    arguments, recipe = run.record.get("arguments") or {}, run.record.get("recipe") or {}
    data = arguments.get("data_dir")
    return {
        "network": results.spell_group(network["group"], network["order"]) or network["arch"] or "network",
        "data": data and Path(os.path.abspath(data)).name,
        "arch": network["arch"] if network["group"] else None,
        "head": network["head"],
        "recipe": arguments.get("recipe"),
        **{key: recipe.get(key) for key in ("epochs", "batch_size", "lr")},
        "precision": run.record.get("precision"),
        "seed": arguments.get("seed"),
    }


def _names(runs: Sequence[Run], seeds: bool = True) -> list[str]:
    """A short name for each run: its group, and whatever else tells it from the other runs with this group."""
    facts, names = [_facts(run) for run in runs], []
    for fact in facts:
        rivals = [other for other in facts if other["network"] == fact["network"]]
        keys = [key for key in fact if len({rival[key] for rival in rivals}) > 1 and (seeds or key != "seed")]
        shown = {key: fact[key] for key in ("network", *keys) if fact[key] is not None}
        names.append(" ".join(str(v) if isinstance(v, str) else f"{k} {v:g}" for k, v in shown.items()))
    return names


def _unique(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Names that many runs have get the timestamp, and, if that is not enough, a number."""
    count = Counter(names)
    names = [name if count[name] == 1 else f"{name} {run.folder.name}" for name, run in zip(names, runs, strict=True)]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]


def _group(run: Run) -> str:
    """Equal for runs that differ only in the seed: all arguments that were given and matter, and what came of them."""
    arguments = run.record.get("arguments")
    if not arguments:
        return str(run.folder)
    given = {key: value for key, value in arguments.items() if value and key not in RESULTS_ONLY}
    given["data_dir"] = _facts(run)["data"]
    kept = [given, *(run.record.get(key) for key in ("network", "recipe", "precision"))]
    return json.dumps(kept, sort_keys=True, default=str)


def _groups(runs: Sequence[Run], rows: list[dict]) -> list[dict]:
    """Mean and spread over the seeds of runs that differ only in the seed; a seed that was run twice counts once."""
    members = defaultdict(dict)
    for run, row in zip(runs, rows, strict=True):
        members[_group(run)].setdefault(row["seed"], (run, row))
    groups = [list(seeds.values()) for seeds in members.values() if len(seeds) > 1]
    if not groups:
        return []
    names = dict(zip((run.folder for run in runs), _names(runs, seeds=False), strict=True))
    firsts = [group[0][0] for group in groups]
    titles = _unique([names[run.folder] for run in firsts], firsts)
    return [_over_seeds(title, [row for _, row in group]) for title, group in zip(titles, groups, strict=True)]


def _over_seeds(name: str, rows: list[dict]) -> dict[str, Any]:
    found = {"name": name, "runs": [row["name"] for row in rows], "seeds": len(rows)}
    for key in FIGURES:
        values = [row[key]["value"] for row in rows]
        known = None not in values
        mean, spread = (float(np.mean(values)), float(np.std(values, ddof=1))) if known else (None, None)
        found[key] = {"mean": mean, "spread": spread}
    return found


# ---- the comparison ----


def compare(runs: Sequence[Run], folder: str | Path, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Compare networks on the same images; writes `compare.json` and `compare.png` (and .pdf) into `folder`.

    Parameters
    ----------
    runs : two or more, from `load_run` or `evaluate_runs`.
    resamples, seed : of the images, behind every interval and the test of the macro AUC.

    Returns
    -------
    dict, ready for JSON, in which what is not known or not defined is None:
        images, classes, data_dir, split, bootstrap, seed, level, correction : what was asked, of which images.
        runs : a row each: `name` (short), `run`, `folder`, `group`, `order`, `arch`, `head`, `recipe`, `seed`, and
            `accuracy`, `macro_auc`, `micro_auc`, `log_loss` with `{"value", "interval"}`.
        groups : runs that differ only in the seed: `name`, `runs`, `seeds` (their number), and each of these figures
            with `{"mean", "spread"}` (standard deviation, n - 1).
        pairs : `a`, `b`, `identical` (equal logits), `sentence`, and a minus b: `macro_auc` (paired bootstrap) and
            `accuracy` (McNemar) with `{"difference", "interval", "p", "p_holm"}`, and `per_class` (DeLong), class to
            `{"difference", "z", "p", "p_holm"}`. p_holm: corrected for the number of pairs, each quantity by itself.

    Raises ResultsError for runs that do not fit together and for files that cannot be written.
    """
    check_same_images(runs)
    names, first = _unique(_names(runs), runs), runs[0].predictions
    draws = [metrics.bootstrap(run.predictions.logits, first.labels, resamples, seed) for run in runs]
    rows = [_row(run, name, drawn) for run, name, drawn in zip(runs, names, draws, strict=True)]
    pairs = _test_pairs(runs, rows, draws)
    found = {
        "images": len(first.labels),
        "classes": first.classes,
        "data_dir": first.data_dir,
        "split": first.split,
        "bootstrap": resamples,
        "seed": seed,
        "level": LEVEL,
        "correction": f"Holm, {len(pairs)} pairs, each quantity by itself",
        "runs": rows,
        "groups": _groups(runs, rows),
        "pairs": pairs,
    }
    results.save_json(Path(folder) / "compare.json", found)
    _draw(folder, runs, rows)
    return found


def _row(run: Run, name: str, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    found = metrics.evaluate(*run.predictions[:2], run.predictions.classes, bootstrap=0)
    place, arguments = results.run_name(run.folder), run.record.get("arguments") or {}
    auc = {key: found["auc"][key]["value"] for key in ("macro", "micro")}
    return {
        "name": name,
        "run": place,
        "folder": str(run.folder),
        **results.describe_network(run.record, place.split("/")[0]),
        **{key: arguments.get(key) for key in ("recipe", "seed")},
        "accuracy": {"value": found["accuracy"], "interval": metrics.interval(drawn["accuracy"])},
        **{f"{key}_auc": {"value": value, "interval": metrics.interval(drawn[key])} for key, value in auc.items()},
        "log_loss": {"value": found["log_loss"], "interval": None},
    }


def _draw(folder: str | Path, runs: Sequence[Run], rows: list[dict]) -> None:
    groups = list(dict.fromkeys(map(_group, runs)))
    networks = [
        {
            "name": row["name"],
            "auc": row["macro_auc"],
            "colour": groups.index(_group(run)),
            "scores": metrics.log_odds(run.predictions.logits),
        }
        for run, row in zip(runs, rows, strict=True)
    ]
    plots.plot_compare(folder, networks, runs[0].predictions.labels)


# ---- pairs ----


def _test_pairs(runs: Sequence[Run], rows: list[dict], draws: list[dict]) -> list[dict]:
    numbers = range(len(runs))
    chosen = itertools.combinations(numbers, 2) if len(runs) <= ALL_PAIRS else ((0, k) for k in numbers[1:])
    sides = [(run.predictions, row, drawn) for run, row, drawn in zip(runs, rows, draws, strict=True)]
    pairs = [_test_pair(sides[a], sides[b]) for a, b in chosen]
    for key in ("macro_auc", "accuracy"):
        _correct([pair[key] for pair in pairs])
    for name in runs[0].predictions.classes:
        _correct([pair["per_class"][name] for pair in pairs])
    for pair in pairs:
        pair["sentence"] = _sentence(pair, len(runs[0].predictions.labels))
    return pairs


def _test_pair(a: tuple, b: tuple) -> dict[str, Any]:
    """Three tests of two networks, each given as predictions, row and bootstrap draws."""
    (first, row, drawn), (second, other, drawn_other) = a, b
    right = [p.logits.argmax(axis=1) == p.labels for p in (first, second)]
    accuracy = metrics.difference(_minus(row, other, "accuracy"), drawn["accuracy"] - drawn_other["accuracy"])
    return {
        "a": row["name"],
        "b": other["name"],
        "identical": bool(np.array_equal(first.logits, second.logits)),
        "macro_auc": metrics.difference(_minus(row, other, "macro_auc"), drawn["macro"] - drawn_other["macro"]),
        "accuracy": accuracy | {"p": metrics.mcnemar_test(*right)},
        "per_class": _test_classes(first, second),
    }


def _minus(row: dict, other: dict, key: str) -> float | None:
    a, b = row[key]["value"], other[key]["value"]
    return None if a is None or b is None else a - b


def _test_classes(first: Predictions, second: Predictions) -> dict[str, dict]:
    """DeLong's test of the AUC of each class against the rest, None where a side has fewer than two images."""
    scores, found = [metrics.log_odds(predictions.logits) for predictions in (first, second)], {}
    for k, name in enumerate(first.classes):
        positive = first.labels == k
        if min(positive.sum(), (~positive).sum()) < 2:
            found[name] = {"difference": None, "z": None, "p": None}
            continue
        a, b, z, p = metrics.delong_test(scores[0][:, k], scores[1][:, k], positive)
        found[name] = {"difference": a - b, "z": z, "p": p}
    return found


def _correct(tests: list[dict]) -> None:
    """Add `p_holm` to tests of one quantity; those without p do not count."""
    counted = [test for test in tests if test["p"] is not None]
    for test in tests:
        test["p_holm"] = None
    for test, p in zip(counted, metrics.holm([test["p"] for test in counted]), strict=True):
        test["p_holm"] = p


def _sentence(pair: dict, images: int) -> str:
    auc, (better, worse) = pair["macro_auc"], _order(pair)
    if pair["identical"]:
        return f"{better} and {worse} are the same network: equal logits for all {images:,} images"
    if auc["p_holm"] is None:
        return f"{better} and {worse}: the macro AUC is not defined on these images"
    size = f"by {_size(auc, better == pair['a'])}"
    if auc["p_holm"] < LEVEL:
        return f"{better} is better than {worse} in macro AUC {size}: a real difference"
    return f"{better} and {worse} differ in macro AUC {size}: no difference that {images:,} images could show"


def _order(pair: dict) -> tuple[str, str]:
    """The names of the two, the higher macro AUC first."""
    return (pair["b"], pair["a"]) if (pair["macro_auc"]["difference"] or 0) < 0 else (pair["a"], pair["b"])


def _size(test: dict, ours: bool) -> str:
    """`0.0123 [0.0040, 0.0210], p = 0.003`: a minus b if `ours`, else b minus a; more digits for a small one."""
    sign = 1 if ours else -1
    low, high = sorted(sign * end for end in test["interval"])
    digits = 4 if max(abs(low), abs(high)) >= 0.001 else 6
    value, low, high = (
        f"{round(number, digits) + 0.0:.{digits}f}" for number in (sign * test["difference"], low, high)
    )
    return f"{value} [{low}, {high}], {_p(test)}"


def _p(test: dict) -> str:
    p = test["p_holm"]
    return "no test" if p is None else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


# ---- for people ----


def table(found: dict[str, Any]) -> str:
    """What `compare` found: who the networks are, their figures, mean and spread over seeds, a sentence per pair."""
    title = f"{len(found['runs'])} networks, {found['images']:,} images of {found['data_dir']}/{found['split']}"
    parts = [title, _table_of_runs(found["runs"]), "In brackets 95% intervals:\n" + _table_of_figures(found["runs"])]
    if found["groups"]:
        parts.append("Mean over seeds and their standard deviation:\n" + _table_of_groups(found["groups"]))
    return "\n\n".join([*parts, _pairs(found)])


def _table_of_runs(rows: list[dict]) -> str:
    titles = ["network", "group", "arch", "head", "recipe", "seed", "run"]
    kept = ("arch", "head", "recipe", "seed", "run")
    lines = [
        [row["name"], results.spell_group(row["group"], row["order"]), *(row[key] for key in kept)] for row in rows
    ]
    return results.align([titles, *lines])


def _table_of_figures(rows: list[dict]) -> str:
    def cell(figure: dict) -> str | None:
        if figure["value"] is None:
            return None
        return f"{figure['value']:.4f}" + (
            " [{:.4f}, {:.4f}]".format(*figure["interval"]) if figure["interval"] else ""
        )

    return results.align([["network", *FIGURES.values()], *([r["name"], *(cell(r[k]) for k in FIGURES)] for r in rows)])


def _table_of_groups(groups: list[dict]) -> str:
    def cell(figure: dict) -> str | None:
        return None if figure["mean"] is None else f"{figure['mean']:.4f} ± {figure['spread']:.4f}"

    lines = [[group["name"], group["seeds"], *(cell(group[key]) for key in FIGURES)] for group in groups]
    return results.align([["network", "seeds", *FIGURES.values()], *lines])


def _pairs(found: dict) -> str:
    """A sentence per pair, and under it the tests of accuracy and of the classes."""
    count = len(found["pairs"])
    p = f"p is corrected for {count} pairs (Holm), intervals are each pair's own" if count > 1 else "one pair"
    lines = [f"Tests on the same images; {p}. What other seeds would give is not in them."]
    for pair in found["pairs"]:
        lines += [f"- {pair['sentence']}"] + [f"  {_other_tests(pair)}"] * (not pair["identical"])
    return "\n".join(lines)


def _other_tests(pair: dict) -> str:
    """Accuracy by McNemar's test, each class by DeLong's, in the order of the sentence."""
    better, worse = _order(pair)
    classes = ", ".join(f"{name} {_p(test)}" for name, test in pair["per_class"].items())
    return (
        f"accuracy, {better} minus {worse}: {_size(pair['accuracy'], better == pair['a'])}; AUC of a class: {classes}"
    )
