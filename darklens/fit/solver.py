"""Many least-squares fits at once: Levenberg-Marquardt with the linear parameters projected out.

At every point amplitudes and sky are the best ones for it (variable projection: Golub & Pereyra 1973, SIAM J. Numer.
Anal. 10, 413, in Kaufman's simplification); the curvature of the rest is what these leave of it (the Schur
complement), so its inverse is the covariance marginalised over them. Each lens has its own damping (Marquardt 1963)
and stops by itself: when the next step is expected to bring it within a tolerance of the minimum, in chi-square, or
when chi-square stays where it is. The latter happens where a ray meets the source's cusp: there the derivatives
promise a way down that is none.

A problem may have Gaussian priors on the parameters and linear columns of its own (a lens galaxy's light as a sum of
Gaussians, say), which are projected out beside the amplitudes and the sky. What is minimised then is

    chi-square / temperature + sum over the parameters of ((q - mean) / sigma)^2
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from darklens.fit.renderer import Renderer

ROUNDING = 1e-12  # of the data's chi-square: what float32 can't tell apart
SETTLED, PATIENCE = 0.05, 8  # so many steps that bring no more than this: nothing is left to gain
RIDGE = 1e-7  # of a curvature scaled to 1 on its diagonal
DEPENDENT = 1e-6  # of its diagonal, added to the products of linear columns: what float32 makes of dependent ones
Bends = Callable[[Tensor], list[tuple[Tensor, Tensor]]]


@dataclasses.dataclass
class State:
    """Where B fits stand. `curvature` and `gradient` are of objective / 2; P free parameters."""

    q: Tensor  # (B, Q) float64
    chi2: Tensor  # (B,) float64
    objective: Tensor  # (B,) float64: what is minimised; chi-square where there are no priors
    linear: Tensor  # (B, L + 1 + E) float64: amplitudes of the lights, sky, amplitudes of the problem's columns
    curvature: Tensor  # (B, P, P) float64
    gradient: Tensor  # (B, P) float64: points downhill
    damping: Tensor  # (B,)
    distance: Tensor  # (B,) estimated distance to the minimum of the objective
    converged: Tensor  # (B,) bool
    idle: Tensor  # (B,) steps since the objective last fell by more than SETTLED
    steps: Tensor  # (B,) evaluations so far

    def __getitem__(self, rows: Tensor) -> "State":
        return State(**{name: value[rows] for name, value in vars(self).items()})

    def update(self, rows: Tensor, other: "State") -> None:
        """Overwrite the fits `rows`."""
        for name, value in vars(self).items():
            value[rows] = getattr(other, name)


@dataclasses.dataclass(frozen=True)
class Priors:
    """Gaussian priors of B fits on their P free parameters, in the order of the solver's `free`; float64."""

    mean: Tensor  # (B, P)
    precision: Tensor  # (B, P) 1 / sigma^2; 0: no prior
    temperature: Tensor  # (B,) what chi-square is divided by before the priors are added: 1, or more where the pixels
    # are not independent or the model does not reach the noise

    def __getitem__(self, rows: Tensor | slice) -> "Priors":
        return Priors(self.mean[rows], self.precision[rows], self.temperature[rows])

    def penalty(self, free: Tensor) -> Tensor:
        """(B,) the priors' part of the objective, of free parameters (B, P)."""
        return (self.precision * (free - self.mean).square()).sum(1)


@dataclasses.dataclass(frozen=True)
class Problem:
    """B images to fit: `data` and `weight` (1 / standard deviation; 0 where masked), (B, N) each."""

    data: Tensor
    weight: Tensor
    columns: Tensor | None = None  # (B, E, N) images with an amplitude each, of either sign, which the fit solves for
    priors: Priors | None = None

    def __getitem__(self, rows: Tensor | slice) -> "Problem":
        columns = None if self.columns is None else self.columns[rows]
        return Problem(self.data[rows], self.weight[rows], columns, None if self.priors is None else self.priors[rows])

    @property
    def extra(self) -> int:
        """E, the number of its own columns."""
        return 0 if self.columns is None else self.columns.shape[1]


