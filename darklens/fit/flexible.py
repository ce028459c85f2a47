"""Lens and a source with structure together: Gauss-Newton steps, each one dense linear solve.

At the lens's present parameters the image is linear in the source's coefficients, its Sersic's amplitude, the sky and,
to first order, the lens's next step. All have Gaussian priors (the sky's and the amplitude's are flat), so each step
is the maximum of a posterior (Warren & Dye 2003, ApJ 590, 673; Suyu et al. 2006, MNRAS 371, 983; Vegetti & Koopmans
2009, MNRAS 392, 945). Coarse lattices find the lens, finer ones then what is left. In the last step the prior is held:
one that went on to adapt would take substructure for detail of the source.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from darklens.fit import evidence
from darklens.fit.damping import Damping
from darklens.fit.evidence import Posterior
from darklens.fit.mass import Rays, Values
from darklens.fit.renderer import Renderer, renderer
from darklens.fit.spline_source import SplineSource
from darklens.fit.splines import Footprint
from darklens.fit.window import binned

STEPS = 2, 8  # at least, and at most before the last
SETTLED = 1.0  # standard deviations: a lens that moves by less has arrived
LENS = {  # parameters that move, standard deviation of a step's prior: a step is of first order
    "einstein_radius": 0.05,
    "shear_1": 0.05,
    "shear_2": 0.05,
    "centre_x": 0.05,
    "centre_y": 0.05,
    "halo_1": 0.1,
    "halo_2": 0.1,
    "halo_slope": 0.05,
    "multipole_3_1": 0.01,
    "multipole_3_2": 0.01,
    "multipole_4_1": 0.01,
    "multipole_4_2": 0.01,
    "source_x": 0.05,  # or a fine source would stay behind where the lens moves, which is not of first order
    "source_y": 0.05,
}
PERTURBER = {"perturber_x": 0.05, "perturber_y": 0.05, "perturber_square": 3e-3}  # largest steps
LENS |= PERTURBER
FLAT = 0.0, math.inf  # a prior
CHUNK = 24  # planes that are blurred at a time: a CPU's cache holds them
COVERED = 1e-3  # of a pixel's light, from a lattice whose nodes all shine: pixels with less do not see it


@dataclasses.dataclass(frozen=True)
class Design:
    """The linear problem about one lens: K columns over N pixels, weighted by 1 / sigma."""

    columns: Tensor  # (K, N) splines, the lens's steps, the Sersic, the sky and what else is linear
    data: Tensor  # (N,) float64
    pixels: Tensor  # (N,) which of the image they are
    weight: Tensor  # (N,) float64, 1 / sigma
    moved: list[str]  # the lens's parameters among the columns, after the splines, M of them
    posterior: Posterior

    @property
    def residual(self) -> Tensor:
        """(N,) float64, in standard deviations."""
        return self.data - (self.columns.T @ self.posterior.mean.to(self.columns.dtype)).double()

    @property
    def determined(self) -> float:
        """How many numbers the data determine: chi-square expects as much less than pixels."""
        return float(evidence.well_determined(self.posterior).sum())

    @property
    def excess(self) -> float:
        """Chi-square above what noise leaves."""
        return float(self.residual.square().sum()) - len(self.data) + self.determined


@dataclasses.dataclass
class FlexibleLens:
    """One lens on its way through the fit; changes with each step."""

    renderer: Renderer
    q: Tensor  # (1, Q) float64
    data: Tensor  # (S, S) float64
    weight: Tensor  # (S, S) float64, 1 / sigma, 0 where masked
    source: SplineSource
    further: Tensor  # (E, S^2) further linear columns: the lens galaxy's light
    rest_precision: Tensor | None = None  # (1 + E,) of the priors of the sky and those; None: flat
    priors: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # mean, deviation of the lens's
    sky: float = 0.0
    noise_width: float = 0.0  # pixels: of the Gaussian that smoothed the noise; 0: none, or the weights account for it
    shells: tuple[Tensor, ...] = ()  # pixels of each lattice that no finer one reaches: set by `refine`
    damping: Damping = dataclasses.field(default_factory=Damping)
    _design: Design | None = None

    @property
    def design(self) -> Design:
        """The linear problem of the last step. Raises ValueError before the first."""
        if self._design is None:
            raise ValueError("no step has been taken yet")
        return self._design

    def with_components(self, *names: str) -> "FlexibleLens":
        """The lens with further components of its mass (`components.COMPONENTS`), their parameters where they start."""
        camera = self.renderer
        model = dataclasses.replace(camera.model, components=(*camera.model.components, *names))
        start = torch.as_tensor(model.held())[None, self.q.shape[1] :]
        larger = renderer(model, camera.size, 1, str(camera.x.device), camera.x.dtype)
        added = {p.name: p.prior for p in model.table.parameters[self.q.shape[1] :]}
        means = {name: (p.mean, p.sigma) for name, p in added.items() if p is not None and p.mean is not None}
        return dataclasses.replace(self, renderer=larger, q=torch.cat((self.q, start), 1), priors=self.priors | means)

    @property
    def determined(self) -> float:
        """How many numbers the data of the last step determine: chi-square expects as much less than pixels."""
        return self.design.determined

    @property
    def excess(self) -> float:
        """By how many standard deviations chi-square of the last step exceeds what noise leaves of it."""
        return self.design.excess / math.sqrt(2 * len(self.design.data))

    def forget(self) -> None:
        """Let the linear problem of the last step go, which is most of a lens's memory."""
        self._design = None

    def rays(self) -> tuple[Tensor, Tensor]:
        """u, v (n,) arcsec about the source."""
        rays = self.renderer.mass.rays(self.renderer.table.named(self.q))
        return rays.u[0], rays.v[0]

    def ray_weights(self) -> Tensor:
        """(n,) 1 / variance of each ray's pixel, over the rays of a pixel."""
        grid = self.renderer.grid
        margin = (grid.h - self.renderer.size) // 2
        pixels = torch.nn.functional.pad(self.weight.square(), (margin,) * 4)
        return pixels.flatten().repeat(grid.s**2) / grid.s**2

    def coarser(self, binning: int) -> "FlexibleLens":
        """The same lens seen by pixels of binning x binning of these, the source's lattices left out."""
        camera, variance = self.renderer, self.weight.square().reciprocal()
        good = self.weight > 0
        data, count = binned(self.data[None], good[None], binning)
        variance, _ = binned(torch.where(good, variance, 0.0)[None], good[None], binning)
        weight = torch.where(count > 0, (count / variance).sqrt(), 0.0)[0]
        model = dataclasses.replace(camera.model, supersample=binning)
        bins = renderer(model, len(weight), binning, str(self.data.device), camera.x.dtype)
        further, _ = binned(self.further.unflatten(1, self.data.shape), good.expand(len(self.further), -1, -1), binning)
        return dataclasses.replace(
            self,
            renderer=bins,
            q=self.q.clone(),
            data=data[0],
            weight=weight,
            further=further.flatten(1),
            damping=Damping(),
        )

    def run(self, levels: int, *, hold: bool, steps: int = STEPS[1], nodes: float = 1.0) -> None:
        """At most so many steps on so many levels until the lens stays; hold: then a last one in which prior and lens
        are held; nodes: times the usual limit of coefficients."""
        self.refine(levels, nodes=nodes)
        for number in range(steps):
            if self.step(adapt=True) < SETTLED and number + 1 >= STEPS[0]:
                break
        if hold:
            self.step(adapt=False)

    def refine(self, levels: int, *, nodes: float = 1.0) -> None:
        """Lattices on so many levels, and the pixels that see them."""
        self.source = self.source.refined(levels, *self.rays(), self.ray_weights(), nodes=nodes)
        self.shells = self._pixels_by_lattice()

    def step(self, *, adapt: bool, move: bool | None = None) -> float:
        """One Gauss-Newton step of everything; adapt: the prior too; move: the lens too (None: as the prior). How far
        the lens wants to go, in standard deviations."""
        brightness = self.source.node_brightness()
        self._design = self.held_problem(self.source.precision(brightness))
        posterior, count = self._design.posterior, len(brightness)
        if adapt:
            determined = evidence.well_determined(posterior)[:count]
            self.source = self.source.with_shares((posterior.mean[:count] / brightness).square(), determined)
        lens = slice(count, count + len(self._design.moved))
        if adapt if move is None else move:
            self._move_damped(lens)
        else:
            self.take(posterior.mean_without(lens), lens)
        return float((posterior.mean[lens].abs() / posterior.variance()[lens].sqrt()).max())

    def _move_damped(self, lens: slice) -> None:
        """Source, sky and lens by a share of the step that the linear problem asks for."""
        posterior = self.design.posterior
        step = posterior.mean[lens]
        share = self.damping.share(step, torch.linalg.inv(posterior.covariance_of(lens)))
        before = torch.cat((self.source.coefficients, 0 * step, step.new_tensor([self.source.amplitude, self.sky])))
        mean = posterior.mean[: lens.stop + 2]
        self.move(share * step, self.design)
        self.take(before + share * (mean - before), lens)

    def held_problem(self, precision: Tensor) -> Design:
        """The linear problem about the present lens under a held prior of the splines (K,): evidences of such problems
        can be compared as long as `refine` is not called."""
        columns, pixels, moved = self._linear_problem()
        weight = self.weight.flatten()[pixels]
        data = self.data.flatten()[pixels] * weight
        projection = (columns @ data.to(columns.dtype)).double()
        projection[len(precision) : len(precision) + len(moved)] += self._pull(moved)
        posterior = evidence.solve(self._products(columns), projection, self._precision(precision, moved))
        return Design(columns, data, pixels, weight, moved, posterior)

    def take(self, mean: Tensor, lens: slice) -> None:
        """Amplitudes (K,), of which those of the lens's steps are not the source's."""
        amplitude, self.sky = float(mean[lens.stop]), float(mean[lens.stop + 1])
        self.source = dataclasses.replace(self.source, coefficients=mean[: lens.start], amplitude=amplitude)

    def move(self, step: Tensor, design: Design) -> None:
        """The lens by its step (M,), as far as that may go."""
        widths = step.new_tensor([LENS[name] for name in design.moved])
        step = torch.maximum(torch.minimum(step, widths), -widths)
        self.q = self.after(step, design)

    def after(self, step: Tensor, design: Design) -> Tensor:
        """(1, Q) the parameters after a step (M,) of the lens."""
        q = self.q.clone()
        q[0, [self.renderer.table.index[name] for name in design.moved]] += step
        return q

    def _precision(self, splines_precision: Tensor, moved: list[str]) -> Tensor:
        """(K,) of the priors: 0 is flat."""
        widths = splines_precision.new_tensor([self._lens_precision(name) for name in moved])
        flat = splines_precision.new_zeros(1 + len(self.further))
        rest = self.rest_precision if self.rest_precision is not None else flat
        return torch.cat((splines_precision, widths, flat[:1], rest))

    def _lens_precision(self, name: str) -> float:
        """Of a step's prior, and of the parameter's own where it has one; 0 is flat, as that of a perturber."""
        step = 0.0 if name in PERTURBER else LENS[name] ** -2
        return step + self.priors.get(name, FLAT)[1] ** -2

    def pulled(self, moved: list[str], mean: Tensor) -> Tensor:
        """What the lens's own priors add to sum p c^2 of coefficients (K,): they are not about its present place."""
        steps = mean[len(self.source.coefficients) :][: len(moved)]
        return -(2 * self._pull(moved) * steps).sum() + self.distance(moved)

    def distance(self, moved: list[str]) -> Tensor:
        """Sum over the lens's priors of ((q - mean) / deviation)^2 now."""
        values = [float(self.q[0, self.renderer.table.index[name]]) for name in moved]
        priors = [self.priors.get(name, FLAT) for name in moved]
        return self.q.new_tensor([((v - mean) / sd) ** 2 for v, (mean, sd) in zip(values, priors, strict=True)]).sum()

    def _pull(self, moved: list[str]) -> Tensor:
        """(M,) precision times mean of the priors of the lens's next step."""
        priors = [(self.priors.get(name, FLAT), float(self.q[0, self.renderer.table.index[name]])) for name in moved]
        return self.q.new_tensor([(mean - value) / sd**2 for (mean, sd), value in priors])

    def _linear_problem(self) -> tuple[Tensor, Tensor, list[str]]:
        """Columns (K, N) over sigma, the pixels (N,), shell by shell, and which lens parameters move."""
        values = self.renderer.table.named(self.q)
        rays = self.renderer.mass.rays(values)
        footprints = self.source.footprints(rays.u[0], rays.v[0])
        moved, lens_planes = self._lens_planes(values, rays, footprints)
        pixels, count = torch.cat(self.shells), len(self.source.coefficients)
        weight = self.weight.flatten()[pixels].to(lens_planes.dtype)
        columns = weight.new_zeros(count + len(lens_planes) + 1 + len(self.further), len(pixels))
        first, reach = 0, 0
        for planes, shell in zip(self._spline_planes(footprints), self.shells, strict=True):
            reach += len(shell)
            first = self._fill(columns, planes, pixels[:reach], weight, first)
        first = self._fill(columns, lens_planes, pixels, weight, first)
        columns[first] = weight
        columns[first + 1 :] = self.further[:, pixels] * weight
        return columns, pixels, moved

    def _fill(self, columns: Tensor, planes: Tensor, pixels: Tensor, weight: Tensor, first: int) -> int:
        """Blurred planes (k, h, h) over sigma into rows of the columns (K, N) from `first` on; the row after them."""
        for part in planes.split(CHUNK):
            rows = columns[first : first + len(part), : len(pixels)]
            torch.mul(self.blur(part).index_select(1, pixels), weight[: len(pixels)], out=rows)
            first += len(part)
        return first

    def _pixels_by_lattice(self) -> tuple[Tensor, ...]:
        """The pixels that count and see a lattice, but no finer one, for each lattice: few see the fine ones."""
        rays, free, shells = self.rays(), self.weight.flatten() > 0, []
        for lattice in self.source.lattices:
            light = lattice.light(torch.ones_like(self.source.coefficients), *rays)[0]
            cover = self.blur(self.renderer.grid.pixels(light[None]))[0]
            shells.append((free & (cover > COVERED)).nonzero()[:, 0])
            free = free & ~(cover > COVERED)
        return tuple(shells)

    def _products(self, columns: Tensor) -> Tensor:
        """(K, N) -> (K, K) float64, X X^T: a shell of pixels sees the columns of its lattice and those after."""
        gram, first, pixel = columns.new_zeros(len(columns), len(columns)), 0, 0
        for lattice, shell in zip(self.source.lattices, self.shells, strict=True):
            gram[first:, first:] += products(columns[first:, pixel : pixel + len(shell)])
            first, pixel = first + int(lattice.chosen.sum()), pixel + len(shell)
        return gram.double()

    def _spline_planes(self, footprints: list[Footprint]) -> Iterator[Tensor]:
        """(k, h, h) of each lattice, before the PSF."""
        grid = self.renderer.grid
        pixel = torch.arange(grid.h**2).repeat(grid.s**2)
        for each in footprints:
            yield each.columns(pixel, grid.h**2, share=grid.s**-2).unflatten(1, (grid.h, grid.h))  # -> (k, h, h)

    def _lens_planes(self, values: Values, rays: Rays, footprints: list[Footprint]) -> tuple[list[str], Tensor]:
        """The lens's parameters that move, M of them; their planes and the Sersic's, (M + 1, h, h) before the PSF."""
        u, v = rays.u[0], rays.v[0]
        _, gu, gv = self.source.light(u, v, footprints)
        by_name = self.renderer.mass.planes(values, rays, gu[None], gv[None])
        moved = [name for name in LENS if name in by_name]
        sersic = self.renderer.grid.pixels(self.source.sersic(u, v)[0][None])
        return moved, torch.cat((*(by_name[name] for name in moved), sersic))

    def blur(self, planes: Tensor) -> Tensor:
        """(K, h, h) -> (K, S^2) through the PSF."""
        width = self.q[:, self.renderer.table.index["log_psf"]]
        return self.renderer.blur(planes, width.expand(len(planes)))

    def residuals_of(self, data: Tensor) -> Tensor:
        """(B, S, S) float64, what the last linear problem, its prior and place held, leaves of other data (B, S, S) of
        the same lens, in standard deviations: a step of a fit costs a hundred times as much."""
        design = self.design
        weighted = data.flatten(1)[:, design.pixels] * design.weight
        means = design.posterior.mean_of((design.columns @ weighted.T.to(design.columns.dtype)).double())
        residuals = ((data - self.image() - self.sky) * self.weight).flatten(1)  # of pixels that no spline reaches
        residuals[:, design.pixels] = weighted - (means.T.to(design.columns.dtype) @ design.columns).double()
        return residuals.view_as(data)

    def residual(self) -> Tensor:
        """(S, S) float64 of the present place, in standard deviations; without further columns."""
        return (self.data - self.image() - self.sky) * self.weight

    def image(self) -> Tensor:
        """(S, S) float64 the source's, without sky and further columns."""
        light = self.source.light(*self.rays())[0]
        return self.blur(self.renderer.grid.pixels(light[None])).double().view_as(self.data)


def products(columns: Tensor) -> Tensor:
    """(K, N) -> (K, K), X X^T."""
    if columns.device.type != "cpu":
        return columns @ columns.T
    values = columns.numpy()
    return torch.as_tensor(values @ values.T)  # NumPy's BLAS sees that it is symmetric: half of the work
