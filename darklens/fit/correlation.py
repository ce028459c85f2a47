"""Are neighbouring pixels' noise correlated? Measured in the residual of each image.

Drizzled and resampled images have noise that was smoothed. Two high-passes of the residual, one of the finest detail
and one of twice that, keep equal shares of white noise, and of noise that a Gaussian of `width` pixels has smoothed
shares whose ratio says the width. What a model leaves is smooth, through the PSF, and moves neither.
"""

import dataclasses
import functools
import math

import numpy as np
import torch
from torch import Tensor

from darklens.fit.noise import HIGH_PASS, OUTLIER, HighPass

WIDTHS = np.concatenate(([0.0], np.linspace(0.2, 1.2, 101)))  # pixels; below 0.2 nothing of a Gaussian is left to see
SURE = 5.0  # standard deviations of white noise: what is less is white
OTHER = 2.0  # standard deviations from an assumed width: what is less has that
MIN_PIXELS = 200


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Of the noise of B images."""

    width: Tensor  # (B,) pixels: of the Gaussian that smoothed it, as measured where that is sure, else as assumed
    lag: Tensor  # (B,) correlation of pixels side by side, as measured
    certainty: Tensor  # (B,) standard deviations from what was assumed, positive where it is smoother
    scale: Tensor  # (B,) the noise's standard deviation over that of the residuals' unit
    covariance: Tensor  # (B, 2, 2) of the logarithm of the noise's variance and the width; 0 where that is assumed

    @property
    def inflation(self) -> Tensor:
        """(B,) by how much a chi-square's variance exceeds that of white noise: the sum of squared correlations."""
        squares = [_squares(width) ** 2 for width in self.width.tolist()]
        return self.width.new_tensor(squares)


def measure_correlation(residual: Tensor, good: Tensor, assumed: float = 0.0) -> Correlation:
    """Of residuals (B, S, S) in standard deviations, where good (B, S, S) bool. assumed: pixels, a width."""
    (fine, _), (broad, pixels) = (_mean_square(HIGH_PASS[kind], residual, good) for kind in ("data", "residual"))
    number = good.sum((1, 2))
    ratio = torch.where(broad > 0, fine / broad.clamp(min=1e-300), 1.0).clamp(min=1e-6)
    expected = HIGH_PASS["data"].response(assumed) / HIGH_PASS["residual"].response(assumed)
    spread = math.sqrt(np.array([1, -1]) @ _spread() @ np.array([1, -1]))  # of the ratio's logarithm
    certainty = (math.log(expected) - ratio.log()) * number.sqrt() / spread
    shares = np.array([HIGH_PASS["data"].response(w) / HIGH_PASS["residual"].response(w) for w in WIDTHS])
    width = np.interp(-ratio.cpu().numpy(), -shares, WIDTHS)
    lag = np.interp(width, WIDTHS, [side_by_side(w) for w in WIDTHS])
    width, lag = (torch.as_tensor(each, device=residual.device) for each in (width, lag))
    measurable = number >= MIN_PIXELS
    other = measurable & ((certainty > SURE) if assumed <= 0 else (certainty.abs() > OTHER))
    width = torch.where(other, width, assumed)
    response = width.new_tensor([HIGH_PASS["residual"].response(w) for w in width.tolist()])
    scale = torch.where(measurable, (broad / response).sqrt(), 1.0)
    lag, certainty = (torch.where(measurable, each, 0.0) for each in (lag, certainty))
    covariance = torch.where(other[:, None, None], _covariance(width) / pixels[:, None, None], 0.0)
    return Correlation(width, lag, certainty, scale, covariance)


def _covariance(width: Tensor) -> Tensor:
    """(B, 2, 2) of the logarithm of the noise's variance and the width (B,) as measured, times the number of pixels."""
    widths, table = _covariances()
    columns = [np.interp(width.cpu().numpy(), widths, column) for column in table.reshape(-1, 4).T]
    return width.new_tensor(np.stack(columns, 1).reshape(-1, 2, 2))


def _gaussian(width: float) -> np.ndarray:
    """(17,) what smoothed the noise, not normalised; width: pixels."""
    return np.exp(-0.5 * (np.arange(-8, 9) / width) ** 2)


