"""The fit of one image of a survey, at its own pixel scale and with its own PSF: no network has a part in it.

Where the image shows the lens galaxy, `fit.observed` models its light; where it does not, the smooth lens of Models F
and J is fitted with its centre, its shape and the source's Sersic index free.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from darklens.fit import Fit, SmoothModel, fit
from darklens.fit.cosmic_rays import cosmic_rays
from darklens.fit.flexible import FlexibleLens
from darklens.fit.gaps import gaps
from darklens.fit.image_noise import image_noise
from darklens.fit.lens_galaxy import shows_galaxy
from darklens.fit.observed.result import ObservedFit
from darklens.fit.observed.run import fit_observed
from darklens.fit.psf_width import NARROWER, WIDER
from darklens.fit.result import NOT_CONVERGED, POOR
from darklens.fit.structured import StructuredFit, fit_structured
from darklens.plots.lens import LensPictures
from darklens.simulation.psf import FWHM, gaussian_taps
from darklens.survey import subhalo

LENS_LIGHT = "auto", "mge", "none"
COLUMNS = (
    "einstein_radius",
    "einstein_radius_sd",
    "radius_without_shear",
    "shear",
    "shear_angle",
    "halo_axis_ratio",
    "halo_angle",
    "centre_x",
    "centre_y",
    "source_x",
    "source_y",
    "source_radius",
    "source_axis_ratio",
    "source_angle",
    "source_index",
    "chi_square",
    "residual_significance",
    "log_bayes_factor",
    "noise_scale",
    "noise_correlation",
    "lens_light",
    *subhalo.COLUMNS,
)
SMOOTH_NAMES = {"axis_ratio": "source_axis_ratio", "sersic_index": "source_index"}  # columns of `Fit.table`, as here
WINDOW, WIDE = 5.25, 1.7  # arcsec; half a window over the Einstein radius: where it is less, a larger one is fitted
MAX_PIXELS = 301  # on a side of the window
HUGE = 1e3  # times the median of a noise map: the mark of a bad pixel
MORE_THAN_NOISE = "more than noise is left: substructure, or not such a lens"
SURE = 5.0  # standard deviations of the residual's significance
NOT_DESCRIBED = POOR, NOT_CONVERGED, WIDER, NARROWER, "poor_fit"  # flags: what is left has other reasons than a subhalo
PSF_PIXELS = 2.2  # FWHM of the Gaussian that stands for a PSF which nobody knows


@dataclasses.dataclass(frozen=True)
class LensImage:
    """What is known of one image. Pixels that are not finite do not count."""

    pixels: np.ndarray  # (H, W) float64
    pixel_scale: float  # arcsec
    noise: np.ndarray | None = None  # (H, W) standard deviations
    psf: np.ndarray | None = None  # (k, k), odd
    mask: np.ndarray | None = None  # (H, W) bool, True where a pixel does not count


@dataclasses.dataclass(frozen=True)
class LensFit:
    """A fitted image: the cells of its row by column, what to beware of, what was done to it, pictures."""

    values: dict[str, float | str]
    flags: list[str]
    notes: list[str]
    pictures: LensPictures | None


def fit_lens(
    image: LensImage,
    lens_light: str = "auto",
    pictures: bool = False,
    *,
    source: str = "sersic",
    detect: bool = False,
) -> LensFit:
    """The fit of an image. lens_light: one of LENS_LIGHT; source: one of `settings.SOURCES`; detect: of a flexible one,
    the strongest subhalo too.

    Raises ValueError for what can't be fitted.
    """
    notes: list[str] = []
    good = _good_pixels(image, notes)
    psf = image.psf if image.psf is not None else _assumed_psf(notes)
    sigma = _noise(image, good, notes)
    struck = cosmic_rays(np.where(good, image.pixels, 0.0), sigma, psf, good)
    if struck.any():
        notes.append(f"{struck.sum()} pixels struck by cosmic rays masked")
        good = good & ~struck
    if lens_light == "auto":
        lens_light = "mge" if shows_galaxy(image.pixels, image.pixel_scale, good) else "none"
    ready = LensImage(np.where(good, image.pixels, np.nan), image.pixel_scale, sigma, psf, ~good)
    if lens_light == "mge":
        observed = fit_observed(ready.pixels, sigma, psf, image.pixel_scale, ~good, source=source)
        return _with_subhalo(_of_observed(observed, notes, pictures), observed.lens if detect else None)
    result = fit_smooth(ready, image.noise is not None)
    if source == "flexible" and np.isfinite(result.parameters).all():
        structured = _fit_flexible(result, ready, image.noise is not None)
        fitted = _of_structured(structured, ready, notes, pictures)
        return _with_subhalo(fitted, structured.lenses[0] if detect else None)
    return _of_smooth(result, ready, notes, pictures)


def _with_subhalo(fitted: LensFit, lens: FlexibleLens | None) -> LensFit:
    """With the columns and the panel of the strongest subhalo, where there is a lens that the fit describes."""
    if lens is None:
        return fitted
    failed = [flag for flag in fitted.flags if flag in NOT_DESCRIBED]
    if failed:
        return dataclasses.replace(fitted, notes=[*fitted.notes, f"no subhalo was looked for: {failed[0]}"])
    cells, panel = subhalo.strongest_subhalo(lens)
    pictures = fitted.pictures and dataclasses.replace(fitted.pictures, detection=panel)
    return dataclasses.replace(fitted, values={**fitted.values, **cells}, pictures=pictures)


def _good_pixels(image: LensImage, notes: list[str]) -> np.ndarray:
    """(H, W) bool: finite, not masked, of a usable noise."""
    good = np.isfinite(image.pixels)
    if not good.all():
        notes.append(f"{(~good).sum()} pixels are not finite")
    without = gaps(image.pixels)
    if without.any():
        notes.append(f"{without.sum()} pixels of one value, as of gaps, masked")
        good = good & ~without
    if image.mask is not None:
        notes.append(f"{(image.mask & good).sum()} pixels masked as listed")
        good = good & ~image.mask
    if image.noise is not None:
        usable = np.isfinite(image.noise) & (image.noise > 0)
        usable &= image.noise < HUGE * (np.median(image.noise[usable]) if usable.any() else 0)
        if (good & ~usable).any():
            notes.append(f"{(good & ~usable).sum()} pixels without weight in the noise map")
        good = good & usable
    return good


def _assumed_psf(notes: list[str]) -> np.ndarray:
    notes.append(f"no PSF: a Gaussian of {PSF_PIXELS} pixels assumed")
    taps = gaussian_taps(PSF_PIXELS / FWHM)
    return np.outer(taps, taps)


def _noise(image: LensImage, good: np.ndarray, notes: list[str]) -> np.ndarray:
    """(H, W) standard deviations, of the map, or measured: the sky's and what grows with the signal."""
    if image.noise is not None:
        return np.where(good, image.noise, 1.0)
    notes.append("noise measured in the image")
    return image_noise(np.where(good, image.pixels, 0.0), good)


