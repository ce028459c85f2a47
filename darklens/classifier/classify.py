"""Classify arrays: images with what is known of them, or residuals of a fit of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from darklens.classifier.by_source import View, predict_by_source
from darklens.classifier.fit_input import FitInput, Kernel, fill_weightless, fit_flags, fit_inputs, fit_rows
from darklens.classifier.predictions import CONSTANT, FILLED, Prediction, Predictor
from darklens.data.arrays import Images, plain_array, single_images
from darklens.data.checks import central, layout
from darklens.data.image import Picture, check_channels, make_picture
from darklens.data.noise_psf import as_kernel
from darklens.data.residual import view_of_residual
from darklens.data.transforms import Preprocess
from darklens.errors import DataError, UsageError
from darklens.fit import Fit
from darklens.fit.settings import SOURCES

SAME_SCALE = 0.05  # of the network's pixel scale: what differs by more is flagged
PerImage = np.ndarray | torch.Tensor | Sequence | None  # one (H, W) for all images, or one for each


class Sides(NamedTuple):
    """What lies beside images: standard deviations (H, W), masks (H, W), kernels (k, k); one for all, or one each."""

    noise: PerImage = None
    mask: PerImage = None
    psf: PerImage = None


class ImageSides(NamedTuple):
    """The same of one image."""

    noise: np.ndarray | None
    mask: np.ndarray | None
    psf: np.ndarray | None


class ImageOptions(NamedTuple):
    """How images become what a network sees: of so many channels, so many at a time; the rest: as of `fit_inputs`."""

    preprocess: Preprocess
    channels: int
    batch_size: int
    source: str = "sersic"
    structured: Preprocess | None = None


def classify_images(
    predictors: Mapping[str, Predictor], images: Images, sides: Sides, options: ImageOptions
) -> list[Prediction]:
    """See `Classifier.classify`; predictors: by the source of the fits that they see."""
    preprocess, channels, batch_size, source, _ = options
    if preprocess.smooth_model is None and any(side is not None for side in sides):
        raise UsageError("noise, mask and psf are for networks that see what a fit leaves; this one sees the image")
    check_source(source, preprocess)
    arrays = single_images(images, channels)
    each = [_one_each(name, side, len(arrays)) for name, side in sides._asdict().items()]
    predictions: list[Prediction] = []
    for start in range(0, len(arrays), batch_size):
        numbers = range(start, min(start + batch_size, len(arrays)))
        rows = [
            _read(preprocess.window, channels, f"image {n}", arrays[n], ImageSides(*(side[n] for side in each)))
            for n in numbers
        ]
        predictions += _classify(predictors, rows, options)
    return predictions


def check_source(source: str, preprocess: Preprocess) -> None:
    """Raise UsageError for a source that there is not, or one of a fit where the network sees no fit."""
    if source not in SOURCES:
        raise UsageError(f"source: expected one of {', '.join(SOURCES)}, found {source!r}")
    if source != "sersic" and preprocess.smooth_model is None:
        raise UsageError("source is for networks that see what a fit leaves; this one sees the image")


def _classify(
    predictors: Mapping[str, Predictor], rows: Sequence[tuple[Picture, FitInput]], options: ImageOptions
) -> list[Prediction]:
    """Of checked pictures, and what a fit is given of each."""
    preprocess, figures = options.preprocess, predictors["sersic"].outliers is not None
    flags = [_flags(picture, preprocess.window) for picture, _ in rows]
    if preprocess.smooth_model is None:
        views = [preprocess(torch.from_numpy(picture.pixels)[None])[0] for picture, _ in rows]
        return predictors["sersic"](torch.stack(views), [{}] * len(rows), flags)
    inputs = [fit_input for _, fit_input in rows]
    fits = fit_inputs(preprocess, inputs, figures=figures, source=options.source, structured=options.structured)
    residuals = [
        View(fit.view, fit.row, [*image_flags, *fit_flags(fit.flag)], fit.figures, fit.source)
        for image_flags, fit in zip(flags, fits, strict=True)
    ]
    return predict_by_source(predictors, residuals)


def classify_residuals(
    predictor: Predictor, preprocess: Preprocess, residual: np.ndarray | torch.Tensor | Fit, batch_size: int = 64
) -> list[Prediction]:
    """See `Classifier.classify_residual`."""
    if preprocess.view not in ("residual", "flexible"):
        raise UsageError(f"this network sees the {preprocess.view} view, expected one that sees residuals alone")
    array = _residual_array(residual, preprocess.crop)
    rows: list[dict[str, float]] = [{}] * len(array)
    flags: list[list[str]] = [[]] * len(array)
    if isinstance(residual, Fit):
        rows, fit_texts = fit_rows(residual, preprocess)
        flags = [_scale_flags(residual, preprocess) + fit_flags(text) for text in fit_texts]
    predictions: list[Prediction] = []
    for start in range(0, len(array), batch_size):
        part = slice(start, start + batch_size)
        views = view_of_residual(torch.from_numpy(array[part]), preprocess.crop)
        predictions += predictor(views, rows[part], flags[part])
    return predictions


def _one_each(name: str, value: PerImage, count: int) -> Sequence[np.ndarray | None]:
    """What belongs to each image, of one for all or one for each."""
    if value is None:
        return [None] * count
    if isinstance(value, (list, tuple)) and len(value) == count and all(np.ndim(one) == 2 for one in value):
        return [plain_array(name, one) for one in value]
    array = plain_array(name, value)
    if array.ndim == 2:
        return [array] * count
    if array.ndim == 3 and len(array) == count:
        return list(array)
    raise DataError(f"{name}: expected one of shape (H, W), or {count}, one for each image; found shape {array.shape}")


def _read(window: int, channels: int, name: str, image: object, sides: ImageSides) -> tuple[Picture, FitInput]:
    """The checked picture, and what a fit is given of it."""
    array = plain_array(name, image)
    shape = (layout(array.shape) or array.shape)[-2:]
    for kind, side in (("noise", sides.noise), ("mask", sides.mask)):
        if side is not None and side.shape != shape:
            raise DataError(f"{kind} of {name}: expected {shape[0]} x {shape[1]} pixels, found shape {side.shape}")
    noise, mask = _checked_noise(name, sides.noise), _checked_mask(name, sides.mask)
    weightless = np.zeros(shape, bool) if mask is None else mask
    weightless = weightless if noise is None else weightless | np.isnan(noise)
    picture = make_picture(name, fill_weightless(array, weightless), window=window)
    check_channels(name, len(picture.pixels), channels)
    return picture, FitInput(picture.pixels, noise, _kernel(name, sides.psf), mask)


def _checked_noise(name: str, noise: np.ndarray | None) -> np.ndarray | None:
    """Standard deviations, NaN where a pixel has no weight."""
    if noise is None:
        return None
    if noise.dtype.kind not in "uif":
        raise DataError(f"noise of {name}: expected standard deviations, found {noise.dtype}")
    usable = np.isfinite(noise) & (noise > 0)
    if not usable.any():
        raise DataError(f"noise of {name}: expected standard deviations above 0, found none")
    return np.where(usable, noise, np.nan).astype(np.float64)


def _checked_mask(name: str, mask: np.ndarray | None) -> np.ndarray | None:
    if mask is None:
        return None
    if mask.dtype.kind not in "bui":
        raise DataError(f"mask of {name}: expected True where a pixel does not count, found {mask.dtype}")
    if mask.all():
        raise DataError(f"mask of {name}: expected a pixel that counts, found none")
    return mask.astype(bool)


def _kernel(name: str, psf: np.ndarray | None) -> Kernel | None:
    return None if psf is None else as_kernel(psf.astype(np.float64), f"psf of {name}")[0]


def _flags(picture: Picture, window: int) -> list[str]:
    height, width = picture.pixels.shape[1:]
    rows, columns = central(height, width, window)
    pixels = picture.pixels[:, rows, columns]
    return [CONSTANT] * bool(pixels.min() == pixels.max()) + [FILLED] * bool(picture.masked)


def _scale_flags(fit: Fit, preprocess: Preprocess) -> list[str]:
    model = preprocess.smooth_model
    if model is None or abs(fit.model.pixel_scale / model.pixel_scale - 1) <= SAME_SCALE:
        return []
    return [f"pixels of {fit.model.pixel_scale:.4g} arcsec, the network's have {model.pixel_scale:.4g}"]


def _residual_array(residual: np.ndarray | torch.Tensor | Fit, crop: int) -> np.ndarray:
    """(n, S, S) float32 about the middle, S the network's window or one pixel more, as odd or even as the residual."""
    array = plain_array("residual", residual.view_residual if isinstance(residual, Fit) else residual)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "uif" or min(array.shape[1:]) < crop:
        raise DataError(f"residual: expected (n, H, W) of {crop} pixels or more a side, found {array.shape}")
    height, width = array.shape[1:]
    rows, columns = central(height, width, crop + (crop - min(height, width)) % 2)
    array = array[:, rows, columns]
    if not np.isfinite(array).all():
        raise DataError(
            "residual: expected finite standard deviations, 0 where a pixel does not count; found NaN or infinity"
        )
    return np.ascontiguousarray(array, dtype=np.float32)
