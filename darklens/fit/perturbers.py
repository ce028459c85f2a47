"""One mass more in a lens: a point, an isothermal sphere or a truncated NFW halo of a squared Einstein radius.

The squared Einstein radius t = 4 G m D_ls / (c^2 D_l D_s), in arcsec^2, stands for the mass m: it is that of the main
halo times m over the mass within it, whatever the redshifts. Negative ones are a lack of mass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from darklens.fit.grid import Grid
from darklens.fit.mass import Bend, Values
from darklens.fit.parameters import Column, Parameter
from darklens.fit.settings import ModelSettings
from darklens.simulation.physics import point_masses
from darklens.simulation.profiles import sis_subhalos, tnfw_from_square, tnfw_subhalos, tnfw_terms

LEAST = 1e-5  # arcsec^2, of such a difference
STEP = 2e-3  # arcsec, of differences along the perturber's place: as fine as float32 allows
SHARE = 0.02  # of its mass, of differences along that


def _sis(x: Tensor, y: Tensor, px: Tensor, py: Tensor, square: Tensor) -> Bend:
    """With the Einstein radius of the point mass: as much mass within it."""
    return sis_subhalos(x, y, px, py, square.abs().sqrt().copysign(square))


def _tnfw(x: Tensor, y: Tensor, px: Tensor, py: Tensor, square: Tensor) -> Bend:
    """Of the point's whole mass."""
    return tnfw_subhalos(x, y, px, py, *tnfw_terms(*tnfw_from_square(square)))


PROFILES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Bend]] = {
    # x, y (1, n); places px, py and squared Einstein radii, (S, K, 1) each -> summed deflection, (K, n) each
    "point": point_masses,
    "sis": _sis,
    "tnfw": _tnfw,
}


class Perturber:
    """A perturber as a component of the lens (`components.COMPONENTS`): place and squared Einstein radius are free."""

    name: str
    profile: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]

    def __init__(self, model: ModelSettings, grid: Grid) -> None:
        self.grid, self.bend = grid, PROFILES[self.profile]

    def deflection(self, values: Values) -> Bend:
        """x and y (B, n) arcsec of the deflection of the grid's rays."""
        place = (self.grid.column(values[p.name])[None] for p in self.parameters)
        return self.bend(self.grid.x[None], self.grid.y[None], *place)

    def derivatives(self, values: Values) -> dict[str, Bend]:
        """Of the deflection by place and squared Einstein radius: central differences."""
        bends, square = {}, values["perturber_square"].abs()
        for parameter in self.parameters:
            name = parameter.name
            step = (SHARE * square).clamp(min=LEAST) if name == "perturber_square" else torch.full_like(square, STEP)
            ends = [self.deflection(values | {name: values[name] + sign * step}) for sign in (1, -1)]
            width = self.grid.column(2 * step)
            bends[name] = ((ends[0][0] - ends[1][0]) / width, (ends[0][1] - ends[1][1]) / width)
        return bends


def _component(profile: str) -> type[Perturber]:
    """The component of a profile."""
    name = f"perturber_{profile}"
    edges = (lambda m: -m.half_window), (lambda m: m.half_window)
    parameters = (
        *(Parameter(f"perturber_{axis}", "arcsec", 0.0, *edges, 0.1, name) for axis in "xy"),
        Parameter("perturber_square", "arcsec^2", 1e-3, -0.1, 0.1, 5e-3, name),
    )
    columns = tuple(Column("value", (p.name,), (p.name,)) for p in parameters)
    body = {"name": name, "profile": profile, "parameters": parameters, "columns": columns}
    return type(name, (Perturber,), body)


PERTURBERS = {f"perturber_{profile}": _component(profile) for profile in PROFILES}
