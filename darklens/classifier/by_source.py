"""One network for what a Sersic source leaves, another where a source has structure: each sees its own views."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from darklens.classifier.predictions import Prediction, Predictor


class View(NamedTuple):
    """What a network sees of an image, and what is known of it before; source: of the fit that left it."""

    pixels: np.ndarray  # (C, S, S)
    row: Mapping[str, float]
    flags: Sequence[str]
    figures: Mapping[str, float]
    source: str = "sersic"


def predict_by_source(predictors: Mapping[str, Predictor], views: Sequence[View]) -> list[Prediction]:
    """Predictions of views, in order, each by the predictor of its source."""
    predictions: dict[int, Prediction] = {}
    for source, predictor in predictors.items():
        numbers = [number for number, view in enumerate(views) if view.source == source]
        if numbers:
            pixels, rows, flags, figures, _ = zip(*(views[number] for number in numbers), strict=True)
            results = predictor(torch.from_numpy(np.stack(pixels)), rows, flags, figures)  # pixels -> (b, C, S, S)
            predictions |= dict(zip(numbers, results, strict=True))
    return [predictions[number] for number in range(len(views))]
