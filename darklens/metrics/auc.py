"""Areas under ROC curves with bootstrap intervals, and true positive rates at low false positive rates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from darklens.metrics.probabilities import log_odds

# how data sets spell the class without substructure; case, spaces, _ and - do not matter
NO_SUBSTRUCTURE = ("no", "nosub", "nosubstructure", "none", "smooth", "nosubhalo", "nosubhalos", "withoutsubstructure")
UNTRAINED = "residual_significance", "log_bayes_factor"  # of fits: what tells substructure from none by itself
FALSE_POSITIVE_RATES = (0.01, 0.001)
CHUNK = 500_000  # counts held at a time by the bootstrap: what fits in a processor's cache


class Ranking(NamedTuple):
    """A binary problem, sorted once: all that the AUC needs, whatever the weights of the images."""

    positives: np.ndarray  # (P,) image of each positive score, ascending in score
    negatives: np.ndarray  # (N,) image of each negative score, ascending in score
    below: np.ndarray  # (P,) negatives with a smaller score
    upto: np.ndarray  # (P,) negatives with a smaller or the same score


def rank(scores: np.ndarray, positive: np.ndarray) -> Ranking:
    """Sort `scores`, (n,) or (n, K); `positive` is bool, of that shape. Scores of an image share a weight."""
    image = np.arange(scores.size) // (scores.size // len(scores))
    scores, positive = scores.ravel(), positive.ravel()
    order = np.argsort(scores, kind="stable")
    negatives, positives = order[~positive[order]], order[positive[order]]
    below = np.searchsorted(scores[negatives], scores[positives], side="left")
    upto = np.searchsorted(scores[negatives], scores[positives], side="right")
    return Ranking(image[positives], image[negatives], below, upto)


def weighted_auc(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """AUC for each column of `weights` (n images, B), shape (B,); NaN where a side has no weight.

    The Mann-Whitney form: the weight of the pairs in which the positive scores higher, ties counted half.
    Equal to `roc_auc_score(..., sample_weight=column)`.
    """
    lower = np.zeros((len(ranking.negatives) + 1, weights.shape[1]))
    np.cumsum(weights[ranking.negatives], axis=0, out=lower[1:])  # (N+1, B) weight of the lowest negatives
    positives = weights[ranking.positives]  # (P, B)
    wins = np.einsum("pb,pb->b", positives, lower[ranking.below])
    wins += np.einsum("pb,pb->b", positives, lower[ranking.upto])
    pairs = positives.sum(axis=0) * lower[-1]
    return np.divide(wins / 2, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def resample(n: int, resamples: int, seed: int, width: int = 1) -> Iterator[np.ndarray]:
    """Yield counts (n, up to B): how often each of n images is drawn, with replacement, in each resample.

    B is chosen so that `width` scores an image fit in the cache.
    """
    rng = np.random.default_rng(seed)
    step = int(np.clip(CHUNK // (n * width), 1, 64))
    for start in range(0, resamples, step):
        columns = min(step, resamples - start)
        images = rng.integers(n, size=(columns, n))  # (B, n)
        cells = images * columns + np.arange(columns)[:, None]
        yield np.bincount(cells.ravel(), minlength=n * columns).reshape(n, columns).astype(np.float64)


def one_against_rest(logits: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The K binary problems, as (scores (n,), positive (n,))."""
    return [(scores, labels == k) for k, scores in enumerate(log_odds(logits).T)]