def _squares(width: float) -> float:
    """The sum of squared correlations along one axis."""
    if width <= 0:
        return 1.0
    taps = _gaussian(width)
    return float(np.square(np.correlate(taps, taps, "full") / (taps**2).sum()).sum())


def side_by_side(width: float) -> float:
    """The correlation of neighbours in noise that was smoothed by a Gaussian of `width` pixels."""
    if width <= 0:
        return 0.0
    taps = _gaussian(width)
    return float((taps[1:] * taps[:-1]).sum() / (taps**2).sum())


def smoothing_width(lag: float) -> float:
    """The inverse: pixels, 0 where nothing is seen."""
    lags = [side_by_side(width) for width in WIDTHS]
    return float(np.interp(lag, lags, WIDTHS)) if lag > lags[1] else 0.0


def smoothed_deviation(taps: np.ndarray, width: float) -> float:
    """The standard deviation of such noise after smoothing by taps x taps, over that of white noise."""
    if width <= 0:
        return 1.0
    noise = _gaussian(width)
    both = np.convolve(taps, noise)
    return float((both @ both) / ((taps @ taps) * (noise @ noise)))


def _mean_square(high: HighPass, residual: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) mean square of a high-pass where all its pixels are good, float64, outliers left out; and of how many."""
    residual = torch.where(good, residual, 0.0).double()
    square = high.filter(residual).square_()
    complete = high.average(good.double()) > 1 - 1e-6
    typical = torch.where(complete, square, torch.nan).flatten(1).nanmedian(1).values / 0.455  # of a chi-square
    inside = complete & (square < OUTLIER**2 * typical[:, None, None])
    count = inside.sum((1, 2)).clamp(min=1)
    return torch.where(inside, square, 0.0).sum((1, 2)) / count, count


@functools.cache
def _covariances() -> tuple[np.ndarray, np.ndarray]:
    """Widths (W,), and the covariance (W, 2, 2) of ln level and the width as measured, times the number of pixels."""
    widths = WIDTHS[1::5]
    fine, broad = (np.log([HIGH_PASS[kind].response(w) for w in widths]) for kind in ("data", "residual"))
    by_ratio, falls = 1 / np.gradient(fine - broad, widths), np.gradient(broad, widths)  # dw / dln ratio, dln / dw
    both = falls * by_ratio
    change = np.array([[-both, 1 + both], [by_ratio, -by_ratio]]).transpose(2, 0, 1)  # of level, width by both squares
    return widths, change @ np.array([_spread(w) for w in widths]) @ change.transpose(0, 2, 1)


@functools.cache
def _spread(width: float = 0.0) -> np.ndarray:
    """(2, 2) covariance of the logarithms of both mean squares, fine and broad, times the number of pixels."""
    from scipy import signal

    noise = np.ones((1, 1)) if width <= 0 else np.outer(_gaussian(width), _gaussian(width))
    kernels = [signal.convolve2d(_kernel(HIGH_PASS[kind]), noise) for kind in ("data", "residual")]
    kernels = [kernel / np.sqrt(np.square(kernel).sum()) for kernel in kernels]
    overlaps = [[signal.fftconvolve(one, other[::-1, ::-1]) for one in kernels] for other in kernels]
    return np.array([[2 * np.square(overlap).sum() for overlap in row] for row in overlaps])


def _kernel(high: HighPass) -> np.ndarray:
    kernel = high.sign * np.outer(high.taps, high.taps)
    kernel[len(kernel) // 2, len(kernel) // 2] += high.centre
    return kernel


def variance_ratio(columns: np.ndarray, lag: float) -> float:
    """x^T C x over x^T x, summed over the columns x (K, S, S): how much more it moves their amplitudes than white
    noise does. lag: correlation of neighbours; of pixels (i, j) apart lag^(i^2 + j^2), as where a Gaussian smoothed it.
    """
    distance = np.arange(columns.shape[-1])
    row = lag ** np.square(distance, dtype=float)
    c = row[np.abs(distance[:, None] - distance)]
    return float((columns * (c @ columns @ c)).sum() / max(np.square(columns).sum(), 1e-300))
