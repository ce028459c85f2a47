"""A source as cubic B-splines on lattices in the source plane: its light, its gradient, its columns of the design.

On a lattice of spacing d the node at (i, j) has the light B(x / d - i) B(y / d - j), with the cubic B-spline B of
support (-2, 2) (de Boor 1978, A Practical Guide to Splines, ch. IX). Finer lattices add detail where there is light
enough to show it (as the wavelets of a multi-resolution source: Galan et al. 2021, A&A 647, A176).
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

SUPPORT = 4  # nodes on either axis that a point sees


def cubic(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes that a coordinate t (n,), in spacings, sees: the first of them (n,), their weights and the weights'
    derivatives by t, (n, 4) each."""
    floor = t.floor()
    f = t - floor
    g, f2 = 1 - f, f * f
    f3 = f2 * f
    weights = torch.stack((g**3 / 6, (3 * f3 - 6 * f2 + 4) / 6, (-3 * f3 + 3 * f2 + 3 * f + 1) / 6, f3 / 6), 1)
    slopes = torch.stack((-g * g / 2, (3 * f2 - 4 * f) / 2, (-3 * f2 + 2 * f + 1) / 2, f2 / 2), 1)
    return floor.long() - 1, weights, slopes


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Square lattice of side 2 m + 1 about the source's centre, of which some nodes carry a coefficient."""

    spacing: float  # arcsec
    column: Tensor  # (2 m + 1, 2 m + 1) long: the coefficient of each node, first index x, second y; -1: none

    @classmethod
    def empty(cls, spacing: float, reach: float) -> "Lattice":
        """Nodes out to `reach` arcsec, without coefficients."""
        m = math.ceil(reach / spacing)
        return cls(spacing, torch.full((2 * m + 1, 2 * m + 1), -1))

    @property
    def chosen(self) -> Tensor:
        """(2 m + 1, 2 m + 1) bool: the nodes that carry a coefficient."""
        return self.column >= 0

    def nodes(self) -> tuple[Tensor, Tensor]:
        """x and y of all nodes, (2 m + 1, 2 m + 1) arcsec each, float64."""
        steps = (torch.arange(len(self.column), dtype=torch.float64) - len(self.column) // 2) * self.spacing
        x, y = torch.meshgrid(steps, steps, indexing="ij")
        return x, y

    def spread(self, values: Tensor) -> Tensor:
        """(K,) -> (2 m + 1, 2 m + 1), 0 where no coefficient is."""
        return torch.where(self.chosen, values[self.column.clamp(min=0)], 0.0)

    def weight_about_nodes(self, u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        """(2 m + 1, 2 m + 1) weight of the points u, v (n,) nearest to each node, averaged over 3 x 3 nodes."""
        side = len(self.column)
        i, j = ((t / self.spacing + side // 2 + 0.5).floor().long() for t in (u, v))
        inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
        total = torch.zeros(side * side, dtype=torch.float64)
        total.index_add_(0, (i * side + j)[inside], weight[inside].double())
        return torch.nn.functional.avg_pool2d(total.view(1, 1, side, side), 3, 1, 1)[0, 0]

    def within(self, u: Tensor, v: Tensor) -> Tensor:
        """The points u, v (n,) that see a node with a coefficient's neighbourhood: their indices."""
        reach = (len(self.column) // 2 + SUPPORT // 2) * self.spacing
        return ((u.abs() < reach) & (v.abs() < reach)).nonzero()[:, 0]

    def visible(self, u: Tensor, v: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What points u, v (n,) arcsec see: flat places (n, 16) in `padded`, weights and slopes of either axis."""
        side = len(self.column) + 2 * SUPPORT
        first, weights, slopes = zip(*(cubic(t / self.spacing + len(self.column) // 2) for t in (u, v)), strict=True)
        rows, columns = (
            (i + SUPPORT).clamp(0, side - SUPPORT)[:, None] + torch.arange(SUPPORT, device=u.device) for i in first
        )
        places = (rows[:, :, None] * side + columns[:, None, :]).flatten(1)  # (n, 4, 4) -> (n, 16)
        return places, list(weights), list(slopes)

    def basis(self, steps: Tensor) -> Tensor:
        """(n, 2 m + 1) the spline of each node of an axis at the coordinates (n,) arcsec."""
        first, weights, _ = cubic(steps / self.spacing + len(self.column) // 2)
        side = len(self.column) + 2 * SUPPORT
        places = (first + SUPPORT).clamp(0, side - SUPPORT)[:, None] + torch.arange(SUPPORT)
        return steps.new_zeros(len(steps), side).scatter_(1, places, weights)[:, SUPPORT:-SUPPORT]

    def padded(self, values: Tensor, fill: float) -> Tensor:
        """(2 m + 1, 2 m + 1) with a border that catches what lies outside, flat."""
        return torch.nn.functional.pad(values, (SUPPORT,) * 4, value=fill).flatten()

    def light(self, coefficients: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Light at u, v (n,) and its derivatives by u and v (1 / arcsec), for coefficients (K,)."""
        values = self.spread(coefficients.to(u.dtype))
        places, (wu, wv), (su, sv) = self.visible(u, v)
        nodes = self.padded(values, 0.0)[places].unflatten(1, (SUPPORT, SUPPORT))  # (n, 16) -> (n, 4, 4)
        along = (nodes @ wv[:, :, None])[:, :, 0]  # (n, 4)
        across = (nodes @ sv[:, :, None])[:, :, 0]
        return (along * wu).sum(1), (along * su).sum(1) / self.spacing, (across * wu).sum(1) / self.spacing


def light(lattices: Sequence[Lattice], coefficients: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Light of all lattices at u, v (n,), and its derivatives by u and v."""
    parts = [lattice.light(coefficients, u, v) for lattice in lattices]
    value, by_u, by_v = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    return value, by_u, by_v


def columns(lattices: Sequence[Lattice], u: Tensor, v: Tensor, pixel: Tensor, pixels: int) -> Tensor:
    """(K, pixels): for each coefficient the sum, in each pixel, of its light at the pixel's rays.

    u, v: (n,) where the rays meet the source plane, arcsec; pixel: (n,) the pixel of each.
    """
    planes = []
    for lattice in lattices:
        count = int(lattice.chosen.sum())
        if count:
            start = lattice.column[lattice.chosen].min()
            numbers = torch.where(lattice.chosen, lattice.column - start, count)
            rays = lattice.within(u, v)
            places, (wu, wv), _ = lattice.visible(u[rays], v[rays])
            target = lattice.padded(numbers.double(), count).long()[places] * pixels + pixel[rays, None]  # (n, 16)
            weights = (wu[:, :, None] * wv[:, None, :]).flatten()
            plane = torch.zeros((count + 1) * pixels, dtype=u.dtype).index_add_(0, target.flatten(), weights)
            planes.append(plane.view(count + 1, pixels)[:count])
    return torch.cat(planes)
