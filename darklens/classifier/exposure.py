"""Can the class of an image be trusted? A small classifier that has seen images go wrong.

    detector = fit_detector(exposure, clean)             # trained by `calibrate.expose`
    scores = detector.score(figures)                     # (n,): above 1.0 the class is not to be trusted

Outlier exposure (Hendrycks, Mazeika & Dietterich 2019, arXiv:1812.04606): what was trained on many kinds of changed
images tells other kinds, too. Gradient-boosted trees (Friedman 2001) read the figures of an image, its smooth lens, its
residual and its probabilities (figures.py), and tell changed images that the network gets wrong from clean ones and
from changed ones that it gets right.

A neighbour, a star or a stretch that moves neither the mean chi-square nor the means over rings, on which `novelty`
rests, is found so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from darklens.classifier.trees import Trees, from_sklearn
from darklens.errors import CheckpointError

RATE = 0.018  # of clean images that may be flagged, the flags of the fit among them: for 2% of new ones
OWN = 0.01  # the same without them, where they alone are more
RIGHT = 0.1  # weight of changed images that the network gets right, those that it gets wrong having 1
SETTINGS = {
    "max_iter": 200,
    "learning_rate": 0.06,
    "max_leaf_nodes": 12,
    "max_bins": 63,
    "min_samples_leaf": 8,
    "l2_regularization": 3.0,
    "random_state": 0,
}


@dataclass(frozen=True, eq=False)
class Exposure:
    """What became of n images: figures {name: (n,)}; wrong (n,) bool: their class; flagged (n,) bool by the fit, or for
    much novelty, whatever a detector says; kinds (n,) names of the changes, "" for clean images."""

    figures: Mapping[str, np.ndarray]
    wrong: np.ndarray
    flagged: np.ndarray
    kinds: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        return self.kinds != ""

    @property
    def matrix(self) -> np.ndarray:
        """(n, D) in the order of the figures."""
        return np.stack(list(self.figures.values()), 1)

    def __getitem__(self, rows: np.ndarray) -> Exposure:
        figures = {name: values[rows] for name, values in self.figures.items()}
        return Exposure(figures, self.wrong[rows], self.flagged[rows], self.kinds[rows])

    def __len__(self) -> int:
        return len(self.kinds)


def join(parts: Sequence[Exposure]) -> Exposure:
    """The images of all parts."""
    figures = {name: np.concatenate([part.figures[name] for part in parts]) for name in parts[0].figures}
    wrong, flagged, kinds = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("wrong", "flagged", "kinds")
    )
    return Exposure(figures, wrong, flagged, kinds)


@dataclass(frozen=True, eq=False)
class OutlierDetector:
    """Scores in which 1.0 is the threshold: the odds that an image was changed so that its class is wrong, over those
    at which clean images are flagged in a share `rate`, flags of the fit included.

    images: how many clean and changed ones it was trained on, and clean ones that set the threshold.
    """

    trees: Trees
    limit: float
    rate: float
    images: tuple[int, int, int]

    def score(self, figures: Mapping[str, np.ndarray]) -> np.ndarray:
        """{name: (n,)} -> (n,) float64. Raises CheckpointError where a figure is missing."""
        if missing := [name for name in self.trees.names if name not in figures]:
            raise CheckpointError(
                f"its detector of outliers reads figures that this program does not know: {', '.join(missing[:5])}"
            )
        x = np.stack([np.asarray(figures[name], dtype=np.float64) for name in self.trees.names], 1)
        return np.exp(np.clip(self.trees.logits(x) - self.limit, -30, 30))

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, for checkpoints."""
        return {"trees": self.trees.to_dict(), "limit": self.limit, "rate": self.rate, "images": list(self.images)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> OutlierDetector:
        """The inverse of `to_dict`. Raises ValueError for anything inconsistent."""
        if set(values) != {"trees", "limit", "rate", "images"}:
            raise ValueError(f"outliers: expected trees, limit, rate, images, found {sorted(map(str, values))}")
        limit, rate, images = values["limit"], values["rate"], values["images"]
        if not (isinstance(limit, float) and math.isfinite(limit) and isinstance(rate, float) and 0 < rate < 1):
            raise ValueError(f"outliers: expected a limit and a rate, found {limit!r} and {rate!r}")
        if [type(n) for n in images] != [int, int, int]:
            raise ValueError(f"outliers: expected three numbers of images, found {images!r}")
        return cls(Trees.from_dict(values["trees"]), limit, rate, tuple(images))


def fit_trees(exposure: Exposure, rows: np.ndarray | None = None) -> Trees:
    """Trees that tell changed and wrong images from others. rows: (n,) bool, to train on. Clean images that the
    network gets wrong say nothing about changes and are left out."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    used = ~exposure.wrong | exposure.changed
    used &= np.ones(len(exposure), dtype=bool) if rows is None else rows
    weight = np.where(exposure.changed & ~exposure.wrong, RIGHT, 1.0)
    positive = exposure.changed & exposure.wrong
    model = HistGradientBoostingClassifier(**SETTINGS)
    model.fit(exposure.matrix[used], positive[used], sample_weight=weight[used])
    return from_sklearn(model, list(exposure.figures))


def threshold(scores: np.ndarray, flagged: np.ndarray, rate: float = RATE) -> float:
    """The logit that at most a share `rate` of clean images exceeds or is flagged anyhow, by scores (n,) and flags.

    Where the fit alone flags more than that, a share of OWN is flagged besides.
    """
    ordered = np.sort(scores[~flagged])[::-1]
    budget = math.floor(rate * len(scores)) - int(flagged.sum())
    budget = math.floor(OWN * len(scores)) if budget < 0 else budget
    return float(ordered[min(budget, len(ordered) - 1)])


def fit_detector(exposure: Exposure, clean: Exposure, rate: float = RATE) -> OutlierDetector:
    """Train on `exposure`, and set the threshold by clean images that it hasn't seen. Raises ValueError for too few."""
    wrong = int((exposure.changed & exposure.wrong).sum())
    if wrong < 20 or len(clean) < 100:
        raise ValueError(f"outliers: expected 20 changed wrong and 100 clean images, found {wrong} and {len(clean)}")
    trees = fit_trees(exposure)
    limit = threshold(trees.logits(clean.matrix), clean.flagged, rate)
    counts = int((~exposure.changed).sum()), int(exposure.changed.sum()), len(clean)
    return OutlierDetector(trees, limit, rate, counts)
