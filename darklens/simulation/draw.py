"""Draw the lenses of a survey's recipe.

    recipe = load_recipe("euclid")
    lenses = draw(recipe, "sphere", seed=0, split="train", indices=range(8))
    lenses["lens.shear"]                                                 # (8,): keys are those of the recipe

Each image has its own random stream, and each key of the recipe its own number in it: image i is the same in any
company, and two recipes of one name that differ in a key have the same lenses but for that key.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from darklens.simulation.physics import einstein_radius
from darklens.simulation.priors import Prior, fixed, mean_mass, power_law, suggestion
from darklens.simulation.profiles import axion_vortex_length, nfw_angles, tnfw_mass
from darklens.simulation.recipe_tables import TABLES, LensLight, SimulationConfig, Structure, Subhalos, Vortex
from darklens.simulation.recipes import SPLITS

KEYS = [
    (table, field)
    for table, kind in TABLES.items()
    for field in dataclasses.fields(kind)
    if field.metadata["kind"] == "prior" and not field.metadata["apart"]
]
LIGHT_KEYS = [field for field in dataclasses.fields(LensLight) if field.metadata["kind"] == "prior"]
EXTRA = 3  # random numbers of a lens beyond those of KEYS: its position, x and y, and its stamp
LIGHT = 10  # the random stream of the lens galaxy's first component; those of the others follow
STRUCTURE = 2  # the random stream of a source's structure
STRUCTURE_KEYS = dataclasses.fields(Structure)
VORTEX_KEYS = ("mass", "length", "axion_mass", "x", "y", "angle")
SUBHALO_KEYS = ("mass", "x", "y", "concentration", "truncation")


@dataclasses.dataclass(frozen=True)
class LensSample:
    """A batch of B drawn lenses, all float64.

    values: by key of the recipe ("lens.shear", "source.x", "vortex.length"), (B,) in the recipe's units, angles in
    degrees, NaN where the recipe doesn't say; and of what follows from them: "image.x" and "image.y" (the lens's
    place, arcsec), "lens.einstein_radius" (of the total mass), "halo.einstein_radius" (of what the substructure
    leaves, arcsec), "vortex.mass", "substructure.mass" (Msun). subhalos: by key of SUBHALO_KEYS, and "bound_mass"
    (without what is truncated), (B, S), padded at the end with massless ones; profile: theirs.
    """

    values: dict[str, np.ndarray]
    subhalos: dict[str, np.ndarray]
    profile: str = "point"

    def __len__(self) -> int:
        return len(self.values["lens.z_lens"])

    def __getitem__(self, key: str | slice | np.ndarray):
        """The values of a key (B,), or the lenses in some rows with no more padding than they need."""
        if isinstance(key, str):
            return self.values[key]
        used = self.subhalos["mass"][key].any(0)
        columns = slice(0, int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0)
        subhalos = {name: v[key][:, columns] for name, v in self.subhalos.items()}
        return LensSample({name: v[key] for name, v in self.values.items()}, subhalos, self.profile)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them by name, (B,) and (B, S), as a file keeps them; `with_arrays` undoes it."""
        return self.values | {f"subhalos.{key}": value for key, value in self.subhalos.items()}

    def with_arrays(self, arrays: dict[str, np.ndarray]) -> "LensSample":
        """Lenses of the same keys and profile with these arrays."""
        subhalos = {key: arrays[f"subhalos.{key}"] for key in self.subhalos}
        return LensSample({key: arrays[key] for key in self.values}, subhalos, self.profile)


def stream(
    recipe: SimulationConfig, class_name: str, seed: int, split: str, index: int, use: int
) -> np.random.SeedSequence:
    """The random stream of one image: `use` 0 for its parameters, 1 for its noise, from `LIGHT` for its lens galaxy."""
    key = (*recipe.name.encode(), SPLITS.index(split), *class_name.encode(), index, use)
    return np.random.SeedSequence(seed, spawn_key=key)


def generator(sequence: np.random.SeedSequence) -> np.random.Generator:
    """NumPy's Philox on a stream."""
    return np.random.Generator(np.random.Philox(sequence))


def _quantile(prior: Prior | None, field: dataclasses.Field, u: np.ndarray) -> np.ndarray:
    """Quantiles within the key's limits, which the tail of a normal prior may pass; NaN without a prior."""
    if prior is None:
        return np.full(np.shape(u), np.nan)
    return np.clip(prior.quantile(u), field.metadata["low"], field.metadata["high"])