class Solver:
    """Fits with one renderer, whose model says what is free and within which bounds."""

    def __init__(self, renderer: Renderer, share: int | None = None) -> None:
        """share: how many images at a time are rendered; None: all."""
        self.renderer, self.share, model = renderer, share, renderer.model
        device = renderer.x.device
        self.lights, mixing = renderer.mixing(0)
        self.columns = len(mixing) + 1  # of the renderer, and the sky
        self.free = torch.tensor(renderer.free, device=device)
        low, high = (torch.as_tensor(bound, device=device) for bound in model.bounds())
        self.low, self.high = low[self.free], high[self.free]
        self.largest = torch.as_tensor(model.largest_step(), device=device)[self.free]

    def evaluate(self, q: Tensor, problem: Problem) -> State:
        """Chi-square, linear parameters, curvature and gradient at q (B, Q)."""
        chi2, linear, curvature, gradient = self.normal(q, problem)
        objective, priors = chi2, problem.priors
        if priors is not None:
            free, cold = q[:, self.free], 1 / priors.temperature
            objective = chi2 * cold + priors.penalty(free)
            curvature = curvature * cold[:, None, None] + torch.diag_embed(priors.precision)
            gradient = gradient * cold[:, None] + priors.precision * (priors.mean - free)
        zero, done = torch.zeros_like(chi2), torch.zeros_like(chi2, dtype=torch.bool)
        state = State(q, chi2, objective, linear, curvature, gradient, zero + 1e-3, zero, done, zero, zero + 1)
        state.distance = (self._step(state, 0.0) * self._inner(state)).sum(1)
        return state

    def normal(self, q: Tensor, problem: Problem, bends: Bends | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Chi-square (B,), linear parameters (B, L + 1 + E), and the normal equations at q (B, Q): curvature (B, P, P)
        and gradient (B, P) of chi-square / 2, the linear parameters projected out. Priors have no part in it.

        bends: gives, for some of the q, more deflections (`Renderer.columns`), which count as more parameters.
        """
        count, extra = self.share or max(len(q), 1), problem.extra
        shares = [slice(i, i + count) for i in range(0, max(len(q), 1), count)]
        parts = [self._products(q[rows], problem[rows] if len(shares) > 1 else problem, bends) for rows in shares]
        chi2, linear, gram, target = (torch.cat(part) for part in zip(*parts, strict=True))
        images = gram.shape[1] - 1 - extra  # R
        lights, mixing = self.renderer.mixing(images + 1 - self.columns)
        amplitudes = linear[:, : len(lights)]
        jacobian = torch.nn.functional.pad(torch.einsum("rpl,bl->brp", mixing, amplitudes), (0, 0, 0, 1 + extra))
        linears = self._linears(images, extra)
        cross = jacobian.mT @ gram[:, :, linears]  # (B, P, L + 1 + E)
        share = solve(_regular(gram[:, linears][:, :, linears], extra), cross.mT).mT
        curvature = jacobian.mT @ gram @ jacobian - share @ cross.mT
        gradient = jacobian.mT @ target[..., None] - share @ target[:, linears, None]  # amplitudes are rounded
        return chi2, linear, curvature, gradient[..., 0]

    def _linears(self, images: int, extra: int) -> list[int]:
        """Which of the R columns of the renderer, the sky and the problem's own are linear parameters."""
        return [*self.lights, *range(images, images + 1 + extra)]

    def _products(self, q: Tensor, problem: Problem, bends: Bends | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Chi-square (B,), linear parameters (B, L + 1 + E), products of the columns (R of the renderer, the sky, E of
        the problem) with each other (B, R + 1 + E, ...), and with the residual: all weighted, all float64."""
        weight, extra = problem.weight[:, None], problem.extra
        images = self.renderer.columns(q, bends(q) if bends else ())  # (B, R, S, S)
        count = images.shape[1]
        columns = weight.new_empty((len(q), count + 1 + extra, weight.shape[-1]))
        rendered = columns[:, :count].unflatten(-1, images.shape[2:])
        torch.mul(images, weight.unflatten(-1, images.shape[2:]), out=rendered)
        columns[:, count] = problem.weight
        if problem.columns is not None:
            torch.mul(problem.columns, weight, out=columns[:, count + 1 :])
        linears = self._linears(count, extra)
        data = (problem.data * problem.weight)[..., None]
        gram = (columns @ columns.mT).double()  # (B, R + 1 + E, R + 1 + E)
        target = (columns[:, linears] @ data)[..., 0].double()
        linear = solve(_regular(gram[:, linears][:, :, linears], extra), target)  # (B, L + 1 + E)
        rest = data - columns[:, linears].mT @ linear.to(weight.dtype)[..., None]  # (B, N, 1)
        chi2 = rest.double().square().sum((1, 2))
        return chi2, linear, gram, (columns @ rest)[..., 0].double()

    def _inner(self, state: State) -> Tensor:
        """The gradient without the parameters that lie on a bound and push against it."""
        q, g = state.q[:, self.free], state.gradient
        outward = ((q <= self.low) & (g < 0)) | ((q >= self.high) & (g > 0))
        return torch.where(outward, 0.0, g)

    def _step(self, state: State, damping: Tensor | float) -> Tensor:
        """(B, P) the damped Gauss-Newton step, parameters that push against a bound held."""
        gradient = self._inner(state)
        held = (gradient == 0).double()
        curvature = state.curvature * (1 - held)[:, :, None] * (1 - held)[:, None]
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        scale = (diagonal.clamp(min=0) + 1e-30).rsqrt()
        scaled = curvature * scale[:, :, None] * scale[:, None] + torch.diag_embed(held + RIDGE)
        extra = torch.as_tensor(damping, device=scaled.device).expand(len(scaled))
        scaled.diagonal(dim1=1, dim2=2).add_(extra[:, None])
        return solve(scaled, gradient * scale) * scale

    def _trial(self, state: State) -> Tensor:
        """(B, Q) where the next step goes, no farther than allowed."""
        step = self._step(state, state.damping)
        shrink = (step.abs() / self.largest).amax(1, keepdim=True).clamp(min=1)
        q = state.q.clone()
        q[:, self.free] = torch.minimum(torch.maximum(q[:, self.free] + step / shrink, self.low), self.high)
        return q

    def minimise(self, state: State, problem: Problem, steps: int, tolerance: float) -> State:
        """Take up to `steps` steps with each fit that hasn't converged, in place; the same state."""
        tolerances = tolerance + ROUNDING * (problem.data * problem.weight).double().square().sum(1)  # (B,)
        state.converged |= state.distance < tolerances
        for _ in range(steps):
            rows = (~state.converged).nonzero()[:, 0]
            if not len(rows):
                break
            old, part = state[rows], problem if len(rows) == len(state.q) else problem[rows]
            new = self.evaluate(self._trial(old), part)
            level = new.objective <= old.objective * (1 + 1e-6)  # up to the rounding of chi-square in float32
            better = (new.objective <= old.objective) | (level & (new.distance < old.distance))  # NaN is never better
            new.damping = torch.where(old.damping > 1e-6, old.damping / 10, old.damping)
            old.damping = old.damping * 8
            new.idle = torch.where(old.objective - new.objective > SETTLED, 0.0, old.idle + 1)
            old.idle = old.idle + 1
            expected = new.distance * (new.distance / old.distance).clamp(max=1)  # where `finish` will be
            new.converged = (expected < tolerances[rows]) | (new.idle >= PATIENCE)
            old.converged = old.idle >= PATIENCE
            new.steps = old.steps = old.steps + 1
            state.update(rows, old)
            state.update(rows[better], new[better])
        return state

    def finish(self, state: State) -> Tensor:
        """(B, Q) where the last Gauss-Newton step of converged fits leads: no evaluation, only better."""
        step = self._step(state, 0.0) * (state.distance < 1)[:, None]
        q = state.q.clone()
        q[:, self.free] = torch.minimum(torch.maximum(q[:, self.free] + step, self.low), self.high)
        return q


def _regular(gram: Tensor, extra: int) -> Tensor:
    """Products of linear columns, so that columns of a problem's own may nearly depend on each other."""
    if not extra:
        return gram
    return gram + torch.diag_embed(DEPENDENT * gram.diagonal(dim1=1, dim2=2) + 1e-30)


def solve(matrix: Tensor, target: Tensor) -> Tensor:
    """The solution of positive definite systems, 0 where there is none. target: (B, n) or (B, n, m)."""
    wide = target if target.ndim == 3 else target[..., None]
    factor, info = torch.linalg.cholesky_ex(matrix)
    solution = torch.cholesky_solve(wide, factor)
    good = (info == 0)[:, None, None] & solution.isfinite()
    solution = torch.where(good, solution, 0.0)
    return solution if target.ndim == 3 else solution[..., 0]
