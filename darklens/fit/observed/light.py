"""The lens galaxy's light alone, fitted first with the arcs as outliers, then again beside what they look like.

The shape (centre, ellipticities) is found by Levenberg-Marquardt with the amplitudes projected out (Golub & Pereyra
1973): each step solves for them by non-negative least squares, and the Jacobian loses what they can take up
(Kaufman 1975, BIT 15, 49).
"""

import dataclasses

import numpy as np
from scipy import ndimage

from darklens.fit.observed import mge
from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.linear import amplitudes

NUMBER_FIRST, NUMBER = 16, 14  # Gaussians of the one set at first, and of each of the two
ARCS_FLOOR = 0.2  # of the arcs' light: an error of the model, as FLOOR is of the galaxy's
FLOOR = 0.02  # of the light: an error of the model that counts as noise, since no galaxy is that smooth
LOW, HIGH = -8.0, 4.0  # smoothed residuals beyond, in their own standard deviations, are outliers
CORE = 0.2  # arcsec about the centre where no pixel is an outlier
MAX_ETA = 1.6  # of a set's ellipticity: an axis ratio of 0.2
HARMONIC_PRIOR = 0.1  # standard deviation of a cos 4t amplitude over the light there


@dataclasses.dataclass
class LightModel:
    """A fitted lens galaxy; its columns are those whose amplitudes a joint fit solves for."""

    shape: mge.Shape
    columns: np.ndarray  # (K, n, n), the last of them the sky
    positive: np.ndarray  # (K,) bool
    ridge: np.ndarray  # (K,) 1 / variance of the amplitudes' priors, 0 without
    linear: np.ndarray  # (K,) amplitudes

    @property
    def image(self) -> np.ndarray:
        """(n, n) with the sky."""
        return np.tensordot(self.linear, self.columns, 1)

    @property
    def galaxy(self) -> np.ndarray:
        """(n, n) without the sky."""
        return self.image - self.linear[-1]


