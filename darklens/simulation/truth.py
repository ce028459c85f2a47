"""What was drawn for each simulated image, read back and expressed in observable quantities."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from darklens.errors import DataError, DatasetError
from darklens.simulation.draw import LensSample, draw
from darklens.simulation.manifest import read_manifest
from darklens.simulation.recipe_file import parse_recipe
from darklens.simulation.recipe_tables import SimulationConfig

NEAR = 0.25  # arcsec: "near" the ring of light


@dataclass(frozen=True)
class Truth:
    """What the simulator put into n images: its lenses, and the recipe they were drawn from."""

    parameters: LensSample
    recipe: SimulationConfig


def is_simulated(data_root: str | Path) -> bool:
    """Whether the folder holds the simulator's parameters."""
    return (Path(data_root) / "manifest.json").is_file() and (Path(data_root) / "parameters").is_dir()


def read_truth(data_root: str | Path, split_name: str, names: Sequence[str]) -> Truth:
    """What is in the images `names` (CLASS/FILE.npy) of a split, in that order.

    Raises DataError where simulate.py did not write the data set, its files are damaged, or an image is not in them.
    """
    root = Path(data_root)
    recipe = _read_recipe(root)
    images = [PurePosixPath(name) for name in names]
    stored = {name: _read_lenses(root, recipe, split_name, name) for name in sorted({i.parent.name for i in images})}
    rows = [(stored[i.parent.name][1], _row(root, i, stored[i.parent.name][0])) for i in images]
    width = max((len(p.subhalos["mass"].T) for _, p in stored.values()), default=0)
    some = next(iter(stored.values()))[1] if stored else draw(recipe, next(iter(recipe.classes)), 0, "train", ())
    values = {key: np.array([lenses.values[key][row] for lenses, row in rows], dtype=float) for key in some.values}
    subhalos = {key: np.zeros((len(rows), width)) for key in some.subhalos}
    for number, (lenses, row) in enumerate(rows):
        for key, column in lenses.subhalos.items():
            subhalos[key][number, : column.shape[1]] = column[row]
    return Truth(LensSample(values, subhalos), recipe)


def _read_recipe(root: Path) -> SimulationConfig:
    path = root / "manifest.json"
    try:
        return parse_recipe(read_manifest(root)["recipe"])
    except OSError:
        raise DataError(f"{path}: not found: only data sets that simulate.py wrote have known dark matter") from None
    except DatasetError as error:
        raise DataError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not a recipe of this simulator ({error}): simulate the data set again") from None


def _read_lenses(
    root: Path, recipe: SimulationConfig, split: str, class_name: str
) -> tuple[dict[int, int], LensSample]:
    """Row of each image number, and all lenses of a class."""
    path = root / "parameters" / f"{split}_{class_name}.npz"
    try:
        empty = draw(recipe, class_name, 0, "train", ())
        with np.load(path, allow_pickle=False) as file:
            index, arrays = file["index"], {key: file[key] for key in empty.arrays()}
    except FileNotFoundError:
        raise DataError(f"{path}: not found: the dark matter in {split}/{class_name} is not known") from None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected the simulator's parameters, found a damaged file ({error})") from None
    for name, values in arrays.items():
        if values.ndim != 1 + name.startswith("subhalos.") or len(values) != len(index) or values.dtype.kind != "f":
            raise DataError(f"{path}: expected {len(index)} numbers {name}, found {values.dtype} {values.shape}")
    return {int(number): row for row, number in enumerate(index)}, empty.with_arrays(arrays)


def _row(root: Path, image: PurePosixPath, rows: dict[int, int]) -> int:
    number = int(image.stem) if image.stem.isdecimal() and image.stem.isascii() else None
    if number not in rows:
        raise DataError(f"{root}: the simulator's parameters know no image {image}: it was not simulated with the rest")
    return rows[number]


def ring_radius(lenses: LensSample, angle: np.ndarray) -> np.ndarray:
    """Where along a direction from the halo the ring is brightest, in arcsec.

    A ray at r n, n = (cos a, sin a), comes from r (1 - Gamma) n - theta_E n in the source plane (NB: SIS and external
    shear Gamma, without substructure; an elliptical halo is taken as round); it passes closest to the source's centre
    s at r = v (theta_E n + s) / v^2 with v = (1 - Gamma) n. Without shear and offset that is the Einstein radius.

    angle: (n,) or (n, m), radians from +x; the result has its shape.
    """
    keys = ("lens.shear", "lens.shear_angle", "lens.einstein_radius", "source.x", "source.y")
    shear, axis, theta_e, x, y = (_like(lenses[key], angle) for key in keys)
    cos, sin, axis = np.cos(angle), np.sin(angle), np.radians(axis)
    gamma1, gamma2 = shear * np.cos(2 * axis), shear * np.sin(2 * axis)
    vx, vy = cos - gamma1 * cos - gamma2 * sin, sin - gamma2 * cos + gamma1 * sin
    return (vx * (theta_e * cos + x) + vy * (theta_e * sin + y)) / (vx**2 + vy**2)


