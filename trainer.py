"""The training loop, and the measurement of a trained network.

run = Trainer(classifier, batches["train"], batches["val"], RECIPES["fast"], folder)
run.fit()                                            # keeps the best network in `folder`
logits = evaluate(classifier.network, batches["test"], "fp32")         # (n, K), in file order
"""

from darklens.training.evaluate import evaluate, recalibrate
from darklens.training.recipes import BASELINE_RECIPES, RECIPES, SCHEDULES, Recipe
from darklens.training.trainer import Trainer

__all__ = ["BASELINE_RECIPES", "RECIPES", "SCHEDULES", "Recipe", "Trainer", "evaluate", "recalibrate"]
