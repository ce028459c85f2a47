"""Which perturber explains an image best, and how much more probable is the image with it? Behind a flexible source.

    fit = refine(lens, (-0.6, 1.0), 1e-3, profile="tnfw")
    fit.place, fit.square, fit.log_bayes_factor

From a place and mass of a detection map Gauss-Newton steps move perturber and lens together, everything else being
solved in each. Pixels, lattices and the prior of the splines are those of the lens without perturber, which takes such
steps too. With place and mass t = (x, y, square) at their best, of the covariance V (Laplace's approximation),

    ln B = ln E(t) - ln E(none) + ln p(t) + ln |2 pi V| / 2,

p uniform over the circle in which it is sought, and in the logarithm of the squared Einstein radius over SQUARES
(Vegetti & Koopmans 2009, MNRAS 392, 945; Vegetti et al. 2010, MNRAS 408, 1969). Where something smoothed the noise V is
multiplied by `noise_ratio`, and the fall of chi-square and priors divided by it. Negative masses are controls.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from darklens.fit import evidence
from darklens.fit.detect import grid
from darklens.fit.flexible import PERTURBER, Design, FlexibleLens
from darklens.fit.noise_ratio import noise_ratio
from darklens.fit.run import plain_arithmetic
from darklens.fit.spline_source import SplineSource
from darklens.fit.structured_map import lens_map

STEPS, SCOUTS = 30, 5  # at most; of starts that are compared
SETTLED = 0.5  # of chi-square: a step that promises less is not taken
SLOWER = 0.3  # of a step that made things worse
SQUARES = 1e-5, 1e-1  # arcsec^2: 1e7 to 1e11 Msun of Model F
SHARES = 1e-3, 1e-2  # of the halo's mass within its Einstein radius
SPACING, NEAR, BRIGHT = 0.15, 0.4, 2.0  # arcsec between places, and to arcs of so many standard deviations
SHIFTS = 0.06 * np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y])  # arcsec, of further starts
FINALISTS = 3  # starts that go on until the lens stays
STARTS, APART = 8, 0.25  # places where refinement starts; arcsec between them


@dataclasses.dataclass(frozen=True)
class PerturberFit:
    """A perturber at its best, against none."""

    place: np.ndarray  # (2,) arcsec from the image's centre, y up
    square: float  # arcsec^2, squared Einstein radius of its mass
    covariance: np.ndarray  # (3, 3) of place and square, source and lens marginalised
    delta_chi_square: float  # how far chi-square and priors fall
    log_bayes_factor: float  # ln B of a perturber against none
    parameters: np.ndarray  # (Q,) of the lens beside it
    parameters_without: np.ndarray  # (Q,) of the lens without it, under the same prior


@dataclasses.dataclass(frozen=True)
class PerturberSearch:
    """Detection maps of one lens, for M squared Einstein radii at G places."""

    positions: np.ndarray  # (G, 2) arcsec from the image's centre, y up
    squares: np.ndarray  # (M,) arcsec^2
    expected: np.ndarray  # (M, G) delta chi-square
    observed: np.ndarray  # (M, G) standard deviations


@dataclasses.dataclass(frozen=True)
class _State:
    """A lens, its linear problem, and what the best source for just that lens leaves of chi-square and priors."""

    q: Tensor  # (1, Q)
    design: Design
    source: SplineSource  # the best for that lens
    still: Tensor  # (K,) the best coefficients with the lens where it is
    objective: float
    promise: float  # how far it falls for the best lens, to first order


@torch.no_grad()
def refine(
    lens: FlexibleLens, place: Sequence[float], square: float, *, profile: str = "point", reach: float | None = None
) -> PerturberFit:
    """The perturber that steps lead to from a place (x, y) arcsec and a squared Einstein radius (arcsec^2).

    lens: after `run(..., hold=True)`, left as it is. profile: one of `perturbers.PROFILES`; reach: arcsec, the radius
    of the circle in which it was sought (half the window). Raises KeyError for another profile.
    """
    with plain_arithmetic(torch.device("cpu")):
        return _Comparison(lens, profile, reach).fit(place, square, STEPS)


@torch.no_grad()
def strongest(
    lens: FlexibleLens,
    search: PerturberSearch | None = None,
    *,
    profile: str = "point",
    starts: int = STARTS,
    finalists: int = FINALISTS,
    shifts: np.ndarray = SHIFTS,
) -> PerturberFit:
    """The perturber of positive mass that best explains the image, of those that refinement leads to.

    It starts from the `starts` highest places of the detection maps of a search (None: `search_maps`), APART or more
    from each other; the best `finalists` after SCOUTS steps go on. Rays hit a perturber or miss it, which leaves small
    hollows in what is minimised, so it starts again about the best, at shifts (K, 2) arcsec.
    """
    search = search or search_maps(lens, profile=profile)
    with plain_arithmetic(torch.device("cpu")):
        comparison = _Comparison(lens, profile)
        scouts = [comparison.fit(place, square, SCOUTS) for place, square in _starts(search, starts)]
        ranked = sorted(scouts, key=_merit, reverse=True)[:finalists]
        best = max((comparison.fit(each.place, each.square, STEPS) for each in ranked), key=_merit)
        around = [comparison.fit(best.place + shift, best.square, SCOUTS) for shift in shifts]
        return max((best, *around), key=_merit)


@torch.no_grad()
def search_maps(lens: FlexibleLens, positions: np.ndarray | None = None, *, profile: str = "point") -> PerturberSearch:
    """Detection maps for SHARES of the halo's mass at the places (G, 2) arcsec (None: `near_arcs`)."""
    positions = near_arcs(lens) if positions is None else positions
    squares = float(lens.q[0, lens.renderer.table.index["einstein_radius"]]) ** 2 * np.array(SHARES)
    with plain_arithmetic(torch.device("cpu")):
        return PerturberSearch(positions, squares, *lens_map(lens, squares, positions, profile))


