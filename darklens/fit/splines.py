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

    def cropped(self) -> "Lattice":
        """Without what lies more than a node beyond those that carry a coefficient."""
        middle = len(self.column) // 2
        far = int((self.chosen.nonzero() - middle).abs().max()) + 1 if self.chosen.any() else 1
        inside = slice(max(middle - far, 0), middle + far + 1)
        return Lattice(self.spacing, self.column[inside, inside].contiguous())

    @property
    def chosen(self) -> Tensor:
        """(2 m + 1, 2 m + 1) bool: the nodes that carry a coefficient."""
        return self.column >= 0

    @property
    def steps(self) -> Tensor:
        """(2 m + 1,) x, and y, of the nodes in arcsec, float64."""
        return (torch.arange(len(self.column), dtype=torch.float64) - len(self.column) // 2) * self.spacing

    def spread(self, values: Tensor) -> Tensor:
        """(K,) -> (2 m + 1, 2 m + 1), 0 where no coefficient is."""
        return torch.where(self.chosen, values[self.column.clamp(min=0)], 0.0)

    def resized(self, values: Tensor, side: int) -> Tensor:
        """(2 m + 1, 2 m + 1) -> (side, side) about the same middle, 0 beyond."""
        margin = (side - len(values)) // 2
        return torch.nn.functional.pad(values, (margin,) * 4)

    def weight_about_nodes(self, u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        """(2 m + 1, 2 m + 1) weight of the points u, v (n,) nearest to each node, averaged over 3 x 3 nodes."""
        side = len(self.column)
        i, j = ((t / self.spacing + side // 2 + 0.5).floor().long() for t in (u, v))
        inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
        total = torch.zeros(side * side, dtype=torch.float64)
        total.index_add_(0, (i * side + j)[inside], weight[inside].double())
        return torch.nn.functional.avg_pool2d(total.view(1, 1, side, side), 3, 1, 1)[0, 0]

    def footprint(self, u: Tensor, v: Tensor) -> "Footprint":
        """What points u, v (n,) arcsec see of the nodes with a coefficient."""
        side = len(self.column) + 2 * SUPPORT
        u, v = (t / self.spacing + len(self.column) // 2 for t in (u, v))
        i, j = ((t.floor().long() - 1 + SUPPORT).clamp(0, side - SUPPORT) for t in (u, v))
        corner = i * side + j
        points = self._visible()[corner].nonzero()[:, 0]
        (_, along, along_slope), (_, across, across_slope) = (cubic(t[points]) for t in (u, v))
        steps = torch.arange(SUPPORT, device=u.device)
        places = (corner[points, None, None] + steps[:, None] * side + steps).flatten(1)  # (m, 4, 4) -> (m, 16)
        return Footprint(self, points, places, (along, across), (along_slope, across_slope))

    def _visible(self) -> Tensor:
        """(padded side^2,) bool: the 4 x 4 nodes from there on hold one with a coefficient."""
        chosen = self.padded(self.chosen.float(), 0.0).view(1, 1, *[len(self.column) + 2 * SUPPORT] * 2)
        reach = torch.nn.functional.pad(chosen, (0, SUPPORT - 1, 0, SUPPORT - 1))
        return torch.nn.functional.max_pool2d(reach, SUPPORT, 1).flatten() > 0

    def basis(self, steps: Tensor) -> Tensor:
        """(n, 2 m + 1) the spline of each node of an axis at the coordinates (n,) arcsec."""
        first, weights, _ = cubic(steps / self.spacing + len(self.column) // 2)
        side = len(self.column) + 2 * SUPPORT
        places = (first + SUPPORT).clamp(0, side - SUPPORT)[:, None] + torch.arange(SUPPORT)
        return steps.new_zeros(len(steps), side).scatter_(1, places, weights)[:, SUPPORT:-SUPPORT]

    def on_grid(self, coefficients: Tensor, steps: Tensor) -> Tensor:
        """(n, n) light where both coordinates are steps (n,) arcsec, first index x, for coefficients (K,)."""
        basis = self.basis(steps)
        return basis @ self.spread(coefficients) @ basis.T

    def padded(self, values: Tensor, fill: float) -> Tensor:
        """(2 m + 1, 2 m + 1) with a border that catches what lies outside, flat."""
        return torch.nn.functional.pad(values, (SUPPORT,) * 4, value=fill).flatten()

    def light(self, coefficients: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Light at u, v (n,) and its derivatives by u and v (1 / arcsec), for coefficients (K,)."""
        return self.footprint(u, v).light(coefficients, len(u))


@dataclasses.dataclass(frozen=True)
class Footprint:
    """The m of n points that see nodes with a coefficient, and the 4 x 4 nodes that each sees."""

    lattice: Lattice
    points: Tensor  # (m,) which
    places: Tensor  # (m, 16) of the nodes in `Lattice.padded`
    weights: tuple[Tensor, Tensor]  # (m, 4) each, along x and y
    slopes: tuple[Tensor, Tensor]  # (m, 4) each, their derivatives, per spacing

    def light(self, coefficients: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Light at the n points and its derivatives by their coordinates (1 / arcsec), for coefficients (K,)."""
        (wu, wv), (su, sv), lattice = self.weights, self.slopes, self.lattice
        values = lattice.padded(lattice.spread(coefficients.to(wu.dtype)), 0.0)
        nodes = values[self.places].unflatten(1, (SUPPORT, SUPPORT))  # (m, 16) -> (m, 4, 4)
        along, across = (nodes @ wv[:, :, None])[:, :, 0], (nodes @ sv[:, :, None])[:, :, 0]  # (m, 4)
        scale = 1 / lattice.spacing
        parts = (along * wu).sum(1), (along * su).sum(1) * scale, (across * wu).sum(1) * scale
        light, by_u, by_v = (part.new_zeros(count).index_copy_(0, self.points, part) for part in parts)
        return light, by_u, by_v

    def columns(self, pixel: Tensor, pixels: int, share: float = 1.0) -> Tensor:
        """(k, pixels): for each coefficient of the lattice the sum, in each pixel, of its light at the pixel's points.

        pixel: (n,) the pixel of each point; share: how much a point counts.
        """
        count = int(self.lattice.chosen.sum())
        start = int(self.lattice.column[self.lattice.chosen].min()) if count else 0
        rows = torch.where(self.lattice.chosen, self.lattice.column - start, count) * pixels
        rows = self.lattice.padded(rows.double(), count * pixels).long()
        target = rows[self.places] + pixel[self.points, None]  # (m, 16)
        weights = (self.weights[0] * share)[:, :, None] * self.weights[1][:, None, :]
        plane = torch.zeros((count + 1) * pixels, dtype=weights.dtype)
        return plane.index_add_(0, target.flatten(), weights.flatten()).view(count + 1, pixels)[:count]


def light(footprints: Sequence[Footprint], coefficients: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Light of all lattices at the n points of their footprints, and its derivatives by their coordinates."""
    parts = [each.light(coefficients, count) for each in footprints]
    value, by_u, by_v = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    return value, by_u, by_v
