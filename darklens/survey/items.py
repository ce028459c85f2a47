"""What does a network see of each image of a survey, and what is there to say about it?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens.classifier.classifier import Classifier
from darklens.classifier.fit_input import FitInput, Kernel, fill_weightless, fit_flags, fit_inputs
from darklens.classifier.predictions import CONSTANT, FILLED, Prediction, fit_columns, format_cell
from darklens.data.checks import RawImage, Request, central, layout
from darklens.data.image import Picture, check_channels, make_picture, read_file
from darklens.data.noise_psf import read_mask, read_noise, read_psf, split_hdu
from darklens.data.pixel_scale import mean_scale
from darklens.data.resample import around_centre, new_size, resample
from darklens.errors import DataError
from darklens.fit.lens_galaxy import shows_galaxy
from darklens.page.strip import Pictures, Strip, draw_strip
from darklens.survey.catalogue import Catalogue, Entry, printable
from darklens.survey.lens_fit import LensImage
from darklens.survey.telescope import fit_telescope, knows_galaxies

OFF = 0.05  # of the network's pixel scale: what differs by more is flagged
SAME = 0.005  # what differs by less is not resampled: a quarter of a pixel at the edge of what is seen
SCALE_FLAGS = "pixels of", "resampled from"  # how flags begin that are of the network's pixel scale
STRUCTURED_NOTE = "fitted again with a flexible source, class by the network for such"
SPOILT = 0.01  # share of a new pixel's weight that pixels without a weight may have


class Reading(NamedTuple):
    """How images are read. hdu: of FITS files; resample: to the scale that the network knows, arcsec a pixel.

    strips: draw the pictures of a page. source: "flexible" also has the Bayes factor of such a fit.
    """

    hdu: str | None = None
    resample: bool = False
    scale: float | None = None
    strips: bool = False
    source: str = "sersic"


@dataclass(eq=False)
class Item:
    """One image: what the network sees of it (C, S, S), or None and the reason why it was rejected.

    listed: the list's other columns. fit_row: the smooth lens, where the network sees residuals; source: of its fit.
    figures: for the network's detector of outliers, if it has one. strip: pictures for a page, where there is one.
    prediction: what the network says, once it has seen it.
    """

    entry: Entry
    listed: dict[str, str] = field(default_factory=dict)
    image: np.ndarray | None = None
    reason: str = ""
    flags: list[str] = field(default_factory=list)
    unit: str = ""
    scale: str = ""
    note: str = ""
    fit_row: dict[str, float] = field(default_factory=dict)
    source: str = "sersic"
    figures: dict[str, float] = field(default_factory=dict)
    strip: Strip | None = None
    prediction: Prediction | None = None

    def as_row(self) -> dict[str, str]:
        """The cells of the table of predictions, by column; those that are missing are empty."""
        row = {"file": printable(self.entry.file), **self.listed}
        if self.prediction:
            row |= self.prediction.as_row()
        else:
            fitted = {name: format_cell(value) for name, value in self.fit_row.items()}
            row |= {**fitted, "flag": self.reason or "; ".join(self.flags)}
        return row | {"unit": self.unit, "pixel_scale": self.scale, "note": self.note}


class SurveyReader(Dataset):
    """The images of a survey, read, checked and as the network sees them, by their numbers."""

    def __init__(self, survey: Catalogue, classifier: Classifier, reading: Reading):
        self.survey, self.preprocess, self.channels = survey, classifier.preprocess, classifier.channels
        self.reading, self.knows_galaxies = reading, knows_galaxies(classifier)
        self.figures = classifier.outliers is not None
        self.structured = classifier.structured.preprocess if classifier.structured else None

    def __len__(self) -> int:
        return len(self.survey.entries)

    def __getitem__(self, numbers: np.ndarray) -> list[Item]:
        items, inputs = zip(*(self.read(self.survey.entries[i]) for i in numbers), strict=True)
        pairs = [pair for pair in zip(items, inputs, strict=True) if pair[1] is not None]
        inputs = [fit_input for _, fit_input in pairs]
        options = {"figures": self.figures, "strips": self.reading.strips}
        fits = fit_inputs(self.preprocess, inputs, **options, source=self.reading.source, structured=self.structured)
        for (item, _), fit in zip(pairs, fits, strict=True):
            item.image, item.fit_row, item.figures, item.strip = fit.view, fit.row, fit.figures, fit.strip
            item.flags, item.source = item.flags + fit_flags(fit.flag), fit.source
            if fit.source == "flexible":
                item.note = "; ".join(filter(None, (item.note, STRUCTURED_NOTE)))
        return list(items)

    def read(self, entry: Entry) -> tuple[Item, FitInput | None]:
        """Read and check one image; what is wrong with it becomes the item's reason.

        The item has what the network sees, unless that takes a fit of what is returned beside it.
        """
        root, window, fitted = self.survey.root, self.preprocess.window, self.preprocess.smooth_model is not None
        item = Item(entry, dict(zip(self.survey.columns, entry.cells, strict=True)))
        path, hdu = split_hdu(entry.file, root)
        try:
            if not entry.file:
                raise DataError("no file is named")
            contents = read_file(path, Request(hdu or self.reading.hdu, window))
            step = _describe(item, contents, self.reading)
            noise, mask = _side_planes(item, root, contents) if fitted else (None, None)
            if mask is not None and step != (1.0, 1.0):
                item.flags.append("mask not used: with --resample it needs a noise_map beside it")
                mask = None
            if not self.knows_galaxies and self._fit_telescope(item, path, contents, noise, mask):
                return item, None
            picture = _picture(path, contents, noise, mask, math.ceil(window * max(step)))
            check_channels(path, len(picture.pixels), self.channels)
        except DataError as error:
            reason = str(error).removeprefix(str(DataError(f"{path}: ")))
            item.reason, item.flags = "; ".join([reason, *item.flags]), []
            return item, None
        pixels, noise = _resampled(picture.pixels, noise, window, step)
        height, width = pixels.shape[1:]
        rows, columns = central(height, width, window)
        middle = pixels[:, rows, columns]
        item.flags = [CONSTANT] * bool(middle.min() == middle.max()) + [FILLED] * bool(picture.masked) + item.flags
        item.note = "; ".join(filter(None, (picture.note, item.note)))
        if not fitted:
            item.image = self.preprocess(torch.from_numpy(pixels)[None])[0].numpy()
            item.strip = draw_strip(Pictures(middle.mean(0))) if self.reading.strips else None
            return item, None
        return item, self._fit_input(item, pixels, noise, mask, step)

    def _fit_telescope(
        self, item: Item, path: str, contents: RawImage, noise: np.ndarray | None, mask: np.ndarray | None
    ) -> bool:
        """Fit a telescope's image, at its own scale and of any size, where it is one."""
        picture = _picture(path, contents, noise, mask, 1)
        scale = mean_scale(contents.scale) if contents.scale else item.entry.pixel_scale or self.reading.scale
        if len(picture.pixels) > 1 or scale is None:
            return False
        pixels = picture.pixels[0].astype(np.float64)
        if not contents.telescope and not shows_galaxy(pixels, scale):
            return False
        psf = _psf(item, self.survey.root, (1.0, 1.0))
        hidden = ~np.isfinite(contents.array).reshape(pixels.shape) | (False if mask is None else mask)
        kernel = None if psf is None else np.array(psf)
        try:
            image = LensImage(np.where(hidden, np.nan, pixels), scale, noise, kernel)
            fit = fit_telescope(image, self.reading.strips, self.reading.source)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        model = self.preprocess.smooth_model
        columns = fit_columns(model, self.reading.source) if model else []
        item.fit_row = {name: value for name, value in fit.row.items() if name in columns}
        item.strip = draw_strip(fit.pictures) if fit.pictures else None
        item.flags = [flag for flag in item.flags if not flag.startswith(SCALE_FLAGS)] + fit.flags
        guess = [] if item.scale else [f"pixels taken to be of {scale:.4g} arcsec"]
        item.note = "; ".join(filter(None, (picture.note, item.note, *guess, *fit.notes)))
        return True

    def _fit_input(
        self,
        item: Item,
        pixels: np.ndarray,
        noise: np.ndarray | None,
        mask: np.ndarray | None,
        step: tuple[float, float],
    ) -> FitInput:
        """What is fitted: the window alone, as odd or even as the image."""
        model, (height, width) = self.preprocess.smooth_model, pixels.shape[1:]
        side = min(height, width)
        rows, columns = central(height, width, model.size(side, side) if model else side)
        psf = _psf(item, self.survey.root, step)
        noise, mask = (plane if plane is None else plane[rows, columns] for plane in (noise, mask))
        return FitInput(pixels[:, rows, columns], noise, psf, mask)


