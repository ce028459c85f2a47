"""What a fit of the smooth lens may assume of a recipe's images."""

from darklens.lenses.fit.model import SmoothModel
from darklens.lenses.priors import Prior
from darklens.lenses.psf import FWHM, load_kernel, moffat_kernel
from darklens.lenses.recipe_tables import Recipe

WINDOW = 105  # pixels on a side, or what the image has


def smooth_model(recipe: Recipe) -> SmoothModel:
    """The smooth lens of a recipe: its pixels, PSF and source, each by the middle of its prior.

    Ellipticity is free, the Sersic index where the recipe varies it or has stamps, the centre where it scatters it,
    the width of a Gaussian PSF where it varies it, the halo's axis ratio where it isn't 1; what [robust] varies is what
    a fit doesn't know. There is no lens light: see `is_smooth`, which says what is fitted unasked.
    Raises ValueError or OSError where the PSF's file can't be used.
    """
    image, source = recipe.image, recipe.source
    return SmoothModel(
        pixel_scale=image.pixel_scale,
        window=min(WINDOW, image.pixels - 1 + image.pixels % 2),
        supersample=image.supersample,
        **_psf(recipe),
        sersic_index=_middle(source.sersic_index),
        free_index=source.stamps is not None or not source.sersic_index.is_fixed,
        free_centre=image.centre_scatter > 0,
        free_halo=not _is_round(recipe),
    )


def is_smooth(recipe: Recipe) -> bool:
    """Whether the fit's lens is all that the recipe has but substructure: no lens light, stamps, elliptical halo."""
    return _is_round(recipe) and recipe.lens_light is None and recipe.source.stamps is None


def _is_round(recipe: Recipe) -> bool:
    return recipe.lens.axis_ratio.bounds == (1, 1)


def _middle(prior: Prior) -> float:
    return float(prior.quantile(0.5))


def _psf(recipe: Recipe) -> dict:
    """The PSF's fields of SmoothModel."""
    psf, scale = recipe.psf, recipe.image.pixel_scale
    if psf.kind == "none":
        return {"psf_sigma": 0.0}
    if psf.kind == "gaussian":
        free = not psf.fwhm.is_fixed
        return {"psf_sigma": _middle(psf.fwhm) / FWHM, "psf_truncate": psf.truncate, "free_psf": free}
    if psf.kind == "file":
        kernel = load_kernel(psf.file)
    else:
        kernel = moffat_kernel(_middle(psf.fwhm) / scale, _middle(psf.beta))
    return {"psf_kernel": tuple(map(tuple, kernel.tolist()))}
