"""Where would a subhalo be seen in a fitted lens, and where does the image ask for one? Linear detection maps.

    fits = fit(images)
    seen = detect(fits)
    seen.expected                    # (B, M, G) delta chi-square of a subhalo of each mass at each place
    maps.observed                    # (B, M, G) how much of it the residual holds, in standard deviations

A mass m at p changes the image by d(m, p) = A (light with it - light without it), through the PSF. What the smooth
lens can imitate is not seen: with the weighted Jacobian J of the fit (light, its derivatives by the free parameters,
sky, all over sigma) and the projection P onto what is orthogonal to its columns,

    w = P d / sigma,   expected = |w|^2,   observed = <w, r> / |w|,   r the fit's residual over sigma.

`expected` is the chi-square that the best smooth lens would leave in the noise-free image with that subhalo.
`observed` is the score test (Rao 1948) of the subhalo's amplitude, the smooth parameters being nuisances: standard
normal where there is none, and sqrt(expected) in the mean where there is the one looked for. Its square is how far
chi-square falls when that amplitude is set free. In mass nothing is linearised, in the smooth parameters all is.

The squared Einstein radius of a mass m is theta_E^2 m / total mass. The halo keeps its mass: had it to give some to
the subhalo, its Einstein radius would change, which is among the columns of J and projected out.

References: Rao 1948, Math. Proc. Cambridge Phil. Soc. 44, 50 (score test); Vegetti & Koopmans 2009, MNRAS 392, 945
(corrections to a smooth lens from its residual, on a grid); Hezaveh et al. 2016, ApJ 823, 37, arXiv:1601.01388
(delta chi-square of a subhalo at each place, other parameters marginalised).
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from darklens.fit.model import SmoothModel
from darklens.fit.perturbers import PROFILES
from darklens.fit.renderer import Renderer, renderer
from darklens.fit.result import CONSTANT, NO_LENS, Fit
from darklens.fit.run import plain_arithmetic

MASSES = (1e8, 1e9, 1e10)  # Msun
TOTAL_MASS = 1e12  # Msun within the Einstein radius, of Models F and J
STEP, REACH = 3, 0.85  # of the grid: pixels; share of the window
SHARE = 8, 256  # places at a time: whose rays the cache of a CPU holds; on a GPU
DEPENDENT = 1e-6  # of the largest singular value: a column that the others already give


@dataclasses.dataclass(frozen=True)
class DetectionMap:
    """Maps of B lenses for M masses at G places; float64. Lenses that could not be fitted have zeros."""

    positions: np.ndarray  # (G, 2) x, y in arcsec from the image's centre, y up; a grid goes row by row from the top
    masses: np.ndarray  # (M,) Msun
    expected: np.ndarray  # (B, M, G) delta chi-square
    observed: np.ndarray  # (B, M, G) standard deviations; negative: the residual favours the opposite

    @property
    def fitted_mass(self) -> np.ndarray:
        """(B, M, G) Msun that fit best there, to first order about each of the masses; 0 where none would be seen."""
        visible = np.where(self.expected > 0, self.expected, np.inf)
        return self.masses[:, None] * self.observed / np.sqrt(visible)

    @property
    def log_likelihood_ratio(self) -> np.ndarray:
        """(B, M, G) ln of how much more probable the image is with just that mass there than without."""
        return self.observed * np.sqrt(self.expected) - self.expected / 2


@dataclasses.dataclass(frozen=True)
class Peak:
    """The place in each of B lenses where the residual most favours a subhalo."""

    position: np.ndarray  # (B, 2) arcsec, as in `DetectionMap`
    mass: np.ndarray  # (B,) Msun that fit best there
    observed: np.ndarray  # (B,) standard deviations


def grid(size: int, pixel_scale: float, step: int = STEP, reach: float = REACH) -> np.ndarray:
    """(n^2, 2) places in arcsec from the image's centre, row by row from the top; n is odd.

    size: pixels on a side of the window; pixel_scale: arcsec; step: pixels; reach: share of the window.
    """
    reach_steps = int(reach * size / 2 / step)
    steps = np.arange(-reach_steps, reach_steps + 1) * (step * pixel_scale)
    return np.stack(np.meshgrid(steps, -steps), -1).reshape(-1, 2)  # (n, n, 2) -> (n^2, 2)


@torch.inference_mode()
def detect(
    fits: Fit,
    masses: Sequence[float] = MASSES,
    positions: np.ndarray | None = None,
    total_mass: float | np.ndarray = TOTAL_MASS,
    *,
    profile: str = "point",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> DetectionMap:
    """Expected and observed detection of one subhalo in each of B fits: of each mass, at each place.

    masses: Msun. positions: (G, 2) arcsec from the image's centre, y up; None: `grid` of the window. total_mass:
    Msun within the Einstein radius, of all lenses or of each (B,). profile: one of `perturbers.PROFILES`.
    dtype: of the rays; the projections are float64.

    Raises ValueError for fits without pictures (`fit(..., pictures=False)`), another profile, positions of another
    shape, or masses that aren't positive.
    """
    place = torch.device(device)
    scan = _Scan(fits, masses, positions, total_mass=total_mass, profile=profile, dtype=dtype, device=place)
    maps = np.zeros((2, len(fits), len(scan.masses), len(scan.positions)))
    with plain_arithmetic(torch.device(device)):
        for k, lens in scan.lenses():
            for row, mass in enumerate(scan.masses / scan.total[k]):
                expected, observed = zip(*lens.scores(mass, scan.positions, lens.residual), strict=True)
                maps[:, k, row] = torch.stack((torch.cat(expected), torch.cat(observed)[:, 0])).cpu().numpy()
    return DetectionMap(scan.positions, scan.masses, *maps)


@torch.inference_mode()
def highest_by_chance(
    fits: Fit,
    masses: Sequence[float] = MASSES,
    positions: np.ndarray | None = None,
    draws: int = 400,
    seed: int = 0,
    total_mass: float | np.ndarray = TOTAL_MASS,
    *,
    profile: str = "point",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """(B, draws) the highest observed significance in the map of each fit, were its residual nothing but noise.

    What it costs to look everywhere (Gross & Vitells 2010, EPJC 70, 525): the share of these above a lens's peak is
    the chance of one as high without a subhalo. Arguments and errors as of `detect`. No lens: zeros.
    """
    place = torch.device(device)
    scan = _Scan(fits, masses, positions, total_mass=total_mass, profile=profile, dtype=dtype, device=place)
    highest = np.zeros((len(fits), draws))
    with plain_arithmetic(torch.device(device)):
        for k, lens in scan.lenses():
            noise, highest[k] = lens.noise(draws, seed + k), -np.inf
            for mass in scan.masses / scan.total[k]:
                for _, observed in lens.scores(mass, scan.positions, noise):
                    highest[k] = np.maximum(highest[k], observed.amax(0).cpu().numpy())
    return highest


def peak(
    fits: Fit,
    maps: DetectionMap,
    total_mass: float | np.ndarray = TOTAL_MASS,
    *,
    profile: str = "point",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Peak:
    """Where `maps`, one of `fits` on a grid, has its highest significance, climbed from there in smaller steps.

    total_mass and the others: as `detect` was given them. Raises ValueError as it does.
    """
    columns = np.unique(maps.positions[:, 0].round(9))
    spacing = np.diff(columns).min() if len(columns) > 1 else 0.0
    steps = np.arange(-2, 3)
    around = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)  # (5, 5, 2) -> (25, 2)
    total = np.broadcast_to(np.asarray(total_mass, dtype=float), len(fits))
    table = np.zeros((len(fits), 4))
    look = functools.partial(detect, profile=profile, dtype=dtype, device=device)
    for k, observed in enumerate(maps.observed):
        row, place = np.unravel_index(observed.argmax(), observed.shape)
        table[k] = *maps.positions[place], maps.fitted_mass[k, row, place], observed[row, place]
        for step in (spacing / 3, spacing / 3, spacing / 12):
            close = table[k, :2] + step * around
            finer = look(fits[k : k + 1], (float(maps.masses[row]),), close, total[k])
            best = finer.observed[0, 0].argmax()
            if finer.observed[0, 0, best] > table[k, 3]:
                table[k] = *close[best], finer.fitted_mass[0, 0, best], finer.observed[0, 0, best]
    return Peak(table[:, :2], table[:, 2], table[:, 3])


class _Scan:
    """What is looked for, checked, and the camera that looks."""

    def __init__(
        self,
        fits: Fit,
        masses: Sequence[float],
        positions: np.ndarray | None,
        *,
        total_mass: float | np.ndarray,
        profile: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        size = fits.residual.shape[-1]
        positions = grid(size, fits.model.pixel_scale) if positions is None else positions
        self.fits, self.profile = fits, profile
        self.masses, self.positions = np.atleast_1d(np.asarray(masses, dtype=float)), np.asarray(positions, dtype=float)
        self.total = np.broadcast_to(np.asarray(total_mass, dtype=float), len(fits))
        self._check()
        self.camera = functools.partial(renderer, size=size, binning=1, device=str(device), dtype=dtype)

    def _check(self) -> None:
        if self.fits.deviation.shape != self.fits.residual.shape:
            raise ValueError("these fits have no pictures: fit(..., pictures=True) keeps them")
        if self.fits.model.source == "flexible":
            raise ValueError("these fits have a flexible source: `structured_map.detect_structured` is for those")
        check_scan(self.masses, self.positions, self.total, self.profile)

    def lenses(self) -> Iterator[tuple[int, "_Lens"]]:
        """The fits that are lenses, and their numbers."""
        for k in np.flatnonzero(~np.isin(self.fits.flag, (CONSTANT, NO_LENS))).tolist():
            yield k, _Lens(self.fits, k, self.camera(_model(self.fits, k)), self.profile)


def check_scan(masses: np.ndarray, positions: np.ndarray, total_mass: np.ndarray, profile: str) -> None:
    """Raises ValueError for what `detect` can't look for."""
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"positions must be (G, 2), not {positions.shape}")
    if not np.isfinite(positions).all():
        raise ValueError("positions must be finite")
    for values in (masses, total_mass):
        if not (values > 0).all() or not np.isfinite(values).all():
            raise ValueError(f"masses must be positive and finite, not {values.tolist()}")
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")


