"""The mass that bends the light: an isothermal ellipsoid (a sphere, if it is round), external shear, and what is added.

    u = (1 - g1) x - g2 y - theta_E cos - x_s
    v = (1 + g1) y - g2 x - theta_E sin - y_s

where (cos, sin) is the halo's deflection per arcsec of its Einstein radius: the direction to a sphere's centre, or
that of `halo.Ellipsoid`. Every derivative of the light is its slope (gu, gv) in the source plane times that of a ray.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from darklens.fit import halo
from darklens.fit.grid import Grid
from darklens.fit.parameters import Column, Gaussian, Parameter
from darklens.fit.settings import ModelSettings

Bend = tuple[Tensor, Tensor]
Values = dict[str, Tensor]  # (B,) float64 by parameter

SHEAR_PRIOR = Gaussian(
    0.0, 0.06, "a few %: Keeton, Kochanek & Seljak 1997, ApJ 482, 604; Holder & Schechter 2003, ApJ 589, 688"
)
HALO_PRIOR = Gaussian(
    None, 0.10, "about the light's: Koopmans et al. 2006, ApJ 649, 599: <q_SIE/q_light> = 0.99, rms 0.11"
)
RADIUS = (
    Parameter(
        "einstein_radius",
        "arcsec",
        initial=lambda m: m.half_window / 2,
        low=lambda m: 0.02 * m.half_window,
        high=lambda m: 1.2 * m.half_window,
        largest_step=lambda m: m.half_window / 8,
        group="lens",
    ),
)
SHEAR = tuple(Parameter(f"shear_{k}", "", 0.0, -0.7, 0.7, 0.15, "lens", SHEAR_PRIOR) for k in (1, 2))
CENTRE = tuple(
    Parameter(
        f"centre_{axis}",
        "arcsec",
        initial=0.0,
        low=lambda m: -m.half_window / 4,
        high=lambda m: m.half_window / 4,
        largest_step=lambda m: m.half_window / 16,
        group="centre",
    )
    for axis in "xy"
)
SHAPE = tuple(Parameter(f"halo_{k}", "", 0.0, -0.7, 0.7, 0.15, "halo", HALO_PRIOR) for k in (1, 2))
COLUMNS = (
    Column("value", ("einstein_radius",), ("einstein_radius",)),
    Column("polar", ("shear_1", "shear_2"), ("shear", "shear_angle")),
)
CENTRE_COLUMNS = tuple(Column("value", (name,), (name,), "centre") for name in ("centre_x", "centre_y"))
SHAPE_COLUMNS = (Column("axes", ("halo_1", "halo_2"), ("halo_axis_ratio", "halo_angle"), "halo"),)
NAMES = tuple(p.name for p in (*RADIUS, *SHEAR))  # those that are always free
LENS_NAMES = tuple(p.name for p in (*CENTRE, *SHAPE))


class Deflector(Protocol):
    """A further mass, by the registry of `components`: made with the model and the grid."""

    name: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]

    def deflection(self, values: Values) -> Bend:
        """x and y (B, n) arcsec of the deflection of the grid's rays."""

    def derivatives(self, values: Values) -> dict[str, Bend]:
        """Derivatives of the deflection by each of `parameters`, and by those of the halo that move it."""


@dataclasses.dataclass
class Rays:
    """The rays of B images in the source plane."""

    u: Tensor  # (B, n) arcsec about the source
    v: Tensor
    cos: Tensor  # the halo's deflection per arcsec of its Einstein radius: (n,), or (B, n) of a free halo
    sin: Tensor
    ellipsoid: halo.Ellipsoid | None  # where the halo's shape is free


