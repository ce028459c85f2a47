"""Is one classifier better than another on the same images? DeLong, McNemar, bootstrap, Holm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from darklens.metrics.auc import (
    binary_problems,
    bootstrap_auc,
    interval,
    macro_average,
)
from darklens.metrics.probabilities import check_arguments


def delong_test(scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray) -> tuple[float, float, float, float]:
    """Are two correlated AUCs different? (DeLong et al. 1988, by midranks as in Sun & Xu 2014.)

    Scores (n,) of the same n images; labels (n,) bool or 0/1. Returns (auc_a, auc_b, z, p), p two-sided.
    Raises ValueError with fewer than two images on either side.
    """
    positive = np.asarray(labels).astype(bool)
    sides = positive.sum(), (~positive).sum()
    if min(sides) < 2:
        raise ValueError(f"DeLong's test needs two positives and two negatives, got {sides[0]} and {sides[1]}")
    components = [_components(np.asarray(scores), positive) for scores in (scores_a, scores_b)]
    (auc_a, *a), (auc_b, *b) = components
    variance = sum(np.var(x - y, ddof=1) / len(x) for x, y in zip(a, b, strict=True))
    difference = auc_a - auc_b
    if variance == 0:
        z = np.copysign(np.inf, difference) if difference else 0.0
    else:
        z = difference / np.sqrt(variance)
    return float(auc_a), float(auc_b), float(z), float(2 * stats.norm.sf(abs(z)))


def _components(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """AUC, and the fraction of its pairs that each positive (P,) and each negative (N,) wins."""
    ranks = stats.rankdata(scores)
    wins = ranks[positive] - stats.rankdata(scores[positive])  # (P,) negatives below
    losses = ranks[~positive] - stats.rankdata(scores[~positive])  # (N,) positives below
    of_positives, of_negatives = wins / len(losses), 1 - losses / len(wins)
    return of_positives.mean(), of_positives, of_negatives


def mcnemar_test(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Are two accuracies on the same images different? Two-sided exact binomial p; inputs are (n,) bool."""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def bootstrap(logits: np.ndarray, labels: np.ndarray, resamples: int = 10_000, seed: int = 0) -> dict[str, np.ndarray]:
    """`macro` and `micro` AUC and `accuracy` of a network, (resamples,) each; logits (n, K), labels (n,).

    One seed draws the same images for every network with the same n: the difference of two networks' draws is a
    paired bootstrap, and the intervals are those of `evaluate`. Raises ValueError as `evaluate` does.
    """
    logits, labels = check_arguments(logits, labels)
    problems = binary_problems(logits, labels)
    del problems["micro_logits"]
    samples = bootstrap_auc(problems, logits.argmax(axis=1) == labels, resamples, seed)
    macro = macro_average([samples[k] for k in range(logits.shape[1])])
    return {"macro": macro, "micro": samples["micro"], "accuracy": samples["accuracy"]}


def difference(value: float | None, samples: np.ndarray) -> dict[str, Any]:
    """Is a difference real? value: as measured, None if not defined; samples: (resamples,), NaN where not defined.

    Returns `difference`, its 95% `interval`, and `p`, two-sided: twice the fraction of resamples that fall on
    the other side of zero, at least 2 / (resamples + 1). All None where the difference is not defined.
    """
    samples = samples[np.isfinite(samples)]
    if value is None or not len(samples):
        return {"difference": value, "interval": None, "p": None}
    crossed = min((samples <= 0).sum(), (samples >= 0).sum())
    p = min(1.0, 2 * (crossed + 1) / (len(samples) + 1))
    return {"difference": float(value), "interval": interval(samples), "p": float(p)}


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, raised so that even one false alarm among them all is as rare as each says.

    Holm 1979: the smallest of m times m, the next times m - 1, and so on, never falling and never above one.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.empty_like(values)
    raised[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(raised, 1.0).tolist()
