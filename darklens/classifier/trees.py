"""Gradient-boosted trees as plain arrays, read without pickle and evaluated by NumPy.

trees = from_sklearn(HistGradientBoostingClassifier().fit(x, y), names)
trees.logits(x)                                   # (n,), scikit-learn's decision_function
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trees:
    """Binary trees whose leaves add up to the logit of the positive class (Friedman 2001, Ann. Statist. 29, 1189).

    names: of the D features. roots: (T,) int64 numbers of the trees' first nodes. feature: (M,) int64 of each node,
    -1 at a leaf; threshold: (M,) float64, values up to it go left; left, right: (M,) int64 numbers of the nodes that
    follow; value: (M,) float64 of leaves. baseline: the logit without trees.
    """

    names: tuple[str, ...]
    roots: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    baseline: float

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(n, D) finite -> (n,) float64."""
        feature, threshold, left, right, value = (
            tensor.numpy() for tensor in (self.feature, self.threshold, self.left, self.right, self.value)
        )
        node = np.broadcast_to(self.roots.numpy(), (len(x), len(self.roots)))  # (n, T)
        rows = np.arange(len(x))[:, None]
        while (feature[node] >= 0).any():
            inner = feature[node] >= 0
            goes_left = x[rows, np.maximum(feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        return self.baseline + value[node].sum(1)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for checkpoints."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"names": list(self.names)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trees:
        """The inverse of `to_dict`. Raises ValueError for trees that cannot be evaluated."""
        if set(values) != {field.name for field in fields(cls)}:
            raise ValueError(
                f"trees: expected {', '.join(f.name for f in fields(cls))}, found {sorted(map(str, values))}"
            )
        trees = cls(**{**values, "names": tuple(values["names"])})
        _check(trees)
        return trees


def _check(trees: Trees) -> None:
    """Raise ValueError unless every path leads down to a leaf."""
    count = len(trees.feature)
    kinds = {"roots": torch.int64, "feature": torch.int64, "left": torch.int64, "right": torch.int64}
    kinds |= {"threshold": torch.float64, "value": torch.float64}
    for name, kind in kinds.items():
        tensor = getattr(trees, name)
        if not isinstance(tensor, Tensor) or tensor.dtype != kind or tensor.ndim != 1:
            raise ValueError(f"trees: expected {name} as a vector of {kind}")
        if name != "roots" and len(tensor) != count:
            raise ValueError(f"trees: expected {count} numbers of {name}, found {len(tensor)}")
    if not all(isinstance(name, str) for name in trees.names) or not isinstance(trees.baseline, float):
        raise ValueError("trees: expected names of features and a baseline")
    inner, numbers = trees.feature >= 0, torch.arange(count)
    if (
        not (trees.feature < len(trees.names)).all()
        or not trees.value.isfinite().all()
        or trees.threshold.isnan().any()
    ):
        raise ValueError("trees: expected features that have names, and numbers")
    if len(trees.roots) and not ((trees.roots >= 0) & (trees.roots < count)).all():
        raise ValueError("trees: expected roots among the nodes")
    for child in (trees.left, trees.right):  # children come after their parents: no circles
        if not ((child > numbers) & (child < count))[inner].all():
            raise ValueError("trees: expected nodes in order, parents first")


def from_sklearn(model: Any, names: Sequence[str]) -> Trees:
    """The trees of a fitted binary `HistGradientBoostingClassifier` without categories."""
    nodes = [predictors[0].nodes for predictors in model._predictors]
    sizes = np.array([len(part) for part in nodes], dtype=np.int64)
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else sizes
    joined = np.concatenate(nodes)
    shift, leaf = np.repeat(roots, sizes), joined["is_leaf"].astype(bool)

    def tensor(values: np.ndarray, dtype: type) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values.astype(dtype)))

    return Trees(
        names=tuple(names),
        roots=tensor(roots, np.int64),
        feature=tensor(np.where(leaf, -1, joined["feature_idx"].astype(np.int64)), np.int64),
        threshold=tensor(np.where(leaf, 0.0, joined["num_threshold"]), np.float64),
        left=tensor(np.where(leaf, 0, joined["left"].astype(np.int64) + shift), np.int64),
        right=tensor(np.where(leaf, 0, joined["right"].astype(np.int64) + shift), np.int64),
        value=tensor(np.where(leaf, joined["value"], 0.0), np.float64),
        baseline=float(np.ravel(model._baseline_prediction)[0]),
    )
