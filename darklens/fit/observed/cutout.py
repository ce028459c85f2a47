"""A telescope image as it is fitted: a window with noise map, PSF, coordinates and the pixels that count."""

import dataclasses
import functools

import numpy as np
from scipy import fft

from darklens.fit.gaps import gaps
from darklens.fit.image_noise import image_noise
from darklens.simulation.psf import FWHM, fast_length

HUGE = 1000.0  # times the median: a noise map marks pixels as worthless by such values


class Psf:
    """Convolution with a kernel whose star is in pixel k // 2 of a side of k; its sum is taken for 1."""

    def __init__(self, kernel: np.ndarray) -> None:
        """kernel: (k, l). Raises ValueError where it isn't finite or its sum isn't positive."""
        kernel = np.asarray(kernel, dtype=float)
        if kernel.ndim != 2 or not np.isfinite(kernel).all() or kernel.sum() <= 0:
            raise ValueError(f"expected a finite 2-D PSF with a positive sum, found one of shape {kernel.shape}")
        self.kernel = kernel / kernel.sum()
        self._transforms: dict[tuple[int, np.dtype], np.ndarray] = {}
        steps = [np.arange(k) - k // 2 for k in kernel.shape]
        column, row = self.kernel.sum(0), self.kernel.sum(1)
        self.offset = np.array([column @ steps[1], row @ steps[0]])  # pixels to the right and down
        dx, dy = steps[1] - self.offset[0], steps[0] - self.offset[1]
        self.covariance = np.array([[column @ dx**2, dy @ self.kernel @ dx], [dy @ self.kernel @ dx, row @ dy**2]])

    @property
    def width(self) -> float:
        """Standard deviation in pixels, of the core: that of the Gaussian with the same peak."""
        return float(1 / np.sqrt(2 * np.pi * self.kernel.max()))

    def _transform(self, length: int, dtype: np.dtype) -> np.ndarray:
        if (length, dtype) not in self._transforms:
            self._transforms[length, dtype] = fft.rfft2(self.kernel.astype(dtype), s=(length, length))
        return self._transforms[length, dtype]

    def blur(self, planes: np.ndarray) -> np.ndarray:
        """(K, m, m) convolved, nothing outside: (K, m, m) of the same dtype."""
        m, (rows, columns) = planes.shape[-1], self.kernel.shape
        length = fast_length(m + max(rows, columns) - 1)
        spectrum = fft.rfft2(planes, s=(length, length))
        spectrum *= self._transform(length, planes.dtype)
        return fft.irfft2(spectrum, s=(length, length))[..., rows // 2 : rows // 2 + m, columns // 2 : columns // 2 + m]


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A square window about the lens; x grows with the column, y falls with the row, both from its middle."""

    data: np.ndarray  # (n, n) float64, 0 where not good
    sigma: np.ndarray  # (n, n) float64, 1 where not good
    good: np.ndarray  # (n, n) bool
    psf: Psf
    pixel_scale: float  # arcsec

    @property
    def size(self) -> int:
        return self.data.shape[0]

    @property
    def half(self) -> float:
        """Arcsec from the middle to an edge."""
        return self.size * self.pixel_scale / 2

    @functools.cached_property
    def steps(self) -> np.ndarray:
        """(n,) x of the columns in arcsec; y of the rows is minus that."""
        return (np.arange(self.size) - (self.size - 1) / 2) * self.pixel_scale

    @functools.cached_property
    def x(self) -> np.ndarray:
        return np.broadcast_to(self.steps, self.data.shape)

    @functools.cached_property
    def y(self) -> np.ndarray:
        return np.broadcast_to(-self.steps[:, None], self.data.shape)

    def radius(self, centre: np.ndarray) -> np.ndarray:
        """(n, n) arcsec from a centre (2,)."""
        return np.hypot(self.x - centre[0], self.y - centre[1])

    def window(self, size: int) -> "Cutout":
        """The middle of so many pixels on a side, one less where it would be half a pixel off; padded with
        pixels that don't count where the image is smaller."""
        size = max(size - (size - self.size) % 2, 2)
        cut = (self.size - size) // 2
        if cut >= 0:
            part = slice(cut, cut + size)
            data, sigma, good = (each[part, part] for each in (self.data, self.sigma, self.good))
        else:
            data, good = np.pad(self.data, -cut), np.pad(self.good, -cut)
            sigma = np.pad(self.sigma, -cut, constant_values=1.0)
        return dataclasses.replace(self, data=data, sigma=sigma, good=good)


def gaussian_psf(fwhm: float) -> np.ndarray:
    """(k, k) of an FWHM in pixels."""
    reach = int(np.ceil(2.5 * fwhm))
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) * FWHM / fwhm) ** 2)
    return np.outer(profile, profile)


def cut_out(
    image: np.ndarray,
    noise: np.ndarray | None,
    psf: np.ndarray | None,
    pixel_scale: float,
    mask: np.ndarray | None = None,
) -> Cutout:
    """A `Cutout` of a whole image (h, w), made square with weightless pixels where it is oblong.

    noise: (h, w) standard deviations; 0, infinite, not finite or above 1,000 times their median marks a bad pixel;
    None: measured in the image. psf: None: a Gaussian of 2 pixels FWHM. mask: (h, w), True where a pixel must not
    count.
    """
    image = np.ascontiguousarray(image, dtype=float)
    image = np.where(gaps(image), np.nan, image)
    if noise is None and image.ndim == 2:
        noise = image_noise(image, np.isfinite(image))
    noise = np.ones(image.shape) if noise is None else np.ascontiguousarray(noise, dtype=float)
    psf = gaussian_psf(2.0) if psf is None else psf
    if image.ndim != 2 or noise.shape != image.shape or (mask is not None and np.shape(mask) != image.shape):
        shapes = [image.shape, noise.shape, *([] if mask is None else [np.shape(mask)])]
        raise ValueError(f"expected an image (h, w) with a noise map and a mask of the same shape, found {shapes}")
    if not pixel_scale > 0:
        raise ValueError(f"expected a positive pixel scale in arcsec, found {pixel_scale}")
    usable = np.isfinite(noise) & (noise > 0)
    typical = np.median(noise[usable]) if usable.any() else 1.0
    good = np.isfinite(image) & usable & (noise < HUGE * typical)
    if mask is not None:
        good &= ~np.ascontiguousarray(mask, dtype=bool)
    data, sigma = np.where(good, image, 0.0), np.where(good, noise, 1.0)
    square, (height, width) = max(image.shape), image.shape
    if height != width:
        margins = [((square - k) // 2, square - k - (square - k) // 2) for k in image.shape]
        data, good = np.pad(data, margins), np.pad(good, margins)
        sigma = np.pad(sigma, margins, constant_values=1.0)
    return Cutout(data, sigma, good, Psf(psf), float(pixel_scale))
