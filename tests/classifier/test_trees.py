"""Trees as plain arrays: scikit-learn's own decisions, through a checkpoint, and damaged ones refused."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from darklens.classifier.trees import Trees, from_sklearn
from darklens.storage import checkpoint

NAMES = list("abcdefg")


@pytest.fixture(scope="module")
def fitted() -> tuple[HistGradientBoostingClassifier, Trees]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, len(NAMES)))
    x[:, 3] = x[:, 3].round()  # ties at thresholds
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=11, min_samples_leaf=5)
    model.fit(x, x[:, 0] * x[:, 1] + x[:, 3] > 0.3)
    return model, from_sklearn(model, NAMES)


@pytest.mark.parametrize("count", [0, 1, 700])
def test_decisions_are_those_of_scikit_learn(fitted, count):
    model, trees = fitted
    x = 2 * np.random.default_rng(1).normal(size=(count, len(NAMES)))
    x[:, 3] = x[:, 3].round()
    expected = model.decision_function(x) if count else np.empty(0)
    np.testing.assert_allclose(trees.logits(x), expected, rtol=1e-12, atol=1e-12)


def test_a_model_without_trees():
    x, y = np.zeros((50, 2)), np.arange(50) < 10
    model = HistGradientBoostingClassifier(max_iter=3).fit(x, y)
    np.testing.assert_allclose(from_sklearn(model, ["a", "b"]).logits(x[:2]), model.decision_function(x[:2]))


def test_through_a_checkpoint(fitted, tmp_path):
    _, trees = fitted
    checkpoint.save({"trees": trees.to_dict()}, tmp_path / "trees.pt")
    again = Trees.from_dict(checkpoint.load(tmp_path / "trees.pt")["trees"])
    x = np.random.default_rng(2).normal(size=(20, len(NAMES)))
    assert np.array_equal(again.logits(x), trees.logits(x)) and again.names == tuple(NAMES)


def circle(trees: Trees) -> dict:
    left = trees.left.clone()
    left[5 if trees.feature[5] >= 0 else int((trees.feature[5:] >= 0).nonzero()[0, 0]) + 5] = 0
    return {"left": left}


DAMAGES = {
    "a circle": circle,
    "a root outside": lambda trees: {"roots": trees.roots + len(trees.feature)},
    "a child outside": lambda trees: {"right": torch.full_like(trees.right, len(trees.feature))},
    "a feature without a name": lambda trees: {"names": trees.names[:2]},
    "a leaf of NaN": lambda trees: {"value": trees.value * torch.nan},
    "another type": lambda trees: {"threshold": trees.threshold.float()},
    "too few": lambda trees: {"left": trees.left[:-1]},
    "no baseline": lambda trees: {"baseline": None},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_trees_are_refused(fitted, damage):
    trees = fitted[1]
    with pytest.raises(ValueError, match="trees: expected"):
        Trees.from_dict(dataclasses.replace(trees, **DAMAGES[damage](trees)).to_dict())
    with pytest.raises(ValueError, match="trees: expected"):
        Trees.from_dict({"roots": trees.roots})
