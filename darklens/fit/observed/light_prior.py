"""How far may the lens galaxy's light change beside a flexible source? Columns with priors, instead of a held image.

The galaxy's amplitudes c (K,) have a Gaussian prior about the fitted ones a, of deviations d: a tenth of the light that
a column's own place has. Pixels that do not see the source, y with columns X over their sigma, say more:

    P = D (X X^T + R) D + 1,     P z = D [X (y - X^T a) - R a],     D = diag d,   c = a + D z

with R the harmonics' ridge (their mean is 0). The eigenvectors V of P give columns that are independent under what is
known so far: V^T D X, with its eigenvalues as precisions, about the light of a + D z.
"""

import dataclasses

import numpy as np

from darklens.fit.observed.light import HARMONIC_PRIOR, LightModel

SHARE = HARMONIC_PRIOR  # of the light where a column shines: the deviation of its amplitude
SKY = 1.0  # standard deviations of the noise: of the sky's


@dataclasses.dataclass(frozen=True)
class LightPrior:
    """The light as it is known from outside of the arcs."""

    image: np.ndarray  # (n, n) the best
    columns: np.ndarray  # (K, n, n) its changes
    precision: np.ndarray  # (K,) of their amplitudes' priors, of mean 0: 1 or more


def deviations(light: LightModel, sigma: float) -> np.ndarray:
    """(K,) of the amplitudes; sigma: the sky's noise, in the image's unit."""
    flat = light.columns.reshape(len(light.columns), -1)
    galaxy = light.galaxy.clip(min=0).ravel()
    share = np.abs(flat) @ galaxy / np.square(flat).sum(1).clip(min=1e-300)
    return np.append(SHARE * share[:-1].clip(min=1e-12 * share.max()), SKY * sigma)


def light_prior(light: LightModel, amplitudes: np.ndarray, data: np.ndarray, weight: np.ndarray) -> LightPrior:
    """From amplitudes (K,) as fitted, and an image (n, n) of weights (n, n), 1 / sigma, 0 where the source is."""
    outside = weight > 0
    flat = light.columns[:, outside] * weight[outside]  # (K, N)
    scale = deviations(light, float(1 / np.median(weight[outside])) if outside.any() else 1.0)
    rest = (data * weight)[outside] - amplitudes @ flat
    normal = flat @ flat.T + np.diag(light.ridge)
    matrix = normal * scale[:, None] * scale + np.eye(len(scale))
    step = np.linalg.solve(matrix, scale * (flat @ rest - light.ridge * amplitudes))
    values, vectors = np.linalg.eigh(matrix)
    columns = np.tensordot(vectors.T * scale, light.columns, 1)
    return LightPrior(np.tensordot(amplitudes + scale * step, light.columns, 1), columns, values)
