"""From where a batch ended to its `Fit`: parameters with covariance, pictures, and the reasons to distrust it."""

import numpy as np
import torch
from torch import Tensor

from darklens.fit import result as results
from darklens.fit import score as scores
from darklens.fit.batch import Batch, Explained
from darklens.fit.components import BASE
from darklens.fit.correlation import Correlation
from darklens.fit.noise import MeasuredNoise, Variance
from darklens.fit.result import Fit
from darklens.fit.significance import correlated_covariance, significance
from darklens.fit.solver import State

POOR = 6.0  # chi-square per pixel above which another start is tried, and the fit flagged
FAINT = 50.0  # the source's light must improve chi-square by more
MIN_PIXELS = 2 * len(BASE)  # fewer say nothing about so many parameters


def report(
    batch: Batch, state: State, noise: Variance, correlation: Correlation, *, tests: bool = True
) -> tuple[Fit, np.ndarray]:
    """The fits of a batch, and which of them (B,) bool the score test flags significantly enough to be fitted again.

    noise, correlation: as `Batch.measured_variance` gives them. tests: False leaves out the score test and that of the
    residual.
    """
    q, variance = batch.solver.finish(state), noise.pixels
    explained = batch.explain(q, variance)
    arrays = _measured(batch, state, q, explained, variance) | _pictures(batch, explained, variance)
    arrays |= noise_columns(batch, noise, correlation)
    arrays |= _tested(
        batch, q, explained, variance, arrays | {"of_noise": noise_uncertainty(batch, correlation)}, tests
    )
    lensed = (arrays["light_chi_square"] > FAINT) & (explained.linear[:, 0] > 0)
    flag, significant = _flags(batch, state, q, arrays, lensed), np.zeros(len(q), dtype=bool)
    if tests:
        residual = torch.where(batch.window.good, explained.residual / variance.double().sqrt(), 0.0)
        excess = residual.square().sum((1, 2)) - arrays["pixels"]
        spread = (2 * arrays["pixels"] * correlation.inflation).sqrt()
        tested, significant = scores.score_test(batch.solver, q, batch.problem(variance), excess, spread)
        flag = np.where(flag == "", tested, flag)
    return Fit(batch.model, flag=flag, **{name: value.cpu().numpy() for name, value in arrays.items()}), significant


def _measured(batch: Batch, state: State, q: Tensor, explained: Explained, variance: Tensor) -> dict[str, Tensor]:
    window, lights = batch.window, explained.lights
    amplitudes = explained.linear[:, : lights.shape[1]]
    galaxy = amplitudes[:, 1] if batch.model.free_light else torch.zeros_like(amplitudes[:, 0])
    residual = torch.where(window.good, explained.residual / variance.double().sqrt(), 0.0)
    pixels, chi2 = window.good.sum((1, 2)), residual.square().sum((1, 2))
    fitted = torch.zeros(q.shape, dtype=torch.bool, device=q.device)
    fitted[:, list(batch.model.free)] = True
    return {
        "parameters": q,
        "fitted": fitted,
        "covariance": _inverse(state.curvature),
        "amplitude": amplitudes[:, 0] * window.scale,
        "light_amplitude": galaxy * window.scale,
        "sky": window.background + window.scale * explained.sky,
        "chi_square": chi2 / pixels.clamp(min=1),
        "light_chi_square": batch.chi_square_without_lens(lights[:, 1:], variance) - chi2,
        "log_bayes_factor": torch.full_like(chi2, torch.nan),
        "pixels": pixels,
        "steps": state.steps,
    }


def noise_columns(batch: Batch, noise: Variance, correlation: Correlation) -> dict[str, Tensor]:
    """The noise in the image's units, and what its correlation and scale were measured to be: fields of `Fit`."""
    scale, has_map = batch.window.scale, not isinstance(batch.noise, MeasuredNoise)
    return {
        "noise": torch.stack((noise.v0, noise.k), 1) * torch.stack((scale.square(), scale), 1),
        "noise_width": correlation.width,
        "noise_correlation": correlation.lag,
        "noise_scale": correlation.scale if has_map else torch.ones_like(correlation.scale),
    }


