"""Many least-squares fits at once: Levenberg-Marquardt with the linear parameters projected out.

At every point amplitudes and sky are the best ones for it (variable projection: Golub & Pereyra 1973, SIAM J. Numer.
Anal. 10, 413, in Kaufman's simplification); the curvature of the rest is what these leave of it (the Schur
complement), so its inverse is the covariance marginalised over them. Each lens has its own damping (Marquardt 1963)
and stops by itself: when the next step is expected to bring it within a tolerance of the minimum, in chi-square, or
when chi-square stays where it is. The latter happens where a ray meets the source's cusp: there the derivatives
promise a way down that is none.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from darklens.fit.renderer import Renderer

ROUNDING = 1e-12  # of the data's chi-square: what float32 can't tell apart
SETTLED, PATIENCE = 0.05, 8  # so many steps that bring no more than this: nothing is left to gain
RIDGE = 1e-7  # of a curvature scaled to 1 on its diagonal
Bends = Callable[[Tensor], list[tuple[Tensor, Tensor]]]


@dataclasses.dataclass
class State:
    """Where B fits stand. `curvature` and `gradient` are of chi-square / 2; P free parameters."""

    q: Tensor  # (B, Q) float64
    chi2: Tensor  # (B,) float64
    linear: Tensor  # (B, L + 1) float64: amplitudes of the lights, sky
    curvature: Tensor  # (B, P, P) float64
    gradient: Tensor  # (B, P) float64: points downhill
    damping: Tensor  # (B,)
    distance: Tensor  # (B,) estimated distance to the minimum in chi-square
    converged: Tensor  # (B,) bool
    idle: Tensor  # (B,) steps since chi-square last fell by more than SETTLED
    steps: Tensor  # (B,) evaluations so far

    def __getitem__(self, rows: Tensor) -> "State":
        return State(**{name: value[rows] for name, value in vars(self).items()})

    def put(self, rows: Tensor, other: "State") -> None:
        """Overwrite the fits `rows`."""
        for name, value in vars(self).items():
            value[rows] = getattr(other, name)


@dataclasses.dataclass(frozen=True)
class Problem:
    """B images to fit: `data` and `weight` (1 / standard deviation; 0 where masked), (B, N) each."""

    data: Tensor
    weight: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Problem":
        return Problem(self.data[rows], self.weight[rows])


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
        zero, done = torch.zeros_like(chi2), torch.zeros_like(chi2, dtype=torch.bool)
        state = State(q, chi2, linear, curvature, gradient, zero + 1e-3, zero, done, zero, zero + 1)
        state.distance = (self._step(state, 0.0) * self._inner(state)).sum(1)
        return state

    def normal(self, q: Tensor, problem: Problem, bends: Bends | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Chi-square (B,), amplitudes and sky (B, L + 1), and the normal equations at q (B, Q): curvature (B, P, P) and
        gradient (B, P) of chi-square / 2, amplitudes and sky projected out.

        bends: gives, for some of the q, more deflections (`Renderer.columns`), which count as more parameters.
        """
        share = self.share or max(len(q), 1)
        shares = [slice(i, i + share) for i in range(0, max(len(q), 1), share)]
        parts = [self._products(q[rows], problem[rows] if len(shares) > 1 else problem, bends) for rows in shares]
        chi2, linear, gram, right = (torch.cat(part) for part in zip(*parts, strict=True))
        lights, mixing = self.renderer.mixing(gram.shape[1] - self.columns)
        jacobian = torch.nn.functional.pad(torch.einsum("rpl,bl->brp", mixing, linear[:, :-1]), (0, 0, 0, 1))
        linears = [*lights, -1]
        cross = jacobian.mT @ gram[:, :, linears]  # (B, P, L + 1)
        share = solve(gram[:, linears][:, :, linears], cross.mT).mT
        curvature = jacobian.mT @ gram @ jacobian - share @ cross.mT
        gradient = jacobian.mT @ right[..., None] - share @ right[:, linears, None]  # amplitudes are rounded
        return chi2, linear, curvature, gradient[..., 0]

    def _products(self, q: Tensor, problem: Problem, bends: Bends | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Chi-square (B,), linear parameters (B, L + 1), products of the R columns of the renderer and the sky with
        each other (B, R + 1, R + 1), and with the residual (B, R + 1): all weighted, all float64."""
        weight = problem.weight[:, None]
        images = self.renderer.columns(q, bends(q) if bends else ())  # (B, R, S, S)
        columns = weight.new_empty((len(q), images.shape[1] + 1, weight.shape[-1]))
        torch.mul(images, weight.unflatten(-1, images.shape[2:]), out=columns[:, :-1].unflatten(-1, images.shape[2:]))
        columns[:, -1] = problem.weight
        linears = [*self.lights, -1]
        data = (problem.data * problem.weight)[..., None]
        gram = (columns @ columns.mT).double()  # (B, R + 1, R + 1)
        right = (columns[:, linears] @ data)[..., 0].double()
        linear = solve(gram[:, linears][:, :, linears], right)  # (B, L + 1)
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
        tolerance = tolerance + ROUNDING * (problem.data * problem.weight).double().square().sum(1)  # (B,)
        state.converged |= state.distance < tolerance
        for _ in range(steps):
            rows = (~state.converged).nonzero()[:, 0]
            if not len(rows):
                break
            old, part = state[rows], problem if len(rows) == len(state.q) else problem[rows]
            new = self.evaluate(self._trial(old), part)
            level = new.chi2 <= old.chi2 * (1 + 1e-6)  # up to the rounding of chi-square in float32
            better = (new.chi2 <= old.chi2) | (level & (new.distance < old.distance))  # not a number is never better
            new.damping = torch.where(old.damping > 1e-6, old.damping / 10, old.damping)
            old.damping = old.damping * 8
            new.idle = torch.where(old.chi2 - new.chi2 > SETTLED, 0.0, old.idle + 1)
            old.idle = old.idle + 1
            after = new.distance * (new.distance / old.distance).clamp(max=1)  # where `finish` will be
            new.converged = (after < tolerance[rows]) | (new.idle >= PATIENCE)
            old.converged = old.idle >= PATIENCE
            new.steps = old.steps = old.steps + 1
            state.put(rows, old)
            state.put(rows[better], new[better])
        return state

    def finish(self, state: State) -> Tensor:
        """(B, Q) where the last Gauss-Newton step of converged fits leads: no evaluation, only better."""
        step = self._step(state, 0.0) * (state.distance < 1)[:, None]
        q = state.q.clone()
        q[:, self.free] = torch.minimum(torch.maximum(q[:, self.free] + step, self.low), self.high)
        return q


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of positive definite systems, 0 where there is none. right: (B, n) or (B, n, m)."""
    wide = right if right.ndim == 3 else right[..., None]
    factor, info = torch.linalg.cholesky_ex(matrix)
    solution = torch.cholesky_solve(wide, factor)
    good = (info == 0)[:, None, None] & solution.isfinite()
    solution = torch.where(good, solution, 0.0)
    return solution if right.ndim == 3 else solution[..., 0]
