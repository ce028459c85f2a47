"""How surely does a fit leave more than noise? A test without training: the residual's smoothed sum of squares.

The residual r (standard deviations) is smoothed by a Gaussian of 2.5 pixels, about what a subhalo's trace is wide, and
T is the sum of squares of the result, on every second pixel. Where there is nothing but noise n of correlation C, the
fit leaves r = P n, with P = 1 - Q Q^T and Q an orthonormal basis of the model's weighted derivatives, lights and sky
(all that the fit has adapted), and T is a weighted sum of chi-squares whose cumulants are

    kappa_k = 2^(k-1) (k-1)! tr(M^k),    M = G P C P G^T,    G the smoothing.

G and C are products of rows and columns, so M is a product of small matrices less one of low rank, and its traces are
exact. Its tail is that of the chi-square with the same three cumulants (Imhof 1961, Biometrika 48, 419, sec. 4;
Buckley & Eagleson 1988, Austral. J. Statist. 30A, 150). Nothing is learned from simulations.
"""

import math

import numpy as np
import torch
from torch import Tensor

SIGMA, STEP = 2.5, 2  # pixels: of the Gaussian, and from one sum to the next
REACH = 4.0  # standard deviations at which the Gaussian is cut
STRETCH = 0.02  # of a width, for a derivative by it
DEPENDENT = 1e-6  # of the largest eigenvalue: what float32 makes of columns that depend on each other


def smoothing(size: int, sigma: float = SIGMA, step: int = STEP) -> np.ndarray:
    """(m, size) a Gaussian of sum 1 about every `step`-th of `size` pixels, symmetric about the middle."""
    first = (size - 1) % step / 2
    places = np.arange(first, size, step)
    distance = (np.arange(size) - places[:, None]) / sigma
    rows = np.where(np.abs(distance) <= REACH, np.exp(-0.5 * distance**2), 0.0)
    return rows / (sigma * math.sqrt(2 * math.pi))


def correlation_matrix(size: int, width: float) -> np.ndarray:
    """(size, size) correlation of white noise that was smoothed by a Gaussian of `width` pixels, along one axis."""
    if width <= 0:
        return np.eye(size)
    reach = max(int(6 * width + 0.5), 1)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    lags = np.correlate(taps, taps, "full")[2 * reach :] / (taps**2).sum()  # from lag 0
    distance = np.abs(np.arange(size)[:, None] - np.arange(size))
    return np.where(distance < len(lags), lags[np.minimum(distance, len(lags) - 1)], 0.0)


def significance(
    residual: Tensor, columns: Tensor, good: Tensor, width: float = 0.0, covariance: Tensor | None = None
) -> np.ndarray:
    """(B,) by how many standard deviations the residuals exceed noise: normal quantiles of p-values.

    residual: (B, S, S) in standard deviations, 0 where not good. columns: (B, p, S, S) all that was fitted: lights,
    their derivatives by the free parameters, sky, over the standard deviations. good: (B, S, S) bool. width: pixels,
    of the Gaussian that the noise was smoothed by. covariance: (B, 2, 2) of the logarithm of the noise's variance and
    that width where they were measured, which moves T and its mean.
    """
    size = residual.shape[-1]
    g = torch.as_tensor(smoothing(size), device=residual.device)
    statistic = (g @ residual.double() @ g.T).square().sum((1, 2))
    mean, variance, third = _of_width(columns, good, g, width)
    if covariance is not None and width > 0:
        wider = _of_width(columns, good, g, width * (1 + STRETCH))[0]
        slopes = torch.stack((mean, (wider - mean) / (STRETCH * width)), 1)[:, None]  # (B, 1, 2) by both
        variance = variance + (slopes @ covariance @ slopes.mT)[:, 0, 0]
    return tail_sigma(statistic.cpu().numpy(), *(k.cpu().numpy() for k in (mean, variance, third)))


