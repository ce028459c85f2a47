"""Draws the parameters of lenses, each from its own random stream."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np

from darklens.lenses.physics import einstein_radius
from darklens.lenses.recipes import CLASSES, SPLITS, Recipe


@dataclasses.dataclass(frozen=True)
class Parameters:
    """A batch of B lenses: float64 arrays (B,), for subhalos (B, S), padded at the end with massless ones."""

    z_lens: np.ndarray
    z_source: np.ndarray
    theta_e: np.ndarray  # arcsec, Einstein radius of the recipe's total mass
    shear: np.ndarray
    shear_angle: np.ndarray  # radians
    source_x: np.ndarray  # arcsec
    source_y: np.ndarray
    source_radius: np.ndarray  # arcsec
    axis_ratio: np.ndarray
    source_angle: np.ndarray  # radians
    peak_snr: np.ndarray  # NaN where the recipe fixes the exposure
    vortex_mass: np.ndarray  # Msun, 0: none
    vortex_length: np.ndarray  # arcsec
    vortex_x: np.ndarray  # arcsec
    vortex_y: np.ndarray
    vortex_angle: np.ndarray  # radians
    subhalo_mass: np.ndarray  # Msun
    subhalo_x: np.ndarray  # arcsec
    subhalo_y: np.ndarray

    def __len__(self) -> int:
        return len(self.z_lens)

    def __getitem__(self, rows: slice | np.ndarray) -> "Parameters":
        """The lenses in `rows`, with no more padding than they need."""
        picked = {name: value[rows] for name, value in vars(self).items()}
        used = int(np.flatnonzero(picked["subhalo_mass"].any(0))[-1:].sum() + picked["subhalo_mass"].any())
        return Parameters(**{k: v[:, :used] if v.ndim == 2 else v for k, v in picked.items()})

    @property
    def substructure_mass(self) -> np.ndarray:
        """(B,) Msun, summed in a fixed order so that padding doesn't matter."""
        return sum(self.subhalo_mass.T, start=self.vortex_mass)


def stream(recipe: Recipe, class_name: str, seed: int, split: str, index: int, use: int) -> np.random.SeedSequence:
    """The random stream of one image: `use` 0 for its parameters, 1 for its noise."""
    key = (*recipe.name.encode(), SPLITS.index(split), CLASSES.index(class_name), index, use)
    return np.random.SeedSequence(seed, spawn_key=key)


def power_law(u: np.ndarray, low: float, high: float, slope: float) -> np.ndarray:
    """Quantiles u of dN/dm ~ m^slope on [low, high], by inversion."""
    k = slope + 1
    if abs(k) < 1e-9:
        return low * (high / low) ** u
    return (low**k + u * (high**k - low**k)) ** (1 / k)


def _angle(u: float, random_axis: bool) -> float:
    """U(0, 2 pi) radians, or (the quirk) the same number read as degrees."""
    return 2 * math.pi * u if random_axis else math.radians(2 * math.pi * u)


def _draw_common(recipe: Recipe, rng: np.random.Generator) -> dict[str, float]:
    u = rng.random(10).tolist()

    def between(bounds: tuple[float, float], k: int) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * u[k]

    offset, towards = between(recipe.source_offset, 4), 2 * math.pi * u[5]
    return {
        "z_lens": between(recipe.z_lens, 0),
        "z_source": between(recipe.z_source, 1),
        "shear": between(recipe.shear, 2),
        "shear_angle": _angle(u[3], recipe.random_shear_axis),
        "source_x": offset * math.cos(towards),
        "source_y": offset * math.sin(towards),
        "source_radius": between(recipe.effective_radius, 6),
        "axis_ratio": between(recipe.axis_ratio, 7),
        "source_angle": _angle(u[8], recipe.random_source_axis),
        "peak_snr": between(recipe.peak_snr, 9) if recipe.peak_snr else math.nan,
    }


def _draw_subhalos(recipe: Recipe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    u = rng.random((3, rng.poisson(recipe.subhalo_count)))
    low, high = recipe.subhalo_radius
    radius, angle = low + (high - low) * u[1], 2 * np.pi * u[2]
    mass = power_law(u[0], *recipe.subhalo_mass, recipe.subhalo_slope)
    return {"subhalo_mass": mass, "subhalo_x": radius * np.cos(angle), "subhalo_y": radius * np.sin(angle)}


def _draw_vortex(recipe: Recipe, rng: np.random.Generator) -> dict[str, float]:
    x, y = rng.normal(0, recipe.vortex_scatter, 2)
    return {
        "vortex_mass": recipe.total_mass * rng.uniform(*recipe.vortex_fraction),
        "vortex_length": rng.uniform(*recipe.vortex_length),
        "vortex_x": x,
        "vortex_y": y,
        "vortex_angle": _angle(rng.random(), recipe.random_vortex_axis),
    }


SUBSTRUCTURE: dict[str, Callable[[Recipe, np.random.Generator], dict]] = {
    "no": lambda recipe, rng: {},
    "sphere": _draw_subhalos,
    "vort": _draw_vortex,
}


def _stack(lenses: list[dict], name: str) -> np.ndarray:
    if not name.startswith("subhalo"):
        return np.array([lens.get(name, 0.0) for lens in lenses], dtype=float)
    rows = [lens.get(name, ()) for lens in lenses]
    padded = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def draw(recipe: Recipe, class_name: str, seed: int, split: str, indices: Iterable[int]) -> Parameters:
    """Draw the lenses `indices` of a class. Each has its own stream: image i is the same in any company.

    Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    lenses = []
    for index in indices:
        rng = np.random.Generator(np.random.Philox(stream(recipe, class_name, seed, split, int(index), 0)))
        lenses.append(_draw_common(recipe, rng) | SUBSTRUCTURE[class_name](recipe, rng))
    names = [f.name for f in dataclasses.fields(Parameters) if f.name != "theta_e"]
    arrays = {name: _stack(lenses, name) for name in names}
    theta_e = einstein_radius(recipe.total_mass, arrays["z_lens"], arrays["z_source"], recipe.distances)
    return Parameters(theta_e=theta_e, **arrays)
