"""`darklens.fit(images)`: arrays in, fits out."""

import numpy as np

from darklens.fit.model import SmoothModel
from darklens.fit.pool import fit_many
from darklens.fit.result import Fit


def fit_arrays(images: np.ndarray, **model: object) -> Fit:
    """The best smooth lens for each of the images (n, H, W), in any unit, on all cores.

    model: fields of `SmoothModel` that differ from Models F and J: pixel_scale and psf_sigma in arcsec, window in
    pixels, sersic_index, free_index, free_centre, psf_kernel. The result has `table()`, `residual` (n, S, S) in
    standard deviations of the noise, `image`, `flag`. Raises ValueError for images that aren't square.
    """
    return fit_many(images, SmoothModel(**model))
