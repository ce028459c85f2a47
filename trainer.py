"""Trains a classifier and measures one: fit, evaluate.

Everything a run needs to go on after a kill is in `last-state.pt`; the best network so far in
`best-model-parameters.pt`. The trainer knows nothing of flags, folders' names or pictures of its own.
"""

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import checkpoint
import metrics
import results
from classifier import Classifier, autocast, evaluator, save_model
from dataset import Batch, Batches

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
WARMUP = 0.2  # share of a one-cycle run in which the learning rate rises


def one_cycle(progress: float) -> float:
    """Rise to 1 over the first `WARMUP` of the run, then fall to 0, both along a cosine (Smith & Topin 2017,
    arXiv:1708.07120). progress: 0 to 1."""
    rise = progress / WARMUP if progress < WARMUP else 1 - (progress - WARMUP) / (1 - WARMUP)
    return max(0.5 - 0.5 * math.cos(math.pi * rise), 1e-3)


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda progress: 1.0, "one-cycle": one_cycle}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    lr: the peak learning rate; smoothing: of the labels; recalibrate: training batches from which the batch norms'
    statistics are taken anew before each evaluation (0: the running ones, which lag behind a fast learner); shift:
    pixels by which training crops may be off centre (None: as far as the image goes).
    """

    optimiser: str
    lr: float
    weight_decay: float
    schedule: str
    epochs: int
    batch_size: int
    smoothing: float = 0.0
    recalibrate: int = 0
    shift: int | None = None


RECIPES = {
    "seed": Recipe("adam", lr=5e-5, weight_decay=1e-5, schedule="constant", epochs=30, batch_size=64),
    "fast": Recipe(
        "adamw", lr=3e-3, weight_decay=1e-2, schedule="one-cycle", epochs=5, batch_size=32, recalibrate=20, shift=1
    ),
}
CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


class TrainingError(RuntimeError):
    """Training cannot go on; one line that says why and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved. `status` is the exit status that says so."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


