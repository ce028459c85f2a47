"""The components of the lens that a fit knows, and the table of all their parameters: the one registry.

To add one: a class in a file of its own, with `name`, `parameters`, `columns` and what `mass.Deflector` or `Light` asks
for, and its line in `COMPONENTS`. `SmoothModel(components=("its name",))` then fits it.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from darklens.fit import blur, lens_light, mass, multipoles, perturbers, source
from darklens.fit.grid import Grid
from darklens.fit.mass import Bend, Deflector, Mass, Values
from darklens.fit.parameters import Column, Parameter, Table
from darklens.fit.power_law import HaloSlope
from darklens.fit.settings import ModelSettings


class Light(Protocol):
    """Something that shines, with an amplitude of its own: made with the model, the grid and the mass."""

    names: tuple[str, ...]  # the parameters that its image depends on, free or not, in the order of `planes`

    def light(self, values: Values) -> Tensor:
        """(B, n) of the grid's rays."""

    def planes(self, values: Values, bends: Sequence[Bend] = ()) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Light, its derivatives by each of `names` that is free, and by how much there is of further deflections."""


BASE = Table(  # in an order that files and tables of before have
    (
        *mass.RADIUS,
        *mass.SHEAR,
        *source.PARAMETERS,
        *mass.CENTRE,
        *blur.PARAMETERS,
        *mass.SHAPE,
        *lens_light.PARAMETERS,
    )
)
COLUMNS = (
    *mass.COLUMNS,
    *source.COLUMNS,
    *mass.CENTRE_COLUMNS,
    *blur.COLUMNS,
    *mass.SHAPE_COLUMNS,
    *lens_light.COLUMNS,
)
# What `SmoothModel.components` may name, each a Deflector or a Light
COMPONENTS: dict[str, Any] = {HaloSlope.name: HaloSlope, **multipoles.MULTIPOLES, **perturbers.PERTURBERS}


@functools.lru_cache(maxsize=32)
def table(components: tuple[str, ...] = ()) -> Table:
    """The parameters of a model with these further components. Raises ValueError for one that there is not."""
    unknown = [name for name in components if name not in COMPONENTS]
    if unknown:
        raise ValueError(f"components must be among {sorted(COMPONENTS)}, not {unknown[0]!r}")
    further: list[Parameter] = [p for name in components for p in COMPONENTS[name].parameters]
    return Table((*BASE.parameters, *further)) if further else BASE


def reported_columns(model: ModelSettings) -> list[Column]:
    """What readers see of a model's parameters, in the order of `Fit.table`."""
    further = [column for name in model.components for column in COMPONENTS[name].columns]
    return [column for column in (*COLUMNS, *further) if column.group is None or model.frees(column.group)]


def build(model: ModelSettings, grid: Grid) -> tuple[Mass, source.Source, list[Light]]:
    """The mass of a model, its source, and its lights: source, lens galaxy where it shines, others."""
    further = [COMPONENTS[name] for name in model.components]
    bending: list[Deflector] = [each(model, grid) for each in further if hasattr(each, "deflection")]
    deflecting = Mass(model, grid, bending)
    behind = source.Source(model, grid, deflecting)
    lights: list[Light] = [behind]
    if model.free_light:
        lights.append(lens_light.LensLight(model, grid, deflecting))
    lights += [each(model, grid, deflecting) for each in further if not hasattr(each, "deflection")]
    return deflecting, behind, lights