class Mass:
    """Deflection of the rays of a grid and its derivatives."""

    def __init__(self, model: ModelSettings, grid: Grid, further: Sequence[Deflector] = ()) -> None:
        self.model, self.grid, self.further = model, grid, tuple(further)
        self.names = (*NAMES, *LENS_NAMES, *(p.name for each in self.further for p in each.parameters))

    def rays(self, p: Values) -> Rays:
        """Where the rays meet the source plane."""
        grid, zero, t = self.grid, torch.zeros_like(p["einstein_radius"]), p["einstein_radius"]
        g1, g2, xs, ys = p["shear_1"], p["shear_2"], p["source_x"], p["source_y"]
        moves = self.model.free_centre or self.model.free_halo
        bend = zero if moves else -t
        rows = (1 - g1, -g2, bend, zero, -xs), (-g2, 1 + g1, zero, bend, -ys)
        u, v = (torch.stack(row, 1).to(grid.x.dtype) @ grid.basis for row in rows)  # (B, 5) @ (5, n) -> (B, n)
        cos, sin, ellipsoid = grid.cos, grid.sin, None
        if moves:
            cos, sin, ellipsoid = self._about_centre(p)
            u, v = u.addcmul_(cos, grid.column(-t)), v.addcmul_(sin, grid.column(-t))
        for each in self.further:
            ax, ay = each.deflection(p)
            u, v = u - ax, v - ay
        return Rays(u, v, cos, sin, ellipsoid)

    def _about_centre(self, p: Values) -> tuple[Tensor, Tensor, halo.Ellipsoid | None]:
        dx, dy = self.about(p)
        if self.model.free_halo:
            ellipsoid = halo.Ellipsoid(dx, dy, *self.ellipticity(p))
            return *ellipsoid.deflection(), ellipsoid
        inverse = (dx * dx + dy * dy + 1e-20).rsqrt_()
        return dx.mul_(inverse), dy.mul_(inverse), None

    def about(self, p: Values) -> Bend:
        """x, y (B, n) arcsec of the rays about the halo's centre."""
        grid = self.grid
        return grid.x - grid.column(p["centre_x"]), grid.y - grid.column(p["centre_y"])

    def ellipticity(self, p: Values) -> Bend:
        """The halo's, (B, 1) each."""
        return self.grid.column(p["halo_1"]), self.grid.column(p["halo_2"])

    def planes(self, p: Values, rays: Rays, gu: Tensor, gv: Tensor) -> dict[str, Tensor]:
        """Derivatives of light of the slope gu, gv (B, n) in the source plane, by parameter, (B, h, h) each."""
        planes = self._by_rays(rays, gu, gv)
        if rays.ellipsoid is not None:
            planes |= self._by_ellipsoid(p, rays.ellipsoid, gu, gv)
        elif self.model.free_centre:
            planes |= self._by_centre(p, rays, gu, gv)
        for each in self.further:
            parameters = {parameter.name for parameter in each.parameters}
            for name, bend in each.derivatives(p).items():
                if name in planes:
                    planes[name] = planes[name] + self.by_bend(gu, gv, bend)
                elif name in parameters:
                    planes[name] = self.by_bend(gu, gv, bend)
        return planes

    def by_bend(self, gu: Tensor, gv: Tensor, bend: Bend) -> Tensor:
        """The derivative by how much there is of another deflection of the rays, (B, h, h)."""
        return self.grid.pixels((gu * bend[0]).addcmul_(gv, bend[1])).neg_()

    def _by_rays(self, rays: Rays, gu: Tensor, gv: Tensor) -> dict[str, Tensor]:
        """By Einstein radius, shear and the source's position."""
        x, y = self.grid.x, self.grid.y
        slopes = {
            "einstein_radius": (gu * rays.cos).addcmul_(gv, rays.sin),
            "shear_1": (gu * x).addcmul_(gv, y, value=-1),
            "shear_2": (gu * y).addcmul_(gv, x),
            "source_x": gu,
            "source_y": gv,
        }
        return {name: self.grid.pixels(each).neg_() for name, each in slopes.items()}

    def _by_ellipsoid(self, p: Values, ellipsoid: halo.Ellipsoid, gu: Tensor, gv: Tensor) -> dict[str, Tensor]:
        """By the halo's ellipticity, and by its centre where that is free."""
        theta = self.grid.column(p["einstein_radius"])
        bends = ellipsoid.bends()
        names = ["centre_x", "centre_y"] * self.model.free_centre + ["halo_1", "halo_2"]
        gu, gv = gu * theta, gv * theta
        return {name: self.by_bend(gu, gv, bends[name]) for name in names}

    def _by_centre(self, p: Values, rays: Rays, gu: Tensor, gv: Tensor) -> dict[str, Tensor]:
        """By a sphere's centre: d(cos, sin)/dx = (-sin, cos) sin / r, and so on."""
        dx, dy = self.about(p)
        turn = (gu * rays.sin).addcmul_(gv, rays.cos, value=-1).mul_((dx * dx + dy * dy + 1e-20).rsqrt_())
        turn.mul_(self.grid.column(p["einstein_radius"]))
        return {"centre_x": self.grid.pixels(turn * rays.sin), "centre_y": self.grid.pixels(turn * rays.cos).neg_()}
