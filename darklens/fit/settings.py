"""What a fit assumes of its images, and which groups of parameters it frees.

The defaults are those of Models F and J.
"""

import dataclasses

import numpy as np

SOURCES = "sersic", "flexible"  # a Sersic profile, or splines about one (structured.py)
RENAMED = {"free_doubted": "refit_flagged"}  # spellings of fields in files written before


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The fields of a `SmoothModel`.

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
    source: str = "sersic"  # or "flexible": splines about it; the halo's centre and shape then are free
    sersic_index: float = 1.5  # of the source: held, or where it starts if free
    free_ellipticity: bool = True
    free_index: bool = False
    free_centre: bool = False
    free_psf: bool = False  # the width of a Gaussian or a Moffat
    free_halo: bool = False  # its axis ratio and angle
    light_index: float = 4.0  # Sersic index of the lens galaxy's light: held, or where it starts if free
    free_light: bool = False  # the lens galaxy shines: amplitude, radius, ellipticity; or Gaussians (below)
    free_light_index: bool = True  # and its index, where there is such light
    noise_correlation: float = 0.0  # pixels: noise that was smoothed by a Gaussian of this standard deviation
    refit_flagged: bool = False  # fit again, centre or halo free, where the score test says that it is that
    components: tuple[str, ...] = ()  # names of further components (`components.COMPONENTS`), whose parameters are free

    def __post_init__(self) -> None:
        for name in ("pixel_scale", "psf_sigma", "psf_truncate", "sersic_index", "light_index", "noise_correlation"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be 0 or more, and finite, not {value}")
        if self.pixel_scale == 0 or self.window < 8 or self.supersample < 1:
            raise ValueError("pixel_scale must be positive, window 8 pixels or more, supersample 1 or more")
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, not {self.source!r}")
        if self.source == "flexible":
            for name, value in {"free_centre": True, "free_halo": True, "refit_flagged": False}.items():
                object.__setattr__(self, name, value)
        if self.sersic_index == 0 or self.light_index == 0:
            raise ValueError("sersic_index and light_index must be positive")
        if self.binning < 1 or self.binning % 2 == 0:
            raise ValueError(f"binning must be odd, not {self.binning}: other bins have another centre")
        if self.free_psf and (self.psf_kernel is not None or self.psf_sigma <= 0):
            raise ValueError("free_psf needs a Gaussian PSF or a Moffat: a positive psf_sigma and no psf_kernel")
        if self.psf_beta is not None and (self.psf_beta <= 1 or self.psf_sigma <= 0 or self.psf_kernel is not None):
            raise ValueError("psf_beta must be above 1, with a positive psf_sigma and no psf_kernel")
        if self.psf_kernel is not None:
            kernel = np.asarray(self.psf_kernel, dtype=float)
            if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
                raise ValueError(f"psf_kernel must be square with an odd side, not {kernel.shape}")
            if not np.isfinite(kernel).all() or kernel.sum() <= 0:
                raise ValueError("psf_kernel must be finite with a positive sum")

    def frees(self, group: str) -> bool:
        """Whether the parameters of a group are free. Raises KeyError for a group that there is not."""
        light = self.free_light and not self.light_of_gaussians
        return (
            group in self.components
            or {
                "lens": True,
                "ellipticity": self.free_ellipticity,
                "index": self.free_index,
                "centre": self.free_centre,
                "psf": self.free_psf and not self.light_of_gaussians,
                "halo": self.free_halo,
                "light": light,
                "light_index": light and self.free_light_index,
            }[group]
        )

    @property
    def light_of_gaussians(self) -> bool:
        """Whether the lens galaxy's light is a sum of Gaussians (`observed`), whose parameters are none of these."""
        return self.free_light and self.source == "flexible"

    @property
    def half_window(self) -> float:
        """Arcsec from the centre to the window's edge."""
        return self.window * self.pixel_scale / 2

    def size(self, height: int, width: int) -> int:
        """Pixels on a side of the window in an image of that size. Raises ValueError if it isn't square, or tiny."""
        if height != width or height < 8:
            raise ValueError(f"the images must be square, 8 x 8 pixels or more, not {height} x {width}")
        return min(self.window + (self.window - height) % 2, height)