def _merit(fit: PerturberFit) -> tuple[bool, float]:
    """Positive masses first, then by ln B."""
    return fit.square > 0, fit.log_bayes_factor


def near_arcs(lens: FlexibleLens) -> np.ndarray:
    """(G, 2) the places of a grid, SPACING arcsec apart, that are NEAR arcs of at least BRIGHT standard deviations."""
    scale, size = lens.renderer.model.pixel_scale, lens.renderer.size
    places = grid(size, scale, max(round(SPACING / scale), 1), reach=1.0)
    rows, columns = ((lens.image() * lens.weight) > BRIGHT).nonzero().numpy().T
    pixels = np.stack([columns - (size - 1) / 2, (size - 1) / 2 - rows], 1) * scale
    close = [bool((np.hypot(*(pixels - place).T) < NEAR).any()) for place in places]
    return places[close] if any(close) else places


def _starts(search: PerturberSearch, count: int) -> Iterator[tuple[np.ndarray, float]]:
    """The places (2,) where the maps are highest, APART from each other, with the square that fits there."""
    expected, observed = search.expected, search.observed
    fitted = search.squares[:, None] * observed / np.sqrt(np.where(expected > 0, expected, np.inf))
    places = np.full((1, 2), np.inf)
    for row, column in zip(*np.unravel_index((-observed).argsort(axis=None), observed.shape), strict=True):
        place = search.positions[column]
        if len(places) > count or (observed[row, column] <= 0 and len(places) > 1):
            break
        if (np.hypot(*(places - place).T) > APART).all():
            places = np.append(places, place[None], 0)
            yield place, float(fitted[row, column])


