"""`darklens.fit(images)`: arrays as people have them go in, fits come out; what is wrong is said in one line."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypedDict, overload

import numpy as np
import torch

from darklens.errors import DataError, UsageError
from darklens.fit.model import SmoothModel
from darklens.fit.pool import fit_many
from darklens.fit.result import Fit
from darklens.fit.settings import SOURCES
from darklens.simulation.psf import checked_kernel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from darklens.fit.observed.arrays import ObservedFits

Array = np.ndarray | torch.Tensor


class ModelFields(TypedDict, total=False):
    """The fields of `SmoothModel` as keywords of `darklens.fit`."""

    pixel_scale: float
    window: int
    supersample: int
    binning: int
    psf_sigma: float
    psf_truncate: float
    psf_beta: float | None
    psf_kernel: Array | tuple[tuple[float, ...], ...] | None
    source: str
    sersic_index: float
    free_ellipticity: bool
    free_index: bool
    free_centre: bool
    free_psf: bool
    free_halo: bool
    light_index: float
    free_light: bool
    free_light_index: bool
    noise_correlation: float
    refit_flagged: bool
    components: tuple[str, ...]


@overload
def fit_arrays(
    images: Array,
    *,
    noise: Array | float | None = None,
    mask: Array | None = None,
    psf: Array | None = None,
    pixel_scale: float = ...,
    source: str = ...,
    lens_light: Literal["mge"],
    progress: Callable[[int], None] | None = None,
) -> "ObservedFits": ...


@overload
def fit_arrays(
    images: Array,
    *,
    noise: Array | float | str | None = None,
    mask: Array | None = None,
    psf: Array | None = None,
    start: Array | None = None,
    model: SmoothModel | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    lens_light: None = None,
    **fields: "Unpack[ModelFields]",
) -> Fit: ...


def fit_arrays(
    images: Array,
    *,
    noise: Array | float | str | None = None,
    mask: Array | None = None,
    psf: Array | None = None,
    start: Array | None = None,
    model: SmoothModel | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    lens_light: str | None = None,
    **fields: "Unpack[ModelFields]",
) -> "Fit | ObservedFits":
    """The best smooth lens for each of the images (n, H, W), or of one (H, W), square, in any unit, on all cores.

    noise: the standard deviation of each pixel in the images' unit, (n, H, W), (H, W) or one number; "poisson": the
    images are counts, sky included; None: measured in the images.
    mask: (n, H, W) or (H, W), True where a pixel must not count. Pixels that are not finite, or masked in a NumPy
    masked array of images or noise, never do.
    psf: a kernel (k, k) of odd size at the images' pixel scale, its star in the middle pixel.
    start: (n, P) or (P,) the free parameters, `model.names`, to start from; None: found in the images.
    model: what is assumed and what is free; None: as in Models F and J. fields: fields of `SmoothModel` that differ
    from it, `darklens.fit(images, pixel_scale=0.1, free_centre=True)`. source="flexible" fits splines about the Sersic,
    in a second or more a lens: `table()` then has `log_bayes_factor`, too.
    workers: processes (None: one a core). Up to 64 images (8 with a flexible source) are fitted in this process; a
    script that fits more needs `if __name__ == "__main__":`.
    progress: called with the number of images done since the last call.
    lens_light: "mge" for telescope images with a lens galaxy in front, whose light then is a multi-Gaussian expansion
    (docs/real_lenses.md): noise, mask, psf, pixel_scale and source are used, the other settings are that fit's own.

    The result has `table()`, `residual` (n, S, S) in standard deviations of the noise, `image`, `mask`, `flag`. Raises
    DataError for arrays that can't be used, UsageError for settings that can't be.
    """
    pixels = _images(images)
    shape = pixels.shape
    hidden = _masked(images) | (False if isinstance(noise, str) else _masked(noise))
    chosen = _mask(mask, shape)
    if np.any(hidden):
        hidden = np.broadcast_to(hidden, shape)
        chosen = hidden if chosen is None else chosen | hidden
    if lens_light is not None:
        return _with_lens_light(lens_light, pixels, noise=noise, mask=chosen, psf=psf, progress=progress, fields=fields)
    settings = _model(model, psf, dict(fields))
    try:
        return fit_many(
            pixels,
            settings,
            start=_start(start, len(pixels), settings),
            noise=_noise(noise, shape),
            mask=chosen,
            workers=workers,
            progress=progress,
        )
    except ValueError as error:
        raise DataError(str(error)) from None


def _with_lens_light(
    lens_light: str,
    pixels: np.ndarray,
    *,
    noise: object,
    mask: np.ndarray | None,
    psf: object,
    progress: Callable[[int], None] | None,
    fields: "ModelFields",
) -> "ObservedFits":
    """The fit of telescope images. Raises DataError, UsageError."""
    from darklens.fit.observed.arrays import fit_telescope  # SciPy and sep: for this fit alone

    if lens_light != "mge":
        raise UsageError(f'lens_light: expected "mge" or None, found {lens_light!r}')
    if unused := sorted(set(fields) - {"pixel_scale", "source"}):
        raise UsageError(
            f'{unused[0]} is no setting of the fit with lens_light="mge": pixel_scale, noise, mask, psf, source are'
        )
    deviations = _noise(noise, pixels.shape)
    if isinstance(deviations, str):
        raise UsageError('noise="poisson" does not go with lens_light="mge": give standard deviations, or None')
    kernel = None if psf is None else _kernel(psf)
    scale, source = fields.get("pixel_scale", SmoothModel().pixel_scale), fields.get("source", "sersic")
    if source not in SOURCES:
        raise UsageError(f"source: expected one of {', '.join(SOURCES)}, found {source!r}")
    return fit_telescope(
        pixels, pixel_scale=scale, noise=deviations, mask=mask, psf=kernel, source=source, progress=progress
    )


def _kernel(psf: object) -> np.ndarray:
    """A PSF that can be used. Raises DataError."""
    try:
        return checked_kernel(_numbers(psf, "psf"), "psf")
    except ValueError as error:
        raise DataError(str(error)) from None


def _numbers(values: object, name: str) -> np.ndarray:
    """Real numbers as float64, NaN where a masked array masks them. Raises DataError."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        if isinstance(values, np.ma.MaskedArray):
            return np.ma.filled(values.astype(np.float64), np.nan)
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise TypeError
        return np.array(array, dtype=np.float64, order="C")
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected an array of real numbers, found {type(values).__name__}") from None


