"""A source with structure: splines on lattices about a Sersic profile, and the prior of their coefficients.

The light is amplitude x (the Sersic of the fit) + splines. A node carries a coefficient where light and rays are enough
to tell anything there. Each has a Gaussian prior of mean 0 whose standard deviation is a share of the source's own
brightness at the node; the shares follow from the evidence (MacKay 1992, Neural Comput. 4, 415, eq. 4.8), pooled over
neighbouring nodes. So structure may be strong where the source is bright, and empty sky stays empty.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.fit import splines
from darklens.fit.sersic import Profile
from darklens.fit.source import PROFILE
from darklens.fit.splines import Footprint, Lattice


@dataclasses.dataclass(frozen=True)
class Level:
    """One lattice: spacing and reach in arcsec, the signal to noise of a node's light that earns it a coefficient, and
    at most how many earn one."""

    spacing: float
    reach: float
    signal: float
    limit: int


LEVELS = (  # the finest two only where the signal pays
    Level(0.16, 1.8, 0.3, 420),
    Level(0.08, 1.8, 1.0, 300),
    Level(0.04, 1.8, 2.5, 300),
    Level(0.02, 1.8, 6.0, 260),
)
COARSE = 2  # levels that find the lens
SHARE = 0.3  # of the brightness, to begin with: a prior's standard deviation
LEAST_SHARE = 1e-3
STIFF, LOOSE = 0.5, 3.0  # the largest share of a stiff prior, which leaves mass its residual, and of a loose one
FAINT = 0.01  # of the peak: what the brightness counts as where there is less


@dataclasses.dataclass(frozen=True)
class SplineSource:
    """The source of one lens. Coordinates are arcsec about the Sersic's centre; K coefficients; all float64."""

    values: dict[str, Tensor]  # (1,) each: the Sersic's parameters
    amplitude: float  # of the Sersic
    lattices: tuple[Lattice, ...] = ()  # the finest first
    coefficients: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    shares: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (K,)
    largest_share: float = LOOSE

    def sersic(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The Sersic of amplitude 1 at u, v (n,), and its slopes."""
        profile = Profile.at(u[None], v[None], *(self.values[name] for name in PROFILE))
        gu, gv = profile.by_place(u[None], v[None], profile.slope())
        return profile.light[0], gu[0], gv[0]

    def footprints(self, u: Tensor, v: Tensor) -> list[Footprint]:
        """What points u, v (n,) see of each lattice."""
        return [lattice.footprint(u, v) for lattice in self.lattices]

    def light(self, u: Tensor, v: Tensor, footprints: list[Footprint] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Light at u, v (n,), and its derivatives by u and v; footprints: those of u, v, where they are at hand."""
        parts = [self.amplitude * part for part in self.sersic(u, v)]
        if self.lattices:
            footprints = self.footprints(u, v) if footprints is None else footprints
            structure = splines.light(footprints, self.coefficients, len(u))
            parts = [part + each for part, each in zip(parts, structure, strict=True)]
        return parts[0], parts[1], parts[2]

    def brightness(self, lattice: Lattice) -> Tensor:
        """Light at a lattice's nodes, averaged over 3 x 3 of them, 0 or more."""
        steps = lattice.steps
        x, y = torch.meshgrid(steps, steps, indexing="ij")
        light = self.amplitude * self.sersic(x.flatten(), y.flatten())[0].view(x.shape)
        for each in self.lattices:
            light += each.on_grid(self.coefficients, steps)
        return F.avg_pool2d(light.clamp(min=0)[None, None], 3, 1, 1, count_include_pad=False)[0, 0]

    def node_brightness(self) -> Tensor:
        """(K,) brightness at the nodes with coefficients, a share of the peak at least."""
        light = torch.zeros_like(self.coefficients)
        for lattice in self.lattices:
            light[lattice.column[lattice.chosen]] = self.brightness(lattice)[lattice.chosen]
        return light.clamp(min=FAINT * float(light.max()) if len(light) else 0.0)

    def precision(self, brightness: Tensor) -> Tensor:
        """(K,) of the coefficients' prior; brightness: (K,) that of `node_brightness`."""
        return (self.shares * brightness).square().reciprocal()

    def refined(self, levels: int, u: Tensor, v: Tensor, weight: Tensor, *, nodes: float = 1.0) -> "SplineSource":
        """Coefficients on so many levels, where the rays u, v (n,), each of a weight (1 / variance of the data), show
        light; those that there were keep their values. nodes: times each level's limit, and that much less signal earns
        one."""
        lattices, start = [], 0
        for level in reversed(LEVELS[:levels]):
            level = dataclasses.replace(level, limit=round(nodes * level.limit), signal=level.signal / nodes)
            lattice = self._lattice(level, start, u, v, weight)
            start += int(lattice.chosen.sum())
            lattices.append(lattice)
        coefficients = self.coefficients.new_zeros(start)
        for new, old in zip(reversed(lattices), reversed(self.lattices), strict=False):
            values = old.spread(self.coefficients)
            coefficients[new.column[new.chosen]] = old.resized(values, len(new.column))[new.chosen]
        shares = torch.full_like(coefficients, SHARE)
        return dataclasses.replace(self, lattices=tuple(lattices), coefficients=coefficients, shares=shares)

    def _lattice(self, level: Level, start: int, u: Tensor, v: Tensor, weight: Tensor) -> Lattice:
        lattice = Lattice.empty(level.spacing, level.reach)
        signal = self.brightness(lattice) * lattice.weight_about_nodes(u, v, weight).sqrt()
        count = min(level.limit, int((signal > level.signal).sum()))
        best = signal.flatten().topk(count).indices.sort().values
        lattice.column.view(-1)[best] = torch.arange(start, start + count)
        return lattice.cropped()

    def with_shares(self, squares: Tensor, determined: Tensor) -> "SplineSource":
        """The shares that the evidence asks for, given (coefficient / brightness)^2 and how far the data determine each
        coefficient, (K,) both: ratios of sums over 3 x 3 nodes, with one more node of the level's mean."""
        shares = torch.empty_like(self.shares)
        for lattice in self.lattices:
            if lattice.chosen.any():
                top, bottom = (lattice.spread(values) for values in (squares, determined))
                mean = top.sum() / bottom.sum().clamp(min=1e-3)
                ratio = (_summed(top) + mean) / (_summed(bottom) + 1)
                share = ratio[lattice.chosen].sqrt().clamp(LEAST_SHARE, self.largest_share)
                shares[lattice.column[lattice.chosen]] = share
        return dataclasses.replace(self, shares=shares)

    def picture(self, size: int, scale: float) -> Tensor:
        """(size, size) light about the Sersic's centre, pixels of `scale` arcsec, y up."""
        steps = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * scale
        y, x = torch.meshgrid(-steps, steps, indexing="ij")
        return self.light(x.flatten(), y.flatten())[0].view(size, size)


def _summed(values: Tensor) -> Tensor:
    """Sums over 3 x 3 nodes."""
    return 9 * F.avg_pool2d(values[None, None], 3, 1, 1)[0, 0]
