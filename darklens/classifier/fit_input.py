"""What the smooth lens is fitted to: images with their noise, masks and PSFs, those alike together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from darklens.classifier.figures import image_figures
from darklens.classifier.predictions import fit_columns
from darklens.data.checks import central
from darklens.data.transforms import Preprocess
from darklens.fit import Fit, SmoothModel
from darklens.fit.result import CONSTANT, NO_LENS, NOT_CONVERGED, POOR
from darklens.fit.source_test import MISFIT
from darklens.page.strip import Pictures, Strip, draw_strip

Kernel = tuple[tuple[float, ...], ...]
NO_FIT, UNUSABLE = (CONSTANT, NO_LENS), (CONSTANT, NO_LENS, NOT_CONVERGED, POOR)  # flags


class FitInput(NamedTuple):
    """One image for a fit: pixels (1, H, W); noise (H, W) standard deviations, mask (H, W) True where a pixel does not
    count, and the PSF's kernel, where they are known."""

    pixels: np.ndarray
    noise: np.ndarray | None = None
    psf: Kernel | None = None
    mask: np.ndarray | None = None

    @property
    def kind(self) -> tuple:
        """What images have in common that are fitted together."""
        return self.pixels.shape, self.noise is None, self.mask is None, self.psf or ()


class Fitted(NamedTuple):
    """What a network is shown of an image (C, S, S), the row of its smooth lens, and the fit's flag or nothing.

    figures: for a detector of outliers; strip: image, smooth lens and residual for a page; where they were asked for.
    source: of the fit, and so which network is meant.
    """

    view: np.ndarray
    row: dict[str, float]
    flag: str
    figures: dict[str, float]
    strip: Strip | None = None
    source: str = "sersic"


def fit_inputs(
    preprocess: Preprocess,
    inputs: Sequence[FitInput],
    *,
    figures: bool = False,
    strips: bool = False,
    source: str = "sersic",
    structured: Preprocess | None = None,
) -> list[Fitted]:
    """Views and rows of all inputs, in order; the network's PSF where an image has none of its own.

    figures: with those of `image_figures`, of images without a noise map. strips: with the pictures of a page. source:
    "flexible" has the `log_bayes_factor` of such a fit in the rows, whatever the view is of. structured: of a network
    for sources with structure: where a fit is flagged and leaves more than noise, and one with a flexible source
    describes the image, the view is of that one, and the row has the columns of the other.
    """
    also_flexible = source == "flexible" and preprocess.view != "flexible"
    results: list[Fitted | None] = [None] * len(inputs)
    order = sorted(range(len(inputs)), key=lambda number: inputs[number].kind)
    for _, group in groupby(order, key=lambda number: inputs[number].kind):
        numbers = list(group)
        alike = _fit_alike(preprocess, [inputs[n] for n in numbers], figures, strips)
        if also_flexible:
            _add_bayes_factors(preprocess, [inputs[n] for n in numbers], alike)
        if structured is not None:
            alike = _with_structure(structured, [inputs[n] for n in numbers], alike, strips)
        for number, result in zip(numbers, alike, strict=True):
            results[number] = result
    return [result for result in results if result is not None]


def _with_structure(
    preprocess: Preprocess, inputs: Sequence[FitInput], fitted: Sequence[Fitted], strips: bool
) -> list[Fitted]:
    """The fits of one kind, with a flexible source where a Sersic profile is not enough, and that is."""
    results = list(fitted)
    flagged = [number for number, fit in enumerate(fitted) if fit.flag and fit.flag not in NO_FIT]
    chosen = [number for number in flagged if fitted[number].row["chi_square"] > MISFIT]
    flexible = _fit_alike(preprocess, [inputs[number] for number in chosen], False, strips) if chosen else []
    for number, fit in zip(chosen, flexible, strict=True):
        if fit.flag not in UNUSABLE:
            row = {name: fit.row.get(name, math.nan) for name in [*fitted[number].row, "log_bayes_factor"]}
            results[number] = fit._replace(row=row, source="flexible")
    return results


