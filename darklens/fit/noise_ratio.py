"""How much larger noise that something smoothed is for smooth columns than its pixels say.

The amplitude of a column x has the variance x^T R x / (x^T x)^2 in noise of correlation R, 1 / x^T x in white noise.
What counts of columns beside others is what those cannot do: x - X^T A^-1 X x, with X and A of `evidence`.
"""

from torch import Tensor

from darklens.fit.correlation import side_by_side, variance_ratio
from darklens.fit.flexible import FlexibleLens, products


def information_and_score(lens: FlexibleLens, columns: Tensor) -> tuple[Tensor, Tensor]:
    """G (M, M) and b (M,) float64 of `evidence`, of the amplitudes of further columns (M, N), over sigma, all others of
    the lens's last linear problem marginalised; both are divided by `noise_ratio`."""
    design, wide = lens.design, columns.double()
    whitened = design.posterior.whiten((design.columns @ columns.T).double())
    ratio = noise_ratio(lens, columns, whitened)
    return (products(wide) - whitened.T @ whitened) / ratio, wide @ design.residual / ratio


def noise_ratio(lens: FlexibleLens, columns: Tensor, whitened: Tensor) -> float:
    """Variance of the amplitudes of further columns (M, N), over sigma, over that in white noise; 1 at least.

    whitened: (K, M) L^-1 X x^T of the lens's last linear problem, of N pixels.
    """
    if lens.noise_width <= 0:
        return 1.0
    design = lens.design
    gains = design.posterior.inverse_factor.T @ whitened  # (K, M)
    images = columns.new_zeros(len(columns), lens.weight.numel())
    images[:, design.pixels] = columns - gains.T.to(columns.dtype) @ design.columns
    return max(variance_ratio(images.unflatten(1, lens.weight.shape).numpy(), side_by_side(lens.noise_width)), 1.0)
