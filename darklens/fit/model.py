"""The smooth lens that is fitted: which parameters it has, which are free, and how the camera sees it.

A singular isothermal sphere (an ellipsoid, if its ellipticity is free) with external shear bends the light of an
elliptical Sersic source; the lens galaxy may shine itself, as another one on the halo's centre. The parameters, in
this order (`NAMES`; lengths in arcsec, x grows with the column, y falls with the row):

    einstein_radius                 of the halo: the geometric mean of the critical curve's axes without shear
    shear_1, shear_2                gamma cos 2 phi, gamma sin 2 phi
    source_x, source_y              centre of the source
    log_radius                      natural logarithm of its effective radius (geometric mean of the axes)
    ellipticity_1, ellipticity_2    eta cos 2 phi, eta sin 2 phi with the axis ratio exp(-eta)
    log_index                       natural logarithm of its Sersic index
    centre_x, centre_y              of the lens
    log_psf                         natural logarithm of the PSF's width over `psf_sigma`
    halo_1, halo_2                  as the source's ellipticity, of the halo
    light_log_radius                of the lens galaxy's light, as of the source: natural logarithm of the radius,
    light_1, light_2                ellipticity
    light_log_index                 natural logarithm of the Sersic index

The amplitudes of source and lens galaxy and the sky are linear and never among them: each step solves for them (Golub &
Pereyra 1973; Warren & Dye 2003, ApJ 590, 673).
"""

import dataclasses

import numpy as np

from darklens.fit.components import BASE, reported_columns, table
from darklens.fit.parameters import Table
from darklens.fit.settings import RENAMED, ModelSettings

# The last columns of `Fit.table`: of a model with a Sersic source, with a flexible one
FIT_COLUMNS = {
    "sersic": ("chi_square", "residual_significance", "noise_correlation", "noise_scale", "flag"),
    "flexible": ("chi_square", "residual_significance", "log_bayes_factor", "noise_correlation", "noise_scale", "flag"),
}
NAMES = BASE.names  # of the parameters of a model without further components


class SmoothModel(ModelSettings):
    """What is fitted and what is assumed. The defaults are those of Models F and J.

    An odd window on an image of even size (or the other way round) would sit half a pixel off the centre, and the fit
    of the turned image would not be the turned fit: there it is one pixel larger.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        table(self.components)  # raises ValueError for a component that there is not

    @classmethod
    def from_dict(cls, values: dict) -> "SmoothModel":
        """The inverse of `dataclasses.asdict`, of JSON too, with fields as they were named before.

        Raises TypeError or ValueError for unknown or wrong entries.
        """
        values = {RENAMED.get(key, key): value for key, value in values.items()}
        if values.get("psf_kernel") is not None:
            values["psf_kernel"] = tuple(tuple(map(float, row)) for row in values["psf_kernel"])
        if "components" in values:
            values["components"] = tuple(values["components"])
        return cls(**values)

    @property
    def table(self) -> Table:
        """The parameters, (Q,), free or not."""
        return table(self.components)

    @property
    def free(self) -> tuple[int, ...]:
        """Indices into `table` of the parameters that are fitted."""
        return self.table.free(self)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that are fitted."""
        return tuple(self.table.names[i] for i in self.free)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `Fit.table`."""
        names = [name for column in reported_columns(self) for name in column.names]
        columns = [column for name in names for column in (name, f"{name}_sd")]
        return (*columns, *["light_amplitude"] * self.frees("light"), *self.fit_columns)

    @property
    def fit_columns(self) -> tuple[str, ...]:
        """The last of `columns`: what is no parameter."""
        return FIT_COLUMNS[self.source]

    @property
    def refitted_columns(self) -> tuple[str, ...]:
        """Names of the columns of `Fit.refitted`: what `refit_flagged` may free."""
        if not self.refit_flagged:
            return ()
        freed = dataclasses.replace(self, free_centre=True, free_halo=True)
        return tuple(name for column in reported_columns(freed) for name in column.names if name not in self.columns)

    def held(self) -> np.ndarray:
        """(Q,) what each parameter is while it isn't free."""
        return self.table.values(self, "initial")

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) lowest and (Q,) highest values; lengths go with the window."""
        return self.table.values(self, "low"), self.table.values(self, "high")

    def largest_step(self) -> np.ndarray:
        """(Q,) how far one step may go."""
        return self.table.values(self, "largest_step")
