"""The parameters of a lens as it is fitted to a telescope image, with bounds, steps and priors, and their sources."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prior:
    """A Gaussian; mean None: set for each image, from its light or its search."""

    mean: float | None
    sd: float
    source: str  # where it comes from


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One nonlinear parameter."""

    name: str
    unit: str
    bounds: tuple[float, float]
    max_step: float
    prior: Prior | None


SHEAR = Prior(0.0, 0.06, "Keeton, Kochanek & Seljak 1997, ApJ 482, 604; Holder & Schechter 2003, ApJ 589, 688: a few %")
HALO = Prior(None, 0.10, "that of the light: Koopmans et al. 2006, ApJ 649, 599: <q_SIE/q_light> = 0.99, rms 0.11")
CENTRE = Prior(None, 0.03, "the light's centre: Koopmans et al. 2006: offsets below 0.05 arcsec")
PLACE = Prior(0.0, 0.36, "multiple images need a source within the caustic, a few tenths of an arcsec")
RADIUS = Prior(math.log(0.15), 0.5, "Newton et al. 2011, ApJ 734, 104: SLACS sources, 0.06 to 0.5 arcsec")
SHAPE = Prior(0.0, 0.4, "axis ratios of faint blue galaxies: Ravindranath et al. 2006, ApJ 652, 963")
INDEX = Prior(math.log(1.5), 0.4, "Newton et al. 2011: discs, n about 1")

PARAMETERS = (
    Parameter("einstein_radius", "arcsec", (0.1, 10.0), 0.1, None),
    Parameter("shear_1", "", (-0.2, 0.2), 0.05, SHEAR),
    Parameter("shear_2", "", (-0.2, 0.2), 0.05, SHEAR),
    Parameter("halo_1", "", (-1.0, 1.0), 0.1, HALO),
    Parameter("halo_2", "", (-1.0, 1.0), 0.1, HALO),
    Parameter("centre_x", "arcsec", (-2.0, 2.0), 0.05, CENTRE),
    Parameter("centre_y", "arcsec", (-2.0, 2.0), 0.05, CENTRE),
    Parameter("source_x", "arcsec", (-1.5, 1.5), 0.1, PLACE),
    Parameter("source_y", "arcsec", (-1.5, 1.5), 0.1, PLACE),
    Parameter("log_radius", "ln arcsec", (math.log(0.02), math.log(0.7)), 0.4, RADIUS),
    Parameter("ellipticity_1", "", (-1.5, 1.5), 0.3, SHAPE),
    Parameter("ellipticity_2", "", (-1.5, 1.5), 0.3, SHAPE),
    Parameter("log_index", "", (math.log(0.5), math.log(3.5)), 0.3, INDEX),
)
NAMES = tuple(p.name for p in PARAMETERS)
INDEX_OF = {name: i for i, name in enumerate(NAMES)}
LENS = 7  # the first so many belong to the lens


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
            sd[i] = p.prior.sd
        if p.name in means_and_sds:
            mean[i], sd[i] = means_and_sds[p.name]
    low, high = np.array([p.bounds for p in PARAMETERS]).T
    return Priors(mean, sd, low, high, np.array([p.max_step for p in PARAMETERS]))