def _model(fits: Fit, k: int) -> SmoothModel:
    """The model of fit k, with what `refit_flagged` has freed there."""
    fitted = {name for name, free in zip(fits.model.table.names, fits.fitted[k], strict=True) if free}
    centre, shape = "centre_x" in fitted, "halo_1" in fitted
    return dataclasses.replace(fits.model, free_centre=centre, free_halo=shape)


class _Lens:
    """One fitted lens: its light, what of a change the smooth parameters imitate, and the residual."""

    def __init__(self, fits: Fit, k: int, camera: Renderer, profile: str) -> None:
        device = camera.x.device
        residual, deviation = (
            torch.as_tensor(values[k].reshape(-1), device=device).double() for values in (fits.residual, fits.deviation)
        )
        self.camera, self.q = camera, torch.as_tensor(fits.parameters[k : k + 1], device=device)
        counts = torch.as_tensor(~fits.mask[k].reshape(-1), device=device) & (deviation > 0)
        self.weight = torch.where(counts, 1 / deviation.clamp(min=1e-300), 0.0)  # (N,), N = S^2
        amplitudes = [fits.amplitude[k], fits.light_amplitude[k]][: 1 + fits.model.free_light]
        self.amplitudes = torch.as_tensor(amplitudes, dtype=torch.float64, device=device)
        self.scale = (fits.amplitude[k] * self.weight).to(camera.x.dtype)
        self.light, self.basis = camera.light(self.q), self._basis()
        self.residual = self._projected(residual[:, None])
        radius = fits.parameters[k, fits.model.table.index["einstein_radius"]]
        self.theta2, self.bend = float(radius) ** 2, PROFILES[profile]

    def _basis(self) -> Tensor:
        """(N, r) orthonormal columns that span light, its derivatives and the sky, all over sigma."""
        columns = self.camera.columns(self.q)[0].flatten(1).double()  # (R, S, S) -> (R, N)
        lights, mixing = self.camera.mixing(0)
        derivatives = (mixing @ self.amplitudes).T @ columns  # (P, N)
        columns = torch.cat((columns[lights], derivatives, torch.ones_like(columns[:1]))) * self.weight
        columns = columns.nan_to_num(0.0, 0.0, 0.0) / columns.norm(dim=1, keepdim=True).clamp(min=1e-300)
        u, s, _ = torch.linalg.svd(columns.T, full_matrices=False)
        return u[:, s > DEPENDENT * s[0]]

    def _projected(self, values: Tensor) -> Tensor:
        """(N, R) without what the smooth parameters imitate."""
        return values - self.basis @ (self.basis.T @ values)

    def noise(self, draws: int, seed: int) -> Tensor:
        """(N, draws) residuals of images without substructure."""
        random = np.random.default_rng(seed).standard_normal((len(self.weight), draws), dtype=np.float32)
        counts = (self.weight > 0)[:, None]
        return self._projected(torch.as_tensor(random, device=self.weight.device).double() * counts)

    def scores(self, share: float, positions: np.ndarray, residuals: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Expected (K,) and observed (K, R) of a mass (as a share of the total one), K places at a time.

        residuals: (N, R), projected.
        """
        places = torch.as_tensor(positions, device=self.q.device).to(self.camera.x.dtype)
        for part in places.split(SHARE[places.device.type != "cpu"]):
            change = self._change(share * self.theta2, part).double()
            expected = (change.square().sum(1) - (change @ self.basis).square().sum(1)).clamp(min=0)
            observed = change @ residuals / expected.sqrt().clamp(min=1e-150)[:, None]
            observed = torch.where(expected[:, None] > 0, observed, 0.0)
            yield expected.nan_to_num(0.0, 0.0, 0.0), observed.nan_to_num(0.0, 0.0, 0.0)

    def _change(self, theta2: float, places: Tensor) -> Tensor:
        """d / sigma (K, N) of a mass at each of the places (K, 2)."""
        x, y = places.T[:, :, None]  # (K, 1) each
        bend = self.bend(self.camera.x, self.camera.y, x[None], y[None], torch.full_like(x, theta2)[None])
        light = self.camera.light(self.q.expand(len(places), -1), bend)
        return (light - self.light).mul_(self.scale)