def noise_uncertainty(batch: Batch, correlation: Correlation) -> Tensor:
    """(B, 2, 2) covariance of the noise's level and width; a level that was given has none."""
    covariance = correlation.covariance.clone()
    if not isinstance(batch.noise, MeasuredNoise):
        covariance[:, 0], covariance[:, :, 0] = 0.0, 0.0
    return covariance


def _tested(
    batch: Batch, q: Tensor, explained: Explained, variance: Tensor, arrays: dict[str, Tensor], tests: bool
) -> dict[str, Tensor]:
    """The residual's significance, and the covariance where the noise is correlated."""
    width, covariance = arrays["noise_width"], arrays["covariance"].clone()
    levels = torch.full_like(width, torch.nan)
    if tests:
        columns = batch.fitted_columns(q, explained, variance)
        for value in width.unique().tolist():
            rows = (width == value).nonzero()[:, 0]
            arguments = arrays["residual"][rows], columns[rows], batch.window.good[rows]
            level = torch.as_tensor(significance(*arguments, value, arrays["of_noise"][rows]), device=q.device)
            levels[rows] = level.nan_to_num(0.0)  # no pixel counts: nothing is more than noise
            if value > 0:
                covariance[rows] = correlated_covariance(covariance[rows], columns[rows], value)
    return {"residual_significance": levels, "covariance": covariance}


def _pictures(batch: Batch, explained: Explained, variance: Tensor) -> dict[str, Tensor]:
    window, scale, deviation = batch.window, batch.window.scale[:, None, None], variance.double().sqrt()
    model = torch.where(window.constant[:, None, None], 0.0, window.data - explained.residual)
    pictures = {
        "residual": torch.where(window.good, explained.residual / deviation, 0.0),
        "image": window.background[:, None, None] + scale * model,
        "deviation": deviation * scale,
    }
    pictures = {name: value.clamp(-3e38, 3e38).float() for name, value in pictures.items()}
    none = deviation.new_zeros((len(deviation), 0, 0)).float()  # of a Sersic source
    return pictures | {"stiff_residual": none, "mask": ~window.good}


def _flags(batch: Batch, state: State, q: Tensor, arrays: dict[str, Tensor], lensed: Tensor) -> np.ndarray:
    """(B,) the first reason that holds for distrusting a fit, "" if none does."""
    free, window = list(batch.model.free), batch.window
    low, high = (torch.as_tensor(bound, device=q.device)[free] for bound in batch.model.bounds())
    checks = (
        (window.constant | (window.good.sum((1, 2)) < MIN_PIXELS), results.CONSTANT),
        (~lensed, results.NO_LENS),
        (~state.converged, results.NOT_CONVERGED),
        (((q[:, free] <= low) | (q[:, free] >= high)).any(1), results.AT_BOUND),
        (~arrays["covariance"].isfinite().all((1, 2)), results.UNDETERMINED),
        (arrays["chi_square"] > POOR, results.POOR),
    )
    flag = np.full(len(q), "", dtype=results.FLAG_TYPE)
    for failed, reason in reversed(checks):
        flag[failed.cpu().numpy()] = reason
    return flag


def _inverse(curvature: Tensor) -> Tensor:
    """(B, P, P) inverses of curvatures; infinite variances where there is none."""
    scale = curvature.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
    inverse, info = torch.linalg.inv_ex(curvature * scale[:, :, None] * scale[:, None])
    inverse = inverse * scale[:, :, None] * scale[:, None]
    good = (info == 0) & inverse.isfinite().all((1, 2)) & (inverse.diagonal(dim1=1, dim2=2) > 0).all(1)
    nothing = torch.diag_embed(torch.full_like(scale, torch.inf))
    return torch.where(good[:, None, None], inverse, nothing)
