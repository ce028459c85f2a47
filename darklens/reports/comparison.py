"""Tests between the runs of a comparison, and its table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from darklens.metrics import probabilities, significance
from darklens.reports.runs import Run
from darklens.storage.records import Predictions
from darklens.storage.runs import align, spell_group

ALL_PAIRS = 6  # runs up to which every pair is tested; beyond, each against the first
LEVEL = 0.05  # a corrected p below this is called a real difference
FIGURES = {"accuracy": "accuracy", "macro_auc": "macro AUC", "micro_auc": "micro AUC", "log_loss": "log loss"}


def compare_pairs(runs: Sequence[Run], rows: list[dict], draws: list[dict]) -> list[dict]:
    """Tests of each pair of runs, or of the first against each other one where there are many (ALL_PAIRS).

    rows: of `compare`'s result, one a run; draws: of `significance.bootstrap`, of the same resampled images. Returns
    the `pairs` of `compare`, each p corrected for the number of pairs (Holm).
    """
    numbers = range(len(runs))
    chosen = itertools.combinations(numbers, 2) if len(runs) <= ALL_PAIRS else ((0, k) for k in numbers[1:])
    sides = [(run.predictions, row, samples) for run, row, samples in zip(runs, rows, draws, strict=True)]
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
    (first, row, samples), (second, other, other_samples) = a, b
    correct = [p.logits.argmax(axis=1) == p.labels for p in (first, second)]
    accuracy = significance.difference(_minus(row, other, "accuracy"), samples["accuracy"] - other_samples["accuracy"])
    return {
        "a": row["name"],
        "b": other["name"],
        "identical": bool(np.array_equal(first.logits, second.logits)),
        "macro_auc": significance.difference(
            _minus(row, other, "macro_auc"), samples["macro"] - other_samples["macro"]
        ),
        "accuracy": accuracy | {"p": significance.mcnemar_test(*correct)},
        "per_class": _test_classes(first, second),
    }


def _minus(row: dict, other: dict, key: str) -> float | None:
    a, b = row[key]["value"], other[key]["value"]
    return None if a is None or b is None else a - b


def _test_classes(first: Predictions, second: Predictions) -> dict[str, dict]:
    """DeLong's test of the AUC of each class against the rest, None where a side has fewer than two images."""
    scores = [probabilities.log_odds(predictions.logits) for predictions in (first, second)]
    tests: dict[str, dict] = {}
    for k, name in enumerate(first.classes):
        positive = first.labels == k
        if min(positive.sum(), (~positive).sum()) < 2:
            tests[name] = {"difference": None, "z": None, "p": None}
            continue
        a, b, z, p = significance.delong_test(scores[0][:, k], scores[1][:, k], positive)
        tests[name] = {"difference": a - b, "z": z, "p": p}
    return tests


def _correct(tests: list[dict]) -> None:
    """Add `p_holm` to tests of one quantity; those without p do not count."""
    counted = [test for test in tests if test["p"] is not None]
    for test in tests:
        test["p_holm"] = None
    for test, p in zip(counted, significance.holm([test["p"] for test in counted]), strict=True):
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


def _size(test: dict, a_minus_b: bool) -> str:
    """`0.0123 [0.0040, 0.0210], p = 0.003`: a minus b, or b minus a; more digits for a small one."""
    sign = 1 if a_minus_b else -1
    low, high = sorted(sign * end for end in test["interval"])
    digits = 4 if max(abs(low), abs(high)) >= 0.001 else 6
    value, low, high = (
        f"{round(number, digits) + 0.0:.{digits}f}" for number in (sign * test["difference"], low, high)
    )
    return f"{value} [{low}, {high}], {_p(test)}"


def _p(test: dict) -> str:
    p = test["p_holm"]
    return "no test" if p is None else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def table(comparison: dict[str, Any]) -> str:
    """The result of `compare`: who the networks are, their figures, mean and spread over seeds, a sentence per pair."""
    images = f"{comparison['images']:,} images of {comparison['data_dir']}/{comparison['split']}"
    title = f"{len(comparison['runs'])} networks, {images}"
    parts = [
        title,
        _table_of_runs(comparison["runs"]),
        "In brackets 95% intervals:\n" + _table_of_figures(comparison["runs"]),
    ]
    if comparison["groups"]:
        parts.append("Mean over seeds and their standard deviation:\n" + _table_of_groups(comparison["groups"]))
    return "\n\n".join([*parts, _pairs(comparison)])


def _table_of_runs(rows: list[dict]) -> str:
    titles = ["network", "group", "arch", "head", "recipe", "seed", "run"]
    keys = ("arch", "head", "recipe", "seed", "run")
    lines = [[row["name"], spell_group(row["group"], row["order"]), *(row[key] for key in keys)] for row in rows]
    return align([titles, *lines])


def _table_of_figures(rows: list[dict]) -> str:
    def cell(figure: dict) -> str | None:
        if figure["value"] is None:
            return None
        return f"{figure['value']:.4f}" + (
            " [{:.4f}, {:.4f}]".format(*figure["interval"]) if figure["interval"] else ""
        )

    return align([["network", *FIGURES.values()], *([r["name"], *(cell(r[k]) for k in FIGURES)] for r in rows)])


def _table_of_groups(groups: list[dict]) -> str:
    def cell(figure: dict) -> str | None:
        return None if figure["mean"] is None else f"{figure['mean']:.4f} ± {figure['spread']:.4f}"

    lines = [[group["name"], group["seeds"], *(cell(group[key]) for key in FIGURES)] for group in groups]
    return align([["network", "seeds", *FIGURES.values()], *lines])


def _pairs(comparison: dict) -> str:
    """A sentence per pair, and under it the tests of accuracy and of the classes."""
    count = len(comparison["pairs"])
    p = f"p is corrected for {count} pairs (Holm), intervals are each pair's own" if count > 1 else "one pair"
    lines = [f"Tests on the same images; {p}. What other seeds would give is not in them."]
    for pair in comparison["pairs"]:
        lines += [f"- {pair['sentence']}"] + [f"  {_other_tests(pair)}"] * (not pair["identical"])
    return "\n".join(lines)


def _other_tests(pair: dict) -> str:
    """Accuracy by McNemar's test, each class by DeLong's, in the order of the sentence."""
    better, worse = _order(pair)
    classes = ", ".join(f"{name} {_p(test)}" for name, test in pair["per_class"].items())
    return (
        f"accuracy, {better} minus {worse}: {_size(pair['accuracy'], better == pair['a'])}; AUC of a class: {classes}"
    )
