"""From pixels to the input of a network, and exact augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from darklens.data.checks import central
from darklens.data.folder import LensFolder
from darklens.data.residual import VIEWS, residual_view, smoothed
from darklens.errors import DataError, UsageError
from darklens.fit import Fit, SmoothModel

CROP = 129  # pixels: the input of the network, for images at least that large
VIEW_CROP = 105  # the same where it sees residuals: 5.25", twice the largest ring of Models F and J
KNEE = 0.1  # asinh: linear below this fraction of the brightest pixel, logarithmic above (our choice)
EPSILON = 1e-6  # of the brightest pixel: what varies less is rounding error, or constant, and becomes zeros
STRETCHES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # of images whose largest |pixel| is 1
    "none": lambda x: x,
    "sqrt": lambda x: x.sign() * x.abs().sqrt(),  # evens out the Poisson noise
    "asinh": lambda x: torch.asinh(x / KNEE) / math.asinh(1 / KNEE),
    "original": lambda x: (x * 255).floor() / 255,  # 8 bits
}
IMAGE_KEYS = ("crop", "stretch", "standardise")  # of `Preprocess.to_dict`; with a view, "view" and "lens" too


@dataclass(frozen=True)
class Preprocess:
    """What turns pixels into the input of a network: `preprocess(images)`.

    crop: side of the output, odd, so that the window has a central pixel to turn about
    stretch: a key of STRETCHES
    standardise: to zero mean and unit standard deviation, per image, over the crop and all channels together

    The stretch "original" repeats what the 2021 network was trained on: each image over its maximum, cut to
    8 bits, a window of crop - 1 pixels, then one row of zeros below and one column to the right. (Negative
    pixels become 0.) Multiplying an image by a positive number changes nothing, but for rounding.

    view: a key of residual.VIEWS. "image" is the above; "residual" what the fit of `smooth_model` leaves of the image,
    in standard deviations (see residual.py); "both" has the image, its window smoothed as the residual is, and the
    residual as two channels; "flexible" is the residual of a fit whose source is flexible. Adding a constant to an
    image then changes nothing in the residual either.
    """

    crop: int = CROP
    stretch: str = "sqrt"
    standardise: bool = True
    view: str = "image"
    smooth_model: SmoothModel | None = None

    def __post_init__(self) -> None:
        if type(self.crop) is not int or self.crop < 1 or self.crop % 2 == 0:
            raise DataError(f"preprocess: expected an odd number of pixels as crop, found {self.crop!r}")
        if self.stretch not in STRETCHES:
            raise DataError(f"preprocess: expected stretch to be one of {', '.join(STRETCHES)}, found {self.stretch!r}")
        if type(self.standardise) is not bool:
            raise DataError(f"preprocess: expected standardise to be True or False, found {self.standardise!r}")
        if self.view not in VIEWS:
            raise DataError(f"preprocess: expected view to be one of {', '.join(VIEWS)}, found {self.view!r}")
        model = self.smooth_model
        if (self.view == "image") != (model is None) or (model and model.window != self.crop):
            raise DataError("preprocess: expected a smooth lens of the same window with all views but the image")
        if model and (self.view == "flexible") != (model.source == "flexible"):
            raise DataError(f"preprocess: expected another source with the {self.view} view, found {model.source}")

    def channels(self, of_image: int) -> int:
        """Channels of the network's input, of images with `of_image` channels. Raises DataError for a view of many."""
        if self.view != "image" and of_image != 1:
            raise DataError(f"the {self.view} view takes images of one channel, found {of_image}")
        return {"image": of_image, "both": 2}.get(self.view, 1)

    @property
    def window(self) -> int:
        """Pixels along a side that are cut from the image."""
        return self.crop - (self.stretch == "original")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        plain = asdict(self)
        smooth_model = plain.pop("smooth_model")
        return plain | {"lens": smooth_model} if smooth_model else {key: plain[key] for key in IMAGE_KEYS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises DataError for unknown, missing or wrong entries."""
        expected = {*IMAGE_KEYS, *(("view", "lens") if "view" in values else ())}
        if set(values) != expected:
            raise DataError(f"preprocess: expected the keys {sorted(expected)}, found {sorted(map(str, values))}")
        smooth_model = smooth_model_from_dict(values["lens"]) if values.get("lens") else None
        plain = {key: values[key] for key in IMAGE_KEYS}
        return cls(**plain, view=values.get("view", "image"), smooth_model=smooth_model)

    def __call__(self, images: torch.Tensor, offsets: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) of any real type -> (B, C, crop, crop) float32, on the same device.

        offsets: (B, 2) first row and column of each image's window; None: the central one. Raises DataError
        when the images are smaller than the window.
        """
        if self.view != "image":
            return self.with_fit(images)[0]
        images = images if images.dtype == torch.float64 else images.float()
        if self.stretch == "original":  # in float64, as there; the maximum is that of the whole image
            images = _unit(images.double().clamp_min(0))
            window = F.pad(STRETCHES["original"](_crop(images, self.window, offsets)), (0, 1, 0, 1)).float()
        else:
            window = STRETCHES[self.stretch](_unit(_crop(images, self.window, offsets)).float())
        return _standardise(window) if self.standardise else window

    def with_fit(
        self,
        images: torch.Tensor,
        start: np.ndarray | None = None,
        noise: torch.Tensor | None = None,
        *,
        mask: torch.Tensor | None = None,
        smooth_model: SmoothModel | None = None,
        training: bool = False,
    ) -> tuple[torch.Tensor, Fit]:
        """Views (B, 1 or 2, crop, crop) float32 of images (B, 1, H, W), and the fits of the smooth lens.

        start, noise and mask (B, H, W): as in `fit`; smooth_model: for images with a PSF of their own. training: nobody
        reads the flags of these fits, so the score test is left out unless the view depends on it. For all
        views but the image. Of oblong images, the central square.
        """
        height, width = images.shape[-2:]
        square = (..., *central(height, width, min(height, width)))
        images, (noise, mask) = images[square], (side if side is None else side[square] for side in (noise, mask))
        model = smooth_model or self.smooth_model
        if model is None:
            raise ValueError("the view image has no fit")
        score_test = model.refit_flagged or not training
        view, fit = residual_view(images, model, self.crop, start, noise, mask=mask, score_test=score_test)
        if self.view != "both":
            return view, fit
        size = self.crop + (self.crop - min(images.shape[-2:])) % 2
        window = STRETCHES[self.stretch](_unit(_crop(images.float(), size, None)))
        window = _standardise(smoothed(window[:, 0], self.crop))
        return torch.cat((window.half().float(), view), 1), fit


def smooth_model_from_dict(values: dict) -> SmoothModel:
    """The inverse of `dataclasses.asdict`. Raises DataError for unknown or wrong entries."""
    try:
        return SmoothModel.from_dict(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"preprocess: not a smooth lens: {error}") from error


# For the checkpoints published in 2021
ORIGINAL = Preprocess(crop=CROP, stretch="original", standardise=False)


def default_preprocess(size: int) -> Preprocess:
    """Square root, standardised, 129 pixels or the largest odd number that `size` pixels hold."""
    return Preprocess(crop=min(CROP, size - 1 + size % 2))


def _crop(images: torch.Tensor, window: int, offsets: np.ndarray | torch.Tensor | None) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, window, window), from each image's own offset (B, 2), or from the centre."""
    height, width = images.shape[-2:]
    spare = min(height, width) - window
    if spare < 0:
        raise DataError(f"preprocess: expected images of {window} pixels or more, found {height} x {width}")
    if offsets is None:
        return images[(..., *central(height, width, window))]
    offsets = torch.as_tensor(offsets)
    if offsets.numel() and not 0 <= int(offsets.min()) <= int(offsets.max()) <= spare:
        raise DataError(f"preprocess: expected window offsets from 0 to {spare}")
    rows, columns = offsets.to(images.device).unbind(1)
    windows = images.unfold(2, window, 1).unfold(3, window, 1)  # a view: (B, C, row, column, window, window)
    return windows[torch.arange(len(images), device=images.device), :, rows, columns]


