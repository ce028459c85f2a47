"""What is fitted of an image: a centred window in units of its own, so that the image's units don't matter."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from darklens.fit.settings import ModelSettings


@dataclasses.dataclass(frozen=True)
class Window:
    """B square windows. An image's value is background + scale * data."""

    data: Tensor  # (B, S, S) float64, largest absolute value 1, 0 where masked
    good: Tensor  # (B, S, S) bool: False where masked or not finite
    background: Tensor  # (B,) float64, the median
    scale: Tensor  # (B,) float64, 1 where the window is constant
    constant: Tensor  # (B,) bool: constant, or nothing to see
    step: Tensor  # (B,) float64, the smallest step between two values of the data


def middle(images: Tensor, size: int) -> Tensor:
    """The middle (..., size, size) of (..., H, W)."""
    row, column = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., row : row + size, column : column + size]


def as_images(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """(B, H, W), (B, 1, H, W) or (H, W) of anything -> (B, H, W) float64. Raises ValueError for other shapes."""
    if not isinstance(values, Tensor):
        values = torch.as_tensor(np.array(values, dtype=np.float64, order="C"), device=device)
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise ValueError(f"expected images (B, H, W), not {tuple(values.shape)}")
    return values.to(device).double()


def cut(images: Tensor, mask: Tensor | None, model: ModelSettings) -> Window:
    """The windows of images (B, H, W); mask (B, H, W) or (H, W) is True where a pixel must not count."""
    size = model.size(*images.shape[1:])
    data = middle(images, size)
    good = data.isfinite()
    if mask is not None:
        good = good & ~middle(mask.bool().expand(images.shape), size)
    ordered = torch.where(good, data, torch.inf).flatten(1).sort(1).values  # masked ones last
    half = (good.sum((1, 2)) // 2).clamp(max=ordered.shape[1] - 1)
    background = ordered.gather(1, half[:, None])[:, 0].nan_to_num(0.0, 0.0, 0.0)
    data = torch.where(good, data - background[:, None, None], 0.0)
    scale = data.abs().amax((1, 2))
    constant = ~((scale > 1e-12 * background.abs()) & scale.isfinite() & (scale > 1e-300))
    scale = torch.where(constant, 1.0, scale)
    data = torch.where(constant[:, None, None], 0.0, data / scale[:, None, None])
    step = ordered.diff(dim=1) / scale[:, None]
    step = torch.where((step > 1e-9) & step.isfinite(), step, torch.inf).amin(1).nan_to_num(0.0, 0.0, 0.0)
    return Window(data, good, background, scale, constant, step)


def binned(values: Tensor, good: Tensor, binning: int) -> tuple[Tensor, Tensor]:
    """Means (B, n, n) of good pixels in bins about the centre, and how many they are; n as odd or even as S."""
    size = values.shape[-1]
    bins = size // binning
    bins -= (size - bins * binning) % 2  # so that as much is cut on either side
    weight = middle(good, bins * binning).to(values.dtype)
    shape = (len(values), bins, binning, bins, binning)  # (B, n b, n b) -> (B, n, b, n, b)
    count = weight.reshape(shape).sum((2, 4))
    total = (middle(values, bins * binning) * weight).reshape(shape).sum((2, 4))
    return total / count.clamp(min=1), count
