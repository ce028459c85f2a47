"""How surely does a fit with a flexible source leave more than noise? The test of significance.py behind splines.

The best coefficients leave r = (1 - X^T A^-1 X) y of data y, with the columns X and A = X X^T + p of evidence.py. Where
lens and prior are right, y is noise of correlation R and X^T c with c of variance 1 / p, so r has the covariance

    (1 - X^T A^-1 X) R (1 - X^T A^-1 X) + X^T A^-1 p A^-1 X,

which for white noise is 1 - X^T A^-1 X. T = |G r|^2 of the smoothed residual has the cumulants of significance.py with
M = G cov(r) G^T, here as a matrix: G takes every fourth pixel, which loses hardly anything of a Gaussian of 2.5.
"""

import numpy as np
import torch
from torch import Tensor

from darklens.fit.flexible import Design, FlexibleLens
from darklens.fit.significance import STRETCH, correlation_matrix, smoothing, tail_sigma

STEP = 4  # pixels from one sum to the next


def structured_significance(lens: FlexibleLens, covariance: Tensor) -> float:
    """By how many standard deviations a lens's residual exceeds noise: normal quantile of the p-value.

    covariance: (2, 2) of the logarithm of the noise's variance and of its width, where they were measured.
    """
    residual, width = lens.residual(), lens.noise_width
    g = torch.as_tensor(smoothing(residual.shape[-1], step=STEP))
    statistic = float((g @ residual @ g.T).square().sum())
    matrix = null_matrix(lens, g, width)
    mean, variance, third = (float(k) for k in _cumulants(matrix))
    if width > 0:
        wider = float(null_matrix(lens, g, width * (1 + STRETCH)).trace())
        slopes = torch.tensor([mean, (wider - mean) / (STRETCH * width)], dtype=torch.float64)
        variance += float(slopes @ covariance.double() @ slopes)
    return float(tail_sigma(*(np.array([value]) for value in (statistic, mean, variance, third)))[0])


def null_matrix(lens: FlexibleLens, g: Tensor, width: float) -> Tensor:
    """(m^2, m^2) float64 M: the covariance of the smoothed residual where there is nothing but noise.

    g: (m, S) smoothing along one axis.
    """
    good, posterior = lens.weight > 0, lens.design.posterior
    smoothed = _smoothed_columns(lens.design, good, g)  # (K, m^2)
    whitened = posterior.whiten(smoothed)
    if width <= 0:
        return _of_noise(good, g, None) - whitened.T @ whitened
    gains = posterior.inverse_factor.T @ whitened  # (K, m^2): A^-1 X G^T
    of_prior = gains.T @ (posterior.precision[:, None] * gains)
    correlation = torch.as_tensor(correlation_matrix(len(good), width))
    correlated = _correlated_columns(lens.design, good, correlation)  # (K, S, S): X R
    across = (g @ correlated.double() @ g.T).flatten(1).T @ gains  # G R X^T A^-1 X G^T
    columns = lens.design.columns
    inner = (columns @ correlated.flatten(1)[:, lens.design.pixels].T).double()  # X R X^T
    return _of_noise(good, g, correlation) - across - across.T + gains.T @ inner @ gains + of_prior


def _cumulants(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and third cumulant of T."""
    square = matrix @ matrix
    return matrix.trace(), 2 * square.trace(), 8 * (square * matrix.T).sum()


def _images(design: Design, good: Tensor) -> Tensor:
    """(K, S, S) the columns as images."""
    images = design.columns.new_zeros(len(design.columns), good.numel())
    images[:, design.pixels] = design.columns
    return images.unflatten(1, good.shape)


def _smoothed_columns(design: Design, good: Tensor, g: Tensor) -> Tensor:
    """(K, m^2) float64 X G^T."""
    to = g.to(design.columns.dtype)
    return (to @ _images(design, good) @ to.T).double().flatten(1)


def _correlated_columns(design: Design, good: Tensor, correlation: Tensor) -> Tensor:
    """(K, S, S) X R, at all good pixels."""
    to = correlation.to(design.columns.dtype)
    return (to @ _images(design, good) @ to) * good


def _of_noise(good: Tensor, g: Tensor, correlation: Tensor | None) -> Tensor:
    """(m^2, m^2) G R G^T over the good pixels: over all of them, less what the masked ones, n of them, have in it."""
    c = torch.eye(len(good)).to(g) if correlation is None else correlation
    y, x = (~good).nonzero(as_tuple=True)
    rows, spread = ((h[:, None, y] * h[None, :, x]).flatten(0, 1) for h in (g, g @ c))  # (m, m, n) -> (m^2, n)
    across = spread @ rows.T
    among = rows @ (c[y][:, y] * c[x][:, x]) @ rows.T
    return torch.kron(g @ c @ g.T, g @ c @ g.T) - across - across.T + among
