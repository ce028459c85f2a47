"""`darklens.fit(images, lens_light="mge")`: telescope images as arrays go in, their fits and a table come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from darklens.errors import DataError
from darklens.fit.observed.result import ObservedFit
from darklens.fit.observed.run import fit_observed


@dataclasses.dataclass(frozen=True)
class ObservedFits:
    """Fits of telescope images, one after the other: `fits[0].light`, `.arcs`, `.source`, `.residual` are pictures."""

    fits: tuple[ObservedFit, ...]

    def __len__(self) -> int:
        return len(self.fits)

    def __iter__(self) -> Iterator[ObservedFit]:
        return iter(self.fits)

    def __getitem__(self, number: int) -> ObservedFit:
        return self.fits[number]

    def table(self) -> dict[str, np.ndarray]:
        """Columns (n,) by name: Einstein radius and its standard deviation, shear, ..., chi_square, flag, note."""
        rows = [fit.row() for fit in self.fits]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def fit_telescope(
    images: np.ndarray,
    *,
    pixel_scale: float,
    noise: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    psf: np.ndarray | None = None,
    source: str = "sersic",
    progress: Callable[[int], None] | None = None,
) -> ObservedFits:
    """Fit lens, source and the lens galaxy's light, a multi-Gaussian expansion, to each of the images (n, H, W).

    pixel_scale: arcsec. noise: (n, H, W) standard deviations, None: measured. mask: (n, H, W), True where a pixel must
    not count. psf: (k, k) at the images' pixel scale, None: a Gaussian of 2 pixels. source: as of `fit_observed`.
    progress: called with 1 after each.
    2 to 3 s of one core an image, 4 to 8 with a flexible source. Raises DataError for what can't be used.
    """
    fits = []
    for number, image in enumerate(images):
        sigma, masked = (each if each is None else each[number] for each in (noise, mask))
        try:
            fits.append(fit_observed(image, sigma, psf, pixel_scale, masked, source=source))
        except ValueError as error:
            raise DataError(f"image {number}: {error}") from None
        if progress is not None:
            progress(1)
    return ObservedFits(tuple(fits))