def _square(image: LensImage, known_noise: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The central square of the pixels, and of the noise map where there is one."""
    side = min(image.pixels.shape)
    row, column = ((n - side) // 2 for n in image.pixels.shape)
    square = (slice(row, row + side), slice(column, column + side))
    return image.pixels[square], image.noise[square] if known_noise and image.noise is not None else None


def fit_smooth(image: LensImage, known_noise: bool) -> Fit:
    """The smooth lens without a lens galaxy, in a window that follows its Einstein radius."""
    pixels, noise_map = _square(image, known_noise)
    window, largest = WINDOW, min(len(pixels), MAX_PIXELS)
    while True:
        size = min(max(int(window / image.pixel_scale) | 1, 9), largest)
        model = SmoothModel(
            pixel_scale=image.pixel_scale,
            window=size,
            psf_kernel=tuple(map(tuple, image.psf.tolist())) if image.psf is not None else None,
            free_index=True,
            free_centre=True,
            free_halo=True,
        )
        result = fit(pixels, model, noise=noise_map)
        radius = float(result.parameters[0, model.table.index["einstein_radius"]])
        if size >= largest or model.half_window >= WIDE * radius or result.flag[0] == "no lens found":
            return result
        window = 2 * WIDE * radius * 1.05


def _of_smooth(result: Fit, image: LensImage, notes: list[str], pictures: bool) -> LensFit:
    table = {SMOOTH_NAMES.get(name, name): column[0] for name, column in result.table().items()}
    values = {name: table[name] for name in COLUMNS if name in table} | {"lens_light": "none"}
    flags = [str(table["flag"])] * bool(table["flag"])
    if table.get("residual_significance", 0.0) > SURE and not flags:
        flags.append(MORE_THAN_NOISE)
    panels = None
    if pictures:
        size, amplitude = result.residual.shape[-1], result.image[0] - result.sky[0]
        row, column = ((n - size) // 2 for n in image.pixels.shape)
        data = image.pixels[row : row + size, column : column + size]
        residual = np.where(result.mask[0], np.nan, result.residual[0])
        light = np.full_like(amplitude, result.sky[0])
        panels = LensPictures(data, light, amplitude, residual, None, size * image.pixel_scale / 2)
    return LensFit(values, flags, notes, panels)


def _fit_flexible(result: Fit, image: LensImage, known_noise: bool) -> StructuredFit:
    """The lens again in the same window, with a source of splines."""
    pixels, noise_map = _square(image, known_noise)
    return fit_structured(pixels, result.model, noise=noise_map, lenses=True)


def _of_structured(structured: StructuredFit, image: LensImage, notes: list[str], pictures: bool) -> LensFit:
    """As of a Sersic source, with the Bayes factor of further mass beside the residual's significance."""
    fitted = _of_smooth(structured.fit, image, notes, pictures)
    if fitted.pictures is None:
        return fitted
    half = len(structured.source[0]) * image.pixel_scale / 8  # pixels of a quarter of the image's
    panels = dataclasses.replace(fitted.pictures, source=structured.source[0][::-1], source_half=half)
    return dataclasses.replace(fitted, pictures=panels)


def _of_observed(result: ObservedFit, notes: list[str], pictures: bool) -> LensFit:
    row = result.row()
    values = {name: row[name] for name in COLUMNS if name in row} | {"lens_light": "mge"}
    notes = [*notes, str(row["note"])] if row["note"] else notes
    panels = None
    if pictures:
        cutout, half = result.cutout, result.cutout.half
        data = np.where(cutout.good, cutout.data, np.nan)
        panels = LensPictures(data, result.light, result.arcs, result.residual, result.source, half, result.source_half)
    return LensFit(values, str(row["flag"]).split(), notes, panels)
