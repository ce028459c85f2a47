"""Images of one camera behind their lens galaxies' light, each fitted as a telescope image is: one `Fit` of all.

The galaxy is a sum of Gaussians and the source splines, as `run` has them. Where ln B shows mass, networks see what the
stiff prior of a source leaves, else what the fit does; in units of the noise and of the light's own error, and only
where the source has images.
"""

import numpy as np
import torch
from torch import Tensor

from darklens.fit import result as results
from darklens.fit.correlation import smoothing_width
from darklens.fit.model import SmoothModel
from darklens.fit.observed import flags
from darklens.fit.observed.cutout import cut_out
from darklens.fit.observed.flexible_source import smooth_parameters
from darklens.fit.observed.parameters import INDEX_OF
from darklens.fit.observed.result import ObservedFit
from darklens.fit.observed.run import fit_cutout
from darklens.fit.result import Fit
from darklens.fit.run import check_inputs, plain_arithmetic
from darklens.fit.window import as_images
from darklens.simulation.psf import FWHM, gaussian_taps, moffat_kernel

REASONS = {  # words of `flags` -> the flags of `Fit`, the gravest first
    "no_fit": results.CONSTANT,
    "no_arcs": results.NO_LENS,
    flags.NOT_SOLVED: results.NOT_CONVERGED,
    "at_bound": results.AT_BOUND,
    "uncertain": results.UNDETERMINED,
    "poor_fit": results.POOR,
}


def fit_behind_galaxies(
    images: np.ndarray | Tensor,
    model: SmoothModel,
    *,
    noise: np.ndarray | Tensor | str | None = None,
    mask: np.ndarray | Tensor | None = None,
) -> Fit:
    """The fits of images (B, H, W), square, with arguments and errors as of `fit`; the PSF is as wide as assumed.

    Covariances are diagonal; `chi_square` is that round the arcs, and of the noise a single level is known.
    `residual_significance` is not a number: it would take the light's errors for mass.
    """
    pixels = as_images(images, torch.device("cpu"))
    inputs = check_inputs(pixels, model, None, noise, mask)
    size, kernel = model.size(*pixels.shape[1:]), psf_kernel(model)
    deviations = pixels.clamp(min=1).sqrt() if isinstance(inputs.noise, str) else inputs.noise
    rows = []
    with plain_arithmetic(pixels.device):
        for k, image in enumerate(pixels.numpy()):
            sigma, out = (None if each is None else each[k].numpy() for each in (deviations, inputs.mask))
            observed = fit_cutout(cut_out(image, sigma, kernel, model.pixel_scale, out), "flexible", view=True)
            rows.append(_row(observed, model, size, has_map=sigma is not None))
    return Fit(model, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def psf_kernel(model: SmoothModel) -> np.ndarray:
    """(k, k) the PSF that a model assumes, at its pixel scale."""
    if model.psf_kernel is not None:
        return np.asarray(model.psf_kernel, dtype=float)
    sigma = model.psf_sigma / model.pixel_scale
    if model.psf_beta is not None:
        return moffat_kernel(FWHM * sigma, model.psf_beta)
    taps = gaussian_taps(sigma, model.psf_truncate)
    return np.outer(taps, taps)


def _row(observed: ObservedFit, model: SmoothModel, size: int, *, has_map: bool) -> dict[str, np.ndarray]:
    """The fields of `Fit` but the model, of one image."""
    cutout = observed.cutout
    view = observed.view_residual if observed.view_residual is not None else np.zeros_like(cutout.data)
    residual = np.where(cutout.good, (cutout.data - observed.model) / cutout.sigma, 0.0)
    fitted = np.isin(np.arange(len(model.table)), model.free)
    numbers = {
        "amplitude": np.nan,
        "light_amplitude": np.nan,
        "sky": np.nan,
        "noise_correlation": observed.noise.correlation,
        "noise_width": smoothing_width(observed.noise.correlation),
        "noise_scale": observed.noise.scale if has_map else 1.0,
        "chi_square": observed.chi_square,
        "light_chi_square": np.square(observed.arcs / cutout.sigma)[cutout.good].sum(),
        "residual_significance": np.nan,
        "log_bayes_factor": observed.log_bayes_factor,
    }
    pictures = {"residual": residual, "stiff_residual": view, "image": observed.model, "deviation": cutout.sigma}
    arrays = {name: np.array(value, dtype=float) for name, value in numbers.items()}
    arrays |= {name: _window(values, size).astype(np.float32) for name, values in pictures.items()}
    return arrays | {
        "parameters": smooth_parameters(observed.q, model)[0].numpy(),
        "fitted": fitted,
        "covariance": np.diag([observed.sd[INDEX_OF[name]] ** 2 for name in model.names]),
        "noise": np.array([np.median(cutout.sigma) ** 2, 0.0]),
        "pixels": np.array(cutout.good.sum()),
        "steps": np.array(0),
        "mask": ~_window(cutout.good, size),
        "flag": np.array(_flag(observed.flag), dtype=results.FLAG_TYPE),
    }


def _flag(words: str) -> str:
    """The gravest of the words, as `Fit` says it."""
    said = words.split()
    known = [reason for word, reason in REASONS.items() if word in said]
    return (known + [word.replace("_", " ") for word in said] + [""])[0]


def _window(values: np.ndarray, size: int) -> np.ndarray:
    """The middle (size, size) of an image (n, n) of the same parity; with zeros where it is smaller."""
    cut = (len(values) - size) // 2
    return values[cut : cut + size, cut : cut + size] if cut >= 0 else np.pad(values, -cut)
