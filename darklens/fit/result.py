"""What a fit found: parameters with covariance, what they mean, and what the smooth lens leaves."""

import dataclasses
import math

import numpy as np

from darklens.fit.model import LIGHT, NAMES, SmoothModel
from darklens.simulation.psf import FWHM

CONSTANT, NO_LENS, NOT_CONVERGED, AT_BOUND, POOR = (
    "nothing to fit",
    "no lens found",
    "not converged",
    "at a bound",
    "poor fit",
)


@dataclasses.dataclass(frozen=True)
class Fit:
    """B fits of P free parameters in windows of S x S pixels; float64 arrays, images in float32."""

    model: SmoothModel
    parameters: np.ndarray  # (B, Q) in the order of `model.NAMES`: what isn't free has its held value
    covariance: np.ndarray  # (B, P, P) of the free ones, `model.names`; marginalised over amplitudes and sky
    amplitude: np.ndarray  # (B,) source light at its effective radius, in the image's units a pixel
    light_amplitude: np.ndarray  # (B,) the same of the lens galaxy; 0 where it is not fitted
    sky: np.ndarray  # (B,) in the image's units a pixel
    noise: np.ndarray  # (B, 2) variance of the empty sky; variance per unit of signal: in the image's units
    chi_square: np.ndarray  # (B,) per pixel
    light_chi_square: np.ndarray  # (B,) by how much the source's light improves chi-square over bare sky
    pixels: np.ndarray  # (B,) how many pixels counted
    steps: np.ndarray  # (B,) evaluations of the image at full resolution
    flag: np.ndarray  # (B,) str, "" where all is well
    residual: np.ndarray  # (B, S, S) data minus model in standard deviations; 0 where masked
    image: np.ndarray  # (B, S, S) the model, sky included, in the image's units
    deviation: np.ndarray  # (B, S, S) standard deviation of a pixel in the image's units

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, rows: slice | np.ndarray) -> "Fit":
        """The fits in some rows."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}
        return Fit(self.model, **{name: values[rows] for name, values in arrays.items()})

    @property
    def good(self) -> np.ndarray:
        """(B,) bool: fits without a flag."""
        return self.flag == ""

    @property
    def free(self) -> np.ndarray:
        """(B, P) the free parameters, in the order of `model.names` and of the covariance."""
        return self.parameters[:, list(self.model.free)]

    def table(self) -> dict[str, np.ndarray]:
        """Columns (B,) for readers, each measured one followed by its standard deviation `NAME_sd`.

        Lengths in arcsec, angles in radians counter-clockwise from +x within [0, pi). Standard deviations by
        propagation of the covariance; an angle whose magnitude isn't measured has pi / sqrt(12), that of a uniform one.
        """
        covariance = np.zeros((len(self), len(NAMES), len(NAMES)))
        covariance[:, np.array(self.model.free)[:, None], list(self.model.free)] = self.covariance
        p, deviations = self.parameters.T, np.sqrt(np.maximum(covariance.diagonal(axis1=1, axis2=2), 0)).T
        shear, eta, halo, galaxy = (_polar(self.parameters, covariance, i) for i in (1, 6, 12, LIGHT + 1))
        radius, index = np.exp(p[5]), np.exp(p[8])
        columns = {
            "einstein_radius": (p[0], deviations[0]),
            "shear": shear[:2],
            "shear_angle": shear[2:],
            "source_x": (p[3], deviations[3]),
            "source_y": (p[4], deviations[4]),
            "source_radius": (radius, radius * deviations[5]),
            "axis_ratio": (np.exp(-eta[0]), np.exp(-eta[0]) * eta[1]),
            "source_angle": eta[2:],
        }
        if self.model.free_index:
            columns["sersic_index"] = (index, index * deviations[8])
        if self.model.free_centre:
            columns |= {"centre_x": (p[9], deviations[9]), "centre_y": (p[10], deviations[10])}
        if self.model.free_psf:
            fwhm = FWHM * self.model.psf_sigma * np.exp(p[11])
            columns["psf_fwhm"] = (fwhm, fwhm * deviations[11])
        if self.model.free_halo:
            ratio = np.exp(-halo[0])
            columns |= {"halo_axis_ratio": (ratio, ratio * halo[1]), "halo_angle": halo[2:]}
        columns |= self._light_columns(deviations, galaxy) if self.model.free_light else {}
        table = {}
        for name, (value, deviation) in columns.items():
            table |= {name: value, f"{name}_sd": deviation}
        table |= {"light_amplitude": self.light_amplitude} if self.model.free_light else {}
        return table | {"chi_square": self.chi_square, "flag": self.flag}

    def _light_columns(self, deviations: np.ndarray, shape: tuple[np.ndarray, ...]) -> dict:
        """Those of the lens galaxy's light; deviations: (Q, B), shape: its ellipticity, as `_polar` has it."""
        radius, index = np.exp(self.parameters[:, LIGHT]), np.exp(self.parameters[:, LIGHT + 3])
        columns = {"light_radius": (radius, radius * deviations[LIGHT])}
        columns |= {"light_axis_ratio": (np.exp(-shape[0]), np.exp(-shape[0]) * shape[1]), "light_angle": shape[2:]}
        return columns | (
            {"light_index": (index, index * deviations[LIGHT + 3])} if self.model.free_light_index else {}
        )


def _polar(q: np.ndarray, covariance: np.ndarray, i: int) -> tuple[np.ndarray, ...]:
    """Magnitude, its deviation, axis (half the angle) and its deviation of parameters i and i + 1."""
    a, b = q[:, i], q[:, i + 1]
    size = np.hypot(a, b)
    divisor = np.where(size > 0, size, 1)
    cos, sin = np.where(size > 0, a, 1) / divisor, np.where(size > 0, b, 0) / divisor
    aa, ab, bb = covariance[:, i, i], covariance[:, i, i + 1], covariance[:, i + 1, i + 1]
    with np.errstate(invalid="ignore"):  # 0 times an infinite variance
        variances = cos**2 * aa + 2 * cos * sin * ab + sin**2 * bb, sin**2 * aa - 2 * cos * sin * ab + cos**2 * bb
    along, across = (np.sqrt(np.where(np.isnan(v), np.inf, np.maximum(v, 0))) for v in variances)
    uniform = math.pi / math.sqrt(12)
    angle = np.minimum(across / np.maximum(2 * size, 1e-300), uniform)
    return size, along, np.arctan2(b, a) / 2 % math.pi, angle


def join(fits: list[Fit]) -> Fit:
    """The fits of several calls with one model, one after the other."""
    arrays = [f.name for f in dataclasses.fields(Fit) if f.name != "model"]
    return Fit(fits[0].model, **{name: np.concatenate([getattr(fit, name) for fit in fits]) for name in arrays})


def replace(fits: Fit, rows: np.ndarray, others: Fit, chosen: np.ndarray) -> None:
    """Put chosen ones (bool) of `others`, which have at least the same free parameters, in these rows, flags aside."""
    same = [others.model.free.index(i) for i in fits.model.free]
    for field in dataclasses.fields(Fit):
        if field.name not in ("model", "flag"):
            values = getattr(others, field.name)[chosen]
            getattr(fits, field.name)[rows] = values[:, same][..., same] if field.name == "covariance" else values