def _common(recipe: SimulationConfig, u: np.ndarray) -> dict[str, np.ndarray]:
    """u: (B, len(KEYS) + EXTRA) -> the values of each key, the lens's place and its stamp, (B,)."""
    values = {}
    for column, (table, field) in zip(u.T, KEYS, strict=False):
        prior = getattr(getattr(recipe, table), field.name, None)
        values[f"{table}.{field.name}"] = _quantile(prior, field, column)
    pixels = np.hypot(recipe.image.centre_scatter, recipe.robust.registration)
    scatter = Prior("normal", (0.0, pixels * recipe.image.pixel_scale))
    values["image.x"], values["image.y"] = scatter.quantile(u[:, -3]), scatter.quantile(u[:, -2])
    values["source.stamp"] = u[:, -1]
    if recipe.source.x is None:
        offset, towards = np.nan_to_num(values["source.offset"]), np.radians(values["source.offset_angle"])
        values["source.x"], values["source.y"] = offset * np.cos(towards), offset * np.sin(towards)
    return values


def light_name(number: int) -> str:
    """The name of a component of the lens galaxy, from 0, in the keys of values: lens_light, lens_light_2 ..."""
    return f"lens_light_{number + 1}" if number else "lens_light"


def _further_light(recipe: SimulationConfig, uniform: Callable[[int, int], np.ndarray]) -> dict[str, np.ndarray]:
    """What the lens galaxy has beyond the keys of one Sersic: its isophotes' shape, and further components.

    uniform(use, n): (B, n) random numbers of each lens's stream `use`.
    """
    values: dict[str, np.ndarray] = {}
    for number, light in enumerate(recipe.lens_lights):
        keys = {field.name for field in LIGHT_KEYS if number or field.name == "a4"}
        if light.a4 == fixed(0):
            keys.remove("a4")
        if keys:
            u = dict(zip(LIGHT_KEYS, uniform(LIGHT + number, len(LIGHT_KEYS)).T, strict=True))
            component = {
                field.name: _quantile(getattr(light, field.name), field, column) for field, column in u.items()
            }
            values |= {f"{light_name(number)}.{key}": component[key] for key in component if key in keys}
    return values


def structure_values(structure: Structure, u: np.ndarray) -> dict[str, np.ndarray]:
    """Quantiles u (B, len(STRUCTURE_KEYS) or more) of each key of [source.structure], (B,)."""
    return {f.name: _quantile(getattr(structure, f.name), f, one) for f, one in zip(STRUCTURE_KEYS, u.T, strict=False)}


def mass_scale(recipe: SimulationConfig, values: dict[str, np.ndarray]) -> np.ndarray:
    """Squared Einstein radius of a solar mass (arcsec^2), (B,)."""
    return einstein_radius(1.0, values["lens.z_lens"], values["lens.z_source"], recipe.lens.distances) ** 2


def _halo(recipe: SimulationConfig, values: dict[str, np.ndarray]) -> None:
    """Fill in the Einstein radius of the total mass, or the mass of the Einstein radius."""
    square = mass_scale(recipe, values)
    if recipe.lens.total_mass is None:
        values["lens.total_mass"] = values["lens.einstein_radius"] ** 2 / square
    else:
        values["lens.einstein_radius"] = np.sqrt(square * values["lens.total_mass"])


def _subhalo_number(table: Subhalos, total_mass: float, rng: np.random.Generator) -> int:
    if table.count is not None:
        return round(float(_subhalo_quantile(table, "count", rng.random())))
    fraction = float(_subhalo_quantile(table, "mass_fraction", rng.random()))
    return rng.poisson(fraction * total_mass / mean_mass(*table.mass, table.slope))


def _subhalo_quantile(table: Subhalos, key: str, u: np.ndarray | float) -> np.ndarray:
    return _quantile(getattr(table, key), Subhalos.__dataclass_fields__[key], np.asarray(u))


def _draw_subhalos(table: Subhalos | None, total_mass: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if table is None:
        return dict.fromkeys(SUBHALO_KEYS, np.zeros(0))
    u = rng.random((6, _subhalo_number(table, total_mass, rng)))
    low, high = table.radius
    radius = low + (high - low) * u[1] if table.spread == "radius" else np.sqrt(low**2 + (high**2 - low**2) * u[1])
    subhalos = {
        "mass": power_law(u[0], *table.mass, table.slope),
        "x": radius * np.cos(2 * np.pi * u[2]),
        "y": radius * np.sin(2 * np.pi * u[2]),
        "concentration": _subhalo_quantile(table, "concentration", u[3]),
        "truncation": _subhalo_quantile(table, "truncation", u[4]),
    }
    formed = u[5] <= (1 + table.half_mode_mass / subhalos["mass"]) ** -1.3  # Lovell et al. 2014, MNRAS 439, 300
    return {key: value[formed] for key, value in subhalos.items()}


def _draw_vortex(table: Vortex | None, total_mass: float, rng: np.random.Generator) -> dict[str, float]:
    fields = dataclasses.fields(Vortex)
    u = rng.random(len(fields))
    if table is None:
        return dict.fromkeys(VORTEX_KEYS, 0.0)
    rod = {f.name: float(_quantile(getattr(table, f.name), f, one)) for f, one in zip(fields, u, strict=True)}
    rod["mass"] = rod.pop("mass_fraction") * total_mass
    if table.length is None:
        rod["length"] = float(axion_vortex_length(rod["axion_mass"]))
    return rod


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _check(recipe: SimulationConfig, class_name: str, split: str) -> None:
    if class_name not in recipe.classes:
        raise ValueError(f"no class {class_name!r} in recipe {recipe.name}{suggestion(class_name, recipe.classes)}")
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}{suggestion(split, SPLITS)}")


