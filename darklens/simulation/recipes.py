"""Recipes: what a data set's images are drawn from, those that come with the package and changes to them.

RECIPES["f"]                                            # a preset: darklens/simulation/presets/f.toml
load_recipe("my_survey.toml")                           # or a file
changed(RECIPES["f"], {"lens.shear_angle": [0, 360]})   # a key changed
robust(RECIPES["j"])                                    # with small errors of what a fit assumes
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from darklens.errors import RecipeError
from darklens.simulation.recipe_file import load_recipe, parse_recipe, recipe_dict, recipe_names
from darklens.simulation.recipe_inputs import with_inputs
from darklens.simulation.recipe_tables import SimulationConfig

__all__ = [
    "RECIPES",
    "SimulationConfig",
    "changed",
    "load_recipe",
    "recipe_dict",
    "recipe_names",
    "robust",
]

CLASSES = ("no", "sphere", "vort")  # of the published sets; a recipe may have others
SPLITS = ("train", "val", "test")
DISTANCES = ("luminosity", "angular")
SIMULATOR = 3  # raise it whenever the same recipe and seed give other images
AXES = {False: [0, 6.283185307179586], True: [0, 360]}  # degrees; False: U(0, 2 pi) read as degrees, as published
QUIRKS = {
    "random_shear_axis": "draw the shear's axis from all directions, not from 0 to 6.28 degrees",
    "random_source_axis": "draw an elliptical source's axis from all directions, not from 0 to 6.28 degrees",
    "random_vortex_axis": "draw the vortex's axis from all directions, not from 0 to 6.28 degrees",
    "conserve_mass": "take the mass of the substructure from the halo",
    "distances": "distances in the Einstein radius",
    "subhalo_slope": "slope of the subhalos' mass function dN/dm",
}
ROBUST = {  # what plotted or resampled images of other tools differ in, and a fit doesn't know
    "robust.psf_width": [0.97, 1.03],
    "robust.registration": 0.1,
    "robust.gain": [0.9, 1.1],
    "robust.eight_bits": {"choice": [True, False, False, False, False]},
}


_read_once = functools.cache(load_recipe)


class _Presets(Mapping):
    """The recipes of the package by name, each read when it is first asked for."""

    def __getitem__(self, name: str) -> SimulationConfig:
        if name not in recipe_names():
            raise KeyError(name)
        return _read_once(name)

    def __iter__(self) -> Iterator[str]:
        return iter(recipe_names())

    def __len__(self) -> int:
        return len(recipe_names())


RECIPES: Mapping[str, SimulationConfig] = _Presets()


def named(recipe: SimulationConfig) -> str:
    """What to call its lenses: "Model F" for those of DeepLense, else the recipe's name."""
    return f"Model {recipe.name.upper()}" if recipe.name in ("f", "j", "i", "ii", "iii") else recipe.name


def changed(recipe: SimulationConfig, changes: Mapping[str, object]) -> SimulationConfig:
    """The recipe with some keys changed: dotted names, values as in a TOML file, None to take a key away.

    Raises RecipeError in one line with the key.
    """
    raw = recipe_dict(recipe)
    for key, copy in (("psf", "kernel"), ("source", "stamps_sha256")):
        if any(name.startswith(f"{key}.") for name in changes):
            raw[key].pop(copy, None)  # of the file that was
    for name, value in changes.items():
        *path, key = name.split(".")
        table = functools.reduce(_step_into, path, raw)
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    return with_inputs(parse_recipe(raw))


def _step_into(parent: dict, part: str) -> Any:
    """The table of a name, made if need be; of a list of components the one of that number, from 0."""
    if not isinstance(parent, list):
        return parent.setdefault(part, {})
    if not part.isdecimal() or int(part) >= len(parent):
        raise RecipeError(f"{part}: expected the number of a component, 0 to {len(parent) - 1}")
    return parent[int(part)]


def with_quirks(recipe: SimulationConfig, quirks: Mapping[str, object]) -> SimulationConfig:
    """The recipe with some of `QUIRKS` chosen. Raises RecipeError."""
    raw, changes = recipe_dict(recipe), {}
    plain = {"distances": "lens.distances", "conserve_mass": "lens.conserve_mass"}
    axes = {"random_shear_axis": "lens.shear_angle", "random_source_axis": "source.angle"}
    for name, value in quirks.items():
        if name in plain:
            changes[plain[name]] = value
        elif name in axes:
            changes[axes[name]] = AXES[bool(value)]
        else:
            table, key = ("vortex", "angle") if name == "random_vortex_axis" else ("subhalos", "slope")
            new = AXES[bool(value)] if key == "angle" else value
            changes |= {f"classes.{c}.{table}.{key}": new for c, tables in raw["classes"].items() if table in tables}
    return changed(recipe, changes)


def robust(recipe: SimulationConfig) -> SimulationConfig:
    """The recipe with small errors of what a fit assumes (`ROBUST`); a PSF from a file keeps its width."""
    fixed = recipe.psf.kind in ("file", "none")
    return changed(recipe, {key: value for key, value in ROBUST.items() if not (fixed and key == "robust.psf_width")})
