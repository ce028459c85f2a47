"""The training loop: fits a classifier's network, epoch by epoch, and keeps the best one.

run = Trainer(classifier, batches["train"], batches["val"], RECIPES["fast"], folder)
run.fit()                                            # the best network is now in folder/best-model-parameters.pt
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from darklens.classifier.classifier import Classifier
from darklens.data.batches import Batch, Batches
from darklens.errors import Interrupted, TrainingError
from darklens.machine import autocast
from darklens.plots import run
from darklens.storage import records
from darklens.storage.progress import progress
from darklens.storage.training_config import TrainingRecipe
from darklens.training.evaluate import enough_memory, evaluate, recalibrate
from darklens.training.loss import as_weights, cross_entropy
from darklens.training.ranks import Ranks
from darklens.training.recipes import SCHEDULES
from darklens.training.signals import collect_signals
from darklens.training.state import TrainingState


class Trainer(TrainingState):
    """Fits `classifier.network` to `train`, keeps the best network on `val` in `folder`.

    Raises from `fit`: TrainingError for a loss that is not finite or a full GPU; Interrupted after SIGTERM or SIGINT;
    CheckpointError and ResultsError where the folder cannot be written; DataError for a bad image; RankError where
    one of several processes is gone. save_every: seconds between two saved states; ranks: the processes that train
    together; class_weights: what an image of each class counts in the loss (None: 1); no other figure heeds them;
    on_epoch: called after each epoch with the curves and the learning rate.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: Batches,
        val: Batches,
        recipe: TrainingRecipe,
        folder: Path,
        *,
        log: Callable[[str], None] = print,
        precision: str = "fp32",
        compiled: bool = False,
        quiet: bool = False,
        save_every: float = 180.0,
        ranks: Ranks | None = None,
        class_weights: dict[str, float] | None = None,
        on_epoch: Callable[[dict[str, list[float]], float], None] | None = None,
    ):
        super().__init__(classifier, train, val, recipe, folder, ranks or Ranks())
        self.log, self.precision, self.quiet, self.on_epoch = log, precision, quiet, on_epoch
        self.class_weights, self.weights = class_weights, as_weights(class_weights, train.device)
        self.forward = torch.compile(self.network, fullgraph=True) if compiled else self.network
        self.save_every, self.plotted_at = save_every, -math.inf
        self.signals: list[int] = []  # received, which ask to stop

    def fit(self) -> None:
        with collect_signals() as self.signals, enough_memory(self.recipe.batch_size):
            while self.epoch < self.recipe.epochs:
                self._train_epoch()
                self._finish_epoch()
                if number := self._signal():
                    raise Interrupted(number)
        self._draw_curves(last=True)

    def _train_epoch(self) -> None:
        self.network.train()
        batches = self.train.epoch(self.epoch, start=self.step)
        with self._bar(f"epoch {self.epoch + 1}/{self.recipe.epochs}", len(self.train), self.step) as bar:
            for batch in batches:
                start, images = time.perf_counter(), self.train.count(self.step)
                self.ranks.set_batch(images)
                loss = self._train_step(batch)
                self.step += 1
                self.seconds += time.perf_counter() - start
                bar.update(1, f"loss {loss:.3f}", images)
                self._save_or_stop()

    def _train_step(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        logits, loss = self._loss(batch)
        value, correct = self._batch_figures(loss, (logits.argmax(1) == batch.labels).float())
        self._check_finite(value, batch)
        self.optimiser.zero_grad(set_to_none=True)
        images = self.ranks.batch_size
        (loss if self.ranks.single_process else loss.sum() / images).backward()
        self.ranks.add_gradients(list(self.network.parameters()))
        self.optimiser.step()
        if self.averaged:
            self.averaged.update_parameters(self.network)
        self.sums[0] += value * images
        self.sums[1] += correct
        return value

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the mean loss (), of each image (B,) where other processes have some of the batch."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with autocast(self.train.device, self.precision):
            logits = self.forward(images)
        mean = self.ranks.single_process
        return logits, cross_entropy(logits.float(), batch.labels, self.recipe.smoothing, self.weights, mean)

    def _batch_figures(self, loss: Tensor, correct: Tensor) -> tuple[float, float]:
        """The mean loss and the correct answers over all processes. loss: as of `_loss`; correct: (B,) of 0 and 1."""
        if self.ranks.single_process:
            return loss.item(), correct.sum().item()
        sums = torch.stack((loss.detach(), correct), 1).double().sum(0)  # (B, 2) -> (2,)
        loss_sum, correct_sum = self.ranks.total(sums).tolist()
        return loss_sum / self.ranks.batch_size, correct_sum

    def learning_rate(self) -> float:
        done = (self.epoch * len(self.train) + self.step) / (self.recipe.epochs * len(self.train))
        return self.recipe.lr * SCHEDULES[self.recipe.schedule](done)

    def _check_finite(self, loss: float, batch: Batch) -> None:
        if math.isfinite(loss):
            return
        indices = self.ranks.gather_images(batch.indices.to(self.train.device))
        names = ", ".join(str(self.train.path(index)) for index in indices.tolist())
        self.log(f"files of the batch: {names}")
        raise TrainingError(
            f"the loss is {loss} at epoch {self.epoch + 1}, step {self.step + 1}, learning rate "
            f"{self.learning_rate():.2e}; the best network so far is kept. Lower --lr or look at the files in the log"
        )

    def _finish_epoch(self) -> None:
        self._recalibrate()
        logits = self.evaluate_val()
        score = self.add_to_curves(logits, self.log)
        self.keep_best(score, logits)
        if self.on_epoch:
            self.on_epoch(self.curves, self.learning_rate())
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0]
        if self.ranks.first:
            records.save_curves(self.folder, self.curves)
        self.save()
        self._draw_curves()

    def _recalibrate(self) -> None:
        """Batch norms' statistics anew. Averaged weights always need it: no batch has gone through them."""
        if batches := self.recipe.recalibrate or (20 if self.averaged else 0):
            first = itertools.islice(self.train.epoch(self.epoch), batches)
            set_batch = lambda number: self.ranks.set_batch(self.train.count(number))  # noqa: E731
            recalibrate(self.evaluated.train(), first, self.precision, set_batch)

    def evaluate_val(self) -> np.ndarray:
        """Logits (n, K) of the validation images."""

        def bar(batches: Iterator[Batch]) -> Iterator[Batch]:
            for batch in self._bar("validating", len(self.val)).over(batches):
                yield batch
                self._save_or_stop()

        return evaluate(self.evaluated, self.val, self.precision, bar, self.ranks)

    def _draw_curves(self, last: bool = False) -> None:
        due = time.monotonic() - self.plotted_at > 60 and not self.signals  # who asks to stop does not wait for them
        if self.ranks.first and (last or due):
            run.plot_curves(self.folder, self.curves)
            self.plotted_at = time.monotonic()

    def _save_or_stop(self) -> None:
        """Between two batches: save when it is time, stop when a signal asked for it."""
        number = self._signal()
        if number or time.monotonic() - self.saved_at > self.save_every:
            self.save()
        if number:
            raise Interrupted(number)

    def _signal(self) -> int:
        """The signal that asked this process, or another, to stop: all of them learn it at the same place."""
        return self.ranks.all_reduce_max(self.signals[0] if self.signals else 0)

    def _bar(self, title: str, total: int, start: int = 0) -> progress:
        return progress(total, title, "step", self.quiet, start)