def _images(images: object) -> np.ndarray:
    """(n, H, W) float64. Raises DataError."""
    pixels = _numbers(images, "images")
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]  # (n, 1, H, W) -> (n, H, W)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3:
        raise DataError(f"images: expected shape (n, H, W) or (H, W), found {pixels.shape}")
    if pixels.shape[1] != pixels.shape[2] or pixels.shape[1] < 8:
        raise DataError(
            f"images: expected squares of 8 x 8 pixels or more, found {pixels.shape[1]} x {pixels.shape[2]}"
        )
    return pixels


def _masked(values: object) -> np.ndarray:
    """Where a masked array is masked; False for others."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.zeros((), dtype=bool)
    hidden = np.ma.getmaskarray(values)
    return hidden[:, 0] if hidden.ndim == 4 and hidden.shape[1] == 1 else hidden


def _of_images(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """An array for each image, (n, H, W). Raises DataError."""
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape not in (shape, shape[1:], (1, *shape[1:])):
        raise DataError(f"{name}: expected the images' shape {shape} or {shape[1:]}, found {array.shape}")
    return np.broadcast_to(array, shape)


def _mask(mask: object, shape: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return None
    numbers = _numbers(mask, "mask")
    return _of_images(np.isnan(numbers) | (numbers != 0), shape, "mask")


def _noise(noise: object, shape: tuple[int, ...]) -> np.ndarray | str | None:
    if noise is None or isinstance(noise, str):
        if noise not in (None, "poisson"):
            raise DataError(f'noise: expected standard deviations, "poisson" or None, found {noise!r}')
        return noise
    deviations = _numbers(noise, "noise")
    deviations = np.full(shape, deviations) if deviations.ndim == 0 else _of_images(deviations, shape, "noise")
    if not ((deviations > 0) & np.isfinite(deviations)).any():
        raise DataError("noise: expected standard deviations above 0, found none")
    return deviations


def _start(start: object, count: int, model: SmoothModel) -> np.ndarray | None:
    if start is None:
        return None
    values, size = _numbers(start, "start"), len(model.free)
    if values.shape not in ((size,), (1, size), (count, size)):
        raise DataError(f"start: expected ({count}, {size}) of {', '.join(model.names)}, found {values.shape}")
    return np.broadcast_to(values, (count, size)).copy()


def _model(model: SmoothModel | None, psf: object, fields: dict) -> SmoothModel:
    """The model with some fields changed. Raises DataError, UsageError."""
    names = [field.name for field in dataclasses.fields(SmoothModel)]
    for name in fields:
        if name not in names:
            matches = difflib.get_close_matches(name, [*names, "noise", "mask", "psf", "start", "model", "workers"], 1)
            advice = f"did you mean {matches[0]}?" if matches else "docs/api.md has them all"
            raise UsageError(f"darklens.fit has no keyword {name}: {advice}")
    if psf is not None and fields.get("psf_kernel") is not None:
        raise UsageError("psf and psf_kernel are the same: give one of them")
    psf = fields.pop("psf_kernel", None) if psf is None else psf
    if psf is not None:
        fields["psf_kernel"] = tuple(map(tuple, _kernel(psf).tolist()))
    try:
        return dataclasses.replace(model or SmoothModel(), **fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"darklens.fit: {error}") from None
