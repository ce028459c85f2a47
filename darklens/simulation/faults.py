"""What happens to real images and not to simulated ones: neighbours, detectors, compression, one function for each.

    changes = read_changes()                                  # the table in faults.toml
    image = apply(changes["quadrant gains"], image, rng)      # (H, W) float64 -> the same with it

A change is data: its name, its family, the key of a function here (or of the recipe), and between which strengths it
lies. Each function (faults_sky.py, faults_detector.py, faults_filter.py) takes an image (H, W) float64, the ring in its
middle, a strength and a random generator.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darklens.simulation import faults_detector, faults_filter, faults_sky

TABLE = Path(__file__).with_name("faults.toml")
Fault = Callable[..., np.ndarray]  # of an image, a strength and a random generator
FAULTS: dict[str, Fault] = {
    function.__name__: function for function in (*faults_sky.FAULTS, *faults_detector.FAULTS, *faults_filter.FAULTS)
}


@dataclass(frozen=True)
class Change:
    """name: for people; family: changes that are alike; function: a key of FAULTS, or of a recipe (with a dot).

    strengths: the weakest and the strongest; between them they are even in logarithm. What a strength is: the docstring
    of the function. radii: how far off the middle, in pixels, where the function has a place.
    """

    name: str
    family: str
    function: str
    strengths: tuple[float, float]
    radii: tuple[float, float] | None = None

    @property
    def simulated(self) -> bool:
        """Whether it is a key of a recipe, that an image has to be simulated with."""
        return "." in self.function

    def recipe_keys(self, rng: np.random.Generator) -> dict[str, object]:
        """The keys of a recipe that simulates it, at a strength of its range."""
        turned = {"lens.angle": [0, 360]} if self.function == "lens.axis_ratio" else {}
        return {self.function: self.strength(rng), **turned}

    def strength(self, rng: np.random.Generator) -> float:
        """One between the weakest and the strongest."""
        low, high = self.strengths
        return float(np.exp(rng.uniform(math.log(low), math.log(high)))) if low > 0 else float(rng.uniform(low, high))


def read_changes(path: Path = TABLE) -> dict[str, Change]:
    """The changes of a TOML table by name. Raises KeyError for a function that does not exist."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    rows = tomllib.loads(path.read_text())["change"]
    changes = [_change(**row) for row in rows]
    for change in changes:
        if not change.simulated:
            FAULTS[change.function]
    return {change.name: change for change in changes}


def _change(*, strengths: list[float], radii: list[float] | None = None, **names: str) -> Change:
    """A row of a table."""
    weakest, strongest = strengths
    return Change(**names, strengths=(weakest, strongest), radii=(radii[0], radii[1]) if radii else None)


def apply(change: Change, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image (H, W) with the change, at a strength of its range."""
    place = {} if change.radii is None else {"radii": change.radii}
    return FAULTS[change.function](image.astype(np.float64), change.strength(rng), rng, **place)
