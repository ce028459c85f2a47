"""What a parameter of the fit is: its name, unit, start, bounds, steps, when it is free, its prior and its columns.

Each component of the lens (mass.py, source.py, lens_light.py, blur.py) lists its own; `components.TABLE` has them all.
Which are free, held, bounded, reported and drawn follows from these lists and from the `SmoothModel`. Lengths go with
the window, so numbers may be functions of the model.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from darklens.fit.settings import ModelSettings

Value = float | Callable[[ModelSettings], float]


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A prior: mean (None: there is none without the image, another component says it) and standard deviation."""

    mean: float | None
    sigma: float
    source: str  # the paper, or what the width was measured on


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of the smooth lens. Numbers may be functions of the model, `Value`."""

    name: str
    unit: str  # "arcsec", "ln arcsec" of a logarithm, "" of a pure number
    initial: Value  # where it starts if nothing is known, and what it is while it is held
    low: Value
    high: Value
    largest_step: Value
    group: str  # parameters that are freed together: `SmoothModel.frees`
    prior: Gaussian | None = None  # only used where a fit asks for priors


@dataclasses.dataclass(frozen=True)
class Column:
    """How readers see parameters: `kind` is a key of `reported.KINDS`, `of` the parameters that it takes."""

    kind: str
    of: tuple[str, ...]
    names: tuple[str, ...]  # of the columns, each followed by its standard deviation NAME_sd
    group: str | None = None  # shown where this group is free; None: always


class Table:
    """Parameters in a fixed order, by name."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.names = tuple(p.name for p in self.parameters)
        self.index = {name: i for i, name in enumerate(self.names)}
        if len(self.index) < len(self.names):
            raise ValueError(f"two parameters of one name among {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self.parameters)

    def columns(self, *names: str) -> slice:
        """Where parameters lie in q (..., Q) that follow each other in the table. Raises KeyError, ValueError."""
        places = [self.index[name] for name in names]
        if places != list(range(places[0], places[0] + len(places))):
            raise ValueError(f"{', '.join(names)} do not follow each other")
        return slice(places[0], places[0] + len(places))

    def named(self, q: Tensor) -> dict[str, Tensor]:
        """q (B, Q) -> (B,) by name."""
        return dict(zip(self.names, q.unbind(1), strict=True))

    def free(self, model: ModelSettings) -> tuple[int, ...]:
        """Indices of the parameters that the model frees."""
        return tuple(i for i, p in enumerate(self.parameters) if model.frees(p.group))

    def values(self, model: ModelSettings, field: str) -> np.ndarray:
        """(Q,) of a field of the parameters: initial, low, high or largest_step."""
        values = (getattr(p, field) for p in self.parameters)
        return np.array([float(value(model) if callable(value) else value) for value in values])