def _fit_alike(preprocess: Preprocess, inputs: Sequence[FitInput], figures: bool, strips: bool) -> list[Fitted]:
    """Those of one kind."""
    pixels = torch.from_numpy(np.stack([one.pixels.astype(np.float64) for one in inputs]))  # (B, 1, H, W)
    noise, mask = (_stacked([getattr(one, name) for one in inputs]) for name in ("noise", "mask"))
    model = with_psf(preprocess.smooth_model, inputs[0].psf)
    views, fit = preprocess.with_fit(pixels, noise=noise, mask=mask, smooth_model=model)
    measured = noise is None  # the detector knows figures of noise as the fit measures it, not as a map has it
    columns = image_figures(fit, pixels[:, 0].numpy()) if figures and measured else {}
    of_each = [{name: float(values[number]) for name, values in columns.items()} for number in range(len(inputs))]
    strip_pngs = _draw(pixels[:, 0].numpy(), fit) if strips else [None] * len(inputs)
    rows = zip(views, *fit_rows(fit, preprocess), of_each, strip_pngs, strict=True)
    return [Fitted(view.numpy(), row, flag, numbers, strip) for view, row, flag, numbers, strip in rows]


def _add_bayes_factors(preprocess: Preprocess, inputs: Sequence[FitInput], fitted: Sequence[Fitted]) -> None:
    """Into the rows of fits of one kind, those of the same lenses with a flexible source."""
    if preprocess.smooth_model is None:
        raise ValueError("the view image has no fit")
    model = dataclasses.replace(preprocess.smooth_model, source="flexible")
    flexible = dataclasses.replace(preprocess, view="flexible", smooth_model=model)
    for one, result in zip(fitted, _fit_alike(flexible, inputs, False, False), strict=True):
        one.row["log_bayes_factor"] = result.row["log_bayes_factor"]


def _draw(images: np.ndarray, fit: Fit) -> Sequence[Strip]:
    """Strips of images (B, H, W), of which the middle was fitted."""
    rows, columns = central(images.shape[1], images.shape[2], fit.residual.shape[-1])
    pictures = zip(images[:, rows, columns], fit.image, fit.residual, strict=True)
    return [draw_strip(Pictures(image, smooth, residual)) for image, smooth, residual in pictures]


def _stacked(arrays: Sequence[np.ndarray | None]) -> torch.Tensor | None:
    present = [array for array in arrays if array is not None]
    return torch.from_numpy(np.stack(present)) if present else None


def fill_weightless(array: np.ndarray, weightless: np.ndarray) -> np.ndarray:
    """An image of one plane with the median where its pixels have no weight, whatever was wrong there."""
    if not weightless.any() or array.size != weightless.size:
        return array
    weightless = weightless.reshape(array.shape)
    array = array.astype(np.float64)
    array[weightless] = np.nanmedian(np.where(np.isfinite(array) & ~weightless, array, np.nan))
    return array


def with_psf(model: SmoothModel | None, psf: Kernel | None) -> SmoothModel | None:
    """The smooth lens seen through another PSF."""
    if model is None or psf is None:
        return None
    return dataclasses.replace(model, psf_kernel=psf, psf_beta=None, free_psf=False)


def fit_rows(fit: Fit, preprocess: Preprocess) -> tuple[list[dict[str, float]], list[str]]:
    """The smooth lens of each fit by column, NaN what was not fitted, and the flag of each."""
    table, names = fit.refitted() | fit.table(), fit_columns(preprocess.smooth_model or fit.model)
    rows = [
        {name: float(table[name][number]) if name in table else math.nan for name in names}
        for number in range(len(fit))
    ]
    return rows, [str(flag) for flag in table["flag"]]


def fit_flags(flag: str) -> list[str]:
    """What a table says of a fit with this flag."""
    return [f"smooth lens: {flag}"] * bool(flag)