def _describe(item: Item, contents: RawImage, reading: Reading) -> tuple[float, float]:
    """Note what the file says; how many of its pixels a pixel for the network is high and wide."""
    item.unit, step = contents.unit or "", (1.0, 1.0)
    sides = _sides(item, contents)
    if sides is None:
        item.flags += [contents.scale_problem] * bool(contents.scale_problem and reading.scale is not None)
        item.flags += ["no pixel scale in the file: not resampled"] * reading.resample
        return step
    item.scale = format_cell(mean_scale(sides))
    if reading.scale is None:
        return step
    ratio = reading.scale / sides[0], reading.scale / sides[1]
    off = max(abs(1 / r - 1) for r in ratio)
    pixels = " x ".join(dict.fromkeys(f"{side:.4g}" for side in sides))
    if reading.resample and off > SAME:
        step = ratio
        item.flags += [f"resampled from pixels of {pixels} arcsec, which correlates the noise"]
    elif off > OFF:
        item.flags += [f"pixels of {pixels} arcsec, the network's have {reading.scale:.4g}"]
    return step


def _sides(item: Item, contents: RawImage) -> tuple[float, float] | None:
    """Height and width of a pixel in arcsec, by the file's header, else by the list."""
    listed = item.entry.pixel_scale
    if contents.scale is None:
        return (listed, listed) if listed else None
    if listed and abs(listed / mean_scale(contents.scale) - 1) > OFF:
        item.flags.append(f"the list's pixel_scale {listed:.4g} is not the file's, which was used")
    return contents.scale


