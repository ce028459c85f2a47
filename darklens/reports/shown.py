"""An image, and beside it what a network that sees residuals has seen of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from darklens.data.checks import central
from darklens.data.residual import SCALE
from darklens.data.source import ImageSource
from darklens.data.transforms import Preprocess
from darklens.data.views import network_inputs


class Shown(NamedTuple):
    """The image's window (S, S), channels averaged; the smoothed residual (crop, crop) in standard deviations of its
    noise, where the network sees one. S is crop, or crop + 1 where the image is even: both have the same middle."""

    image: np.ndarray
    residual: np.ndarray | None


def show(source: ImageSource, index: int, preprocess: Preprocess) -> Shown:
    """The picture of an image of a split. source: the images, or views of them. Raises DataError for a bad file."""
    pixels = source.originals.read(index, preprocess.window).values.mean(0)
    height, width = pixels.shape
    size = preprocess.window
    if preprocess.view != "image":
        size += (size - min(height, width)) % 2
    rows, columns = central(height, width, min(size, height, width))
    residual = None
    if preprocess.view != "image":
        residual = SCALE * network_inputs(source, [index], preprocess)[0, -1].numpy()
    return Shown(pixels[rows, columns], residual)
