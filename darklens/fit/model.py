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
import math

import numpy as np

NAMES = (
    "einstein_radius",
    "shear_1",
    "shear_2",
    "source_x",
    "source_y",
    "log_radius",
    "ellipticity_1",
    "ellipticity_2",
    "log_index",
    "centre_x",
    "centre_y",
    "log_psf",
    "halo_1",
    "halo_2",
    "light_log_radius",
    "light_1",
    "light_2",
    "light_log_index",
)
LIGHT = NAMES.index("light_log_radius")  # the first of the lens galaxy's light
WIDEST = 1.3  # a fitted PSF is cut as one this much wider than `psf_sigma` is


@dataclasses.dataclass(frozen=True)
class SmoothModel:
    """What is fitted and what is assumed. The defaults are those of Models F and J.

    An odd window on an image of even size (or the other way round) would sit half a pixel off the centre, and the fit
    of the turned image would not be the turned fit: there it is one pixel larger.
    """

    pixel_scale: float = 0.05  # arcsec
    window: int = 105  # pixels on a side about the image's centre
    supersample: int = 2  # rays a pixel, each way
    binning: int = 3  # pixels a bin, each way, while the start is sought
    psf_sigma: float = 0.085  # arcsec, of a Gaussian cut at `psf_truncate` sigma
    psf_truncate: float = 5.0
    psf_beta: float | None = None  # instead of the Gaussian a Moffat of this exponent and the same FWHM
    psf_kernel: tuple[tuple[float, ...], ...] | None = None  # odd square at the pixel scale, instead of the Gaussian
    sersic_index: float = 1.5  # of the source: held, or where it starts if free
    free_ellipticity: bool = True
    free_index: bool = False
    free_centre: bool = False
    free_psf: bool = False  # the width of a Gaussian or a Moffat
    free_halo: bool = False  # its axis ratio and angle
    light_index: float = 4.0  # Sersic index of the lens galaxy's light: held, or where it starts if free
    free_light: bool = False  # the lens galaxy shines: amplitude, radius, ellipticity
    free_light_index: bool = True  # and its index, where there is such light
    noise_correlation: float = 0.0  # pixels: noise that was smoothed by a Gaussian of this standard deviation
    free_doubted: bool = False  # fit again, centre or halo free, where `score` says that it is that

    def __post_init__(self) -> None:
        if self.pixel_scale <= 0 or self.window < 8 or self.supersample < 1:
            raise ValueError("pixel_scale must be positive, window 8 pixels or more, supersample 1 or more")
        if self.binning < 1 or self.binning % 2 == 0:
            raise ValueError(f"binning must be odd, not {self.binning}: other bins have another centre")
        if self.free_psf and (self.psf_kernel is not None or self.psf_sigma <= 0):
            raise ValueError("free_psf needs a Gaussian PSF or a Moffat: a positive psf_sigma and no psf_kernel")
        if self.psf_beta is not None and (self.psf_beta <= 1 or self.psf_sigma <= 0 or self.psf_kernel is not None):
            raise ValueError("psf_beta must be above 1, with a positive psf_sigma and no psf_kernel")
        if self.light_index <= 0 or self.noise_correlation < 0:
            raise ValueError("light_index must be positive, noise_correlation 0 or more")
        if self.psf_kernel is not None:
            kernel = np.asarray(self.psf_kernel, dtype=float)
            if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
                raise ValueError(f"psf_kernel must be square with an odd side, not {kernel.shape}")
            if not np.isfinite(kernel).all() or kernel.sum() <= 0:
                raise ValueError("psf_kernel must be finite with a positive sum")

    @property
    def free(self) -> tuple[int, ...]:
        """Indices into `NAMES` of the parameters that are fitted."""
        extra = [(self.free_ellipticity, (6, 7)), (self.free_index, (8,)), (self.free_centre, (9, 10))]
        extra += [(self.free_psf, (11,)), (self.free_halo, (12, 13))]
        extra += [(self.free_light, (14, 15, 16)), (self.free_light and self.free_light_index, (17,))]
        return (*range(6), *(i for wanted, indices in extra if wanted for i in indices))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that are fitted."""
        return tuple(NAMES[i] for i in self.free)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `Fit.table`."""
        names = ["einstein_radius", "shear", "shear_angle", "source_x", "source_y"]
        names += ["source_radius", "axis_ratio", "source_angle"]
        names += ["sersic_index"] * self.free_index + ["centre_x", "centre_y"] * self.free_centre
        names += ["psf_fwhm"] * self.free_psf + ["halo_axis_ratio", "halo_angle"] * self.free_halo
        if self.free_light:
            names += ["light_radius", "light_axis_ratio", "light_angle"] + ["light_index"] * self.free_light_index
        columns = [column for name in names for column in (name, f"{name}_sd")]
        return (*columns, *["light_amplitude"] * self.free_light, "chi_square", "flag")

    @property
    def half_window(self) -> float:
        """Arcsec from the centre to the window's edge."""
        return self.window * self.pixel_scale / 2

    def size(self, height: int, width: int) -> int:
        """Pixels on a side of the window in an image of that size. Raises ValueError if it isn't square, or tiny."""
        if height != width or height < 8:
            raise ValueError(f"the images must be square, 8 x 8 pixels or more, not {height} x {width}")
        return min(self.window + (self.window - height) % 2, height)

    def held(self) -> np.ndarray:
        """(Q,) what each parameter is while it isn't free."""
        values = np.zeros(len(NAMES))
        values[0], values[5], values[8] = (
            self.half_window / 2,
            math.log(self.half_window / 5),
            math.log(self.sersic_index),
        )
        values[LIGHT], values[LIGHT + 3] = math.log(self.half_window / 5), math.log(self.light_index)
        return values

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) lowest and (Q,) highest values; lengths go with the window."""
        r = self.half_window
        low = [0.02 * r, -0.7, -0.7, -r, -r, math.log(r / 200), -2.5, -2.5, math.log(0.3), -r / 4, -r / 4]
        high = [1.2 * r, 0.7, 0.7, r, r, math.log(2 * r), 2.5, 2.5, math.log(8.0), r / 4, r / 4]
        low += [-0.6, -0.7, -0.7, math.log(r / 200), -2.5, -2.5, math.log(0.3)]
        high += [0.6, 0.7, 0.7, math.log(4 * r), 2.5, 2.5, math.log(10)]
        return np.array(low), np.array(high)

    def largest_step(self) -> np.ndarray:
        """(Q,) how far one step may go."""
        r = self.half_window
        steps = [r / 8, 0.15, 0.15, r / 8, r / 8, 0.5, 0.5, 0.5, 0.3, r / 16, r / 16, 0.2, 0.15, 0.15]
        return np.array([*steps, 0.3, 0.3, 0.3, 0.3])


def gaussian_kernel(sigma: float, truncate: float) -> np.ndarray:
    """Normalised 1-D Gaussian of sigma pixels, cut at `truncate` sigma; odd length."""
    taps = int(truncate * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-taps, taps + 1) / max(sigma, 1e-9)) ** 2)
    return kernel / kernel.sum()


def separable(kernel: np.ndarray, tolerance: float = 1e-6) -> list[tuple[np.ndarray, np.ndarray]]:
    """A 2-D kernel as a sum of products of columns and rows (singular values), to `tolerance` of the largest."""
    u, s, vt = np.linalg.svd(kernel / kernel.sum())
    keep = int((s > tolerance * s[0]).sum())
    return [(u[:, i] * s[i], vt[i]) for i in range(keep)]
