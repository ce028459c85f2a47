"""Logits of a whole split; batch norms' statistics taken anew."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from darklens.classifier.classifier import evaluator
from darklens.data.batches import Batch, Batches
from darklens.errors import TrainingError
from darklens.machine import autocast
from darklens.training.ranks import Ranks


def evaluate(
    network: nn.Module, batches: Batches, precision: str, bar: Callable = iter, ranks: Ranks | None = None
) -> np.ndarray:
    """Logits (n, K) of all images of a split, in file order: one pass, no augmentation.

    ranks: the processes that share the work (`batches` gives this one's part); each gets all logits. Raises
    TrainingError if the GPU's memory is too small for its batches, DataError for a bad image.
    """
    with enough_memory(batches.batch_size):
        ranks, run, logits = ranks or Ranks(), evaluator(network, batches.device, precision), []
        for number, batch in enumerate(bar(batches.epoch())):
            ranks.set_batch(batches.count(number))
            logits.append(ranks.gather_images(run(batch.images)))
        return torch.cat(logits).cpu().numpy()


@torch.no_grad()
def recalibrate(
    network: nn.Module, batches: Iterator[Batch], precision: str, set_batch: Callable[[int], None] = lambda number: None
) -> None:
    """Replace the running statistics of all batch norms by their mean over some training batches.

    set_batch: called with each batch's number, from 0, before the network sees it. Done twice it changes nothing more:
    a run may be stopped after it.
    """
    norms: list[Any] = [module for module in network.modules() if hasattr(module, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    steps = [norm.num_batches_tracked.clone() for norm in norms]
    for number, batch in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 / number
        set_batch(number - 1)
        with autocast(batch.images.device, precision):
            network(batch.images.contiguous(memory_format=torch.channels_last))
    for norm, momentum, step in zip(norms, momenta, steps, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.copy_(step)


@contextlib.contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Says what to lower where a GPU is full."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = f"the GPU's memory is full at batch size {batch_size}"
        raise TrainingError(f"{reason}: lower --batch_size, or take --arch compact") from error
