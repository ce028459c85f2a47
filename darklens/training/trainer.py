"""Trains a classifier and measures one: fit, evaluate.

Everything a run needs to go on after a kill is in `last-state.pt`; the best network so far in
`best-model-parameters.pt`. The trainer knows nothing of flags, folders' names or pictures of its own.
"""

import contextlib
import functools
import hashlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import save_model
from darklens.data.batches import Batch, Batches
from darklens.errors import CheckpointError, Interrupted, TrainingError
from darklens.machine import autocast
from darklens.metrics import probabilities, summary
from darklens.plots import run
from darklens.storage import checkpoint, records
from darklens.storage.progress import progress
from darklens.training.evaluate import enough_memory, evaluate, recalibrate
from darklens.training.loss import as_weights, cross_entropy
from darklens.training.ranks import Ranks
from darklens.training.recipes import OPTIMISERS, SCHEDULES, Recipe
from darklens.training.sync_norm import synchronise

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


class Trainer:
    """Fits `classifier.network` to `train`, keeps the best network on `val` in `folder`.

    Raises from `fit`: TrainingError for a loss that is not finite or a full GPU; Interrupted after SIGTERM or SIGINT;
    CheckpointError and ResultsError where the folder cannot be written; DataError for a bad image; RankError where
    one of several processes is gone. ranks: the processes that train together; the first of them writes.
    class_weights: what an image of each class counts in the loss (None: 1); no other figure heeds them.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: Batches,
        val: Batches,
        recipe: Recipe,
        folder: Path,
        log: Callable[[str], None] = print,
        precision: str = "fp32",
        compiled: bool = False,
        quiet: bool = False,
        save_every: float = 180.0,
        ranks: Ranks | None = None,
        class_weights: dict[str, float] | None = None,
    ):
        self.classifier, self.train, self.val, self.recipe = classifier, train, val, recipe
        self.folder, self.log, self.precision, self.quiet = Path(folder), log, precision, quiet
        self.save_every, self.saved, self.plotted = save_every, time.monotonic(), -math.inf
        self.on_epoch: Callable[[dict[str, list[float]], float], None] | None = None  # of curves and learning rate
        self.network, self.ranks = classifier.network, ranks or Ranks()
        self.class_weights, self.weights = class_weights, as_weights(class_weights, train.device)
        self.averaged = None
        if recipe.average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))
            synchronise(self.averaged.module, self.ranks)
        synchronise(self.network, self.ranks)
        self.forward = torch.compile(self.network, fullgraph=True) if compiled else self.network
        self.optimiser = OPTIMISERS[recipe.optimiser](self.network, recipe.lr, recipe.weight_decay)
        self.epoch = self.step = 0
        self.sums = [0.0, 0.0]  # of this epoch so far: loss, right answers
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.best = {"score": None, "epoch": None, "logits": None}
        self.seconds = 0.0  # spent in training steps
        self.received: list[int] = []  # signals that ask to stop

    # --- the loop -------------------------------------------------------------------------------------------

    def fit(self) -> None:
        with _signals() as self.received, enough_memory(self.recipe.batch_size):
            while self.epoch < self.recipe.epochs:
                self._train_epoch()
                self._finish_epoch()
                self._stop_if_asked()
        self._draw_curves(last=True)

    def _train_epoch(self) -> None:
        self.network.train()
        batches = self.train.epoch(self.epoch, start=self.step)
        with self._bar(f"epoch {self.epoch + 1}/{self.recipe.epochs}", len(self.train), self.step) as bar:
            for batch in batches:
                start, images = time.perf_counter(), self.train.count(self.step)
                self.ranks.begin(images)
                loss = self._train_step(batch)
                self.step += 1
                self.seconds += time.perf_counter() - start
                bar.update(1, f"loss {loss:.3f}", images)
                self._pause()

    def _train_step(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        logits, loss = self._loss(batch)
        right = (logits.argmax(1) == batch.labels).float()
        images, value, right = self.ranks.whole, *self._whole_batch(loss, right)
        self._check_finite(value, batch)
        self.optimiser.zero_grad(set_to_none=True)
        (loss if self.ranks.alone else loss.sum() / images).backward()
        self.ranks.add_gradients(list(self.network.parameters()))
        self.optimiser.step()
        if self.averaged:
            self.averaged.update_parameters(self.network)
        self.sums[0] += value * images
        self.sums[1] += right
        return value

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the mean loss (), of each image (B,) where other processes have some of the batch."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with autocast(self.train.device, self.precision):
            logits = self.forward(images)
        options = self.recipe.smoothing, self.weights, self.ranks.alone
        return logits, cross_entropy(logits.float(), batch.labels, *options)

    def _whole_batch(self, loss: Tensor, right: Tensor) -> tuple[float, float]:
        """The mean loss and the right answers of all processes. loss: as of `_loss`; right: (B,)."""
        if self.ranks.alone:
            return loss.item(), right.sum().item()
        parts = self.ranks.split(torch.stack((loss.detach(), right), 1).double())  # (B, 2), by shard
        loss, right = self.ranks.total(torch.stack([part.sum(0) for part in parts])).tolist()
        return loss / self.ranks.whole, right

    def learning_rate(self) -> float:
        total = self.recipe.epochs * len(self.train)
        progress = (self.epoch * len(self.train) + self.step) / total
        return self.recipe.lr * SCHEDULES[self.recipe.schedule](progress)

    def _check_finite(self, loss: float, batch: Batch) -> None:
        if math.isfinite(loss):
            return
        indices = self.ranks.join(batch.indices.to(self.train.device))
        names = ", ".join(str(self.train.path(index)) for index in indices.tolist())
        self.log(f"files of the batch: {names}")
        raise TrainingError(
            f"the loss is {loss} at epoch {self.epoch + 1}, step {self.step + 1}, learning rate "
            f"{self.learning_rate():.2e}; the best network so far is kept. Lower --lr or look at the files in the log"
        )

    # --- the end of an epoch --------------------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        self._recalibrate()
        logits = self.evaluate_val()
        labels, images = self.val.labels, len(self.train.labels)
        accuracy = 100 * float((logits.argmax(1) == labels).mean())
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        train_loss, train_accuracy = self.sums[0] / images, 100 * self.sums[1] / images
        for name, value in zip(CURVES, (train_loss, loss, train_accuracy, accuracy), strict=True):
            self.curves[name].append(value)
        auc = summary.evaluate(logits, labels, self.classifier.classes, bootstrap=0)["auc"]["macro"]["value"]
        shown = "-" if auc is None else f"{auc:.4f}"
        self.log(
            f"epoch {self.epoch + 1}/{self.recipe.epochs}  train loss {train_loss:.4f} accuracy {train_accuracy:.2f}%  "
            f"{self.val.split.name} loss {loss:.4f} accuracy {accuracy:.2f}%  macro AUC {shown}"
        )
        self._keep_best([accuracy / 100 if auc is None else auc, -loss], logits)
        if self.on_epoch:
            self.on_epoch(self.curves, self.learning_rate())
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0]
        if self.ranks.first:
            records.save_curves(self.folder, self.curves)
        self.save()
        self._draw_curves()

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the trained one, or the exponential moving average of its weights."""
        return self.averaged.module if self.averaged else self.network

    def _recalibrate(self) -> None:
        """Averaged weights always need it: no batch has gone through them."""
        if batches := self.recipe.recalibrate or (20 if self.averaged else 0):
            first = itertools.islice(self.train.epoch(self.epoch), batches)
            recalibrate(self.evaluated.train(), first, self.precision, self._begin)

    def _begin(self, number: int) -> None:
        self.ranks.begin(self.train.count(number))

    def evaluate_val(self) -> np.ndarray:
        def bar(batches: Iterator[Batch]) -> Iterator[Batch]:
            return self._iterate(batches, "validating", len(self.val))

        return evaluate(self.evaluated, self.val, self.precision, bar, self.ranks)

    def _keep_best(self, score: list[float], logits: np.ndarray) -> None:
        """The best epoch has the highest macro AUC; equal ones are told apart by the loss."""
        if not np.isfinite(logits).all():
            raise TrainingError(f"the network's outputs are not finite after epoch {self.epoch + 1}. Lower --lr")
        if self.best["score"] is not None and score <= self.best["score"]:
            return
        temperature = probabilities.fit_temperature(logits, self.val.labels)
        self.best = {"score": score, "epoch": self.epoch + 1, "logits": torch.from_numpy(logits)}
        self.classifier.epoch, self.classifier.temperature = self.epoch + 1, temperature
        if self.ranks.first:
            best = replace(self.classifier, network=self.evaluated)
            save_model(best, self.folder / "best-model-parameters.pt")

    def _draw_curves(self, last: bool = False) -> None:
        due = time.monotonic() - self.plotted > 60 and not self.received  # who asks to stop does not wait for pictures
        if self.ranks.first and (last or due):
            run.plot_curves(self.folder, self.curves)
            self.plotted = time.monotonic()

    def timing(self) -> dict:
        images = self.epoch * len(self.train.labels)
        return {"training_seconds": self.seconds, "training_images_per_second": images / max(self.seconds, 1e-9)}

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> dict:
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

    def save(self) -> None:
        """Write all that `resume` needs to `last-state.pt`. Raises CheckpointError."""
        if self.ranks.first:
            checkpoint.save(self.state(), self.folder / "last-state.pt")
        self.saved = time.monotonic()

    @functools.cached_property
    def description(self) -> dict:
        """What must be the same whenever a run goes on. Two runs that agree in it have the same bits."""
        splits = self.train.split, self.val.split
        names = "\n".join(f"{split.images.folder.name}/{name}" for split in splits for name in split.images.names())
        return {
            **asdict(self.recipe),
            **self.network.config,
            **self.train.identity,
            **({"class weights": self.class_weights} if self.class_weights else {}),
            "kind": self.classifier.kind,
            "class names": list(self.classifier.classes),
            "precision": self.precision,
            "seed": self.train.seed,
            "files": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        }

    def resume(self) -> str:
        """Go back to the newest saved state; returns a note for the log.

        Raises CheckpointError where that is damaged, of another run, or its best network is gone.
        """
        path = self.folder / "last-state.pt"
        state, note = checkpoint.load_newest(path, self.train.device)
        try:
            self._restore(state)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: does not fit this run: {reason}") from error
        if self.best["epoch"] is not None:  # better now than when training is over
            checkpoint.load(self.folder / "best-model-parameters.pt", "meta")
        return note

    def _restore(self, state: dict) -> None:
        """Take over a saved state. Raises ValueError for that of another run, else whatever its parts do."""
        then = state["run"]
        for name, now in self.description.items():
            if then.get(name) != now:
                raise ValueError(f"it is of another run: {name} {then.get(name)} there, {now} here")
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

    def _pause(self) -> None:
        """Between two batches: save when it is time, stop when a signal asked for it."""
        asked = self._asked()
        if asked or time.monotonic() - self.saved > self.save_every:
            self.save()
        if asked:
            raise Interrupted(asked)

    def _stop_if_asked(self) -> None:
        if asked := self._asked():
            raise Interrupted(asked)

    def _asked(self) -> int:
        """The signal that asked this process, or another, to stop: all of them learn it at the same place."""
        return self.ranks.agree(self.received[0] if self.received else 0)

    # --- progress -------------------------------------------------------------------------------------------

    def _bar(self, title: str, total: int, start: int = 0) -> progress:
        return progress(total, title, "step", self.quiet, start)

    def _iterate(self, items: Iterator, title: str, total: int) -> Iterator:
        for item in self._bar(title, total).over(items):
            yield item
            self._pause()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT so that the loop can stop between two steps."""
    received: list[int] = []
    previous = {
        s: signal.signal(s, lambda number, frame: received.append(number)) for s in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
