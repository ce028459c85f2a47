"""How probable is an image under a linear model with Gaussian priors? Normal equations, evidence, Bayes factor.

Data y over their standard deviations, columns X (K, N), coefficients c of independent Gaussian priors of precision p
(K,): with F = X X^T, A = F + diag p and the best c = A^-1 X y, the evidence is (MacKay 1992, Neural Comput. 4, 415;
Suyu et al. 2006, MNRAS 371, 983, eq. 19)

    ln E = - |y - X^T c|^2 / 2 - sum p c^2 / 2 + sum ln p / 2 - ln |A| / 2 + constant.

Precisions of 0 are flat priors: such coefficients add a constant to ln E. More columns Z with precisions 1 change it by
the Bayes factor (Schur complement; Kass & Raftery 1995, J. Am. Stat. Assoc. 90, 773, on what it means)

    ln B = b^T (1 + G)^-1 b / 2 - ln |1 + G| / 2,   G = Z C^-1 Z^T,   b = Z C^-1 y,   C = 1 + X^T diag(1 / p) X.
"""

import dataclasses
import functools
import types

import numpy as np
import torch
from torch import Tensor

RIDGES = 0.0, 1e-7, 1e-6, 1e-5, 1e-4  # products of float32 columns are rounded to about 1e-6


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Coefficients of K columns: best values, and the factor of their covariance. All float64."""

    mean: Tensor  # (K,)
    factor: Tensor  # (K, K) lower Cholesky factor of scale A scale
    scale: Tensor  # (K,)
    precision: Tensor  # (K,) of the prior

    def mean_of(self, projections: Tensor) -> Tensor:
        """(K, B) best values for other data, by their X y (K, B)."""
        return torch.cholesky_solve(projections * self.scale[:, None], self.factor) * self.scale[:, None]

    @functools.cached_property
    def inverse_factor(self) -> Tensor:
        """(K, K) lower, L^-1 for A = L L^T: half of the work of A^-1, whose diagonal it gives."""
        inverse, _ = lapack().dtrtri(self.factor.numpy(), lower=1)
        return torch.from_numpy(inverse) * self.scale

    def variance(self) -> Tensor:
        """(K,) of the coefficients, given the data."""
        return self.inverse_factor.square().sum(0)

    def covariance_with(self, columns: slice | list[int]) -> Tensor:
        """(K, M) of all coefficients with some columns."""
        return self.inverse_factor.T @ self.inverse_factor[:, columns]

    def covariance_of(self, columns: slice | list[int]) -> Tensor:
        """(M, M) of some columns' coefficients."""
        some = self.inverse_factor[:, columns]
        return some.T @ some

    def mean_without(self, columns: slice) -> Tensor:
        """(K,) best values where those of some columns are 0."""
        covariance = self.covariance_with(columns)
        return self.mean - covariance @ torch.linalg.solve(covariance[columns], self.mean[columns])

    def whiten(self, products: Tensor) -> Tensor:
        """L^-1 products (K, M), with A = L L^T."""
        return self.inverse_factor @ products


def solve(gram: Tensor, projection: Tensor, precision: Tensor) -> Posterior:
    """The posterior for F (K, K), X y (K,) and the prior's precision (K,)."""
    diagonal = gram.diagonal() + precision
    scale = diagonal.clamp(min=1e-300).rsqrt()
    normal = (gram * scale[:, None]).mul_(scale)
    normal.diagonal().copy_(diagonal * scale.square())
    factor = _factor(normal)
    mean = torch.cholesky_solve((projection * scale)[:, None], factor)[:, 0] * scale
    return Posterior(mean, factor, scale, precision)


def _factor(matrix: Tensor) -> Tensor:
    """Cholesky factor of a matrix of diagonal 1, with the least of RIDGES that its rounding needs.

    Raises torch.linalg.LinAlgError where none is enough: the matrix is not that of normal equations.
    """
    for ridge in RIDGES:
        raised = matrix.clone()
        raised.diagonal().add_(ridge)
        factor, info = lapack().dpotrf(raised.numpy().T, lower=1, overwrite_a=True)
        if not info and np.isfinite(factor.diagonal()).all():
            return torch.from_numpy(factor)
    raise torch.linalg.LinAlgError("the normal equations are not positive definite")


def lapack() -> types.ModuleType:
    """SciPy's, by OpenBLAS: torch's takes two to three times as long on other processors than Intel's."""
    from scipy.linalg import lapack as module

    return module


def log_evidence(posterior: Posterior, chi2: Tensor) -> Tensor:
    """ln E without the noise's constant; chi2: |y - X^T c|^2 at the best coefficients."""
    p = posterior.precision
    prior = (p * posterior.mean.square()).sum() - p[p > 0].log().sum()
    log_det = 2 * (posterior.factor.diagonal().log().sum() - posterior.scale.log().sum())
    return -0.5 * (chi2 + prior + log_det)


def well_determined(posterior: Posterior) -> Tensor:
    """(K,) from 0 to 1: how far the data, not the prior, determine each coefficient (MacKay 1992, eq. 4.6)."""
    return (1 - posterior.variance() * posterior.precision).clamp(0, 1)


def bayes_factor(information: Tensor, score: Tensor, deviations: Tensor) -> Tensor:
    """ln B of columns with Gaussian priors of standard deviation s, the evidence averaged over the s of `deviations`.

    information: G (M, M), score: b (M,), both for columns of unit prior; deviations: (S,), log-spaced: the average is
    that of a log-uniform prior of s.
    """
    values, vectors = torch.linalg.eigh(information)
    values, squares = values.clamp(min=0), (vectors.T @ score).square()  # (M,) each
    s2 = deviations[:, None].square()
    log_b = 0.5 * (s2 * squares / (1 + s2 * values) - torch.log1p(s2 * values)).sum(1)  # (S,)
    return log_b.logsumexp(0) - torch.tensor(float(len(deviations))).log()
