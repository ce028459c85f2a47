"""Which of several networks is better, and could that be chance? Their predictions for the same images, side by side.

runs = [load_run(folder) for folder in folders]         # or evaluate_runs(folders, dataset.scan("images_f"))
comparison = compare(runs, make_run_folder(".", "compare"))
print(table(comparison))

References: DeLong et al. 1988, Biometrics 44:837 (AUC of a class); Efron & Tibshirani 1993 (paired bootstrap of the
macro AUC); McNemar 1947, Psychometrika 12:153 (accuracy); Holm 1979, Scand. J. Stat. 6:65 (many pairs).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from darklens.metrics import probabilities, significance, summary
from darklens.metrics.auc import interval
from darklens.plots import roc
from darklens.reports.comparison import FIGURES, LEVEL, compare_pairs
from darklens.reports.runs import Run, check_same_images, label_runs, network_facts, unique
from darklens.storage import files
from darklens.storage.runs import describe_network, run_name

RESULTS_ONLY = {  # settings that do not change what is learned
    *("seed", "results_dir", "resume", "demo", "quiet", "num_workers", "cuda_idx", "tensorboard"),
}


def _group(run: Run) -> str:
    """Equal for runs that differ only in the seed: all settings that matter, and what came of them."""
    record = run.record
    if record.config is None:
        return str(run.folder)
    settings = {key: value for key, value in record.config.to_dict().items() if key not in RESULTS_ONLY}
    settings["data_dir"] = network_facts(run)["data"]
    return json.dumps(
        [settings, record.network, record.recipe and asdict(record.recipe), record.precision], default=str
    )


def _groups(runs: Sequence[Run], rows: list[dict]) -> list[dict]:
    """Mean and spread over the seeds of runs that differ only in the seed; a seed that was run twice counts once."""
    members: dict[str, dict] = defaultdict(dict)
    for run, row in zip(runs, rows, strict=True):
        members[_group(run)].setdefault(row["seed"], (run, row))
    groups = [list(seeds.values()) for seeds in members.values() if len(seeds) > 1]
    if not groups:
        return []
    names = dict(zip((run.folder for run in runs), label_runs(runs, seeds=False), strict=True))
    firsts = [group[0][0] for group in groups]
    titles = unique([names[run.folder] for run in firsts], firsts)
    return [_over_seeds(title, [row for _, row in group]) for title, group in zip(titles, groups, strict=True)]


def _over_seeds(name: str, rows: list[dict]) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": name, "runs": [row["name"] for row in rows], "seeds": len(rows)}
    for key in FIGURES:
        values = [row[key]["value"] for row in rows]
        defined = None not in values
        mean, spread = (float(np.mean(values)), float(np.std(values, ddof=1))) if defined else (None, None)
        summary[key] = {"mean": mean, "spread": spread}
    return summary


def compare(runs: Sequence[Run], folder: str | Path, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Compare networks on the same images; writes `compare.json` and `compare.png` (and .pdf) into `folder`.

    Parameters
    ----------
    runs : two or more, from `load_run` or `evaluate_runs`.
    resamples, seed : of the images, behind every interval and the test of the macro AUC.

    Returns
    -------
    dict, ready for JSON; None where a figure is not defined:
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
    names, first = unique(label_runs(runs), runs), runs[0].predictions
    draws = [significance.bootstrap(run.predictions.logits, first.labels, resamples, seed) for run in runs]
    rows = [_row(run, name, samples) for run, name, samples in zip(runs, names, draws, strict=True)]
    pairs = compare_pairs(runs, rows, draws)
    comparison = {
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
    files.save_json(Path(folder) / "compare.json", comparison)
    _draw(folder, runs, rows)
    return comparison


def _row(run: Run, name: str, samples: dict[str, np.ndarray]) -> dict[str, Any]:
    metrics = summary.evaluate(*run.predictions[:2], run.predictions.classes, bootstrap=0)
    place, config = run_name(run.folder), run.record.config
    auc = {key: metrics["auc"][key]["value"] for key in ("macro", "micro")}
    return {
        "name": name,
        "run": place,
        "folder": str(run.folder),
        **describe_network(run.record, place.split("/")[0]),
        "recipe": config and config.recipe,
        "seed": config and config.seed,
        "accuracy": {"value": metrics["accuracy"], "interval": interval(samples["accuracy"])},
        **{f"{key}_auc": {"value": value, "interval": interval(samples[key])} for key, value in auc.items()},
        "log_loss": {"value": metrics["log_loss"], "interval": None},
    }


def _draw(folder: str | Path, runs: Sequence[Run], rows: list[dict]) -> None:
    groups = list(dict.fromkeys(map(_group, runs)))
    networks = [
        {
            "name": row["name"],
            "auc": row["macro_auc"],
            "colour": groups.index(_group(run)),
            "scores": probabilities.log_odds(run.predictions.logits),
        }
        for run, row in zip(runs, rows, strict=True)
    ]
    roc.plot_compare(folder, networks, runs[0].predictions.labels)