def draw(recipe: SimulationConfig, class_name: str, seed: int, split: str, indices: Iterable[int]) -> LensSample:
    """Draw the lenses `indices` of a class. Image i is the same in any company.

    Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    _check(recipe, class_name, split)
    indices = [int(i) for i in indices]

    def streams(use: int) -> list[np.random.Generator]:
        return [generator(stream(recipe, class_name, seed, split, i, use)) for i in indices]

    def uniform(use: int, count: int) -> np.ndarray:
        return np.array([rng.random(count) for rng in streams(use)]).reshape(-1, count)

    rngs, numbers = streams(0), len(KEYS) + EXTRA
    values = _common(recipe, np.array([rng.random(numbers) for rng in rngs]).reshape(-1, numbers))
    values |= _further_light(recipe, uniform)
    if recipe.source.structure is not None:
        u = uniform(STRUCTURE, len(STRUCTURE_KEYS) + 1)
        values |= {f"structure.{key}": v for key, v in structure_values(recipe.source.structure, u).items()}
        values["structure.seed"] = np.floor(u[:, -1] * 2**52)
    _halo(recipe, values)
    kind, masses = recipe.classes[class_name], values["lens.total_mass"]
    rods = [_draw_vortex(kind.vortex, mass, rng) for mass, rng in zip(masses, rngs, strict=True)]
    halos = [_draw_subhalos(kind.subhalos, mass, rng) for mass, rng in zip(masses, rngs, strict=True)]
    values |= {f"vortex.{key}": np.array([rod[key] for rod in rods], dtype=float) for key in VORTEX_KEYS}
    subhalos = {key: _padded([halo[key] for halo in halos]) for key in SUBHALO_KEYS}
    return with_masses(recipe, LensSample(values, subhalos, kind.subhalos.profile if kind.subhalos else "point"))


def with_masses(recipe: SimulationConfig, lenses: LensSample) -> LensSample:
    """The lenses with what follows from their masses: "bound_mass", "substructure.mass", "halo.einstein_radius"."""
    v, bound = lenses.values, subhalo_mass(lenses)
    substructure = sum(bound.T, start=v["vortex.mass"])  # in a fixed order, so that padding doesn't matter
    halo_mass = np.maximum(v["lens.total_mass"] - v["lens.conserve_mass"] * substructure, 0)
    derived = {"substructure.mass": substructure, "halo.einstein_radius": np.sqrt(mass_scale(recipe, v) * halo_mass)}
    return LensSample(v | derived, lenses.subhalos | {"bound_mass": bound}, lenses.profile)


def without_substructure(recipe: SimulationConfig, lenses: LensSample) -> LensSample:
    """The same lenses, smooth: the halo has all of the mass."""
    values = lenses.values | {"vortex.mass": np.zeros(len(lenses))}
    none = {key: value[:, :0] for key, value in lenses.subhalos.items()}
    return with_masses(recipe, dataclasses.replace(lenses, values=values, subhalos=none))


def with_substructure(recipe: SimulationConfig, lenses: LensSample, substructure: LensSample) -> LensSample:
    """The same lenses and sources, each with the subhalos and the vortex of another lens of the same redshifts."""
    vortices = {key: v for key, v in substructure.values.items() if key.startswith("vortex.")}
    values = lenses.values | vortices
    return with_masses(recipe, dataclasses.replace(substructure, values=values))


def tnfw_parameters(lenses: LensSample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rs, alpha_rs, truncation radius (arcsec) of the subhalos, (B, S); padding is massless."""
    s, z = lenses.subhalos, [lenses[f"lens.{key}"][:, None] for key in ("z_lens", "z_source")]
    used = s["mass"] > 0
    rs, alpha = nfw_angles(np.where(used, s["mass"], 1), np.where(used, s["concentration"], 1), *z)
    return rs, alpha * used, rs * np.where(used, s["truncation"], 1)


def subhalo_mass(lenses: LensSample) -> np.ndarray:
    """(B, S) Msun of each subhalo, what is truncated left out."""
    s = lenses.subhalos
    if lenses.profile != "tnfw":
        return s["mass"]
    used = s["mass"] > 0
    return used * tnfw_mass(s["mass"], np.where(used, s["concentration"], 1), np.where(used, s["truncation"], 1))
