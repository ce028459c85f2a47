"""How good is a classifier? Pure functions from logits (n, K) and labels (n,) to numbers.

`evaluate` is the report of one run, `fit_temperature` calibrates it, and `delong_test` and `mcnemar_test`
say whether two networks differ on the same images; `bootstrap` each network once, look at pairs with `difference`, and
correct for many pairs with `holm`.

References
----------
Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13 (percentile interval).
Guo et al. 2017, arXiv:1706.04599 (temperature scaling; expected calibration error).
DeLong et al. 1988, Biometrics 44:837; Sun & Xu 2014, IEEE Signal Process. Lett. 21:1389 (the fast algorithm).
McNemar 1947, Psychometrika 12:153.
Holm 1979, Scand. J. Stat. 6:65 (correction for many tests).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from darklens.metrics.auc import auc_report, binary_problems, bootstrap_auc, interval, json_number, true_positive_rates
from darklens.metrics.probabilities import check_arguments, expected_calibration_error, log_loss, softmax


def _probabilistic(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of the probabilities: log loss (nats), Brier score (0 to 2), calibration error (0 to 1)."""
    probabilities, onehot = softmax(logits), labels[:, None] == np.arange(logits.shape[1])
    return {
        "log_loss": log_loss(logits, labels),
        "brier_score": float(((probabilities - onehot) ** 2).sum(axis=1).mean()),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def _per_class(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> dict[str, dict]:
    """Purity (precision) and completeness (recall), None where no image was predicted, or none exists."""
    numbers = np.arange(len(classes))
    purity, completeness, _, _ = precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=np.nan
    )
    named = {"purity": purity, "completeness": completeness}
    return {key: dict(zip(classes, map(json_number, values), strict=True)) for key, values in named.items()}


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
    logits, labels = check_arguments(logits, labels)
    if len(classes) != logits.shape[1]:
        raise ValueError(f"expected one class name per logit: {logits.shape[1]} logits, names {list(classes)}")
    predicted = logits.argmax(axis=1)
    problems = binary_problems(logits, labels)
    samples = bootstrap_auc(problems, predicted == labels, bootstrap, seed)
    accuracy = float((predicted == labels).mean())
    return {
        "images": len(labels),
        "classes": list(classes),
        "accuracy": accuracy,
        "accuracy_percent": 100 * accuracy,
        "accuracy_interval": interval(samples["accuracy"]),
        "auc": auc_report(problems, samples, classes),
        **_probabilistic(logits, labels),
        **_per_class(labels, predicted, classes),
        "true_positive_rate": true_positive_rates(logits, labels, classes),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=np.arange(len(classes))).tolist(),
        "temperature": temperature,
        "calibrated": None if temperature is None else _probabilistic(logits / temperature, labels),
        "bootstrap": bootstrap,
        "seed": seed,
    }