def _of_width(columns: Tensor, good: Tensor, g: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """`null_cumulants` of noise that was smoothed by a Gaussian of `width` pixels."""
    if width <= 0:
        return null_cumulants(columns, good, g, None)
    c = torch.as_tensor(correlation_matrix(columns.shape[-1], width), device=g.device)
    return null_cumulants(columns, good, g, c)


def null_cumulants(columns: Tensor, good: Tensor, g: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) each: mean, variance and third cumulant of T where there is nothing but noise; float64.

    g: (m, S) smoothing and c: (S, S) correlation, along one axis; None: white noise. Masked pixels count by their
    share of the mean.
    """
    m0 = g @ g.T if c is None else g @ c @ g.T
    power = [torch.linalg.matrix_power(m0, k).trace().square() for k in (1, 2, 3)]  # tr (m0 x m0)^k
    square = (g.square().sum(0)[:, None] * g.square().sum(0)).expand(good.shape)
    share = torch.where(good, square, 0.0).sum((1, 2)) / square.sum((1, 2))
    w, d = _low_rank(columns, g, c)
    smoothed = (m0 @ w @ m0).flatten(2)
    w = w.flatten(2)
    w0, w1, w2 = d @ (w @ w.mT), d @ (w @ smoothed.mT), d @ (smoothed @ smoothed.mT)
    first = share * power[0] - _trace(w0)
    second = share * power[1] - 2 * _trace(w1) + _trace(w0 @ w0)
    third = share * power[2] - 3 * _trace(w2) + 3 * _trace(w1 @ w0) - _trace(w0 @ w0 @ w0)
    return first, 2 * second, 8 * third


def _low_rank(columns: Tensor, g: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """w (B, r, m, m) and d (B, r, r), float64: M is m0 x m0 less w^T d w.

    With a = G Q and b = G C Q that is a b^T + b a^T - a (Q^T C Q) a^T; of white noise a a^T.
    """
    flat, to = columns.flatten(2), g.to(columns.dtype)
    whitening = _whitening((flat @ flat.mT).double())  # (B, p, p): Q is the columns times this
    a = _mixed(whitening, (to @ columns @ to.T).double())
    if c is None:
        return a, torch.eye(a.shape[1]).to(a).expand(len(a), -1, -1)
    tc = c.to(columns.dtype)
    correlated = tc @ columns @ tc
    b = _mixed(whitening, (to @ correlated @ to.T).double())
    s = whitening.mT @ (flat @ correlated.flatten(2).mT).double() @ whitening  # Q^T C Q
    identity, zero = torch.eye(a.shape[1]).to(s).expand_as(s), torch.zeros_like(s)
    d = torch.cat((torch.cat((-s, identity), 2), torch.cat((identity, zero), 2)), 1)
    return torch.cat((a, b), 1), d


def correlated_covariance(covariance: Tensor, columns: Tensor, width: float) -> Tensor:
    """Covariances (B, P, P) of fits that weighted pixels as if their noise were white, where it is not.

    columns: (B, p, S, S) as in `significance`, the derivatives by the P free parameters first. H^-1 B H^-1 with the
    curvature H of the parameters and that of correlated noise, B, the linear columns projected out of both (White 1982,
    Econometrica 50, 1), scaled to the given variances.
    """
    free = covariance.shape[1]
    c = torch.as_tensor(correlation_matrix(columns.shape[-1], width)).to(columns)
    flat, smooth = columns.flatten(2), (c @ columns @ c).flatten(2)
    white, correlated = (flat @ flat.mT).double(), (flat @ smooth.mT).double()
    whitening = _whitening(white[:, free:, free:])
    share = white[:, :free, free:] @ whitening @ whitening.mT  # of each linear column in a derivative
    out = torch.cat((torch.eye(free).to(share).expand(len(share), -1, -1), -share), 2)
    curvature, spread = out @ white @ out.mT, out @ correlated @ out.mT
    half = _whitening(curvature)
    inverse = half @ half.mT
    scale = (covariance.diagonal(dim1=1, dim2=2) / inverse.diagonal(dim1=1, dim2=2).clamp(min=1e-300)).sqrt()
    sandwich = scale[:, :, None] * (inverse @ spread @ inverse) * scale[:, None]
    return torch.where(sandwich.isfinite().all((1, 2), keepdim=True), sandwich, covariance)


def _mixed(whitening: Tensor, images: Tensor) -> Tensor:
    return (whitening.mT @ images.flatten(2)).unflatten(2, images.shape[2:])


def _whitening(gram: Tensor) -> Tensor:
    """(B, p, p) that makes columns of these products orthonormal; 0 for what the others give already."""
    scale = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale[:, :, None] * scale[:, None])
    independent = values > DEPENDENT * values[:, -1:]
    return scale[:, :, None] * vectors * torch.where(independent, values.clamp(min=1e-300).rsqrt(), 0.0)[:, None]


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=1, dim2=2).sum(1)


def tail_sigma(statistic: np.ndarray, mean: np.ndarray, variance: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Normal quantiles of the chance of a statistic at least as large, by the chi-square of these cumulants."""
    from scipy import special

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of images that are blank or all masked
        freedom = 8 * variance**3 / np.maximum(third, 1e-300) ** 2
        x = freedom + np.sqrt(2 * freedom) * (statistic - mean) / np.sqrt(variance)
        a, half = freedom / 2, np.maximum(x, 0) / 2
        logarithm = np.log(special.gammaincc(a, half))
        far = (a - 1) * np.log(half) - half - special.gammaln(a) - np.log1p((1 - a) / half)
    logarithm = np.where(np.isfinite(logarithm) & (logarithm > -600), logarithm, far)
    return -special.ndtri_exp(np.minimum(logarithm, 0.0))
