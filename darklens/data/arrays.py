"""Images that are arrays already, checked as those in files are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from darklens.data.checks import CHANNELS, MIN_SIZE
from darklens.data.image import check_channels, make_picture
from darklens.errors import DataError

Images = np.ndarray | torch.Tensor | Sequence  # of arrays


def prepare(images: Images, channels: int, window: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Batches (b, C, H, W) of the images, in order, once each has been found to be one; all that is seen is finite.

    images: (H, W), (n, H, W), (n, C, H, W) or (n, H, W, C), C of `channels`, or a list of images of any size; integers
    or floats in any byte order. Masked pixels count as NaN, which is treated as in files, see `make_picture`. window:
    pixels along a side that are looked at. Raises DataError that names the image by its number, from 0.
    """
    batch: list[np.ndarray] = []
    for number, image in enumerate(single_images(images, channels)):
        name = f"image {number}"
        pixels = make_picture(name, plain_array(name, image), window=window).pixels
        check_channels(name, len(pixels), channels)
        if batch and (len(batch) == batch_size or (pixels.shape, pixels.dtype) != (batch[0].shape, batch[0].dtype)):
            yield torch.from_numpy(np.stack(batch))
            batch = []
        batch.append(pixels)
    if batch:
        yield torch.from_numpy(np.stack(batch))


def single_images(images: Images, channels: int) -> Sequence | np.ndarray:
    """The images one by one, of whatever holds them. Raises DataError."""
    if isinstance(images, (list, tuple)) and all(getattr(image, "ndim", 0) > 1 for image in images):
        return images
    array = plain_array("images", images)
    if array.ndim == 2 or (array.ndim == 3 and _is_one(array.shape, channels)):
        return array[None]
    if array.ndim not in (3, 4):
        raise DataError(f"expected images (n, H, W), (n, C, H, W) or (H, W), found shape {array.shape}")
    return array


def _is_one(shape: tuple[int, ...], channels: int) -> bool:
    """Whether (a, b, c) can only be one image (H, W, C), or (C, H, W) with as many channels as are expected."""
    return (shape[2] in CHANNELS and min(shape[:2]) >= MIN_SIZE) or (shape[0] == channels > 1)


def plain_array(name: str, image: object) -> np.ndarray:
    """An array of numbers, NaN where it is masked. name: for messages. Raises DataError."""
    try:
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            return (image.float() if image.dtype.is_floating_point and image.dtype.itemsize < 4 else image).numpy()
        if not isinstance(image, np.ma.MaskedArray):
            return np.asarray(image)
        kind = image.dtype if image.dtype.kind == "f" else np.float32 if image.dtype.itemsize <= 2 else np.float64
        return np.ma.filled(image.astype(kind), np.nan) if np.ma.is_masked(image) else image.data
    except (TypeError, ValueError, RuntimeError, np.ma.MaskError) as error:
        raise DataError(f"{name}: expected an array of numbers ({' '.join(str(error).split())[:100]})") from None