def binary_problems(logits: np.ndarray, labels: np.ndarray) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Every binary problem that has its own AUC: K classes by number, and both micro averages (n, K)."""
    onehot = labels[:, None] == np.arange(logits.shape[1])
    micro = {"micro": (log_odds(logits), onehot), "micro_logits": (logits, onehot)}
    return dict(enumerate(one_against_rest(logits, labels))) | micro


def without_substructure(classes: Sequence[str]) -> int | None:
    """Number of the class without substructure, if the data set has one."""
    return next((k for k, name in enumerate(classes) if re.sub(r"[\W_]", "", name.lower()) in NO_SUBSTRUCTURE), None)


def macro_average(values: list) -> np.ndarray:
    """Mean over the classes (first axis) whose AUC is defined."""
    stacked = np.asarray(values, dtype=np.float64)
    defined = np.isfinite(stacked).sum(axis=0)
    return np.divide(np.nansum(stacked, axis=0), defined, out=np.full(defined.shape, np.nan), where=defined > 0)


def point_estimate(scores: np.ndarray, positive: np.ndarray) -> float:
    """The AUC, or NaN where one side is empty."""
    return np.nan if positive.all() or not positive.any() else roc_auc_score(positive.ravel(), scores.ravel())


def interval(values: np.ndarray) -> list[float] | None:
    """95% percentile interval over the resamples where the number is defined."""
    values = values[np.isfinite(values)]
    return np.percentile(values, [2.5, 97.5]).tolist() if len(values) else None


def bootstrap_auc(problems: dict, correct: np.ndarray, resamples: int, seed: int) -> dict[Any, np.ndarray]:
    """The AUC of each problem and the accuracy, (resamples,), over the same resampled images."""
    rankings = {key: rank(*problem) for key, problem in problems.items()}
    width = problems["micro"][0].shape[1]
    samples: dict[Any, list] = {key: [np.empty(0)] for key in (*rankings, "accuracy")}
    for counts in resample(len(correct), resamples, seed, width):
        for key, ranking in rankings.items():
            samples[key].append(weighted_auc(ranking, counts))
        samples["accuracy"].append(correct @ counts / len(correct))
    return {key: np.concatenate(chunks) for key, chunks in samples.items()}


def bootstrapped_auc(
    scores: np.ndarray, positive: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """`{"value", "interval"}` of the AUC of one score (n,), both None where it is not defined; positive: (n,) bool."""
    ranking = rank(scores, positive)
    samples = [weighted_auc(ranking, counts) for counts in resample(len(scores), resamples, seed)]
    return {
        "value": json_number(point_estimate(scores, positive)),
        "interval": interval(np.concatenate([np.empty(0), *samples])),
    }


def auc_report(problems: dict, samples: dict, classes: list[str]) -> dict[str, Any]:
    """Value and interval of each AUC, both None where it is not defined.

    Substructure against none has the AUC of `no` against the rest: the same pairs, from the other side.
    """
    numbers = range(len(classes))
    values = {key: point_estimate(*problem) for key, problem in problems.items()}
    values["macro"] = float(macro_average([values[k] for k in numbers]))
    samples = samples | {"macro": macro_average([samples[k] for k in numbers])}
    entries = {key: {"value": json_number(value), "interval": interval(samples[key])} for key, value in values.items()}
    undefined = {"value": None, "interval": None}
    return {
        **{name: entries[name] for name in ("macro", "micro", "micro_logits")},
        "substructure": entries.get(without_substructure(classes), undefined),
        "per_class": {name: entries[k] for k, name in enumerate(classes)},
    }


def json_number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def true_positive_rates(logits: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict[str, dict]:
    """Of each class against the rest, and of substructure (score 1 - p_no) against none."""
    problems = one_against_rest(logits, labels)
    rates = {name: _detection(*problem) for name, problem in zip(classes, problems, strict=True)}
    no = without_substructure(classes)
    if no is not None:
        scores, positive = problems[no]
        rates["substructure"] = _detection(-scores, ~positive)
    return rates


def _detection(scores: np.ndarray, positive: np.ndarray) -> dict[str, float | None]:
    """The highest true-positive rate at no more than 1% and 0.1% false positives."""
    if positive.all() or not positive.any():
        return {str(limit): None for limit in FALSE_POSITIVE_RATES}
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    return {str(limit): float(true[false <= limit].max()) for limit in FALSE_POSITIVE_RATES}
