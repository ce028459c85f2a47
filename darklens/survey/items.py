"""What does a network see of each image of a survey, and what is there to say about it?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens.classifier.classifier import Classifier
from darklens.data.checks import Read, central, layout
from darklens.data.image import Picture, check_channels, make_picture, read_file
from darklens.data.noise_psf import read_noise, read_psf, split_hdu
from darklens.data.pixel_scale import mean_scale
from darklens.data.resample import around_centre, new_size, resample
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.survey.catalogue import Catalogue, Entry

UNLIKE, CONSTANT, FILLED = "unlike training data", "constant image", "NaN border filled"
OFF = 0.05  # of the network's pixel scale: what differs by more is flagged
SAME = 0.005  # what differs by less is not resampled: a quarter of a pixel at the edge of what is seen
SPOILT = 0.01  # share of a new pixel's weight that pixels without a weight may have


class Reading(NamedTuple):
    """How images are read. hdu: of FITS files; resample: to the scale that the network knows, arcsec a pixel."""

    hdu: str | None = None
    resample: bool = False
    scale: float | None = None


@dataclass(eq=False)
class Item:
    """One image: what the network sees of it (C, S, S), or None and the reason why it was rejected.

    lens: the table of its smooth lens, where the network sees residuals. figures: class, probabilities, calibrated
    ones and novelty, as text, features (D,) and dark_matter: what its posterior says, once the network has seen it.
    """

    entry: Entry
    image: np.ndarray | None = None
    reason: str = ""
    flags: list[str] = field(default_factory=list)
    unit: str = ""
    scale: str = ""
    note: str = ""
    lens: dict[str, float] = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)
    features: np.ndarray | None = None
    dark_matter: list[float] = field(default_factory=list)


class Lens(NamedTuple):
    """What the smooth lens is fitted to: pixels (1, S, S), their noise (S, S), and the PSF, where they are known."""

    pixels: np.ndarray
    noise: np.ndarray | None
    psf: tuple | None

    @property
    def kind(self) -> tuple:
        """What images have in common that are fitted together."""
        return self.pixels.shape, self.noise is None, self.psf or ()


class Items(Dataset):
    """The images of a survey, read, checked and as the network sees them, by their numbers."""

    def __init__(self, survey: Catalogue, classifier: Classifier, reading: Reading):
        self.survey, self.preprocess, self.channels = survey, classifier.preprocess, classifier.channels
        self.reading = reading

    def __len__(self) -> int:
        return len(self.survey.entries)

    def __getitem__(self, numbers: np.ndarray) -> list[Item]:
        parts = self.survey.root, self.preprocess, self.channels, self.reading
        items, lenses = zip(*(read_item(*parts, self.survey.entries[i]) for i in numbers), strict=True)
        pairs = [pair for pair in zip(items, lenses, strict=True) if pair[1] is not None]
        for _, alike in groupby(sorted(pairs, key=lambda pair: pair[1].kind), key=lambda pair: pair[1].kind):
            _fit(self.preprocess, *zip(*alike, strict=True))
        return list(items)


def read_item(
    root: str, preprocess: Preprocess, channels: int, reading: Reading, entry: Entry
) -> tuple[Item, Lens | None]:
    """Read and check one image; what is wrong with it becomes the item's reason.

    The item has what the network sees, unless that takes a fit of the returned lens.
    """
    item, (path, hdu) = Item(entry), split_hdu(entry.file, root)
    try:
        if not entry.file:
            raise DataError("no file is named")
        found = read_file(path, hdu=hdu or reading.hdu, window=preprocess.window)
        step = _about(item, found, reading)
        noise = _noise(item, root, found) if preprocess.smooth_model else None
        picture = _picture(path, found, noise, math.ceil(preprocess.window * max(step)))
        check_channels(path, len(picture.pixels), channels)
    except DataError as error:
        reason = str(error).removeprefix(str(DataError(f"{path}: ")))
        item.reason, item.flags = "; ".join([reason, *item.flags]), []
        return item, None
    pixels, noise = _resampled(picture.pixels, noise, preprocess.window, step)
    window = pixels[(..., *central(*pixels.shape[1:], preprocess.window))]
    item.flags = [CONSTANT] * bool(window.min() == window.max()) + [FILLED] * bool(picture.masked) + item.flags
    item.note = "; ".join(filter(None, (picture.note, item.note)))
    if preprocess.smooth_model is None:
        item.image = preprocess(torch.from_numpy(pixels)[None])[0].numpy()
        return item, None
    return item, _lens(item, root, preprocess, pixels, noise, step)


def _about(item: Item, found: Read, reading: Reading) -> tuple[float, float]:
    """Note what the file says; how many of its pixels a pixel for the network is high and wide."""
    item.unit, step = found.unit or "", (1.0, 1.0)
    sides = _sides(item, found)
    if sides is None:
        item.flags += ["no pixel scale in the file: not resampled"] * reading.resample
        return step
    item.scale = f"{mean_scale(sides):.6g}"
    if reading.scale is None:
        return step
    ratio = tuple(reading.scale / side for side in sides)
    off = max(abs(1 / r - 1) for r in ratio)
    pixels = " x ".join(dict.fromkeys(f"{side:.4g}" for side in sides))
    if reading.resample and off > SAME:
        step = ratio
        item.flags += [f"resampled from pixels of {pixels} arcsec, which correlates the noise"]
    elif off > OFF:
        item.flags += [f"pixels of {pixels} arcsec, the network's have {reading.scale:.4g}"]
    return step


def _sides(item: Item, found: Read) -> tuple[float, float] | None:
    """Height and width of a pixel in arcsec, by the file's header, else by the list."""
    listed = item.entry.pixel_scale
    if found.scale is None:
        return listed and (listed, listed)
    if listed and abs(listed / mean_scale(found.scale) - 1) > OFF:
        item.flags.append(f"the list's pixel_scale {listed:.4g} is not the file's, which was used")
    return found.scale


