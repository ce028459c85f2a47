"""Recipes as TOML files: what a survey's images are drawn from, checked key by key.

    recipe = load_recipe("euclid")             # one that comes with the package
    recipe = load_recipe("my_survey.toml")     # a file, which may say `base = "euclid"`
    recipe_dict(recipe)                        # and back, as plain values

Each key and its unit: `darklens/simulation/recipe_tables.py`, or one of the files in `darklens/simulation/presets/`.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from darklens.errors import RecipeError
from darklens.simulation.priors import Prior, is_number, parse_prior, suggestion
from darklens.simulation.recipe_checks import check_recipe
from darklens.simulation.recipe_inputs import with_inputs
from darklens.simulation.recipe_tables import OPTIONAL, TABLES, LensClass, LensLight, Robust, SimulationConfig

FOLDER = Path(__file__).parent / "presets"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str | Path) -> SimulationConfig:
    """A recipe by name or from a TOML file. Raises RecipeError in one line."""
    return with_inputs(parse_recipe(_read_merged(str(name), ())))


def parse_recipe(raw: dict) -> SimulationConfig:
    """A recipe from plain values (`recipe_dict` undoes it). Raises RecipeError in one line with the key."""
    _check_keys(raw, ["name", "description", "classes", *TABLES], "")
    for table in (name for name, kind in TABLES.items() if kind is not None and name not in raw):
        if table not in OPTIONAL:
            raise RecipeError(f"the recipe has no [{table}] table")
    parts = {name: _table(TABLES[name], raw[name], name) for name in TABLES if raw.get(name) and name != "lens_light"}
    lights = _lens_lights(raw.get("lens_light") or [])
    classes = _classes(raw.get("classes"))
    name, description = (_text(raw[k], k) if k in raw else "" for k in ("name", "description"))
    if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        raise RecipeError(f"name = {raw.get('name')!r}: expected a word of letters, digits, - and _")
    recipe = SimulationConfig(name=name, description=description, classes=classes, lens_lights=lights, **parts)
    check_recipe(recipe)
    return recipe


def recipe_dict(recipe: SimulationConfig) -> dict:
    """The recipe as plain values, as a TOML file has them; what isn't set is left out."""
    tables = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    lights = tables.pop("lens_lights")
    plain = {key: _plain(value) for key, value in tables.items() if key != "robust" or value != Robust()}
    if lights:
        plain["lens_light"] = _plain(lights) if len(lights) > 1 else _plain(lights[0])
    return plain


# -------------------------------------------------------------------------------------------------- reading
def read_toml(path: Path) -> dict:
    """Plain values of a TOML file. Raises RecipeError if it can't be read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from None


def _find(name: str) -> Path:
    if name in recipe_names():
        return FOLDER / f"{name}.toml"
    if not Path(name).suffix and not Path(name).exists():
        raise RecipeError(f"no recipe {name!r}{suggestion(name, recipe_names())}, or a .toml file")
    return Path(name)


def _read_merged(name: str, below: tuple[Path, ...]) -> dict:
    """The file's values over those of its base; paths in it start from its folder."""
    path = _find(name)
    if path.resolve() in below:
        raise RecipeError(f"base = {name!r}: {path} is its own base")
    raw = read_toml(path)
    for table, key in (("psf", "file"), ("source", "stamps")):
        if isinstance(raw.get(table), dict) and isinstance(raw[table].get(key), str):
            raw[table][key] = str(path.parent / raw[table][key])
    base = raw.pop("base", None)
    if base is None:
        return raw
    base = _text(base, "base")
    base = str(path.parent / base) if base.endswith(".toml") else base
    return merge(_read_merged(base, (*below, path.resolve())), raw)


def merge(base: dict, over: dict) -> dict:
    """`over` laid over `base`, table by table; a key set to "none" takes the base's away.

    A prior in braces replaces the base's as a whole, and so does the list of classes.
    """
    merged = dict(base)
    for key, value in over.items():
        tables = isinstance(value, dict) and isinstance(base.get(key), dict) and key in TABLES
        if value == "none" and key != "kind":
            merged.pop(key, None)
        else:
            merged[key] = merge(base[key], value) if tables else value
    return merged


