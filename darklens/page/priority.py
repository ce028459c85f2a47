"""Which lenses are most useful to label next? Those that the network is unsure of, that are new, and that differ.

The usefulness of one lens is the larger of the entropy of its calibrated probabilities, in units of that of a toss-up,
and its novelty, 1 being the threshold of "unlike the training data". Ordered by it alone, near twins would follow
each other: so the next lens is always the one of the largest usefulness times distance, in the embedding, to the
lenses that come before it (k-centre greedy, weighted).

References: Settles 2009, Active Learning Literature Survey, section 3.1 (entropy); Sener & Savarese 2018,
arXiv:1708.00489 (k-centre greedy).
"""

from __future__ import annotations

import numpy as np

SPREAD = 500  # lenses that are chosen one by one, each far from those before; more than anyone labels in a sitting


def usefulness(probabilities: np.ndarray, novelty: np.ndarray) -> np.ndarray:
    """(n,) from 0 to 1, of probabilities (n, K) and novelty scores (n,), NaN where there are none."""
    p = np.clip(np.nan_to_num(probabilities, nan=1.0), 1e-300, 1)
    entropy = -(p * np.log(p)).sum(1) / np.log(max(p.shape[1], 2))  # 1: all classes alike
    return np.clip(np.maximum(entropy, np.nan_to_num(novelty)), 0, 1)


def labelling_order(probabilities: np.ndarray, novelty: np.ndarray, embedding: np.ndarray | None = None) -> np.ndarray:
    """(n,) int: the place, from 1, of each lens in the order in which to label them.

    embedding: (n, D), of the network's last layer; None: by usefulness alone.
    """
    weight = usefulness(probabilities, novelty)
    order = np.argsort(-weight, kind="stable") if embedding is None else _spread_out(weight, embedding)
    places = np.empty(len(weight), int)
    places[order] = np.arange(1, len(weight) + 1)
    return places


def _spread_out(weight: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """(n,) int: the lenses in order; after the first SPREAD by usefulness times distance to all of these."""
    features = np.nan_to_num(np.asarray(embedding, np.float32))
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    squares = np.square(features).sum(1)  # (n,)
    nearest = np.full(len(weight), np.inf)  # (n,) squared distance to the chosen ones
    chosen = [int(weight.argmax())]
    for _ in range(min(SPREAD, len(weight)) - 1):
        nearest = np.minimum(nearest, squares + squares[chosen[-1]] - 2 * features @ features[chosen[-1]])
        nearest[chosen[-1]] = -np.inf
        chosen.append(int((weight * np.sqrt(np.maximum(nearest, 0)) + np.where(nearest < -1e30, -1, 0)).argmax()))
    rest = np.setdiff1d(np.arange(len(weight)), chosen)
    value = (weight * np.sqrt(np.maximum(nearest, 0)))[rest]
    return np.concatenate([chosen, rest[np.argsort(-value, kind="stable")]]).astype(int)
