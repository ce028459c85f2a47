"""One network for what a Sersic source leaves, another where a source has structure: each sees its own views."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from darklens.classifier.predictions import Prediction, Predictor


class Seen(NamedTuple):
    """What is known of an image before a network sees its view (C, S, S); source: of the fit that left it."""

    view: np.ndarray
    row: Mapping[str, float]
    flags: Sequence[str]
    figures: Mapping[str, float]
    source: str = "sersic"


def predict_by_source(predictors: Mapping[str, Predictor], images: Sequence[Seen]) -> list[Prediction]:
    """Predictions of images, in order, each by the predictor of its source."""
    predictions: dict[int, Prediction] = {}
    for source, predictor in predictors.items():
        numbers = [number for number, image in enumerate(images) if image.source == source]
        if numbers:
            views, rows, flags, figures, _ = zip(*(images[number] for number in numbers), strict=True)
            results = predictor(torch.from_numpy(np.stack(views)), rows, flags, figures)  # views -> (b, C, S, S)
            predictions |= dict(zip(numbers, results, strict=True))
    return [predictions[number] for number in range(len(images))]
