"""The rays of an image's pixels, beyond its edges as far as the PSF reaches."""

import functools

import torch
from torch import Tensor


class Grid:
    """s x s rays in each of h x h pixels about the centre; x grows with the column, y falls with the row.

    Rays come in the order (s, s, h, h): those of one pixel lie h^2 apart.
    """

    def __init__(self, h: int, s: int, scale: float, device: torch.device, dtype: torch.dtype) -> None:
        """h: pixels a side; s: rays a pixel, each way; scale: arcsec a pixel."""
        to = functools.partial(torch.as_tensor, device=device, dtype=dtype)
        self.h, self.s = h, s
        steps = torch.arange(h * s, dtype=torch.float64, device=device) - (h * s - 1) / 2
        x = (steps * (scale / s)).reshape(h, s)
        x, y = x.T.reshape(1, s, 1, h), -x.T.reshape(s, 1, h, 1)
        x, y = x.expand(s, s, h, h).reshape(-1), y.expand(s, s, h, h).reshape(-1)  # (s, s, h, h) -> (s^2 h^2,)
        r = torch.hypot(x, y) + 1e-15
        self.x, self.y, self.cos, self.sin = to(x), to(y), to(x / r), to(y / r)
        self.basis = torch.stack((self.x, self.y, self.cos, self.sin, torch.ones_like(self.x)))  # (5, s^2 h^2)

    def pixels(self, rays: Tensor) -> Tensor:
        """The mean of each pixel's rays: (B, s^2 h^2) -> (B, h, h)."""
        return rays.unflatten(1, (self.s**2, self.h, self.h)).mean(1)

    def column(self, values: Tensor) -> Tensor:
        """(B,) float64 -> (B, 1) in the working precision."""
        return values.to(self.x.dtype)[:, None]