def _unit(images: torch.Tensor) -> torch.Tensor:
    """Each image of (B, C, H, W) over its largest |pixel|, so that no later step over- or underflows."""
    scale = images.abs().amax(dim=(1, 2, 3), keepdim=True)
    return images / torch.where(scale > 0, scale, torch.ones_like(scale))


def _standardise(images: torch.Tensor) -> torch.Tensor:
    """Each image of (B, C, S, S), largest |pixel| about 1, to zero mean and unit standard deviation."""
    images = images - images.mean(dim=(1, 2, 3), keepdim=True)
    spread = images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(spread > EPSILON, images / spread, torch.zeros_like(images))


def hash_words(*words: int | np.ndarray) -> np.ndarray:
    """64 random bits for each tuple of integers (arrays broadcast): SplitMix64, chained.

    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        word = np.atleast_1d(np.asarray(word % 2**64 if isinstance(word, int) else word)).astype(np.uint64)
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def draw_augmentation(
    seed: int, epoch: int, indices: np.ndarray, span: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What happens to each image in an epoch, a function of (seed, epoch, index) alone.

    indices: (B,) positions in the split; span: the largest offset of a window, image size - window.
    Returns offsets (B, 2) int64 uniform on 0..span, turns (B,) int64 on 0..3, flips (B,) bool, on the CPU.
    """
    rows, columns, pose = (hash_words(seed, epoch, np.asarray(indices), word) for word in (1, 2, 3))
    offsets = np.stack([rows, columns], axis=1) % np.uint64(span + 1)
    turns, flips = pose % np.uint64(4), (pose >> np.uint64(2)) % np.uint64(2)
    return (
        torch.from_numpy(offsets.astype(np.int64)),
        torch.from_numpy(turns.astype(np.int64)),
        torch.from_numpy(flips == 1),
    )


def augment(images: torch.Tensor, turns: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Mirror (left-right) the images (B, C, S, S) where `flips` (B,), then turn by `turns` (B,) quarters.

    Exact: a permutation of each image's pixels, the noise is untouched. Counter-clockwise, as torch.rot90.
    """
    turns, flips = (torch.as_tensor(x, device=images.device)[:, None, None, None] for x in (turns, flips))
    images = torch.where(flips, images.flip(-1), images)
    images = torch.where(turns % 2 == 1, images.rot90(1, (2, 3)), images)
    return torch.where(turns >= 2, images.rot90(2, (2, 3)), images)


def choose_preprocess(
    data: LensFolder, crop: int | None = None, view: str = "image", assumed: dict | None = None
) -> Preprocess:
    """The default one for these images, with a window of `crop` pixels if that is given.

    view: a key of VIEWS. assumed: fields of `SmoothModel`, what its fit may assume; None: as in Models F and J.
    Raises UsageError if the images are smaller.
    """
    if crop and crop > data.size:
        raise UsageError(f"--crop {crop}: the images in {data.root} have {data.size} pixels a side")
    if view == "image":
        default = default_preprocess(data.size)
        return replace(default, crop=crop or default.crop)
    crop = crop or min(VIEW_CROP, data.size - 1 + data.size % 2)
    source = "flexible" if view == "flexible" else "sersic"
    model = SmoothModel(**(assumed or {}) | {"window": crop, "source": source})
    return Preprocess(crop, view=view, smooth_model=model)