def evaluate(network: nn.Module, batches: Batches, precision: str, bar: Callable = iter) -> np.ndarray:
    """Logits (n, K) of all images of a split, in file order: one pass, no augmentation."""
    run = evaluator(network, batches.device, precision)
    return torch.cat([run(batch.images) for batch in bar(batches.epoch())]).cpu().numpy()


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterator[Batch], precision: str) -> None:
    """Replace the running statistics of all batch norms by their mean over some training batches."""
    norms = [module for module in network.modules() if hasattr(module, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    for number, batch in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 / number
        with autocast(batch.images.device, precision):
            network(batch.images.contiguous(memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class Trainer:
    """Fits `classifier.network` to `train`, keeps the best network on `val` in `folder`.

    Raises from `fit`: TrainingError for a loss that is not finite or a full GPU; Interrupted after SIGTERM or SIGINT;
    CheckpointError and ResultsError where the folder cannot be written; DataError for a bad image.
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
    ):
        self.classifier, self.train, self.val, self.recipe = classifier, train, val, recipe
        self.folder, self.log, self.precision, self.quiet = Path(folder), log, precision, quiet
        self.save_every, self.saved, self.plotted = save_every, time.monotonic(), -math.inf
        self.on_epoch: Callable[[dict[str, list[float]], float], None] | None = None  # of curves and learning rate
        self.network = classifier.network
        self.forward = torch.compile(self.network, fullgraph=True) if compiled else self.network
        optimiser = OPTIMISERS[recipe.optimiser]
        self.optimiser = optimiser(
            self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
        self.epoch = self.step = 0
        self.sums = [0.0, 0.0]  # of this epoch so far: loss, right answers
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.best = {"score": None, "epoch": None, "logits": None}
        self.seconds = 0.0  # spent in training steps

    # --- the loop -------------------------------------------------------------------------------------------

    def fit(self) -> None:
        with _signals() as received:
            while self.epoch < self.recipe.epochs:
                self._train_epoch(received)
                self._finish_epoch()
        self._draw_curves(last=True)

    def _train_epoch(self, received: list[int]) -> None:
        self.network.train()
        batches = self.train.epoch(self.epoch, start=self.step)
        with self._bar(f"epoch {self.epoch + 1}/{self.recipe.epochs}", len(self.train), self.step) as bar:
            for batch in batches:
                start = time.perf_counter()
                loss = self._train_step(batch)
                self.step += 1
                self.seconds += time.perf_counter() - start
                bar.set_postfix_str(f"loss {loss:.3f}, {len(batch.labels) / (time.perf_counter() - start):.0f} img/s")
                bar.update()
                self._pause(received)

    def _train_step(self, batch: Batch) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        logits, loss = self._loss(batch)
        self._check_finite(loss, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.sums[0] += loss.item() * len(batch.labels)
        self.sums[1] += (logits.argmax(1) == batch.labels).sum().item()
        return loss.item()

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with autocast(self.train.device, self.precision):
            logits = self.forward(images)
        return logits, F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.recipe.smoothing)

    def learning_rate(self) -> float:
        total = self.recipe.epochs * len(self.train)
        progress = (self.epoch * len(self.train) + self.step) / total
        return self.recipe.lr * SCHEDULES[self.recipe.schedule](progress)

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        if math.isfinite(loss.item()):
            return
        names = ", ".join(str(self.train.path(index)) for index in batch.indices.tolist())
        self.log(f"files of the batch: {names}")
        raise TrainingError(
            f"the loss is {loss.item()} at epoch {self.epoch + 1}, step {self.step + 1}, learning rate "
            f"{self.learning_rate():.2e}; the best network so far is kept. Lower --lr or look at the files in the log"
        )

    # --- the end of an epoch --------------------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        if self.recipe.recalibrate:
            first = itertools.islice(self.train.epoch(self.epoch), self.recipe.recalibrate)
            recalibrate(self.network, first, self.precision)
        logits = self.evaluate_val()
        labels, images = self.val.labels, len(self.train.labels)
        accuracy = 100 * float((logits.argmax(1) == labels).mean())
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        train_loss, train_accuracy = self.sums[0] / images, 100 * self.sums[1] / images
        for name, value in zip(CURVES, (train_loss, loss, train_accuracy, accuracy), strict=True):
            self.curves[name].append(value)
        auc = metrics.evaluate(logits, labels, self.classifier.classes, bootstrap=0)["auc"]["macro"]["value"]
        shown = "-" if auc is None else f"{auc:.4f}"
        self.log(
            f"epoch {self.epoch + 1}/{self.recipe.epochs}  train loss {train_loss:.4f} accuracy {train_accuracy:.2f}%  "
            f"{self.val.split.name} loss {loss:.4f} accuracy {accuracy:.2f}%  macro AUC {shown}"
        )
        self._keep_best([accuracy / 100 if auc is None else auc, -loss], logits)
        if self.on_epoch:
            self.on_epoch(self.curves, self.learning_rate())
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0]
        results.save_curves(self.folder, self.curves)
        self.save()
        self._draw_curves()

    def evaluate_val(self) -> np.ndarray:
        return evaluate(
            self.network, self.val, self.precision, lambda it: self._iterate(it, "validating", len(self.val))
        )

    def _keep_best(self, score: list[float], logits: np.ndarray) -> None:
        """The best epoch has the highest macro AUC; equal ones are told apart by the loss."""
        if not np.isfinite(logits).all():
            raise TrainingError(f"the network's outputs are not finite after epoch {self.epoch + 1}. Lower --lr")
        if self.best["score"] is not None and score <= self.best["score"]:
            return
        temperature = metrics.fit_temperature(logits, self.val.labels)
        self.best = {"score": score, "epoch": self.epoch + 1, "logits": torch.from_numpy(logits)}
        self.classifier.epoch, self.classifier.temperature = self.epoch + 1, temperature
        save_model(self.classifier, self.folder / "best-model-parameters.pt")

    def _draw_curves(self, last: bool = False) -> None:
        if last or time.monotonic() - self.plotted > 60:
            results.plot_curves(self.folder, self.curves)
            self.plotted = time.monotonic()

    def timing(self) -> dict:
        images = self.epoch * len(self.train.labels)
        return {"training_seconds": self.seconds, "training_images_per_second": images / max(self.seconds, 1e-9)}

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> dict:
        return {
            "state": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": {"epoch": self.epoch, "step": self.step, "sums": self.sums, "seconds": self.seconds},
            "curves": self.curves,
            "best": self.best,
            "random": checkpoint.random_state(),
        }

    def save(self) -> None:
        """Write all that `resume` needs to `last-state.pt`. Raises CheckpointError."""
        checkpoint.save(self.state(), self.folder / "last-state.pt")
        self.saved = time.monotonic()

    def resume(self) -> str:
        """Go back to the newest saved state; returns a note for the log. Raises CheckpointError."""
        state, note = checkpoint.load_newest(self.folder / "last-state.pt", self.train.device)
        self.network.load_state_dict(state["state"])
        self.optimiser.load_state_dict(state["optimiser"])
        progress = state["progress"]
        self.epoch, self.step, self.sums = progress["epoch"], progress["step"], progress["sums"]
        self.seconds, self.curves, self.best = progress["seconds"], state["curves"], state["best"]
        if self.best["logits"] is not None:
            self.best["logits"] = self.best["logits"].cpu()
        checkpoint.set_random_state(state["random"])
        return note

    def _pause(self, received: list[int]) -> None:
        """Between two steps: save when it is time, stop when a signal asked for it."""
        if received or time.monotonic() - self.saved > self.save_every:
            self.save()
        if received:
            raise Interrupted(received[0])

    # --- progress bars --------------------------------------------------------------------------------------

    def _bar(self, title: str, total: int, start: int = 0) -> tqdm:
        return tqdm(total=total, initial=start, desc=title, unit="step", leave=False, disable=self.quiet or None)

    def _iterate(self, items: Iterator, title: str, total: int) -> Iterator:
        return tqdm(items, total=total, desc=title, unit="step", leave=False, disable=self.quiet or None)


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