def _noise(item: Item, root: str, contents: RawImage) -> np.ndarray | None:
    """The noise map of an image, where there is one that fits it."""
    shape = layout(contents.array.shape)
    if not item.entry.noise_map or shape is None:
        return None
    try:
        return read_noise(item.entry.noise_map, root, shape[1:])
    except DataError as error:
        item.flags.append(f"noise measured in the image: noise_map {error}")
        return None


def _side_planes(item: Item, root: str, contents: RawImage) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The noise map, NaN where there is no weight, and the mask that is not in it already."""
    noise, shape, mask = _noise(item, root, contents), layout(contents.array.shape), None
    if item.entry.mask and shape is not None:
        try:
            mask = read_mask(item.entry.mask, root, shape[1:])
        except DataError as error:
            item.flags.append(f"nothing masked: mask {error}")
    if noise is None or mask is None:
        return noise, mask
    return np.where(mask, np.nan, noise), None


def _picture(path: str, contents: RawImage, noise: np.ndarray | None, mask: np.ndarray | None, window: int) -> Picture:
    """The checked picture; pixels that noise map or mask give no weight hold the median, not what was wrong there."""
    array, notes = contents.array, contents.notes
    weightless = mask if noise is None else np.isnan(noise)
    if weightless is not None and weightless.any() and array.size == weightless.size:
        array = fill_weightless(array, weightless)
        source = "mask" if noise is None else "noise map"
        notes = (*notes, f"{weightless.sum()} pixels have no weight by their {source}")
    return make_picture(path, array, contents.unit, notes, window, contents.scale)


def _resampled(
    pixels: np.ndarray, noise: np.ndarray | None, window: int, step: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (C, H, W) and noise (H, W) on pixels `step` times as large, at least `window` a side."""
    if step == (1.0, 1.0):
        return pixels, noise
    pixels = around_centre(pixels, window, step)
    height, width = (new_size(n, s, window) for n, s in zip(pixels.shape[1:], step, strict=True))
    into = height, width
    if noise is not None:
        noise = around_centre(noise, window, step)
        bad = np.isnan(noise)
        variance = resample(np.where(bad, np.nanmedian(noise), noise) ** 2, into, step, variance=True)
        noise = np.where(resample(bad, into, step, variance=True) > SPOILT, np.nan, np.sqrt(variance))
    return resample(pixels, into, step), noise


def _psf(item: Item, root: str, step: tuple[float, float]) -> Kernel | None:
    """The kernel of an image's PSF at the network's pixel scale, where there is one that can be used."""
    if not item.entry.psf:
        return None
    try:
        psf, note = read_psf(item.entry.psf, root, mean_scale(step))
    except DataError as error:
        item.flags.append(f"PSF of the training images: psf {error}")
        return None
    item.note = "; ".join(filter(None, (item.note, note)))
    return psf