class _Comparison:
    """A lens with perturbers and without, under the same prior of its splines."""

    def __init__(self, lens: FlexibleLens, profile: str, reach: float | None = None) -> None:
        self.lens, self.reach = lens, reach or lens.renderer.model.half_window
        self.precision = lens.design.posterior.precision[: len(lens.source.coefficients)]
        self.without = self._settled(dataclasses.replace(lens, q=lens.q.clone()), STEPS)
        self.perturbed = lens.with_components(f"perturber_{profile}")

    def fit(self, place: Sequence[float] | np.ndarray, square: float, steps: int) -> PerturberFit:
        """The perturber that so many steps lead to from there."""
        q = torch.cat((self.without.q, self.lens.q.new_tensor([[*place, square]])), 1)
        return self._result(self._settled(dataclasses.replace(self.perturbed, q=q, source=self.without.source), steps))

    def _settled(self, lens: FlexibleLens, steps: int) -> _State:
        """Where steps of the lens lead; one that makes things worse is tried again, shorter."""
        best, share = self._evaluated(lens), 1.0
        for _ in range(steps):
            if share * best.promise < SETTLED:
                break
            _move(lens, best, share)
            state = self._evaluated(lens)
            if state.objective < best.objective:
                best, share = state, min(2 * share, 1.0)
            else:  # with the slopes of the best source for that lens
                lens.q, lens.source = best.q.clone(), best.source
                best, share = self._evaluated(lens), SLOWER * share
        return best

    def _evaluated(self, lens: FlexibleLens) -> _State:
        """The linear problem at the lens, the best source for it, and the objective there."""
        count, design = len(self.precision), lens.held_problem(self.precision)
        still = design.posterior.mean_without(slice(count, count + len(design.moved)))
        amplitude = float(still[count + len(design.moved)])
        source = dataclasses.replace(lens.source, coefficients=still[:count], amplitude=amplitude)
        objective, lowest = (_penalised(lens, design, mean) for mean in (still, design.posterior.mean))
        return _State(lens.q.clone(), design, source, still, objective, objective - lowest)

    def _result(self, best: _State) -> PerturberFit:
        """The perturber against none."""
        columns = [len(self.precision) + best.design.moved.index(name) for name in PERTURBER]
        ratio = noise_ratio(self.lens, best.design.columns[columns[-1:]])  # of the derivative by the perturber's mass
        covariance = ratio * best.design.posterior.covariance_of(columns)
        values, (low, high) = best.q[0, -3:], SQUARES
        density = math.pi * self.reach**2 * abs(float(values[2])) * math.log(high / low)
        log_b = _log_evidence(best) - _log_evidence(self.without)
        log_b += 1.5 * math.log(2 * math.pi) - math.log(density)
        gain = self.without.objective - best.objective
        log_b += 1.5 * math.log(ratio) - gain / 2 * (1 - 1 / ratio)
        lenses = best.q[0, :-3].numpy(), self.without.q[0].numpy()
        return PerturberFit(values[:2].numpy(), float(values[2]), covariance.numpy(), gain / ratio, log_b, *lenses)


def _log_evidence(state: _State) -> float:
    """Flat priors in it make constants."""
    posterior = state.design.posterior
    lowest = state.objective - state.promise - (posterior.precision * posterior.mean.square()).sum()
    return float(evidence.log_evidence(posterior, lowest))


def _move(lens: FlexibleLens, state: _State, share: float) -> None:
    """A share of the step that the state asks for; the source goes along, as the next slopes are its own."""
    mean = state.still + share * (state.design.posterior.mean - state.still)
    count = len(lens.source.coefficients)
    steps = slice(count, count + len(state.design.moved))
    lens.q = state.q.clone()
    lens.move(mean[steps], state.design)
    lens.take(mean, steps)


def _penalised(lens: FlexibleLens, design: Design, mean: Tensor) -> float:
    """Chi-square of coefficients (K,), and what the priors add."""
    residual = design.data - (design.columns.T @ mean.to(design.columns.dtype)).double()
    prior = (design.posterior.precision * mean.square()).sum() + lens.pulled(design.moved, mean)
    return float(residual.square().sum() + prior)
