"""How good is a classifier? Pure functions from logits (n, K) and labels (n,) to numbers.

`evaluate` is the report of one run, `fit_temperature` calibrates it, and `delong_test`, `mcnemar_test` and
`paired_bootstrap` say whether two networks differ on the same images; with more networks, `bootstrap` each once,
look at pairs with `difference`, and correct with `holm`.

References
----------
Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13 (percentile interval).
Guo et al. 2017, arXiv:1706.04599 (temperature scaling; expected calibration error).
DeLong et al. 1988, Biometrics 44:837; Sun & Xu 2014, IEEE Signal Process. Lett. 21:1389 (the fast algorithm).
McNemar 1947, Psychometrika 12:153.
Holm 1979, Scand. J. Stat. 6:65 (correction for many tests).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special, stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score, roc_curve

NO_SUBSTRUCTURE = ("no", "no_sub", "nosub")  # how the data sets spell the class without substructure
FALSE_POSITIVE_RATES = (0.01, 0.001)
BINS = 15  # of the expected calibration error
TEMPERATURES = (0.05, 20.0)  # range searched by fit_temperature
CHUNK = 500_000  # counts held at a time by the bootstrap: what fits in a processor's cache


# ---- scores ----


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (n, K), float64."""
    return special.softmax(np.asarray(logits, dtype=np.float64), axis=1)


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p/(1-p) of the softmax probabilities, (n, K), float64.

    The order is that of the probabilities, but a confident network has no ties at 1 - 1e-17 = 1. Every rank
    statistic here uses it: ROC curves differ from those over the probabilities by such rounding only.
    """
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    others = [special.logsumexp(np.delete(shifted, k, axis=1), axis=1) for k in range(shifted.shape[1])]
    return shifted - np.stack(others, axis=1)


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same two arrays as float64 (n, K) and int64 (n,), or ValueError."""
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"expected logits (n, K >= 2) and labels (n,), got {logits.shape} and {labels.shape}")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ValueError(f"NaN or infinite logits for {bad} of {len(logits)} images: the network has diverged")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"expected integer labels from 0 to {logits.shape[1] - 1}, got {np.unique(labels)[:10]}")
    return logits, labels.astype(np.int64)


# ---- area under the ROC curve, and its bootstrap ----


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
        drawn = rng.integers(n, size=(columns, n))  # (B, n)
        cells = drawn * columns + np.arange(columns)[:, None]
        yield np.bincount(cells.ravel(), minlength=n * columns).reshape(n, columns).astype(np.float64)


def _one_against_rest(logits: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The K binary problems, as (scores (n,), positive (n,))."""
    return [(scores, labels == k) for k, scores in enumerate(log_odds(logits).T)]


def _problems(logits: np.ndarray, labels: np.ndarray) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Every binary problem that has its own AUC: K classes by number, and both micro averages (n, K)."""
    onehot = labels[:, None] == np.arange(logits.shape[1])
    micro = {"micro": (log_odds(logits), onehot), "micro_logits": (logits, onehot)}
    return dict(enumerate(_one_against_rest(logits, labels))) | micro


def _without_substructure(classes: list[str]) -> int | None:
    """Number of the class without substructure, if the data set has one."""
    return next((k for k, name in enumerate(classes) if name.lower() in NO_SUBSTRUCTURE), None)


def _macro(values: list) -> np.ndarray:
    """Mean over the classes (first axis) whose AUC is defined."""
    values = np.asarray(values, dtype=np.float64)
    defined = np.isfinite(values).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), defined, out=np.full(defined.shape, np.nan), where=defined > 0)


def _point(scores: np.ndarray, positive: np.ndarray) -> float:
    """The AUC, or NaN where one side is empty."""
    return np.nan if positive.all() or not positive.any() else roc_auc_score(positive.ravel(), scores.ravel())


def interval(values: np.ndarray) -> list[float] | None:
    """95% percentile interval over the resamples where the number is defined."""
    values = values[np.isfinite(values)]
    return np.percentile(values, [2.5, 97.5]).tolist() if len(values) else None


