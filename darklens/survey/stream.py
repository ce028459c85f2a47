"""How do the images of a survey pass through a network, so that only a few batches are ever in memory?"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from darklens import machine
from darklens.classifier.by_source import View, predict_by_source
from darklens.classifier.classifier import Classifier
from darklens.classifier.predictions import Predictor
from darklens.data.reader import read_ahead
from darklens.survey.catalogue import Catalogue
from darklens.survey.items import Item, Reading, SurveyReader


@dataclass(frozen=True)
class NetworkRun:
    """A network, and how it is run.

    device: None: where the network is. workers: processes that read, and fit (None: one a core).
    """

    classifier: Classifier
    precision: str = "fp32"
    batch_size: int = 32
    device: str | torch.device | None = None
    workers: int | None = None

    def classify(self, survey: Catalogue, reading: Reading, first: int = 0) -> Generator[list[Item], None, None]:
        """The images from number `first` on with their predictions, batch by batch. Close it to end its workers."""
        count, reader = len(survey.entries), SurveyReader(survey, self.classifier, reading)
        chunks = [np.arange(i, min(i + self.batch_size, count)) for i in range(first, count, self.batch_size)]
        workers = machine.usable_cores() if self.workers is None else self.workers
        batches = read_ahead(reader, chunks, workers if len(chunks) > 1 else 0, survey.root or ".")
        predictors = self.classifier.predictors(self.precision, self.device)
        with contextlib.closing(batches):
            for items in batches:
                _predict(predictors, items)
                yield items


def _predict(predictors: Mapping[str, Predictor], items: Sequence[Item]) -> None:
    """Give items that have an image their predictions."""
    pairs = [
        (item, View(item.image, item.fit_row, item.flags, item.figures, item.source))
        for item in items
        if item.image is not None
    ]
    predictions = predict_by_source(predictors, [view for _, view in pairs])
    for (item, _), prediction in zip(pairs, predictions, strict=True):
        item.prediction = prediction
