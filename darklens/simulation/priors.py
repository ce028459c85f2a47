"""Priors as a recipe file writes them.

0.5                            always this
[0.4, 0.6]                     uniform between
{normal = [0, 0.5]}            mean, standard deviation
{loguniform = [10, 60]}        uniform in the logarithm
{poisson = 25}                 whole numbers of this mean
{choice = [true, false]}       one of them, each as likely
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from typing import TypeGuard

import numpy as np

from darklens.errors import RecipeError

KINDS = ("normal", "loguniform", "poisson", "choice")
FORMS = "a number, [low, high], {normal = [mean, sd]}, {loguniform = [low, high]}, {poisson = mean} or {choice = [...]}"


def suggestion(word: object, choices: Iterable[str]) -> str:
    """`; did you mean "..."?` of the closest choice, else `; known: ...` with all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(str(word).lower(), choices, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(choices)}"


def is_number(value: object) -> TypeGuard[float]:
    """A finite int or float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class Prior:
    """One of `fixed`, `uniform`, `normal`, `loguniform`, `poisson`, `choice`, and its values."""

    kind: str
    values: tuple

    def quantile(self, u: np.ndarray | float) -> np.ndarray:
        """Its quantile function at u in [0, 1); array in, array out."""
        u = np.asarray(u, dtype=float)
        return np.asarray(_QUANTILES[self.kind](u, *self.values))

    def draw(self, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
        """Random values (size,), or one."""
        return self.quantile(rng.random(size))

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and highest value, infinite where there is none."""
        if self.kind == "normal":
            return (-math.inf, math.inf) if self.values[1] > 0 else (self.values[0],) * 2
        if self.kind == "poisson":
            return 0.0, math.inf
        return float(min(self.values)), float(max(self.values))

    @property
    def is_fixed(self) -> bool:
        """Whether it has one value only."""
        return self.bounds[0] == self.bounds[1]

    def plain(self) -> object:
        """As a recipe file has it: `parse_prior` undoes it."""
        if self.kind == "fixed":
            return self.values[0]
        if self.kind == "uniform":
            return list(self.values)
        return {self.kind: self.values[0] if self.kind == "poisson" else list(self.values)}


def _normal(u: np.ndarray, mean: float, sd: float) -> np.ndarray:
    from scipy.special import ndtri

    return mean + sd * ndtri(np.maximum(u, 2.0**-54))


def _poisson(u: np.ndarray, mean: float) -> np.ndarray:
    from scipy.special import pdtr

    cumulative = pdtr(np.arange(math.ceil(mean + 12 * math.sqrt(mean) + 20)), mean)
    return np.searchsorted(cumulative, u, side="right").astype(float)


def _choice(u: np.ndarray, *choices: float) -> np.ndarray:
    values = np.array([float(v) for v in choices])
    return values[np.minimum((u * len(values)).astype(int), len(values) - 1)]


_QUANTILES: dict[str, Callable[..., np.ndarray]] = {
    "fixed": lambda u, value: np.full(u.shape, float(value)),
    "uniform": lambda u, low, high: low + (high - low) * u,
    "normal": _normal,
    "loguniform": lambda u, low, high: low * (high / low) ** u,
    "poisson": _poisson,
    "choice": _choice,
}


def fixed(value: float) -> Prior:
    """The prior that is always `value`."""
    return Prior("fixed", (value,))


def _pair(value: object, key: str, names: str) -> tuple:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(is_number, value)):
        raise RecipeError(f"{key} = {value!r}: expected [{names}], two numbers")
    return tuple(value)


def _ordered(value: object, key: str) -> tuple:
    low, high = _pair(value, key, "low, high")
    if low > high:
        raise RecipeError(f"{key} = [{low}, {high}]: the low end comes first; did you mean [{high}, {low}]?")
    return low, high


def parse_prior(value: object, key: str, low: float = -math.inf, high: float = math.inf, unit: str = "") -> Prior:
    """A prior from a TOML value; its values must lie between low and high. Raises RecipeError with the key."""
    prior = _parse(value, key)
    lowest, highest = (prior.values[0],) * 2 if prior.kind in ("normal", "poisson") else prior.bounds
    if lowest < low or highest > high:
        limits = f"between {low:g} and {high:g}" if math.isfinite(high) else f"{low:g} or more"
        raise RecipeError(f"{key} = {value!r}: expected {f'{unit}, ' if unit else ''}{limits}")
    return prior


def _parse(value: object, key: str) -> Prior:
    if is_number(value) or isinstance(value, bool):
        return fixed(value)
    if isinstance(value, list | tuple):
        return Prior("uniform", _ordered(value, key))
    if not isinstance(value, dict) or len(value) != 1:
        raise RecipeError(f"{key} = {value!r}: expected {FORMS}")
    ((kind, values),) = value.items()
    if kind == "uniform":
        raise RecipeError(f"{key}: a uniform prior is written [low, high]")
    if kind not in KINDS:
        raise RecipeError(f"{key}: no prior {kind!r}{suggestion(kind, KINDS)}")
    return Prior(kind, _PARSERS[kind](values, key))


def _parse_normal(value: object, key: str) -> tuple:
    mean, sd = _pair(value, f"{key}.normal", "mean, sd")
    if sd < 0:
        raise RecipeError(f"{key}.normal = [{mean}, {sd}]: the standard deviation must be 0 or more")
    return mean, sd


def _parse_loguniform(value: object, key: str) -> tuple:
    low, high = _ordered(value, f"{key}.loguniform")
    if low <= 0:
        raise RecipeError(f"{key}.loguniform = [{low}, {high}]: both must be above 0")
    return low, high


def _parse_poisson(value: object, key: str) -> tuple:
    if not is_number(value) or not 0 <= value <= 1e6:
        raise RecipeError(f"{key}.poisson = {value!r}: expected a mean between 0 and 1e6")
    return (value,)


def _parse_choice(value: object, key: str) -> tuple:
    if not isinstance(value, list | tuple) or not value:
        raise RecipeError(f"{key}.choice = {value!r}: expected a list of values")
    if not all(is_number(v) or isinstance(v, bool) for v in value):
        raise RecipeError(f"{key}.choice = {value!r}: expected numbers, or true and false")
    return tuple(value)


_PARSERS = {
    "normal": _parse_normal,
    "loguniform": _parse_loguniform,
    "poisson": _parse_poisson,
    "choice": _parse_choice,
}


def power_law(u: np.ndarray, low: float, high: float, slope: float) -> np.ndarray:
    """Quantiles u of dN/dm ~ m^slope on [low, high], by inversion."""
    k = slope + 1
    if abs(k) < 1e-9:
        return low * (high / low) ** u
    return (low**k + u * (high**k - low**k)) ** (1 / k)


def mean_mass(low: float, high: float, slope: float) -> float:
    """Mean of dN/dm ~ m^slope on [low, high]."""

    def integral(k: float) -> float:
        return np.log(high / low) if abs(k) < 1e-9 else (high**k - low**k) / k

    return low if low == high else integral(slope + 2) / integral(slope + 1)