class LightFit:
    """Fits of `shape` to the pixels of a cutout with weights, its columns beside others that are given."""

    def __init__(self, cutout: Cutout, sets: int, number: int, *, harmonics: bool = False) -> None:
        self.cutout, self.sets, self.number = cutout, sets, number
        self.gaussians = mge.Gaussians(cutout, mge.widths(cutout, number))
        self.harmonics = np.array(mge.HARMONICS) if harmonics else None  # (M,) arcsec

    def columns(self, shape: mge.Shape) -> tuple[np.ndarray, list[mge.Sharp]]:
        """(K, n, n) blurred, the sky last; the Gaussians they were made of."""
        sharp = [self.gaussians.sharp(shape.centre, e) for e in shape.ellipticity]
        planes = [self.gaussians.blur(each.planes.copy()) for each in sharp]
        if self.harmonics is not None:
            planes.append(mge.harmonics(self.cutout, shape.centre, shape.ellipticity[0], self.harmonics))
        planes.append(np.ones((1, *self.cutout.data.shape)))
        return np.concatenate(planes), sharp

    def solve(self, shape: mge.Shape, weight: np.ndarray, data: np.ndarray) -> "State":
        """Amplitudes of the columns for data (n, n) of weights (n, n), 1 / sigma."""
        columns, sharp = self.columns(shape)
        use = weight.ravel() > 0
        w = weight.ravel()[use]
        flat = columns.reshape(len(columns), -1)[:, use] * w
        target = data.ravel()[use] * w
        positive = np.arange(len(columns)) < self.sets * self.number
        gram, projection = flat @ flat.T, flat @ target
        ridge = np.zeros(len(columns))
        linear, passive = amplitudes(gram, projection, positive)
        if self.harmonics is not None:
            ridge = self._ridge(linear, columns)
            linear, passive = amplitudes(gram + np.diag(ridge), projection, positive)
        rest = target - linear @ flat
        chi2 = rest @ rest + ridge @ linear**2
        model = LightModel(shape, columns, positive, ridge, linear)
        return State(model, sharp, chi2, flat, rest, gram + np.diag(ridge), passive, use, w)

    def _ridge(self, linear: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(K,) of the harmonics: their peak may reach a tenth of the light where it lies."""
        ridge, size = np.zeros(len(linear)), self.sets * self.number
        galaxy = np.tensordot(linear[:size], columns[:size], 1)
        for k in range(size, len(linear) - 1):
            peak = np.abs(columns[k]).argmax()
            light = max(galaxy.ravel()[peak], 1e-30)
            ridge[k] = (np.abs(columns[k]).max() / (HARMONIC_PRIOR * light)) ** 2
        return ridge

    def fit(
        self, shape: mge.Shape, weight: np.ndarray, data: np.ndarray, steps: int = 6, tolerance: float = 1e-4
    ) -> LightModel:
        """The best shape near one, by at most so many steps; tolerance: of chi-square, relative."""
        state, damping = self.solve(shape, weight, data), 1e-3
        for _ in range(steps):
            step = state.step(self.number, damping)
            trial = _clip(state.model.shape.vector() + step, self.cutout)
            new = self.solve(mge.Shape.from_vector(trial), weight, data)
            gain = state.chi2 - new.chi2
            if gain > 0:
                state, damping = new, damping / 10
            else:
                damping *= 30
            if 0 <= gain < tolerance * state.chi2 or damping > 10:
                break
        return state.model


@dataclasses.dataclass
class State:
    """A solved shape, with what the next step needs."""

    model: LightModel
    sharp: list[mge.Sharp]
    chi2: float
    flat: np.ndarray  # (K, N) weighted columns
    rest: np.ndarray  # (N,) weighted residual
    gram: np.ndarray  # (K, K)
    passive: np.ndarray  # (K,) bool
    use: np.ndarray  # (n^2,) bool
    weight: np.ndarray  # (N,)

    def jacobian(self, number: int) -> np.ndarray:
        """(2 + 2 J, N) weighted derivatives of the light by its shape."""
        parts = by_shape(self.sharp, self.model.linear, number)
        planes = [sum(part[:2] for part in parts), *(part[2:] for part in parts)]
        stack = np.concatenate(planes)
        return stack.reshape(len(stack), -1)[:, self.use] * self.weight

    def step(self, number: int, damping: float) -> np.ndarray:
        jacobian = self.jacobian(number)
        free = self.passive
        cross = self.flat[free] @ jacobian.T  # (k, P)
        gram = self.gram[np.ix_(free, free)]
        gram = gram + np.diag(1e-10 * gram.diagonal() + 1e-300)
        curvature = jacobian @ jacobian.T - cross.T @ np.linalg.solve(gram, cross)
        gradient = jacobian @ self.rest
        diagonal = np.maximum(curvature.diagonal(), 1e-12 * curvature.diagonal().max(initial=1e-300))
        return np.linalg.solve(curvature + np.diag(diagonal * (damping + 1e-8)), gradient)


def by_shape(sharp: list[mge.Sharp], linear: np.ndarray, number: int) -> list[np.ndarray]:
    """(4, n, n) of each set of `number` Gaussians: derivatives of its light by its centre and its ellipticity."""
    return [each.derivatives(linear[j * number : (j + 1) * number]) for j, each in enumerate(sharp)]


def _clip(vector: np.ndarray, cutout: Cutout) -> np.ndarray:
    """A shape within reason: its centre in the inner half, its axis ratios above exp(-MAX_ETA)."""
    shape = vector.copy()
    shape[:2] = np.clip(shape[:2], -cutout.half / 2, cutout.half / 2)
    for j in range(2, len(shape), 2):
        shape[j : j + 2] *= min(1.0, MAX_ETA / max(np.hypot(*shape[j : j + 2]), 1e-30))
    return shape


def brightest(cutout: Cutout) -> np.ndarray:
    """(2,) arcsec of the centroid about the brightest pixel near the middle, noise smoothed away."""
    good = cutout.good.astype(float)
    width = max(1.0, cutout.psf.width)
    smooth = ndimage.gaussian_filter(cutout.data * good, width) / np.maximum(ndimage.gaussian_filter(good, width), 0.05)
    central = (np.maximum(np.abs(cutout.x), np.abs(cutout.y)) <= cutout.half / 4 + cutout.pixel_scale) & cutout.good
    if not central.any():
        return np.zeros(2)
    peak = np.where(central, smooth, -np.inf).argmax()
    distance = np.hypot(cutout.x - cutout.x.ravel()[peak], cutout.y - cutout.y.ravel()[peak])
    weight = np.where(cutout.good & (distance < 3.5 * cutout.pixel_scale), cutout.data, 0.0).clip(min=0) ** 2
    total = weight.sum()
    if not total > 0:
        return np.zeros(2)
    return np.array([(weight * cutout.x).sum(), (weight * cutout.y).sum()]) / total


def turned_excess(cutout: Cutout, centre: np.ndarray) -> np.ndarray:
    """(n, n) how much brighter a pixel is than the one opposite the centre, in standard deviations, 0 if unknown."""
    rows, columns = np.indices(cutout.data.shape, dtype=float)
    middle = (cutout.size - 1) / 2
    px, py = middle + centre[0] / cutout.pixel_scale, middle - centre[1] / cutout.pixel_scale
    places = [2 * py - rows, 2 * px - columns]
    turned = ndimage.map_coordinates(cutout.data, places, order=1, cval=0.0)
    inside = ndimage.map_coordinates(cutout.good.astype(float), places, order=1, cval=0.0) > 0.99
    sigma = ndimage.map_coordinates(cutout.sigma, places, order=1, cval=1.0)
    excess = (cutout.data - turned) / np.hypot(cutout.sigma, sigma)
    return np.where(inside & cutout.good, excess, 0.0)


def outliers(cutout: Cutout, rest: np.ndarray, sigma: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n, n) bool: what a smooth galaxy doesn't explain, grown by a pixel. rest, sigma: (n, n)."""
    good = cutout.good.astype(float)
    share = np.maximum(ndimage.gaussian_filter(good, 1.0), 0.05)
    smooth = ndimage.gaussian_filter(good * rest / sigma, 1.0) / share
    scale = 1.4826 * np.median(np.abs(smooth[cutout.good])) if cutout.good.any() else 1.0
    out = ((smooth > HIGH * scale) | (smooth < LOW * scale)) & (cutout.radius(centre) > CORE)
    return ndimage.binary_dilation(out)


def errors(cutout: Cutout, light: LightModel, arcs: np.ndarray | None = None) -> np.ndarray:
    """(n, n) the noise with what the models may be wrong by: shares of the galaxy's and the arcs' light."""
    square = cutout.sigma**2 + (FLOOR * light.galaxy.clip(min=0)) ** 2
    return np.sqrt(square if arcs is None else square + (ARCS_FLOOR * arcs.clip(min=0)) ** 2)


def fit_light(cutout: Cutout, floor: float = FLOOR) -> tuple[LightModel, np.ndarray]:
    """The galaxy with the arcs as outliers, and (n, n) bool, the pixels that were left out in the end."""
    centre = brightest(cutout)
    shape = mge.Shape(centre, np.zeros((1, 2)))
    light = ndimage.gaussian_filter(cutout.data, 1.5).clip(min=0)
    excess = turned_excess(dataclasses.replace(cutout, sigma=np.hypot(cutout.sigma, 0.05 * light)), centre)
    out = (excess > 4) & (cutout.radius(centre) > CORE)
    first = LightFit(cutout, 1, NUMBER_FIRST)
    sigma = np.hypot(cutout.sigma, floor * light)
    model = first.fit(shape, np.where(cutout.good & ~out, 1 / sigma, 0.0), cutout.data)
    e = model.shape.ellipticity[0]
    shape = mge.Shape(model.shape.centre, np.array([0.7 * e, 1.3 * e]))
    for number in range(3):
        sigma = np.hypot(cutout.sigma, floor * model.galaxy.clip(min=0))
        out = outliers(cutout, cutout.data - model.image, sigma, model.shape.centre)
        two = LightFit(cutout, 2, NUMBER, harmonics=number == 2)
        model = two.fit(shape, np.where(cutout.good & ~out, 1 / sigma, 0.0), cutout.data, steps=4)
        shape = model.shape
    return model, out
