"""A halo that is no ellipse: multipoles of order 3 (lopsided) and 4 (boxy or discy).

The convergence of order m is theta_E / (2 r) (a cos m phi + b sin m phi) about the halo's centre, so a and b are shares
of the isothermal halo's, as those of isophotes are (Xu et al. 2015, MNRAS 447, 3189; lenstronomy's MULTIPOLE with
a_m = theta_E |a + ib|). Its potential is r g(phi), g = theta_E (a cos m phi + b sin m phi) / (1 - m^2), its deflection
(g + i g') exp(i phi), and that turns with phi as i (1 - m^2) g exp(i phi).
"""

import torch
from torch import Tensor

from darklens.fit import halo
from darklens.fit.grid import Grid
from darklens.fit.mass import Bend, Values
from darklens.fit.parameters import Column, Gaussian, Parameter
from darklens.fit.settings import ModelSettings

ORDERS = 3, 4
PRIOR = Gaussian(0.0, 0.01, "isophotes of elliptical galaxies: Hao et al. 2006, MNRAS 370, 1339")


class Multipole:
    """A multipole of the halo as a component of the lens (`components.COMPONENTS`)."""

    name: str
    order: int
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]

    def __init__(self, model: ModelSettings, grid: Grid) -> None:
        self.grid = grid

    def _waves(self, values: Values) -> tuple[Tensor, Tensor, Tensor]:
        """exp(i phi), exp(i m phi) (B, n) and the distance from the centre."""
        dx, dy = (getattr(self.grid, k) - self.grid.column(values[f"centre_{k}"]) for k in "xy")
        radius = (dx * dx + dy * dy + halo.CORE).sqrt()
        unit = torch.complex(dx / radius, dy / radius)
        return unit, unit**self.order, radius

    def _bend(self, wave: tuple[Tensor, Tensor], a: Tensor, b: Tensor) -> Tensor:
        """The deflection (B, n), complex, of convergences a and b times 1 / (2 r)."""
        unit, turned = wave
        g = a * turned.real + b * turned.imag
        slope = self.order * (b * turned.real - a * turned.imag)
        return torch.complex(g, slope) * unit / (1 - self.order**2)

    def deflection(self, values: Values) -> Bend:
        """x and y (B, n) arcsec of the deflection of the grid's rays."""
        unit, turned, _ = self._waves(values)
        a, b = (self.grid.column(values[p.name] * values["einstein_radius"]) for p in self.parameters)
        bend = self._bend((unit, turned), a, b)
        return bend.real, bend.imag

    def derivatives(self, values: Values) -> dict[str, Bend]:
        """Of the deflection by its amplitudes, Einstein radius and centre."""
        unit, turned, radius = self._waves(values)
        theta = self.grid.column(values["einstein_radius"])
        first, second = (self.grid.column(values[p.name]) for p in self.parameters)
        zero = torch.zeros_like(theta)
        turn = 1j * theta * (first * turned.real + second * turned.imag) * unit / radius
        bends = {
            self.parameters[0].name: self._bend((unit, turned), theta, zero),
            self.parameters[1].name: self._bend((unit, turned), zero, theta),
            "einstein_radius": self._bend((unit, turned), first, second),
            "centre_x": turn * unit.imag,  # d phi = (sin phi dx - cos phi dy) / r
            "centre_y": -turn * unit.real,
        }
        return {name: (bend.real, bend.imag) for name, bend in bends.items()}


def _component(order: int) -> type[Multipole]:
    """The component of an order."""
    name = f"multipole_{order}"
    parameters = tuple(Parameter(f"{name}_{k}", "", 0.0, -0.1, 0.1, 0.02, name, PRIOR) for k in (1, 2))
    columns = tuple(Column("value", (p.name,), (p.name,)) for p in parameters)
    body = {"name": name, "order": order, "parameters": parameters, "columns": columns}
    return type(name, (Multipole,), body)


MULTIPOLES = {f"multipole_{order}": _component(order) for order in ORDERS}
