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
    wide, projected = columns.double(), whitened(lens, columns)
    ratio = noise_ratio(lens, columns, projected)
    return (products(wide) - projected.T @ projected) / ratio, wide @ lens.design.residual / ratio


def whitened(lens: FlexibleLens, columns: Tensor) -> Tensor:
    """(K, M) float64 L^-1 X x^T of further columns (M, N), over sigma, and the lens's last linear problem."""
    return lens.design.posterior.whiten((lens.design.columns @ columns.T).double())


def noise_ratio(lens: FlexibleLens, columns: Tensor, projected: Tensor | None = None) -> float:
    """Variance of the amplitudes of further columns (M, N), over sigma, over that in white noise; 1 at least.

    projected: what `whitened` gives for them, where it is at hand.
    """
    if lens.noise_width <= 0:
        return 1.0
    design, projected = lens.design, whitened(lens, columns) if projected is None else projected
    gains = design.posterior.inverse_factor.T @ projected  # (K, M)
    images = columns.new_zeros(len(columns), lens.weight.numel())
    images[:, design.pixels] = columns - gains.T.to(columns.dtype) @ design.columns
    return max(variance_ratio(images.unflatten(1, lens.weight.shape).numpy(), side_by_side(lens.noise_width)), 1.0)
