"""Fits the novelty score of a trained network on its training and validation images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from darklens.classifier.classifier import Classifier
from darklens.classifier.novelty import MAX_IMAGES, Novelty, fit_novelty
from darklens.data.source import ImageSource
from darklens.data.transforms import Preprocess
from darklens.data.views import network_inputs
from darklens.storage.progress import progress


def fit_on(
    classifier: Classifier,
    train: ImageSource,
    val: ImageSource,
    *,
    precision: str = "fp32",
    max_images: int = MAX_IMAGES,
    batch_size: int = 32,
    quiet: bool = False,
) -> Novelty:
    """Fit to at most `max_images` training images and as many validation images, evenly chosen, not augmented.

    classifier: with its final weights. Costs one pass of the network over those images. Raises DataError for a bad
    file, ValueError as `fit_novelty`.
    """
    run, splits = classifier.observer(precision), []
    chosen = [evenly(len(images), max_images) for images in (train, val)]
    with progress(sum(map(len, chosen)), "novelty", "img", quiet) as bar:
        for images, numbers in zip((train, val), chosen, strict=True):
            batches = _batches(classifier.preprocess, images, numbers, batch_size)
            parts = [_counted(run(batch)[1], bar) for batch in batches]
            splits.append([torch.cat(part) for part in zip(*parts, strict=True)])
    train_parts, val_parts = splits
    return fit_novelty(train_parts, val_parts)


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers 0 to count - 1, evenly chosen."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()


def _batches(preprocess: Preprocess, images: ImageSource, chosen: list[int], batch_size: int) -> Iterator[Tensor]:
    """(B, C, S, S) as the network sees them, in order."""
    for start in range(0, len(chosen), batch_size):
        yield network_inputs(images, chosen[start : start + batch_size], preprocess)


def _counted(parts: list[Tensor], bar: progress) -> list[Tensor]:
    bar.update(len(parts[0]))
    return parts
