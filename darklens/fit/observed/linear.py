"""Amplitudes that fit best, some of them 0 or more: non-negative least squares on a Gram matrix.

Lawson & Hanson 1974, Solving Least Squares Problems, ch. 23; columns of any sign are eliminated first.
"""

import numpy as np
from scipy import linalg, optimize

RIDGE = 1e-9  # of the scaled diagonal


def amplitudes(gram: np.ndarray, projection: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the minimum of a^T gram a - 2 projection^T a with a >= 0 where `positive`; and (n,) which aren't held at 0.

    gram: (n, n) positive semidefinite; projection: (n,); positive: (n,) bool.
    """
    scale = np.sqrt(np.maximum(gram.diagonal(), 0))
    used = scale > 1e-12 * scale.max(initial=1e-300)
    inverse = np.where(used, 1 / np.where(used, scale, 1), 0.0)
    gram = gram * inverse[:, None] * inverse + np.diag(np.where(used, RIDGE, 1.0))
    projection = projection * inverse
    p, f = np.flatnonzero(positive), np.flatnonzero(~positive)
    solution, passive = np.zeros(len(projection)), used.copy()
    share = linalg.solve(gram[np.ix_(f, f)], gram[np.ix_(f, p)], assume_a="pos") if len(f) else np.zeros((0, len(p)))
    reduced = gram[np.ix_(p, p)] - gram[np.ix_(p, f)] @ share
    target = projection[p] - share.T @ projection[f]
    if len(p):
        upper = _cholesky(reduced)
        solution[p] = _nnls(upper, linalg.solve_triangular(upper, target, trans=1))
        passive[p] &= solution[p] > 0
    if len(f):
        solution[f] = linalg.solve(gram[np.ix_(f, f)], projection[f], assume_a="pos") - share @ solution[p]
    return solution * inverse, passive


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """Upper triangular, of a matrix that rounding may have made indefinite."""
    matrix = (matrix + matrix.T) / 2
    for ridge in (0.0, 1e-8, 1e-6, 1e-4):
        try:
            return linalg.cholesky(matrix + ridge * np.eye(len(matrix)))
        except linalg.LinAlgError:
            continue
    return np.diag(np.sqrt(np.maximum(matrix.diagonal(), 1e-4)))


def _nnls(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    try:
        return optimize.nnls(matrix, target, maxiter=10 * len(target))[0]
    except RuntimeError:  # it went round in circles: bounded least squares is slower and always ends
        return optimize.lsq_linear(matrix, target, bounds=(0, np.inf), method="bvls").x