def _bootstrap(problems: dict, correct: np.ndarray, resamples: int, seed: int) -> dict[Any, np.ndarray]:
    """The AUC of each problem and the accuracy, (resamples,), over the same resampled images."""
    rankings = {key: rank(*problem) for key, problem in problems.items()}
    width = problems["micro"][0].shape[1]
    drawn: dict[Any, list] = {key: [np.empty(0)] for key in (*rankings, "accuracy")}
    for counts in resample(len(correct), resamples, seed, width):
        for key, ranking in rankings.items():
            drawn[key].append(weighted_auc(ranking, counts))
        drawn["accuracy"].append(correct @ counts / len(correct))
    return {key: np.concatenate(chunks) for key, chunks in drawn.items()}


def _auc_report(problems: dict, drawn: dict, classes: list[str]) -> dict[str, Any]:
    """Value and interval of each AUC, both None where it is not defined.

    Substructure against none has the AUC of `no` against the rest: the same pairs, from the other side.
    """
    numbers = range(len(classes))
    values = {key: _point(*problem) for key, problem in problems.items()}
    values["macro"] = float(_macro([values[k] for k in numbers]))
    drawn = drawn | {"macro": _macro([drawn[k] for k in numbers])}
    entries = {key: {"value": _number(value), "interval": interval(drawn[key])} for key, value in values.items()}
    undefined = {"value": None, "interval": None}
    return {
        **{name: entries[name] for name in ("macro", "micro", "micro_logits")},
        "substructure": entries.get(_without_substructure(classes), undefined),
        "per_class": {name: entries[k] for k, name in enumerate(classes)},
    }