# ------------------------------------------------------------------------------------------------- checking
def _check_keys(raw: Any, allowed: list[str], where: str) -> None:
    if not isinstance(raw, dict):
        raise RecipeError(f"{where.strip('.')} = {raw!r}: expected a table")
    for key in raw:
        if key not in allowed:
            homes = [n for n, kind in TABLES.items() if kind and key in {f.name for f in dataclasses.fields(kind)}]
            hint = f"; it belongs into [{homes[0]}]" if homes else suggestion(key, allowed)
            raise RecipeError(f"unknown key {where}{key}{hint}")


def _table(kind: type, raw: Any, where: str) -> Any:
    fields = dataclasses.fields(kind)
    _check_keys(raw, [f.name for f in fields], f"{where}.")
    for field in fields:
        if field.metadata["required"] and field.name not in raw:
            unit = field.metadata["unit"]
            raise RecipeError(f"{where}.{field.name} is missing{f' ({unit})' if unit else ''}")
    return kind(**{f.name: _value(f, raw[f.name], f"{where}.{f.name}") for f in fields if f.name in raw})


def _value(field: dataclasses.Field, value: object, key: str) -> Any:
    meta = field.metadata
    return _READERS[meta["kind"]](value, key, meta)


def _prior(value: object, key: str, meta: Mapping) -> Prior:
    if isinstance(value, str):
        raise RecipeError(f"{key} = {value!r}: expected a number, no text ({meta['unit']})")
    return parse_prior(value, key, meta["low"], meta["high"], meta["unit"])


def _number(value: object, key: str, meta: Mapping) -> float:
    prior = _prior(value, key, meta)
    if prior.kind != "fixed" or not is_number(value):
        raise RecipeError(f"{key} = {value!r}: expected one number, the same in all images")
    return float(prior.values[0])


def _whole(value: object, key: str, meta: Mapping) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RecipeError(f"{key} = {value!r}: expected a whole number")
    return int(_number(value, key, meta))


def _range(value: object, key: str, meta: Mapping) -> tuple[float, float]:
    prior = _prior(value, key, meta)
    if prior.kind != "uniform":
        raise RecipeError(f"{key} = {value!r}: expected [low, high]")
    low, high = prior.values
    return float(low), float(high)


def _switch(value: object, key: str, meta: Mapping) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{key} = {value!r}: expected true or false")
    return value


def _text(value: object, key: str, meta: Mapping | None = None) -> str:
    choices = meta["choices"] if meta else ()
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{key} = {value!r}: expected a text in quotes")
    if choices and value not in choices:
        raise RecipeError(f"{key} = {value!r}: no such choice{suggestion(value, choices)}")
    return value


def _rows(value: object, key: str, meta: Mapping) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(row, str) for row in value):
        raise RecipeError(f"{key}: expected a list of texts, the numbers of a row in each")
    return tuple(value)


_READERS: dict[str, Callable[[Any, str, Mapping], Any]] = {
    "prior": _prior,
    "number": _number,
    "whole": _whole,
    "range": _range,
    "switch": _switch,
    "text": _text,
    "rows": _rows,
    "table": lambda value, key, meta: _table(meta["table"], value, key),
}


def _lens_lights(raw: Any) -> tuple[LensLight, ...]:
    if not isinstance(raw, list):
        return (_table(LensLight, raw, "lens_light"),)
    return tuple(_table(LensLight, table, f"lens_light.{number}") for number, table in enumerate(raw))


def _classes(raw: object) -> dict[str, LensClass]:
    if not isinstance(raw, dict) or not raw:
        raise RecipeError("the recipe has no [classes.NAME] table, for instance [classes.no]")
    by_case: dict[str, str] = {}
    for name in raw:
        if other := by_case.get(name.lower()):
            raise RecipeError(f"classes.{other} and classes.{name}: on some disks these are one folder; rename one")
        by_case[name.lower()] = name
        if not name.isascii() or not name.replace("_", "").isalnum():
            raise RecipeError(f"classes.{name}: a class is a folder, named with letters, digits and _")
    return {name: _table(LensClass, table, f"classes.{name}") for name, table in raw.items()}


# -------------------------------------------------------------------------------------------------- writing
def _plain(value: Any) -> Any:
    if isinstance(value, Prior):
        return value.plain()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {key: _plain(v) for key, v in fields.items() if v is not None}
