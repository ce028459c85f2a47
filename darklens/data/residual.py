"""What the best smooth lens cannot explain, as the input of a network.

    inputs, fit = residual_view(images, SmoothModel(), 105)         # (B, 1, 105, 105) float32, Fit

The smooth lens (halo, shear, source) is most of an image's light and carries no information about substructure: it is
fitted, subtracted, and what is left is given in standard deviations of the noise. Substructure is seen through the PSF,
noise is not, so the residual is smoothed a little; the kernel is even on an even image and odd on an odd one, which
puts the lens, wherever the middle of the image lies, on the central pixel. The view of a turned or mirrored image is
thus the turned or mirrored view.

References: Vegetti & Koopmans 2009, MNRAS 392, 945 (substructure from what a smooth lens leaves); Warren & Dye 2003,
ApJ 590, 673. The fit: darklens/fit.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.data.checks import central
from darklens.errors import DataError
from darklens.fit import Fit, SmoothModel
from darklens.fit.by_source import fit_by_source
from darklens.fit.correlation import smoothed_deviation

VIEWS = ("image", "residual", "both", "flexible")
VIEW_VERSIONS = {"sersic": 3, "flexible": 6}  # by the source: raise one whenever the same image gives another view
CLIP = 15.0  # standard deviations of the smoothed noise; what differs by more is no longer told apart
SCALE = 3.0  # standard deviations that become 1
TAPS = {  # binomial kernels of variance 3/4 pixel, half a PSF's: for an even and for an odd image
    0: np.array([1.0, 3.0, 3.0, 1.0]),
    1: np.array([1.0, 8.0, 14.0, 8.0, 1.0]),
}


def smoothed(residual: Tensor, crop: int) -> Tensor:
    """Residuals (B, S, S) in standard deviations of white noise -> (B, 1, crop, crop), of the smoothed noise.

    crop is odd, S is crop or crop + 1; edges are continued with zeros.
    """
    taps = torch.as_tensor(TAPS[residual.shape[-1] % 2], dtype=residual.dtype, device=residual.device)
    kernel = torch.outer(taps, taps) / taps.square().sum()  # squares sum to 1
    pad = (crop + len(taps) - 1 - residual.shape[-1]) // 2
    return F.conv2d(residual[:, None], kernel[None, None], padding=pad)


def residual_view(
    images: Tensor,
    model: SmoothModel,
    crop: int,
    start: np.ndarray | None = None,
    noise: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    score_test: bool = True,
) -> tuple[Tensor, Fit]:
    """The network's input (B, 1, crop, crop) float32 and the fits, of images (B, 1, H, W) in any unit.

    Pixels that are not finite don't count. start, noise, mask, score_test: as in `fit`. An oblong image is cut
    to the square about its middle, and the centre of its lens, which may lie half a pixel off that of the square, is
    fitted too. Values are rounded to float16, in which views are kept. Raises DataError for images that are smaller or
    have more than one channel.
    """
    if images.shape[1] != 1:
        raise DataError(f"the residual view takes images of one channel, found {images.shape[1]}")
    if min(images.shape[-2:]) < crop:
        raise DataError(f"expected images of {crop} pixels or more, found {images.shape[-2]} x {images.shape[-1]}")
    if images.shape[-2] != images.shape[-1]:
        height, width = images.shape[-2:]
        rows, columns = central(height, width, min(height, width))
        images, model = images[..., rows, columns], dataclasses.replace(model, free_centre=True)
        noise, mask = (side if side is None else side[..., rows, columns] for side in (noise, mask))
    fits = fit_by_source(images[:, 0], model, start=start, noise=noise, mask=mask, score_test=score_test)
    return view_of(fits, crop, images.device), fits


def view_of(fits: Fit, crop: int, device: str | torch.device = "cpu") -> Tensor:
    """The network's input (B, 1, crop, crop) float32, of fits in windows of crop or crop + 1 pixels.

    In standard deviations of the smoothed noise, which are larger where the fit has found the noise correlated.
    """
    return view_of_residual(torch.as_tensor(fits.view_residual, device=device), crop, fits.noise_width.tolist())


def view_of_residual(residual: Tensor, crop: int, widths: Sequence[float] | None = None) -> Tensor:
    """`view_of` residuals (B, S, S) in standard deviations, S crop or crop + 1; widths: (B,) pixels, of the Gaussians
    that smoothed the noise of each. None: it is white."""
    if widths is not None:
        deviations = [smoothed_deviation(TAPS[residual.shape[-1] % 2], width) for width in widths]
        residual = residual / residual.new_tensor(deviations)[:, None, None]
    return (smoothed(residual.float(), crop).clamp(-CLIP, CLIP) / SCALE).half().float()
