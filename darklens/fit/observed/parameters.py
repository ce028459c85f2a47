"""The parameters of a lens as it is fitted to a telescope image, with bounds, steps and priors, and their sources."""

import dataclasses
import math

import numpy as np

from darklens.fit.mass import HALO_PRIOR, SHEAR_PRIOR
from darklens.fit.parameters import Gaussian, Parameter
from darklens.fit.source import INDEX_PRIOR, RADIUS_PRIOR

INITIAL = 0.0  # not used: a fit starts where the search says
SHEAR = Gaussian(
    0.0, 0.06, "Keeton, Kochanek & Seljak 1997, ApJ 482, 604; Holder & Schechter 2003, ApJ 589, 688: a few %"
)
CENTRE = Gaussian(None, 0.03, "the light's centre: Koopmans et al. 2006: offsets below 0.05 arcsec")
PLACE = Gaussian(0.0, 0.36, "multiple images need a source within the caustic, a few tenths of an arcsec")
SHAPE = Gaussian(0.0, 0.4, "axis ratios of faint blue galaxies: Ravindranath et al. 2006, ApJ 652, 963")

PARAMETERS = (
    Parameter("einstein_radius", "arcsec", INITIAL, 0.1, 10.0, 0.1, "observed", None),
    Parameter("shear_1", "", INITIAL, -0.2, 0.2, 0.05, "observed", SHEAR_PRIOR),
    Parameter("shear_2", "", INITIAL, -0.2, 0.2, 0.05, "observed", SHEAR_PRIOR),
    Parameter("halo_1", "", INITIAL, -1.0, 1.0, 0.1, "observed", HALO_PRIOR),
    Parameter("halo_2", "", INITIAL, -1.0, 1.0, 0.1, "observed", HALO_PRIOR),
    Parameter("centre_x", "arcsec", INITIAL, -2.0, 2.0, 0.05, "observed", CENTRE),
    Parameter("centre_y", "arcsec", INITIAL, -2.0, 2.0, 0.05, "observed", CENTRE),
    Parameter("source_x", "arcsec", INITIAL, -1.5, 1.5, 0.1, "observed", PLACE),
    Parameter("source_y", "arcsec", INITIAL, -1.5, 1.5, 0.1, "observed", PLACE),
    Parameter("log_radius", "ln arcsec", INITIAL, math.log(0.02), math.log(0.7), 0.4, "observed", RADIUS_PRIOR),
    Parameter("ellipticity_1", "", INITIAL, -1.5, 1.5, 0.3, "observed", SHAPE),
    Parameter("ellipticity_2", "", INITIAL, -1.5, 1.5, 0.3, "observed", SHAPE),
    Parameter("log_index", "", INITIAL, math.log(0.5), math.log(3.5), 0.3, "observed", INDEX_PRIOR),
)
NAMES = tuple(p.name for p in PARAMETERS)
INDEX_OF = {name: i for i, name in enumerate(NAMES)}
LENS = 7  # the first so many belong to the lens


def bounds() -> tuple[np.ndarray, np.ndarray]:
    """(P,) lowest and (P,) highest values."""
    return np.array([p.low for p in PARAMETERS]), np.array([p.high for p in PARAMETERS])


@dataclasses.dataclass(frozen=True)
class Priors:
    """Means and standard deviations of a fit's parameters; infinite where there is no prior."""

    mean: np.ndarray  # (P,)
    sd: np.ndarray  # (P,)
    low: np.ndarray  # (P,)
    high: np.ndarray  # (P,)
    max_step: np.ndarray  # (P,)


def priors(halo: np.ndarray, centre: np.ndarray, **means_and_sds: tuple[float, float]) -> Priors:
    """Those of the table, the halo's about the light's ellipticity (2,) and centre (2,).

    means_and_sds: of further parameters by name, such as an Einstein radius that is known to a few percent.
    """
    means = {"halo_1": halo[0], "halo_2": halo[1], "centre_x": centre[0], "centre_y": centre[1]}
    mean, sd = np.zeros(len(PARAMETERS)), np.full(len(PARAMETERS), np.inf)
    for i, p in enumerate(PARAMETERS):
        if p.prior is not None:
            mean[i] = means[p.name] if p.prior.mean is None else p.prior.mean
            sd[i] = p.prior.sigma
        if p.name in means_and_sds:
            mean[i], sd[i] = means_and_sds[p.name]
    low, high = bounds()
    return Priors(mean, sd, low, high, np.array([p.largest_step for p in PARAMETERS]))
