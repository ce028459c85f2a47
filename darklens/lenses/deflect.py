"""How the rays of drawn lenses are bent, in torch.

Conventions: x grows with the column, y falls with the row; the lens sits amid the image, or scattered about it.
"""

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from darklens.lenses import profiles
from darklens.lenses.brightness import lens_light_scale, source_scale
from darklens.lenses.draw import Lenses, mass_scale, tnfw_parameters
from darklens.lenses.physics import external_shear, point_masses, rod
from darklens.lenses.recipe_tables import Recipe


def columns(values: np.ndarray, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    if values.shape == (1,):
        return torch.full((1, 1, 1), float(values[0]), dtype=like.dtype, device=like.device)  # the fastest way
    return torch.as_tensor(np.ascontiguousarray(values.T), device=like.device).to(like.dtype)[..., None, None]


def grid(
    recipe: Recipe, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """x (1, 1, n) and y (1, n, 1) in arcsec of the supersampled rays from the image's middle."""
    n = recipe.image.pixels * recipe.image.supersample
    steps = torch.arange(n, device=device, dtype=dtype) - (n - 1) / 2
    steps = steps * (recipe.image.pixel_scale / recipe.image.supersample)
    return steps.reshape(1, 1, n), -steps.reshape(1, n, 1)


def prepare(lenses: Lenses, recipe: Recipe) -> Lenses:
    """The lenses with what follows from their values, worked out for all of them at once."""
    if "derived.source" in lenses.values:
        return lenses
    derived = {
        "derived.mass_scale": mass_scale(recipe, lenses.values),
        "derived.source": source_scale(lenses, recipe),
        "derived.lens_light": lens_light_scale(lenses, recipe),
    }
    return dataclasses.replace(lenses, values=lenses.values | derived)


def _subhalos(lenses: Lenses, square: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    to, s = functools.partial(columns, like=x), lenses.subhalos
    if lenses.profile == "tnfw":
        return profiles.tnfw_subhalos(x, y, to(s["x"]), to(s["y"]), *map(to, tnfw_parameters(lenses)))
    theta2 = square[:, None] * s["mass"]
    if lenses.profile == "sis":
        return profiles.sis_subhalos(x, y, to(s["x"]), to(s["y"]), to(np.sqrt(theta2)))
    return point_masses(x, y, to(s["x"]), to(s["y"]), to(theta2))


def deflection(lenses: Lenses, recipe: Recipe, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec), (B, h, w) each, at x and y (arcsec from the lens; they broadcast).

    Halo (SIE) + external shear + subhalos + vortex (rod). A mass m has the squared Einstein radius theta_E^2 m /
    total mass; where lens.conserve_mass is true the halo has what the substructure leaves.
    """
    lenses = prepare(lenses, recipe)
    v, to, square = lenses.values, functools.partial(columns, like=x), lenses["derived.mass_scale"]
    parts = [
        profiles.sie(x, y, to(v["halo.einstein_radius"]), to(v["lens.axis_ratio"]), to(np.radians(v["lens.angle"]))),
        external_shear(x, y, to(v["lens.shear"]), to(np.radians(v["lens.shear_angle"]))),
    ]
    if lenses.subhalos["mass"].any():
        parts.append(_subhalos(lenses, square, x, y))
    if v["vortex.mass"].any():
        dx, dy, angle = x - to(v["vortex.x"]), y - to(v["vortex.y"]), to(np.radians(v["vortex.angle"]))
        parts.append(rod(dx, dy, to(square * v["vortex.mass"]), to(v["vortex.length"]), angle))
    ax, ay = parts[0]
    for more_x, more_y in parts[1:]:
        ax, ay = ax.add_(more_x), ay.add_(more_y)
    return ax, ay
