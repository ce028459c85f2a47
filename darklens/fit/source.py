"""The source: an elliptical Sersic profile in the source plane."""

import math
from collections.abc import Sequence

from torch import Tensor

from darklens.fit.grid import Grid
from darklens.fit.mass import Bend, Mass, Rays, Values
from darklens.fit.parameters import Column, Gaussian, Parameter
from darklens.fit.sersic import Profile
from darklens.fit.settings import ModelSettings

RADIUS_PRIOR = Gaussian(math.log(0.15), 0.5, "Newton et al. 2011, ApJ 734, 104: SLACS sources, 0.06 to 0.5 arcsec")
INDEX_PRIOR = Gaussian(math.log(1.5), 0.4, "Newton et al. 2011: discs, n about 1")
PLACE = tuple(
    Parameter(
        f"source_{axis}",
        "arcsec",
        initial=0.0,
        low=lambda m: -m.half_window,
        high=lambda m: m.half_window,
        largest_step=lambda m: m.half_window / 8,
        group="lens",
        prior=Gaussian(0.0, 0.36, "within the caustics of galaxies: width of our choice"),
    )
    for axis in "xy"
)
SIZE = (
    Parameter(
        "log_radius",
        "ln arcsec",
        initial=lambda m: math.log(m.half_window / 5),
        low=lambda m: math.log(m.half_window / 200),
        high=lambda m: math.log(2 * m.half_window),
        largest_step=0.5,
        group="lens",
        prior=RADIUS_PRIOR,
    ),
)
ELLIPTICITY = tuple(
    Parameter(f"ellipticity_{k}", "", 0.0, -2.5, 2.5, 0.5, "ellipticity", Gaussian(0.0, 0.4, "width of our choice"))
    for k in (1, 2)
)
INDEX = (
    Parameter(
        "log_index",
        "ln",
        initial=lambda m: math.log(m.sersic_index),
        low=math.log(0.3),
        high=math.log(8.0),
        largest_step=0.3,
        group="index",
        prior=INDEX_PRIOR,
    ),
)
PARAMETERS = (*PLACE, *SIZE, *ELLIPTICITY, *INDEX)
COLUMNS = (
    Column("value", ("source_x",), ("source_x",)),
    Column("value", ("source_y",), ("source_y",)),
    Column("exp", ("log_radius",), ("source_radius",)),
    Column("axes", ("ellipticity_1", "ellipticity_2"), ("axis_ratio", "source_angle")),
    Column("exp", ("log_index",), ("sersic_index",), "index"),
)
NAMES = tuple(p.name for p in PARAMETERS)
PROFILE = "log_radius", "ellipticity_1", "ellipticity_2", "log_index"  # as `Profile.at` takes them


class Source:
    """The lensed source as one of the image's lights."""

    def __init__(self, model: ModelSettings, grid: Grid, mass: Mass) -> None:
        self.model, self.grid, self.mass = model, grid, mass
        self.names = (*mass.names[:3], *NAMES, *mass.names[3:])  # what its image depends on, in the order of `planes`

    def profile(self, p: Values, rays: Rays) -> Profile:
        """Its light and what the derivatives need."""
        return Profile.at(rays.u, rays.v, *(p[name] for name in PROFILE))

    def light(self, p: Values, bend: Bend | None = None) -> Tensor:
        """(B, n) of the rays. bend: what else deflects them, (B, n) arcsec each."""
        rays = self.mass.rays(p)
        if bend is not None:
            rays.u, rays.v = rays.u - bend[0], rays.v - bend[1]
        return self.profile(p, rays).light

    def planes(self, p: Values, bends: Sequence[Bend] = ()) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Light, derivatives by parameter, and by how much there is of each of the bends; (B, h, h) each."""
        rays = self.mass.rays(p)
        profile = self.profile(p, rays)
        slope = profile.slope()
        gu, gv = profile.by_place(rays.u, rays.v, slope)
        planes = self.mass.planes(p, rays, gu, gv)
        free = self.model.free_ellipticity, self.model.free_index
        planes |= profile.by_shape(slope, self.grid.pixels, PROFILE, *free)
        return self.grid.pixels(profile.light), planes, [self.mass.by_bend(gu, gv, bend) for bend in bends]