def _noise(item: Item, root: str, found: Read) -> np.ndarray | None:
    """The noise map of an image, where there is one that fits it."""
    shape = layout(found.array.shape)
    if not item.entry.noise_map or shape is None:
        return None
    try:
        return read_noise(item.entry.noise_map, root, shape[1:])
    except DataError as error:
        item.flags.append(f"noise measured in the image: noise_map {error}")
        return None


def _picture(path: str, found: Read, noise: np.ndarray | None, window: int) -> Picture:
    """The checked picture; pixels to which the noise map gives no weight hold the median, not what was wrong there."""
    array, notes = found.array, found.notes
    if noise is not None and np.isnan(noise).any() and array.size == noise.size:
        bad = np.isnan(noise).reshape(array.shape)
        array = array.astype(np.float64)
        array[bad] = np.nanmedian(np.where(np.isfinite(array) & ~bad, array, np.nan))
        notes = (*notes, f"{bad.sum()} pixels have no weight by their noise map")
    return make_picture(path, array, found.unit, notes, window, found.scale)


def _resampled(
    pixels: np.ndarray, noise: np.ndarray | None, window: int, step: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (C, H, W) and noise (H, W) on pixels `step` times as large, at least `window` a side."""
    if step == (1.0, 1.0):
        return pixels, noise
    pixels = around_centre(pixels, window, step)
    into = tuple(new_size(n, s, window) for n, s in zip(pixels.shape[1:], step, strict=True))
    if noise is not None:
        noise = around_centre(noise, window, step)
        bad = np.isnan(noise)
        variance = resample(np.where(bad, np.nanmedian(noise), noise) ** 2, into, step, variance=True)
        noise = np.where(resample(bad, into, step, variance=True) > SPOILT, np.nan, np.sqrt(variance))
    return resample(pixels, into, step), noise


def _lens(
    item: Item, root: str, preprocess: Preprocess, pixels: np.ndarray, noise: np.ndarray | None, step: tuple
) -> Lens:
    """What is fitted: the window alone, as odd or even as the image."""
    psf, side = None, min(pixels.shape[1:])
    if item.entry.psf:
        try:
            psf, note = read_psf(item.entry.psf, root, mean_scale(step))
            item.note = "; ".join(filter(None, (item.note, note)))
        except DataError as error:
            item.flags.append(f"PSF of the training images: psf {error}")
    window = central(*pixels.shape[1:], preprocess.smooth_model.size(side, side))
    return Lens(pixels[(..., *window)], None if noise is None else noise[window], psf)


def _fit(preprocess: Preprocess, items: Sequence[Item], lenses: Sequence[Lens]) -> None:
    """Give items what the network sees of them, from fits of their lenses, which are of one kind."""
    pixels, noise, psf = zip(*lenses, strict=True)
    pixels = torch.from_numpy(np.stack([one.astype(np.float64) for one in pixels]))
    noise = None if noise[0] is None else torch.from_numpy(np.stack(noise))
    lens = (
        dataclasses.replace(preprocess.smooth_model, psf_kernel=psf[0], psf_beta=None, free_psf=False)
        if psf[0]
        else None
    )
    views, found = preprocess.with_fit(pixels, noise=noise, smooth_model=lens)
    table = found.table()
    for number, item in enumerate(items):
        item.image = views[number].numpy()
        columns = (name for name in preprocess.smooth_model.columns if name != "flag")
        item.lens = {name: table[name][number] if name in table else math.nan for name in columns}
        item.flags += [f"smooth lens: {table['flag'][number]}"] * bool(table["flag"][number])
