"""What a training run is between two steps: weights, optimiser, counters, curves; saved, and gone back to.

All that a run needs to go on after a kill is in `last-state.pt`.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import save_model
from darklens.data.batches import Batches
from darklens.errors import CheckpointError, TrainingError
from darklens.metrics import probabilities, summary
from darklens.storage import checkpoint
from darklens.storage.training_config import TrainingRecipe
from darklens.training.ranks import Ranks
from darklens.training.recipes import OPTIMISERS
from darklens.training.sync_norm import synchronise

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
STATE, BEST = "last-state.pt", "best-model-parameters.pt"


class TrainingState:
    """A network in training. ranks: the processes that train it together; the first of them writes.

    averaged: a copy with the exponential moving average of the weights, where the recipe asks for it.
    """

    def __init__(
        self, classifier: Classifier, train: Batches, val: Batches, recipe: TrainingRecipe, folder: Path, ranks: Ranks
    ):
        self.classifier, self.network = classifier, classifier.network
        self.train, self.val, self.recipe = train, val, recipe
        self.folder, self.ranks, self.saved_at = Path(folder), ranks, time.monotonic()
        self.averaged = None
        if recipe.average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))
            synchronise(self.averaged.module, ranks)
        synchronise(self.network, ranks)
        self.optimiser = OPTIMISERS[recipe.optimiser](self.network, recipe.lr, recipe.weight_decay)
        self.precision = "fp32"
        self.class_weights: dict[str, float] | None = None
        self.epoch = self.step = 0
        self.sums = [0.0, 0.0]  # of this epoch so far: loss, correct answers
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.best: dict[str, Any] = {"score": None, "epoch": None, "logits": None}
        self.seconds = 0.0  # spent in training steps

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the trained one, or the exponential moving average of its weights."""
        return self.averaged.module if self.averaged else self.network

    def add_to_curves(self, logits: np.ndarray, log: Callable[[str], None]) -> list[float]:
        """An epoch's figures, with logits (n, K) of val, into curves and log; its score: macro AUC, then the loss."""
        labels, images = self.val.labels, len(self.train.labels)
        accuracy = 100 * float((logits.argmax(1) == labels).mean())
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        train_loss, train_accuracy = self.sums[0] / images, 100 * self.sums[1] / images
        for name, value in zip(CURVES, (train_loss, loss, train_accuracy, accuracy), strict=True):
            self.curves[name].append(value)
        auc = summary.evaluate(logits, labels, self.classifier.classes, bootstrap=0)["auc"]["macro"]["value"]
        log(
            f"epoch {self.epoch + 1}/{self.recipe.epochs}  train loss {train_loss:.4f} accuracy {train_accuracy:.2f}%  "
            f"{self.val.split.name} loss {loss:.4f} accuracy {accuracy:.2f}%  "
            f"macro AUC {'-' if auc is None else f'{auc:.4f}'}"
        )
        return [accuracy / 100 if auc is None else auc, -loss]

    def keep_best(self, score: list[float], logits: np.ndarray) -> None:
        """Save the network where its score is the best so far. Raises TrainingError for logits that are not finite."""
        if not np.isfinite(logits).all():
            raise TrainingError(f"the network's outputs are not finite after epoch {self.epoch + 1}. Lower --lr")
        if self.best["score"] is not None and score <= self.best["score"]:
            return
        temperature = probabilities.fit_temperature(logits, self.val.labels)
        self.best = {"score": score, "epoch": self.epoch + 1, "logits": torch.from_numpy(logits)}
        self.classifier.epoch, self.classifier.temperature = self.epoch + 1, temperature
        if self.ranks.first:
            save_model(replace(self.classifier, network=self.evaluated), self.folder / BEST)

    def save(self) -> None:
        """Write all that `resume` needs to `last-state.pt`. Raises CheckpointError."""
        if self.ranks.first:
            checkpoint.save(self._to_dict(), self.folder / STATE)
        self.saved_at = time.monotonic()

    def resume(self) -> str:
        """Go back to the newest saved state; returns a note for the log.

        Raises CheckpointError where that is damaged, of another run, or its best network is gone.
        """
        path = self.folder / STATE
        state, note = checkpoint.load_newest(path, self.train.device)
        try:
            self._restore(state)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: does not fit this run: {reason}") from error
        if self.best["epoch"] is not None:  # better now than when training is over
            checkpoint.load(self.folder / BEST, "meta")
        return note

    def timing(self) -> dict[str, float]:
        """How long training took, for `metrics.json`."""
        images = self.epoch * len(self.train.labels)
        return {"training_seconds": self.seconds, "training_images_per_second": images / max(self.seconds, 1e-9)}

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What must be the same whenever a run goes on. Two runs that agree in it have the same bits."""
        splits = self.train.split, self.val.split
        names = "\n".join(f"{split.images.folder.name}/{name}" for split in splits for name in split.images.names())
        return {
            **asdict(self.recipe),
            **self.classifier.config,
            **self.train.identity,
            **({"class weights": self.class_weights} if self.class_weights else {}),
            "kind": self.classifier.kind,
            "class names": list(self.classifier.classes),
            "precision": self.precision,
            "seed": self.train.seed,
            "files": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        }

    def _to_dict(self) -> dict[str, Any]:
        return {
            "run": self.description,
            "state": self.network.state_dict(),
            **({"averaged": self.averaged.state_dict()} if self.averaged else {}),
            "optimiser": self.optimiser.state_dict(),
            "progress": {"epoch": self.epoch, "step": self.step, "sums": self.sums, "seconds": self.seconds},
            "curves": self.curves,
            "best": self.best,
            "random": checkpoint.random_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state. Raises ValueError for that of another run, else whatever its parts do."""
        saved = state["run"]
        for name, value in self.description.items():
            if saved.get(name) != value:
                raise ValueError(f"it is of another run: {name} {saved.get(name)} there, {value} here")
        self.network.load_state_dict(state["state"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        progress = state["progress"]
        self.epoch, self.step, self.sums = progress["epoch"], progress["step"], progress["sums"]
        self.seconds, self.curves, self.best = progress["seconds"], state["curves"], state["best"]
        lengths = [len(self.curves[name]) for name in CURVES]
        if not (0 <= self.step <= len(self.train) and lengths == [self.epoch] * len(CURVES)):
            raise ValueError(f"epoch {self.epoch}, step {self.step} and curves of {lengths} epochs")
        if self.best["logits"] is not None:
            self.best["logits"] = self.best["logits"].cpu()
        checkpoint.set_random_state(state["random"])
