"""How readers see the parameters of a fit: sizes, axis ratios and angles, each with its standard deviation."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from darklens.fit.settings import ModelSettings
from darklens.simulation.psf import FWHM

Pair = tuple[np.ndarray, np.ndarray]  # values and standard deviations, (B,) each


@dataclasses.dataclass(frozen=True)
class Measured:
    """Parameters (B, Q) and their covariance (B, Q, Q), 0 where they are held."""

    model: ModelSettings
    parameters: np.ndarray
    covariance: np.ndarray

    @functools.cached_property
    def deviations(self) -> np.ndarray:
        """(Q, B)"""
        return np.sqrt(np.maximum(self.covariance.diagonal(axis1=1, axis2=2), 0)).T


def value(measured: Measured, i: int) -> tuple[Pair]:
    """The parameter as it is."""
    return ((measured.parameters[:, i], measured.deviations[i]),)


def exponential(measured: Measured, i: int) -> tuple[Pair]:
    """What a natural logarithm is of."""
    size = np.exp(measured.parameters[:, i])
    return ((size, size * measured.deviations[i]),)


def psf_fwhm(measured: Measured, i: int) -> tuple[Pair]:
    """The PSF's width in arcsec, of its logarithm over `psf_sigma`."""
    fwhm = FWHM * measured.model.psf_sigma * np.exp(measured.parameters[:, i])
    return ((fwhm, fwhm * measured.deviations[i]),)


def polar(measured: Measured, i: int, j: int) -> tuple[Pair, Pair]:
    """Magnitude and axis, half of the angle, of two parameters that are its cosine and sine part."""
    q, covariance = measured.parameters, measured.covariance
    a, b = q[:, i], q[:, j]
    size = np.hypot(a, b)
    divisor = np.where(size > 0, size, 1)
    cos, sin = np.where(size > 0, a, 1) / divisor, np.where(size > 0, b, 0) / divisor
    aa, ab, bb = covariance[:, i, i], covariance[:, i, j], covariance[:, j, j]
    with np.errstate(invalid="ignore"):  # 0 times an infinite variance
        variances = cos**2 * aa + 2 * cos * sin * ab + sin**2 * bb, sin**2 * aa - 2 * cos * sin * ab + cos**2 * bb
    along, across = (np.sqrt(np.where(np.isnan(v), np.inf, np.maximum(v, 0))) for v in variances)
    uniform = math.pi / math.sqrt(12)
    angle = np.minimum(across / np.maximum(2 * size, 1e-300), uniform)
    return (size, along), (np.arctan2(b, a) / 2 % math.pi, angle)


def axes(measured: Measured, i: int, j: int) -> tuple[Pair, Pair]:
    """Axis ratio exp(-eta) and angle of an ellipticity eta (cos, sin)."""
    (eta, deviation), angle = polar(measured, i, j)
    return (np.exp(-eta), np.exp(-eta) * deviation), angle


Kind = Callable[..., tuple[Pair, ...]]
KINDS: dict[str, Kind] = {"value": value, "exp": exponential, "psf_fwhm": psf_fwhm, "polar": polar, "axes": axes}
