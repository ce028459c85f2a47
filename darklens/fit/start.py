"""Where a fit starts when nothing is known: from the moments of the light, which turn and mirror as the lens does.

With z the position of a pixel as a complex number, the means of z, z/|z|, (z/|z|)^2, ... over the bright pixels are
vectors of frequency 1, 1, 2, ...; their products of frequency 0, 1 and 2 predict the Einstein radius, the source's
position and the shear. The coefficients below are a least-squares fit to simulated lenses (`regress`), so the start
has no preferred axis, and no preferred scale either: lengths go with the mean radius of the light.
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from darklens.fit.model import SmoothModel

SHIFT = 0.12  # of the Einstein radius: from one minimum to another where the centre is free and the ring whole
BRIGHT = 0.2  # of the brightest pixel's height above the median: what counts as the arcs' light

RADIUS = (-0.542, 0.316, 0.438, -0.554, 1.568, -0.527, -0.234)
SOURCE = (-1.903, -0.18, -0.041, -0.134, 0.213, -0.021, 1.991, -0.278, -1.474, 2.159)
SHEAR = (-1.048, -0.759, -0.049, 0.533, 0.065, 0.914, -1.279, 1.813, 1.603, -0.837)


def features(image: Tensor, pixel_scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean radius of the light (B,) in arcsec; products of its moments of frequency 0 (B, 7), 1 and 2 (B, 10).

    image: (B, n, n) float64 in any unit.
    """
    n = image.shape[-1]
    steps = (torch.arange(n, dtype=image.dtype, device=image.device) - (n - 1) / 2) * pixel_scale
    z = torch.complex(steps.expand(n, n), -steps[:, None].expand(n, n)).flatten()
    light = image.flatten(1)
    light = (light - light.median(1, keepdim=True).values).clamp(min=0)
    light = torch.where(light > BRIGHT * light.amax(1, keepdim=True), light, 0.0)
    light = light / light.sum(1, keepdim=True).clamp(min=1e-300)
    r = z.abs()
    unit = torch.where(r > 0, z / r.clamp(min=1e-9), 0.0)
    mean = light @ r
    safe = mean.clamp(min=pixel_scale / 2)
    m1, m2, m3, z1, z2 = (light.to(z.dtype) @ torch.stack((unit, unit**2, unit**3, z, z**2), 1)).unbind(1)
    z1, z2, r2 = z1 / safe, z2 / safe**2, (light @ r**2).sqrt() / safe
    width = (r2**2 - 1).clamp(min=0).sqrt()
    scalars = [torch.ones_like(r2), m1.abs() ** 2, m2.abs() ** 2, z1.abs() ** 2, r2, width, z2.abs() ** 2]
    vectors = [m1, m1.conj() * m2, m1.conj() ** 2 * m3, m2.conj() * m3, m1.abs() ** 2 * m1, m2.abs() ** 2 * m1]
    vectors += [z1, z1.conj() * m2, width * z1, width * m1]
    tensors = [m2, m1**2, m2 * m2.abs() ** 2, m2 * m1.abs() ** 2, m1.conj() * m3, z2, z1**2, z1 * m1]
    tensors += [width * m2, width * z2]
    return safe, torch.stack(scalars, 1), torch.stack(vectors, 1), torch.stack(tensors, 1)


def regress(image: Tensor, truth: Tensor, pixel_scale: float) -> list[np.ndarray]:
    """`RADIUS`, `SOURCE`, `SHEAR` from images (B, n, n) and their true Einstein radius, shear and source (B, 5)."""
    mean, *products = (value.numpy() for value in features(image, pixel_scale))
    radius, shear_1, shear_2, x, y = truth.numpy().T
    targets = radius / mean + 0j, (x + 1j * y) / mean, shear_1 + 1j * shear_2

    def real(values: np.ndarray) -> np.ndarray:
        return np.concatenate((values.real, values.imag))

    return [np.linalg.lstsq(real(x + 0j), real(y), rcond=None)[0] for x, y in zip(products, targets, strict=True)]


def from_moments(image: Tensor, pixel_scale: float, model: SmoothModel) -> Tensor:
    """(B, Q) a start for each image (B, n, n), within the model's bounds."""
    mean, scalars, vectors, tensors = features(image, pixel_scale)

    def dot(values: Tensor, coefficients: tuple[float, ...]) -> Tensor:
        return values @ torch.as_tensor(coefficients, dtype=values.dtype, device=values.device)

    q = torch.as_tensor(model.held(), device=image.device).repeat(len(image), 1)
    source, shear = dot(vectors, SOURCE) * mean, dot(tensors, SHEAR)
    values = {
        "einstein_radius": dot(scalars, RADIUS) * mean,
        "shear_1": shear.real,
        "shear_2": shear.imag,
        "source_x": source.real,
        "source_y": source.imag,
        "log_radius": (0.35 * mean).log(),
    }
    for name, value in values.items():
        q[:, model.table.index[name]] = value
    return clamp(q, model)


def grid(q: Tensor, model: SmoothModel) -> Tensor:
    """(B, 27, Q) round each start q: three Einstein radii by nine source positions, without shear."""
    table, starts = model.table, []
    radius = q[:, table.index["einstein_radius"]]
    for factor, (dx, dy) in itertools.product((0.8, 1.0, 1.25), itertools.product((-1, 0, 1), repeat=2)):
        start = q.clone()
        start[:, table.index["einstein_radius"]] *= factor
        start[:, table.columns("shear_1", "shear_2")] = 0
        start[:, table.index["source_x"]] = dx * 0.25 * radius
        start[:, table.index["source_y"]] = dy * 0.25 * radius
        starts.append(clamp(start, model))
    return torch.stack(starts, 1)


def shifted(q: Tensor, model: SmoothModel) -> Tensor:
    """(4, Q) of a fit q (Q,): the lens's centre moved from the image's middle to each side, the source left there."""
    start = q.repeat(4, 1)
    size = SHIFT * q[model.table.index["einstein_radius"]]
    start[:, model.table.columns("centre_x", "centre_y")] = size * q.new_tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    return clamp(start, model)


def about_galaxy(q: Tensor, model: SmoothModel) -> Tensor:
    """(45, Q) for a lens whose galaxy has the parameters q (Q,): five Einstein radii by nine source positions.

    The halo is half as elliptical as the light, in the same direction.
    """
    table, starts = model.table, []
    x, y = q[table.columns("centre_x", "centre_y")]
    halo = q[table.columns("light_1", "light_2")] / 2 if model.free_halo else 0
    for share, (dx, dy) in itertools.product((0.12, 0.17, 0.24, 0.34, 0.48), itertools.product((-1, 0, 1), repeat=2)):
        start, radius = q.clone(), share * model.half_window
        start[table.index["einstein_radius"]] = radius
        start[table.columns("shear_1", "shear_2")] = 0
        start[table.index["source_x"]], start[table.index["source_y"]] = x + dx * radius / 5, y + dy * radius / 5
        start[table.index["log_radius"]] = math.log(radius / 5)
        start[table.columns("ellipticity_1", "ellipticity_2")] = 0
        start[table.columns("halo_1", "halo_2")] = halo
        starts.append(start)
    return clamp(torch.stack(starts), model)


def clamp(q: Tensor, model: SmoothModel) -> Tensor:
    """q (B, Q) within the model's bounds, the held values where it isn't a number."""
    low, high = (torch.as_tensor(bound, device=q.device) for bound in model.bounds())
    held = torch.as_tensor(model.held(), device=q.device)
    return torch.minimum(torch.maximum(torch.where(q.isfinite(), q, held), low), high)
