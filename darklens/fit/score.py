"""Could a smooth lens explain what the fit leaves, were its centre and its halo's shape not held? A score test.

The fit holds the lens in the middle of the image and its halo round. Moving the centre by (c1, c2) and giving the halo
an ellipticity (h1, h2) = eta (cos 2f, sin 2f), its axis ratio exp(-eta), changes the deflection alpha to first order by

    -(c1 d/dx + c2 d/dy) alpha  -  theta_E / 6 grad(r (h1 cos 2phi + h2 sin 2phi)),     alpha = theta_E grad r

(the second solves Poisson's equation for kappa = theta_E / 2r (1 + eta / 2 cos 2(phi - f)), which an isothermal
ellipsoid is to first order). With the image's derivatives by these four beside those by the free parameters, a
Gauss-Newton step says by how much chi-square would fall: Rao's score test, the free parameters projected out.

Substructure is imitated in part: a vortex pulls the centre to its side. What remains tells them apart: an offset alone
explains the residual down to the noise, a vortex is more than an offset. So a lens is flagged where the parameters set
free explain most of what chi-square exceeds its expectation by, as TESTS says: shares that few lenses with
substructure reach whose centre and halo are as held (docs/residual.md has how many, in Models F and J).

References: Rao 1948, Math. Proc. Cambridge Phil. Soc. 44, 50; Kormann, Schneider & Bartelmann 1994, A&A 284, 285
(isothermal ellipsoids).
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from darklens.fit import halo
from darklens.fit.model import SmoothModel
from darklens.fit.renderer import Renderer
from darklens.fit.solver import RIDGE, Problem, Solver, solve


@dataclasses.dataclass(frozen=True)
class ScoreTest:
    """Parameters that a fit holds, and what share of the excess they must explain for a flag, and to be set free."""

    held: tuple[str, ...]
    flagged: float
    refitted: float


TESTS = {  # by the flag
    "its centre may be off": ScoreTest(("centre_x", "centre_y"), 0.7, 0.8),
    "its halo may be elliptical": ScoreTest(("halo_1", "halo_2"), 0.55, 0.7),
    "its centre and shape may be off": ScoreTest(("centre_x", "centre_y", "halo_1", "halo_2"), 0.85, 0.9),
}
MIN_EXCESS = 2.5  # standard deviations of chi-square: what a smaller excess counts as, lest noise make it up


def bends(camera: Renderer, q: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """How x and y of the deflection change with each parameter that is held, per arcsec of the Einstein radius.

    (n,) each for the camera's n rays, or (B, n) where centre or halo are free, in q (B, Q). "halo_1", "halo_2": the
    halo's ellipticity; "centre_x", "centre_y" (arcsec): those of them that aren't free.
    """
    model, zero = camera.model, torch.zeros_like(camera.x[:1])
    if model.free_centre or model.free_halo:
        values = camera.table.named(q)
        lens = halo.Ellipsoid(*camera.mass.about(values), *camera.mass.ellipticity(values))
    else:
        lens = halo.Ellipsoid(camera.x, camera.y, zero, zero)
    free = {"centre_x": model.free_centre, "centre_y": model.free_centre}
    free |= {"halo_1": model.free_halo, "halo_2": model.free_halo}
    return {name: bend for name, bend in lens.bends().items() if not free[name]}


def score(solver: Solver, q: Tensor, problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The test at the minimum q (B, Q) of a fit.

    Returns by how much chi-square would fall for each of TESTS that the model holds, (B,) by flag, and what the step
    with all of them free finds for each parameter, (B,) by name.
    """
    names, free = list(bends(solver.renderer, q[:0])), len(solver.free)
    _, _, curvature, gradient = solver.normal(q, problem, lambda part: list(bends(solver.renderer, part).values()))
    columns = {name: free + i for i, name in enumerate(names)}

    def gain(names: Iterable[str]) -> tuple[Tensor, Tensor]:
        rows = [*range(free), *(columns[name] for name in names)]
        return _newton(curvature[:, rows][:, :, rows], gradient[:, rows])

    of_free, all_steps = gain([])[0], gain(names)[1]
    tested = {flag: test.held for flag, test in TESTS.items() if set(test.held) <= set(names)}
    gains = {flag: gain(held)[0] - of_free for flag, held in tested.items()}
    steps = all_steps[:, free:] / q[:, solver.renderer.table.columns("einstein_radius")]
    return gains, dict(zip(names, steps.unbind(1), strict=True))


def score_test(
    solver: Solver, q: Tensor, problem: Problem, excess: Tensor, spread: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) str: the flag of the test that explains its share of `excess`, "": none does. And (B,) bool: significant,
    enough of it to set the parameters free.

    excess: (B,) chi-square less the number of pixels; spread: (B,) its standard deviation where there is only noise.
    """
    rows = (excess > 0).nonzero()[:, 0]
    flag = np.full(len(q), "", dtype=f"<U{max(map(len, TESTS))}")
    significant = np.zeros(len(q), dtype=bool)
    testable = len(rows) and bends(solver.renderer, q[:0])
    gains = score(solver, q[rows], problem[rows])[0] if testable else {}
    lowest = MIN_EXCESS * spread
    for name, gain in reversed(gains.items()):
        share = (gain / torch.maximum(excess, lowest)[rows]).cpu().numpy()
        flagged = share > TESTS[name].flagged
        places = rows.cpu().numpy()[flagged]
        flag[places], significant[places] = name, share[flagged] > TESTS[name].refitted
    return flag, significant


def refitted(model: SmoothModel) -> dict[str, SmoothModel]:
    """The model with what is flagged set free, by the flag."""

    def free(held: Iterable[str]) -> SmoothModel:
        centre, shape = model.free_centre or "centre_x" in held, model.free_halo or "halo_1" in held
        return dataclasses.replace(model, free_centre=centre, free_halo=shape)

    return {flag: free(test.held) for flag, test in TESTS.items()}


def _newton(curvature: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gain in chi-square (B,) that a Gauss-Newton step expects, and the step (B, P)."""
    scale = (curvature.diagonal(dim1=1, dim2=2).clamp(min=0) + 1e-30).rsqrt()
    scaled = curvature * scale[:, :, None] * scale[:, None] + RIDGE * torch.eye(scale.shape[1]).to(scale)
    step = solve(scaled, gradient * scale) * scale
    return (step * gradient).sum(1), step
