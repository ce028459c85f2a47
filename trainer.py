"""The training loop, and the measurement of a trained network.

run = Trainer(classifier, batches["train"], batches["val"], RECIPES["fast"], folder)
run.fit()                                            # keeps the best network in `folder`
logits = evaluate(classifier.network, batches["test"], "fp32")         # (n, K), in file order
"""

from darklens.storage.training_config import TrainingRecipe
from darklens.training.evaluate import evaluate, recalibrate
from darklens.training.recipes import BASELINE_RECIPES, RECIPES, SCHEDULES
from darklens.training.trainer import Trainer

Recipe = TrainingRecipe  # as it was called before

__all__ = ["BASELINE_RECIPES", "RECIPES", "SCHEDULES", "Recipe", "Trainer", "TrainingRecipe", "evaluate", "recalibrate"]
