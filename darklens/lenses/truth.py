"""What was drawn for each simulated image, read back and expressed in observable quantities."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from darklens.errors import DataError, DatasetError
from darklens.lenses.draw import Parameters
from darklens.lenses.manifest import read_manifest
from darklens.lenses.recipes import Recipe

NEAR = 0.25  # arcsec: "near" the ring of light


@dataclass(frozen=True)
class Truth:
    """What the simulator put into n images: its parameters, (n,) and (n, S), and the recipe they were drawn from."""

    parameters: Parameters
    recipe: Recipe


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
    stored = {name: _read_parameters(root, split_name, name) for name in sorted({i.parent.name for i in images})}
    rows = [_row(root, image, stored[image.parent.name][0]) for image in images]
    width = max((p.subhalo_mass.shape[1] for _, p in stored.values()), default=0)

    def gather(field: str) -> np.ndarray:
        values = [getattr(stored[i.parent.name][1], field)[row] for i, row in zip(images, rows, strict=True)]
        return np.array([np.pad(v, (0, width - len(v))) if np.ndim(v) else v for v in values])

    return Truth(Parameters(**{field: gather(field) for field in Parameters.__dataclass_fields__}), recipe)


def _read_recipe(root: Path) -> Recipe:
    path = root / "manifest.json"
    try:
        recipe = read_manifest(root)["recipe"]
        return Recipe(**{key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()})
    except OSError:
        raise DataError(f"{path}: not found: only data sets that simulate.py wrote have known dark matter") from None
    except DatasetError as error:
        raise DataError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not a recipe of this simulator ({error}): simulate the data set again") from None


def _read_parameters(root: Path, split: str, class_name: str) -> tuple[dict[int, int], Parameters]:
    """Row of each image number, and the parameters of all images of a class."""
    path = root / "parameters" / f"{split}_{class_name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("index", *Parameters.__dataclass_fields__)}
    except FileNotFoundError:
        raise DataError(f"{path}: not found: the dark matter in {split}/{class_name} is not known") from None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected the simulator's parameters, found a damaged file ({error})") from None
    index = arrays.pop("index")
    for name, values in arrays.items():
        if values.ndim != 1 + name.startswith("subhalo") or len(values) != len(index) or values.dtype.kind != "f":
            raise DataError(f"{path}: expected {len(index)} numbers {name}, found {values.dtype} {values.shape}")
    return {int(number): row for row, number in enumerate(index)}, Parameters(**arrays)


def _row(root: Path, image: PurePosixPath, rows: dict[int, int]) -> int:
    number = int(image.stem) if image.stem.isdecimal() and image.stem.isascii() else None
    if number not in rows:
        raise DataError(f"{root}: the simulator's parameters know no image {image}: it was not simulated with the rest")
    return rows[number]


def ring_radius(parameters: Parameters, angle: np.ndarray) -> np.ndarray:
    """Where along a direction from the halo the ring is brightest, in arcsec.

    A ray at r n, n = (cos a, sin a), comes from r (1 - Gamma) n - theta_E n in the source plane (NB: SIS and external
    shear Gamma, without substructure); it passes closest to the source's centre s at r = v (theta_E n + s) / v^2 with
    v = (1 - Gamma) n. Without shear and offset that is the Einstein radius.

    angle: (n,) or (n, m), radians from +x; the result has its shape.
    """
    p = {key: _like(value, angle) for key, value in vars(parameters).items() if value.ndim == 1}
    cos, sin = np.cos(angle), np.sin(angle)
    gamma1, gamma2 = p["shear"] * np.cos(2 * p["shear_angle"]), p["shear"] * np.sin(2 * p["shear_angle"])
    vx, vy = cos - gamma1 * cos - gamma2 * sin, sin - gamma2 * cos + gamma1 * sin
    along = vx * (p["theta_e"] * cos + p["source_x"]) + vy * (p["theta_e"] * sin + p["source_y"])
    return along / (vx**2 + vy**2)


def ring_distance(parameters: Parameters, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far outside the ring (inside: negative) places lie, along the direction from the halo; arcsec.

    x, y: (n,) or (n, m), arcsec.
    """
    return np.hypot(x, y) - ring_radius(parameters, np.arctan2(y, x))


def _like(values: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return values[:, None] if np.ndim(angle) == 2 else values


def heaviest(parameters: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and mass of the most massive subhalo of each image, (n,); NaN where there is none."""
    p = parameters
    if not p.subhalo_mass.size:
        return tuple(np.full(len(p), np.nan) for _ in range(3))
    best = (np.arange(len(p)), p.subhalo_mass.argmax(1))
    mass = p.subhalo_mass[best]
    return tuple(np.where(mass > 0, values, np.nan) for values in (p.subhalo_x[best], p.subhalo_y[best], mass))


def mass_near_ring(parameters: Parameters) -> np.ndarray:
    """(n,) Msun of subhalos and of the vortex within `NEAR` of the ring of light."""
    p, steps = parameters, (np.arange(64) + 0.5) / 64 - 0.5  # of the rod's length
    s = steps * p.vortex_length[:, None]
    x = p.vortex_x[:, None] + s * np.cos(p.vortex_angle)[:, None]
    y = p.vortex_y[:, None] + s * np.sin(p.vortex_angle)[:, None]
    rod = p.vortex_mass * (abs(ring_distance(p, x, y)) < NEAR).mean(1)
    return rod + (p.subhalo_mass * (abs(ring_distance(p, p.subhalo_x, p.subhalo_y)) < NEAR)).sum(1)


@dataclass(frozen=True)
class Quantity:
    """Something that completeness may depend on: its value in each image (NaN: it has none), and how to draw it."""

    label: str
    of: Callable[[Truth], np.ndarray]
    threshold: bool = False  # quote where completeness is reached


def _fraction(mass: Callable[[Parameters], np.ndarray]) -> Callable[[Truth], np.ndarray]:
    return lambda truth: mass(truth.parameters) / truth.recipe.total_mass


MASSES = {
    "mass_fraction": Quantity(
        "substructure, fraction of the total mass", _fraction(lambda p: p.substructure_mass), threshold=True
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
    "length": Quantity("length of the vortex (″)", lambda t: t.parameters.vortex_length),
    "centre_from_ring": Quantity(
        "its centre's distance outside the ring (″)",
        lambda t: ring_distance(t.parameters, t.parameters.vortex_x, t.parameters.vortex_y),
    ),
    "centre_from_centre": Quantity(
        "its centre's distance from the halo (″)", lambda t: np.hypot(t.parameters.vortex_x, t.parameters.vortex_y)
    ),
}


def quantities(truth: Truth) -> dict[str, Quantity]:
    """What to plot for these images, by the kind of dark matter that they hold."""
    return VORTEX if truth.parameters.vortex_mass.any() else SUBHALOS