# ---- the other numbers ----


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def _true_positive_rates(logits: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict[str, dict]:
    """Of each class against the rest, and of substructure (score 1 - p_no) against none."""
    problems = _one_against_rest(logits, labels)
    rates = {name: _detection(*problem) for name, problem in zip(classes, problems, strict=True)}
    no = _without_substructure(classes)
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


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Mean gap between top probability and accuracy, in equal-width bins (Guo et al. 2017, eq. 3)."""
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    number = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(number, correct - top, bins)).sum() / len(labels))


def _probabilistic(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of the probabilities: log loss (nats), Brier score (0 to 2), calibration error (0 to 1)."""
    probabilities, onehot = softmax(logits), labels[:, None] == np.arange(logits.shape[1])
    return {
        "log_loss": _nll(logits, labels),
        "brier_score": float(((probabilities - onehot) ** 2).sum(axis=1).mean()),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood (nats), from the logits: a confident mistake is not clipped."""
    return float(-special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _per_class(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> dict[str, dict]:
    """Purity (precision) and completeness (recall), None where no image was predicted, or none exists."""
    numbers = np.arange(len(classes))
    purity, completeness, _, _ = precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=np.nan
    )
    named = {"purity": purity, "completeness": completeness}
    return {key: dict(zip(classes, map(_number, values), strict=True)) for key, values in named.items()}


def evaluate(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    bootstrap: int = 10_000,
    seed: int = 0,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Everything that is reported about one network on one set of images, ready for JSON.

    Parameters
    ----------
    logits : (n, K) float, finite.
    labels : (n,) int, 0 to K-1.
    classes : K names.
    bootstrap : resamples of the images behind each 95% interval; 0 for none.
    seed : of the resamples.
    temperature : from `fit_temperature` on *other* images; adds `calibrated`.

    Returns
    -------
    dict, in which what is not defined (an absent class) is None:
        images, classes, bootstrap, seed, temperature : what was asked.
        accuracy (0 to 1), accuracy_percent, accuracy_interval.
        auc : `{"value", "interval"}` of `macro` (mean of the classes against the rest), `micro` (softmax),
            `micro_logits` (raw logits, as the original published), `substructure` (any against none), and
            `per_class`, class to the same.
        log_loss (nats), brier_score (0 to 2), expected_calibration_error (0 to 1).
        calibrated : these three for softmax(logits / temperature).
        purity, completeness : class to number.
        true_positive_rate : class, or substructure, to the rate at 1% and 0.1% false positives.
        confusion_matrix : counts, rows are the true class.

    Raises
    ------
    ValueError : NaN or infinite logits, labels out of range, shapes that do not fit.
    """
    logits, labels = _checked(logits, labels)
    if len(classes) != logits.shape[1]:
        raise ValueError(f"expected one class name per logit: {logits.shape[1]} logits, names {list(classes)}")
    predicted = logits.argmax(axis=1)
    problems = _problems(logits, labels)
    drawn = _bootstrap(problems, predicted == labels, bootstrap, seed)
    accuracy = float((predicted == labels).mean())
    return {
        "images": len(labels),
        "classes": list(classes),
        "accuracy": accuracy,
        "accuracy_percent": 100 * accuracy,
        "accuracy_interval": interval(drawn["accuracy"]),
        "auc": _auc_report(problems, drawn, classes),
        **_probabilistic(logits, labels),
        **_per_class(labels, predicted, classes),
        "true_positive_rate": _true_positive_rates(logits, labels, classes),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=np.arange(len(classes))).tolist(),
        "temperature": temperature,
        "calibrated": None if temperature is None else _probabilistic(logits / temperature, labels),
        "bootstrap": bootstrap,
        "seed": seed,
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T within `TEMPERATURES` that minimises the NLL of softmax(logits / T) (Guo et al. 2017).

    The NLL is convex in 1/T: one minimum. If every image is classified right there is none (T -> 0, boundless
    confidence), and 1.0 is returned: nothing to learn. Raises ValueError as `evaluate` does.
    """
    logits, labels = _checked(logits, labels)
    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    fit = optimize.minimize_scalar(
        lambda log_t: _nll(logits / np.exp(log_t), labels), bounds=np.log(TEMPERATURES), method="bounded"
    )
    return float(np.exp(fit.x))


# ---- two networks, the same images ----


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
    logits, labels = _checked(logits, labels)
    problems = _problems(logits, labels)
    del problems["micro_logits"]
    drawn = _bootstrap(problems, logits.argmax(axis=1) == labels, resamples, seed)
    macro = _macro([drawn[k] for k in range(logits.shape[1])])
    return {"macro": macro, "micro": drawn["micro"], "accuracy": drawn["accuracy"]}


def difference(value: float | None, drawn: np.ndarray) -> dict[str, Any]:
    """Is a difference real? value: as measured, None if not defined; drawn: (resamples,), NaN where not defined.

    Returns `difference`, its 95% `interval`, and `p`, two-sided: twice the fraction of resamples that fall on
    the other side of zero, at least 2 / (resamples + 1). All None where the difference is not defined.
    """
    drawn = drawn[np.isfinite(drawn)]
    if value is None or not len(drawn):
        return {"difference": value, "interval": None, "p": None}
    crossed = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * (crossed + 1) / (len(drawn) + 1))
    return {"difference": float(value), "interval": interval(drawn), "p": float(p)}


def paired_bootstrap(
    logits_a: np.ndarray, logits_b: np.ndarray, labels: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """`difference`: macro AUC of a minus that of b, over the same resampled images; logits (n, K), labels (n,)."""
    sides = [_one_against_rest(*_checked(logits, labels)) for logits in (logits_a, logits_b)]
    a, b = (_macro([_point(*problem) for problem in side]) for side in sides)
    rankings = [[rank(*problem) for problem in side] for side in sides]
    drawn = [np.empty(0)]
    for counts in resample(len(labels), resamples, seed):
        ours, theirs = (_macro([weighted_auc(ranking, counts) for ranking in side]) for side in rankings)
        drawn.append(ours - theirs)
    return difference(_number(a - b), np.concatenate(drawn))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, raised so that even one false alarm among them all is as rare as each says.

    Holm 1979: the smallest of m times m, the next times m - 1, and so on, never falling and never above one.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.empty_like(values)
    raised[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(raised, 1.0).tolist()
