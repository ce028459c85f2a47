"""Images of one camera behind their lens galaxies' light, each fitted as a telescope image is: one `Fit` of all.

The galaxy is a sum of Gaussians and the source splines, as `run` has them. Where ln B shows mass, networks see what the
stiff prior of a source leaves, else what the fit does; in units of the noise and of the light's own error, and only
where the source has images.
"""

import numpy as np
import torch
from torch import Tensor

from darklens.fit import result as results
from darklens.fit.blur import psf_kernel
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


def _row(observed: ObservedFit, model: SmoothModel, size: int, *, has_map: bool) -> dict[str, np.ndarray]:
    """The fields of `Fit` but the model, of one image."""
    cutout, arrays = observed.cutout, _numbers(observed, has_map) | _pictures(observed, size)
    return arrays | {
        "parameters": smooth_parameters(observed.q, model)[0].numpy(),
        "fitted": np.isin(np.arange(len(model.table)), model.free),
        "covariance": np.diag([observed.sd[INDEX_OF[name]] ** 2 for name in model.names]),
        "noise": np.array([np.median(cutout.sigma) ** 2, 0.0]),
        "pixels": np.array(cutout.good.sum()),
        "steps": np.array(0),
        "mask": ~_window(cutout.good, size),
        "flag": np.array(_flag(observed.flag), dtype=results.FLAG_TYPE),
    }


def _numbers(observed: ObservedFit, has_map: bool) -> dict[str, np.ndarray]:
    """Those that are one number an image; not a number what such a fit does not have."""
    signal, noise = observed.arcs / observed.cutout.sigma, observed.noise
    numbers = dict.fromkeys(("amplitude", "light_amplitude", "sky", "residual_significance"), np.nan) | {
        "noise_correlation": noise.correlation,
        "noise_width": smoothing_width(noise.correlation),
        "noise_scale": noise.scale if has_map else 1.0,
        "chi_square": observed.chi_square,
        "light_chi_square": np.square(signal)[observed.cutout.good].sum(),
        "log_bayes_factor": observed.log_bayes_factor,
    }
    return {name: np.array(value, dtype=float) for name, value in numbers.items()}


def _pictures(observed: ObservedFit, size: int) -> dict[str, np.ndarray]:
    """Those of (size, size) pixels, float32."""
    view, deviation = observed.view_residual, observed.cutout.sigma
    pictures = {
        "residual": np.nan_to_num(observed.residual),
        "stiff_residual": np.zeros_like(deviation) if view is None else view,
        "image": observed.model,
        "deviation": deviation,
    }
    return {name: _window(values, size).astype(np.float32) for name, values in pictures.items()}


def _flag(words: str) -> str:
    """The gravest of the words, as `Fit` says it."""
    said = words.split()
    known = [reason for word, reason in REASONS.items() if word in said]
    return (known + [word.replace("_", " ") for word in said] + [""])[0]


def _window(values: np.ndarray, size: int) -> np.ndarray:
    """The middle (size, size) of an image (n, n) of the same parity; with zeros where it is smaller."""
    cut = (len(values) - size) // 2
    return values[cut : cut + size, cut : cut + size] if cut >= 0 else np.pad(values, -cut)
