"""Point spread functions: Gaussian, Moffat and measured kernels, and the convolution with them.

References: Moffat 1969, A&A 3, 455; Trujillo et al. 2001, MNRAS 328, 977 (T01).
"""

import functools
import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMED = "PSF|KERNEL|DET_DIST"  # in the names of HDUs; the last is STPSF's, on detector pixels and with all distortions
OTHER = "ERR|NOISE|RMS|SIG|UNC|STD|VAR|WEIGHT|WHT|MASK|DQ|BKG|BACK|MODEL|RES|OVER"  # no PSF, or an oversampled one
FWHM = math.sqrt(8 * math.log(2))  # of a Gaussian, in standard deviations
DIRECT = 3  # pixels: up to this size a kernel is applied directly on a CPU, above it by FFT (measured)


def gaussian_taps(sigma: float, truncate: float = 5.0) -> np.ndarray:
    """(k,) Gaussian of sum 1, of sigma pixels, cut at `truncate` sigma: its products with itself are a kernel."""
    reach = int(truncate * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-9)) ** 2)
    return taps / taps.sum()


def moffat_alpha(fwhm: float, beta: float) -> float:
    """Scale radius of a Moffat, in the unit of its FWHM (T01)."""
    return fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))


def moffat_size(fwhm: float, beta: float, outside: float = 1e-3, largest: int = 301) -> int:
    """Odd size in pixels of the kernel that leaves a fraction `outside` of the light out (T01 eq. 6)."""
    reach = moffat_alpha(fwhm, beta) * math.sqrt(outside ** (1 / (1 - beta)) - 1)
    return min(2 * max(math.ceil(reach), 1) + 1, largest)


def moffat_kernel(fwhm: float, beta: float, size: int | None = None) -> np.ndarray:
    """(size, size) Moffat (1 + r^2 / alpha^2)^-beta of sum 1, sampled at the pixels' centres (T01 eqs. 1-2).

    fwhm in pixels; beta > 1; size odd (None: `moffat_size`).
    """
    reach = (size or moffat_size(fwhm, beta)) // 2
    r2 = np.square(np.arange(-reach, reach + 1.0))
    kernel = (1 + (r2 + r2[:, None]) / moffat_alpha(fwhm, beta) ** 2) ** -beta
    return kernel / kernel.sum()


def core_offset(kernel: np.ndarray) -> float:
    """How far the centroid of a kernel's core lies from its middle pixel, in pixels.

    The core is what is above a quarter of the peak, less that quarter: the wings of a large stamp, with the noise and
    the background in them, would move the centroid of the whole.
    """
    core = np.maximum(kernel - kernel.max() / 4, 0)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    return float(np.hypot((core.sum(0) * steps).sum(), (core.sum(1) * steps).sum()) / core.sum())


def checked_kernel(values: np.ndarray, name: str = "the PSF") -> np.ndarray:
    """A measured kernel as float64 (k, k) of sum 1.

    Raises ValueError unless it is square, of odd size, finite, of positive sum, and its core lies within half a pixel
    of the middle (`core_offset`).
    """
    kernel = np.squeeze(np.asarray(values, dtype=np.float64))
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"{name} has shape {np.shape(values)}: expected one square image")
    if kernel.shape[0] % 2 == 0:
        raise ValueError(f"{name} is {kernel.shape[0]} pixels wide: expected an odd number, the star in the middle one")
    if not np.isfinite(kernel).all() or kernel.sum() <= 0:
        raise ValueError(f"{name} has values that are not finite, or no positive sum")
    offset = core_offset(kernel)
    if offset > 0.5:
        raise ValueError(f"{name} is off centre by {offset:.2f} pixels (at most 0.5): shift it to the middle pixel")
    return kernel / kernel.sum()


def load_kernel(path: str | Path) -> np.ndarray:
    """`checked_kernel` of a `.npy` or FITS file; of several HDUs the PSF. Raises ValueError or OSError."""
    path = Path(path)
    if path.suffix == ".npy":
        return checked_kernel(np.load(path, allow_pickle=False), str(path))
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as units:
            images = {i: unit.name.upper() for i, unit in enumerate(units) if unit.is_image and unit.data is not None}
            if not images:
                raise ValueError(f"{path} holds no image (a PSFEx model has to be drawn as one first)")
            return checked_kernel(units[_psf_unit(images)].data, str(path))
    except TypeError as error:  # what astropy raises for a file that ends early
        raise ValueError(f"{path} is damaged: {error}") from None


def _psf_unit(names: dict[int, str]) -> int:
    """Number of the HDU to take, by name: a PSF on the detector's pixels, else what is no error map and the like."""

    def rank(number: int) -> int:
        name = names[number]
        if re.search(OTHER, name):
            return 2
        return 0 if re.search(NAMED, name) else 1

    return min(names, key=lambda number: (rank(number), number))


def fast_length(n: int) -> int:
    """The smallest multiple of 16 of the form 2^i 3^j 5^k that is n or more: a fast length for an FFT (measured)."""
    from scipy.fft import next_fast_len

    return 16 * next_fast_len(-(-n // 16), real=True)


def _pad(image: Tensor, reach: int, edges: str) -> Tensor:
    mode = {"repeat": "replicate", "zero": "constant"}[edges]
    return torch.nn.functional.pad(image[:, None], (reach,) * 4, mode=mode)[:, 0]


class Kernel:
    """A normalised kernel (k, k) that convolves (B, H, W) images, directly or by FFT, and keeps its transforms.

    edges: "repeat" goes on with the border's pixels, "zero" with nothing.
    """

    def __init__(self, values: np.ndarray, edges: str = "repeat") -> None:
        self.values, self.edges = checked_kernel(values), edges
        self.transform = functools.lru_cache(maxsize=8)(self._transform)

    def _transform(self, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.fft.rfft2(torch.as_tensor(self.values, device=device, dtype=dtype), s=(height, width))

    def __call__(self, image: Tensor) -> Tensor:
        small = len(self.values) <= DIRECT and image.device.type == "cpu"
        return self.direct(image) if small else self.fft(image)

    def direct(self, image: Tensor) -> Tensor:
        """By sums over the kernel's pixels."""
        padded = _pad(image, len(self.values) // 2, self.edges)
        kernel = torch.as_tensor(self.values[::-1, ::-1].copy()).to(image)
        return torch.nn.functional.conv2d(padded[:, None], kernel[None, None])[:, 0]

    def fft(self, image: Tensor) -> Tensor:
        """By FFT: what wraps around falls in what is cut off. Beyond "zero" edges the FFT has its own zeros."""
        (_, h, w), half = image.shape, len(self.values) // 2
        reach = half if self.edges == "repeat" else 0
        size, start = (fast_length(h + half + reach), fast_length(w + half + reach)), half + reach
        padded = _pad(image, half, self.edges) if reach else image
        rows = torch.fft.fft(torch.fft.rfft(padded, size[1]), size[0], 1)
        rows = torch.fft.ifft(rows.mul_(self.transform(*size, image.dtype, image.device)), dim=1)
        return torch.fft.irfft(rows[:, start : start + h], size[1])[:, :, start : start + w]
