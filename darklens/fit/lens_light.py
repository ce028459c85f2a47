"""The lens galaxy's own light: an elliptical Sersic profile about the halo's centre."""

import math
from collections.abc import Sequence

from torch import Tensor

from darklens.fit.grid import Grid
from darklens.fit.mass import CENTRE, Bend, Mass, Values
from darklens.fit.parameters import Column, Parameter
from darklens.fit.sersic import Profile
from darklens.fit.settings import ModelSettings

SIZE = (
    Parameter(
        "light_log_radius",
        "ln arcsec",
        initial=lambda m: math.log(m.half_window / 5),
        low=lambda m: math.log(m.half_window / 200),
        high=lambda m: math.log(4 * m.half_window),
        largest_step=0.3,
        group="light",
    ),
)
ELLIPTICITY = tuple(Parameter(f"light_{k}", "", 0.0, -2.5, 2.5, 0.3, "light") for k in (1, 2))
INDEX = (
    Parameter(
        "light_log_index",
        "ln",
        initial=lambda m: math.log(m.light_index),
        low=math.log(0.3),
        high=math.log(10),
        largest_step=0.3,
        group="light_index",
    ),
)
PARAMETERS = (*SIZE, *ELLIPTICITY, *INDEX)
COLUMNS = (
    Column("exp", ("light_log_radius",), ("light_radius",), "light"),
    Column("axes", ("light_1", "light_2"), ("light_axis_ratio", "light_angle"), "light"),
    Column("exp", ("light_log_index",), ("light_index",), "light_index"),
)
NAMES = tuple(p.name for p in PARAMETERS)


class LensLight:
    """The lens galaxy's light as one of the image's lights."""

    def __init__(self, model: ModelSettings, grid: Grid, mass: Mass) -> None:
        self.model, self.grid, self.mass = model, grid, mass
        self.names = (*NAMES, *(p.name for p in CENTRE))  # what its image depends on, in the order of `planes`

    def profile(self, p: Values) -> tuple[Profile, Bend]:
        """Its light, and x, y of the rays about it."""
        x, y = self.mass.about(p)
        return Profile.at(x, y, *(p[name] for name in NAMES)), (x, y)

    def light(self, p: Values) -> Tensor:
        """(B, n) of the rays."""
        return self.profile(p)[0].light

    def planes(self, p: Values, bends: Sequence[Bend] = ()) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Light and derivatives by parameter, (B, h, h) each; nothing bends it."""
        profile, (x, y) = self.profile(p)
        slope = profile.slope()
        planes = profile.by_shape(slope, self.grid.pixels, NAMES, True, self.model.free_light_index)
        if self.model.free_centre:
            by_place = profile.by_place(x, y, slope)
            planes |= {p.name: self.grid.pixels(each).neg_() for p, each in zip(CENTRE, by_place, strict=True)}
        return self.grid.pixels(profile.light), planes, []
