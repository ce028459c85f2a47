"""What a fit of a telescope image says."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.noise_check import SkyNoise
from darklens.fit.observed.parameters import INDEX_OF

if TYPE_CHECKING:
    from darklens.fit.flexible import FlexibleLens

SYSTEMATIC = 0.01  # of the Einstein radius: what other mass models and priors would change (docs/real_lenses.md)
RING = 0.5, 1.6  # Einstein radii, between which chi-square is


def ring_chi_square(cutout: Cutout, model: np.ndarray, q: np.ndarray) -> float:
    """Chi-square a pixel round the arcs of a model (n, n) and its parameters (P,)."""
    distance = cutout.radius(q[5:7])
    ring = cutout.good & (distance > RING[0] * q[0]) & (distance < RING[1] * q[0])
    return float(np.mean(((cutout.data - model) / cutout.sigma)[ring] ** 2)) if ring.any() else np.nan


@dataclasses.dataclass(frozen=True)
class ObservedFit:
    """A fitted lens. Lengths in arcsec; images (n, n) are of the fitted window, in the image's unit."""

    q: np.ndarray  # (P,) as in `parameters.PARAMETERS`
    sd: np.ndarray  # (P,)
    chi_square: float  # a pixel between 0.5 and 1.6 Einstein radii, after the noise's scale
    noise: SkyNoise
    flag: str  # words, separated by spaces; empty for a fit that nothing speaks against
    note: str
    cutout: Cutout  # with the noise as it was used
    model: np.ndarray  # (n, n) all of it
    arcs: np.ndarray  # (n, n) the lensed source's part
    source: np.ndarray  # (k, k) the source of positive Gaussians, amplitudes on its grid, y upwards
    source_half: float  # arcsec from the source's middle to the edge of that
    radius_without_shear: float = np.nan  # arcsec: the Einstein radius of a model without shear, Gaussians its source
    log_bayes_factor: float = np.nan  # ln B of mass that a smooth lens lacks against none: of a flexible source
    lens: FlexibleLens | None = None  # that source's, in units of the noise: for detection maps
    view_residual: np.ndarray | None = None  # (n, n) what networks see of it, 0 out of the source's reach: if asked for

    @property
    def light(self) -> np.ndarray:
        """(n, n) the lens galaxy and the sky."""
        return self.model - self.arcs

    @property
    def residual(self) -> np.ndarray:
        """(n, n) data minus model in standard deviations, not a number where pixels don't count."""
        cutout = self.cutout
        return np.where(cutout.good, (cutout.data - self.model) / cutout.sigma, np.nan)

    def __getitem__(self, name: str) -> float:
        """A parameter by its name."""
        return float(self.q[INDEX_OF[name]])

    @property
    def einstein_radius(self) -> float:
        return self["einstein_radius"]

    @property
    def einstein_radius_sd(self) -> float:
        return float(self.sd[INDEX_OF["einstein_radius"]])

    def _polar(self, pair: str) -> tuple[float, float]:
        """Size, and axis in radians counter-clockwise from +x, of the parameters `pair`_1 and _2."""
        first, second = self[f"{pair}_1"], self[f"{pair}_2"]
        return math.hypot(first, second), math.atan2(second, first) / 2 % math.pi

    def row(self) -> dict[str, float | str]:
        """One row of a table."""
        row: dict[str, float | str] = {"einstein_radius": self["einstein_radius"]}
        row["einstein_radius_sd"] = self.einstein_radius_sd
        row["radius_without_shear"] = self.radius_without_shear
        row["shear"], row["shear_angle"] = self._polar("shear")
        for name, pair in {"halo": "halo", "source": "ellipticity"}.items():
            ellipticity, row[f"{name}_angle"] = self._polar(pair)
            row[f"{name}_axis_ratio"] = math.exp(-ellipticity)
        for name in ("centre_x", "centre_y", "source_x", "source_y"):
            row[name] = self[name]
        row["source_radius"], row["source_index"] = math.exp(self["log_radius"]), math.exp(self["log_index"])
        row["chi_square"], row["noise_scale"] = self.chi_square, self.noise.scale
        row["noise_correlation"] = self.noise.correlation
        if self.lens is not None:
            row["log_bayes_factor"] = self.log_bayes_factor
        return {**row, "flag": self.flag, "note": self.note}
