"""Probabilities from logits, how well they are calibrated, and the temperature that mends them."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special


def check_arguments(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


BINS = 15  # of the expected calibration error
TEMPERATURES = (0.05, 20.0)  # range searched by fit_temperature


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


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Mean gap between top probability and accuracy, in equal-width bins (Guo et al. 2017, eq. 3)."""
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    number = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(number, correct - top, bins)).sum() / len(labels))


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood (nats), from the logits: a confident mistake is not clipped."""
    return float(-special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T within `TEMPERATURES` that minimises the NLL of softmax(logits / T) (Guo et al. 2017).

    The NLL is convex in 1/T: one minimum. If every image is classified right there is none (T -> 0, boundless
    confidence), and 1.0 is returned: nothing to learn. Raises ValueError as `evaluate` does.
    """
    logits, labels = check_arguments(logits, labels)
    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    fit = optimize.minimize_scalar(
        lambda log_t: log_loss(logits / np.exp(log_t), labels), bounds=np.log(TEMPERATURES), method="bounded"
    )
    return float(np.exp(fit.x))
