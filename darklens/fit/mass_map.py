"""Is there mass that a smooth lens lacks, whatever the source looks like? A Bayes factor.

A grid of Gaussian blobs of mass, each with a Gaussian prior of mean 0, deflects the rays a little more: to first order
the image changes by minus the source's gradient times the deflection. Source, lens, amplitude and sky are marginalised
with them, so ln B asks whether mass explains what they cannot (Vegetti & Koopmans 2009, MNRAS 392, 945).

A blob of squared Einstein radius t^2 and width w deflects by t^2 (1 - exp(-r^2 / 2 w^2)) / r towards its centre.
"""

import functools

import torch
from torch import Tensor

from darklens.fit import evidence
from darklens.fit.flexible import FlexibleLens
from darklens.fit.noise_ratio import information_and_score
from darklens.fit.renderer import Renderer

SIDE = 19  # blobs each way
REACH = 0.857  # of half the window: the outermost
WIDTH = 0.7  # of the distance between two
DEVIATIONS = torch.logspace(
    -4, -2, 9, dtype=torch.float64
)  # arcsec^2: of a blob's squared Einstein radius; 1e-3 is 6e8 Msun of Model F


def blob_deflections(x: Tensor, y: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """x and y of the deflection (SIDE^2, n) at x, y (n,) arcsec, by blobs of unit squared Einstein radius on a grid."""
    steps = torch.linspace(-reach, reach, SIDE).to(x)
    width = WIDTH * float(steps[1] - steps[0])
    px, py = (p.reshape(-1, 1) for p in torch.meshgrid(steps, steps, indexing="ij"))
    dx, dy = x - px, y - py
    square = dx * dx + dy * dy + 1e-12
    strength = -torch.expm1(-square / (2 * width**2)) / square
    return dx * strength, dy * strength


@functools.lru_cache(maxsize=1)
def _deflections(camera: Renderer) -> tuple[Tensor, Tensor]:
    """Of the blobs in the middles of a camera's pixels, (SIDE^2, h^2) each."""
    grid = camera.grid
    x, y = (grid.pixels(each[None])[0].flatten() for each in (grid.x, grid.y))
    return blob_deflections(x, y, REACH * camera.model.half_window)


def log_bayes_factor(lens: FlexibleLens) -> float:
    """ln B of mass on the grid against none, for a lens whose last step held the prior (`FlexibleLens.run`)."""
    grid, design = lens.renderer.grid, lens.design
    _, gu, gv = lens.source.light(*lens.rays())
    gu, gv = (grid.pixels(each[None])[0].flatten() for each in (gu, gv))
    ax, ay = _deflections(lens.renderer)
    planes = (ax * gu).addcmul_(ay, gv).neg_().view(-1, grid.h, grid.h)  # (SIDE^2, h^2) -> (SIDE^2, h, h)
    blobs = lens.blur(planes)[:, design.pixels] * design.weight.to(planes.dtype)
    return float(evidence.bayes_factor(*information_and_score(lens, blobs), DEVIATIONS))
