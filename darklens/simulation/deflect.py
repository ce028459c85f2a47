"""How the rays of drawn lenses are bent, in torch.

Conventions: x grows with the column, y falls with the row; the lens lies at the image's centre, or scattered about it.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from darklens.simulation import physics, profiles
from darklens.simulation.draw import LensSample, mass_scale, tnfw_parameters
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.terms import Terms, columns

# by the name of their terms, in the order in which they are summed
DEFLECTIONS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "round": physics.sis,
    "halo": profiles.sie_deflection,
    "shear": physics.shear_deflection,
    "point": physics.point_masses,
    "sis": profiles.sis_subhalos,
    "tnfw": profiles.tnfw_subhalos,
    "vortex": physics.rod_deflection,
}


def grid(
    recipe: SimulationConfig, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """x (1, 1, n) and y (1, n, 1) of the supersampled rays, in arcsec from the image's centre."""
    n = recipe.image.pixels * recipe.image.supersample
    steps = torch.arange(n, device=device, dtype=dtype) - (n - 1) / 2
    steps = steps * (recipe.image.pixel_scale / recipe.image.supersample)
    return steps.reshape(1, 1, n), -steps.reshape(1, n, 1)


def _subhalos(lenses: LensSample, square: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    to, s = functools.partial(columns, template=x), lenses.subhalos
    position, theta2 = (x, y, to(s["x"]), to(s["y"])), square[:, None] * s["mass"]
    if lenses.profile == "tnfw":
        return *position, *profiles.tnfw_terms(*map(to, tnfw_parameters(lenses)))
    return *position, to(np.sqrt(theta2) if lenses.profile == "sis" else theta2)


def bend_terms(lenses: LensSample, recipe: SimulationConfig, x: Tensor, y: Tensor) -> Terms:
    """The terms of `bend` at x and y (arcsec from the lens; they broadcast).

    Halo (SIE) + external shear + subhalos + vortex (rod). A mass m has the squared Einstein radius theta_E^2 m /
    total mass; where lens.conserve_mass is true the halo has what the substructure leaves.
    """
    v, to, square = lenses.values, functools.partial(columns, template=x), mass_scale(recipe, lenses.values)
    theta_e, angle = to(v["halo.einstein_radius"]), lambda key: to(np.radians(v[key]))
    terms: Terms = {"round": (x, y, theta_e)}
    if (v["lens.axis_ratio"] != 1).any():
        terms = {"halo": profiles.sie_terms(x, y, theta_e, to(v["lens.axis_ratio"]), angle("lens.angle"))}
    terms["shear"] = physics.shear_terms(x, y, to(v["lens.shear"]), angle("lens.shear_angle"))
    if lenses.subhalos["mass"].any():
        terms[lenses.profile] = _subhalos(lenses, square, x, y)
    if v["vortex.mass"].any():
        size = to(square * v["vortex.mass"]), to(v["vortex.length"]), angle("vortex.angle")
        terms["vortex"] = physics.rod_terms(x - to(v["vortex.x"]), y - to(v["vortex.y"]), *size)
    return terms


def bend(terms: Terms) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec), (B, h, w) each."""
    parts = (deflection(*terms[name]) for name, deflection in DEFLECTIONS.items() if name in terms)
    ax, ay = next(parts)
    for more_x, more_y in parts:
        ax, ay = ax.add_(more_x), ay.add_(more_y)
    return ax, ay


def deflection(lenses: LensSample, recipe: SimulationConfig, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`bend` of drawn lenses: (B, h, w) arcsec each, at x and y (arcsec from the lens; they broadcast)."""
    return bend(bend_terms(lenses, recipe, x, y))