def ring_distance(lenses: LensSample, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far outside the ring (inside: negative) places lie, along the direction from the halo; arcsec.

    x, y: (n,) or (n, m), arcsec from the halo.
    """
    return np.hypot(x, y) - ring_radius(lenses, np.arctan2(y, x))


def _like(values: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return values[:, None] if np.ndim(angle) == 2 else values


def heaviest(lenses: LensSample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and mass of the most massive subhalo of each image, (n,); NaN where there is none."""
    s = lenses.subhalos
    if not s["mass"].size:
        none = np.full(len(lenses), np.nan)
        return none, none, none
    best = (np.arange(len(lenses)), s["bound_mass"].argmax(1))
    mass = s["bound_mass"][best]
    x, y, m = (np.where(mass > 0, values, np.nan) for values in (s["x"][best], s["y"][best], mass))
    return x, y, m


def vortex_ends(lenses: LensSample) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) x and y of the middle of each vortex and (n, 2) the way from there to its end, arcsec from the halo."""
    angle, half = np.radians(lenses["vortex.angle"]), lenses["vortex.length"][:, None] / 2
    middle = np.stack([lenses["vortex.x"], lenses["vortex.y"]], 1)
    return middle, np.stack([np.cos(angle), np.sin(angle)], 1) * half


def mass_near_ring(lenses: LensSample) -> np.ndarray:
    """(n,) Msun of subhalos and of the vortex within `NEAR` of the ring of light."""
    s, steps = lenses.subhalos, 2 * ((np.arange(64) + 0.5) / 64 - 0.5)  # of half the rod
    middle, half = vortex_ends(lenses)
    x, y = (middle[:, i, None] + steps * half[:, i, None] for i in (0, 1))
    rod = lenses["vortex.mass"] * (abs(ring_distance(lenses, x, y)) < NEAR).mean(1)
    return rod + (s["bound_mass"] * (abs(ring_distance(lenses, s["x"], s["y"])) < NEAR)).sum(1)


@dataclass(frozen=True)
class Quantity:
    """Something that completeness may depend on: its value in each image (NaN: it has none), and how to draw it."""

    label: str
    of: Callable[[Truth], np.ndarray]
    threshold: bool = False  # quote where completeness is reached


def _fraction(mass: Callable[[LensSample], np.ndarray]) -> Callable[[Truth], np.ndarray]:
    return lambda truth: mass(truth.parameters) / truth.parameters["lens.total_mass"]


MASSES = {
    "mass_fraction": Quantity(
        "substructure, fraction of the total mass",
        _fraction(lambda lenses: lenses["substructure.mass"]),
        threshold=True,
    ),
    "mass_fraction_near_ring": Quantity(
        f"the same within {NEAR}″ of the ring of light", _fraction(mass_near_ring), threshold=True
    ),
}
SUBHALOS = {
    **MASSES,
    "heaviest_mass_1e9_msun": Quantity(
        "most massive subhalo ($10^9\\,M_\\odot$)", lambda t: heaviest(t.parameters)[2] / 1e9, threshold=True
    ),
    "heaviest_from_ring": Quantity(
        "its distance outside the ring (″)", lambda t: ring_distance(t.parameters, *heaviest(t.parameters)[:2])
    ),
    "heaviest_from_centre": Quantity(
        "its distance from the centre (″)", lambda t: np.hypot(*heaviest(t.parameters)[:2])
    ),
}
VORTEX = {
    **MASSES,
    "length": Quantity("length of the vortex (″)", lambda t: t.parameters["vortex.length"]),
    "centre_from_ring": Quantity(
        "its centre's distance outside the ring (″)",
        lambda t: ring_distance(t.parameters, t.parameters["vortex.x"], t.parameters["vortex.y"]),
    ),
    "centre_from_centre": Quantity(
        "its centre's distance from the halo (″)",
        lambda t: np.hypot(t.parameters["vortex.x"], t.parameters["vortex.y"]),
    ),
}


def quantities(truth: Truth) -> dict[str, Quantity]:
    """What to plot for these images, by the kind of dark matter that they hold."""
    return VORTEX if truth.parameters["vortex.mass"].any() else SUBHALOS
