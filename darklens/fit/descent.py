"""Gauss-Newton steps of a flexible lens that never climb: where the first order fails, a share of the step is taken.

What a step minimises, with priors of source, light and lens as they are in that step, is

    J(c, q) = |(y - X(q)^T c) / sigma|^2 + sum p c^2 + sum ((q - mean) / s)^2,

of which the step's own model is a quadratic. J itself is evaluated along the step; the first of SHARES that brings it
below its value before is taken (backtracking: Nocedal & Wright 2006, Numerical Optimization, sec. 3.1).
"""

import dataclasses

from torch import Tensor

from darklens.fit.flexible import LENS, STEPS, FlexibleLens

SHARES = 1.0, 0.5, 0.25, 0.1, 0.03
SETTLED = 0.3  # standard deviations: a lens that moves by less has arrived
HELD_STEPS = 8  # at most with the prior held


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a lens is: its parameters, and the amplitudes of all columns but the lens's steps."""

    q: Tensor  # (1, Q)
    coefficients: Tensor  # (K,)
    rest: Tensor  # (2 + E,) of the Sersic, the sky, the further columns

    def towards(self, other: "Place", share: float) -> "Place":
        """A share of the way to another place."""
        return Place(
            *(a + share * (b - a) for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )


class Descent:
    """The steps of one lens; `lens` is where they have led."""

    def __init__(self, lens: FlexibleLens) -> None:
        self.lens = lens
        self.rest = lens.q.new_zeros(2 + len(lens.further))
        self.rest[0], self.rest[1] = lens.source.amplitude, lens.sky

    def run(self, levels: int, *, hold: bool) -> None:
        """As `FlexibleLens.run`; hold: go on with the prior held until the lens stays, and a linear problem there."""
        lens = self.lens
        lens.refine(levels)
        for number in range(STEPS[1]):
            if self.step(adapt=True) < SETTLED and number + 1 >= STEPS[0]:
                break
        if hold:
            for _ in range(HELD_STEPS):
                if self.step(adapt=False) < SETTLED:
                    break
            arrived = self.place()
            lens.step(adapt=False)
            self.move(arrived)

    def step(self, *, adapt: bool) -> float:
        """One step, or a share of it; adapt: the prior too. How far the lens went, in standard deviations."""
        lens, before = self.lens, self.place()
        wanted = lens.step(adapt=adapt, move=False)
        after, largest = self._target(before)
        self.move(before)
        height = self.objective()
        for share in SHARES:
            self.move(before.towards(after, share * largest))
            if self.objective() <= height:
                return share * largest * wanted
        self.move(before)
        return 0.0

    def place(self) -> Place:
        """Where the lens is."""
        return Place(self.lens.q.clone(), self.lens.source.coefficients, self.rest)

    def move(self, place: Place) -> None:
        """Put the lens there."""
        lens, self.rest = self.lens, place.rest
        lens.q, lens.sky = place.q.clone(), float(place.rest[1])
        amplitude = float(place.rest[0])
        lens.source = dataclasses.replace(lens.source, coefficients=place.coefficients, amplitude=amplitude)

    def _target(self, before: Place) -> tuple[Place, float]:
        """Where the last linear problem is solved, and the share of the way there that the first order may go."""
        lens, design = self.lens, self.lens.design
        mean, count = design.posterior.mean, len(lens.source.coefficients)
        step, rest = mean[count:].split((len(design.moved), len(mean) - count - len(design.moved)))
        widths = step.new_tensor([LENS[name] for name in design.moved])
        return Place(lens.after(step, design), mean[:count], rest), float((widths / step.abs()).clamp(max=1).min())

    def objective(self) -> float:
        """J of the present place, with the priors and pixels of the last linear problem."""
        lens, design = self.lens, self.lens.design
        count = len(lens.source.coefficients)
        further = (self.rest[2:] @ lens.further.to(self.rest.dtype)).view_as(lens.data)
        residual = ((lens.data - lens.image() - further - lens.sky) * lens.weight).flatten()[design.pixels]
        precision = design.posterior.precision
        prior = (precision[:count] * lens.source.coefficients.square()).sum()
        prior = prior + (precision[count + len(design.moved) :] * self.rest.square()).sum()
        return float(residual.square().sum() + prior + lens.distance(design.moved))
