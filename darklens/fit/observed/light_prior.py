"""How far may the lens galaxy's light change beside a flexible source? Columns with priors, instead of a held image.

The galaxy's amplitudes c (K,) have a Gaussian prior about the fitted ones a, of deviations d: a tenth of the light that
a column's own place has. Pixels that do not see the source, y with columns X over their sigma, say more:

    P = D (X X^T + R) D + 1,     P z = D [X (y - X^T a) - R a],     D = diag d,   c = a + D z

with R the harmonics' ridge (their mean is 0). The eigenvectors V of P give columns that are independent under what is
known so far: V^T D X, with its eigenvalues as precisions, about the light of a + D z. Among the columns are moves: the
derivatives of the two sets of Gaussians by centre and ellipticity, which stand for cores that no such set has.
"""

import dataclasses

import numpy as np

from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.light import HARMONIC_PRIOR, NUMBER, LightFit, LightModel, by_shape

SHARE = HARMONIC_PRIOR  # of the light where a column shines: the deviation of its amplitude
MOVES = 0.2, 0.05  # deviations: pixels of a set's centre, and its ellipticity
SKY = 1.0  # standard deviations of the noise: of the sky's


@dataclasses.dataclass(frozen=True)
class LightPrior:
    """The light as it is known from outside of the arcs."""

    image: np.ndarray  # (n, n) the best
    columns: np.ndarray  # (K + M, n, n) its changes
    precision: np.ndarray  # (K + M,) of their amplitudes' priors, of mean 0: 1 or more


def deviations(light: LightModel, sigma: float) -> np.ndarray:
    """(K,) of the amplitudes; sigma: the sky's noise, in the image's unit."""
    flat = light.columns.reshape(len(light.columns), -1)
    galaxy = light.galaxy.clip(min=0).ravel()
    share = np.abs(flat) @ galaxy / np.square(flat).sum(1).clip(min=1e-300)
    return np.append(SHARE * share[:-1].clip(min=1e-12 * share.max()), SKY * sigma)


def moves(light: LightModel, amplitudes: np.ndarray, cutout: Cutout) -> np.ndarray:
    """(8, n, n) what one deviation of its centre and ellipticity changes of each set's light."""
    sets = len(light.shape.ellipticity)
    _, sharp = LightFit(cutout, sets, NUMBER).columns(light.shape)
    deviation = np.array([MOVES[0] * cutout.pixel_scale] * 2 + [MOVES[1]] * 2)
    return np.concatenate([deviation[:, None, None] * each for each in by_shape(sharp, amplitudes, NUMBER)])


def light_prior(
    light: LightModel, amplitudes: np.ndarray, moved: np.ndarray, data: np.ndarray, weight: np.ndarray
) -> LightPrior:
    """From amplitudes (K,) as fitted, `moves` (M, n, n), and an image (n, n) of weights (n, n), 1 / sigma, 0 where the
    source is."""
    outside = weight > 0
    columns = np.concatenate((light.columns, moved))  # (K + M, n, n)
    scale = deviations(light, float(1 / np.median(weight[outside])) if outside.any() else 1.0)
    scale, ridge, amplitudes = (
        np.append(each, np.full(len(moved), fill))
        for each, fill in ((scale, 1.0), (light.ridge, 0.0), (amplitudes, 0.0))
    )
    flat = columns[:, outside] * weight[outside]  # (K + M, N)
    rest = (data * weight)[outside] - amplitudes @ flat
    matrix = (flat @ flat.T + np.diag(ridge)) * scale[:, None] * scale + np.eye(len(scale))
    step = np.linalg.solve(matrix, scale * (flat @ rest - ridge * amplitudes))
    values, vectors = np.linalg.eigh(matrix)
    independent = np.tensordot(vectors.T * scale, columns, 1)
    return LightPrior(np.tensordot(amplitudes + scale * step, columns, 1), independent, values)
