"""The posterior of one quantity of many lenses, in bins that the prior fills evenly, and what is read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class Posterior:
    """p(quantity | image) of n lenses.

    label: the quantity, with its unit. edges: (M + 1,) ascending: quantiles of the prior, the distribution of the
    quantity in the training images, so that the prior of each of the M bins is 1/M. probabilities: (n, M) of the bins.
    Within a bin the density is even.
    """

    label: str
    edges: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, rows: slice | np.ndarray) -> Posterior:
        return Posterior(self.label, self.edges, self.probabilities[rows])

    @property
    def cumulative(self) -> np.ndarray:
        """(n, M + 1) probability below each edge, from 0 to 1."""
        below = np.cumsum(self.probabilities, axis=1)
        return np.concatenate([np.zeros((len(self), 1)), below / below[:, -1:]], axis=1)

    def quantile(self, level: float) -> np.ndarray:
        """(n,) the value below which the quantity lies with this probability. Raises ValueError."""
        check_level(level)
        return np.array([np.interp(level, row, self.edges) for row in self.cumulative])

    def below(self, value: float | np.ndarray) -> np.ndarray:
        """(n,) probability that the quantity is less than `value`, one for all lenses or (n,).

        Where bins have no width, because the prior repeats a value, half of what lies at the value counts. Raises
        ValueError for NaN.
        """
        return self._between(value, 0.5)

    def ranks(self, truth: np.ndarray) -> np.ndarray:
        """(n,) of the truths in their posteriors, even from 0 to 1 if those are right.

        As `below`, but of what lies at a value that the prior repeats a share counts that is itself even from 0 to 1.
        """
        return self._between(truth, _share(len(self)))

    def _between(self, value: float | np.ndarray, share: float | np.ndarray) -> np.ndarray:
        values = np.broadcast_to(np.asarray(value, dtype=float), len(self))
        if np.isnan(values).any():
            raise ValueError(f"expected numbers to compare the {self.label} with, found NaN")
        less, not_more = self._below(values, "left"), self._below(values, "right")
        return less + share * (not_more - less)

    def _below(self, values: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        """The distribution function, its limit from that side where it jumps."""
        rows, last = np.arange(len(self)), len(self.edges) - 1
        k = np.clip(np.searchsorted(self.edges, values, side=side) - 1, 0, last - 1)
        width = self.edges[k + 1] - self.edges[k]
        inside = np.clip((values - self.edges[k]) / np.where(width > 0, width, 1), 0, 1)
        cumulative = self.cumulative
        return cumulative[rows, k] + inside * (cumulative[rows, k + 1] - cumulative[rows, k])

    def above(self, value: float | np.ndarray) -> np.ndarray:
        """(n,) probability that the quantity is more than `value`."""
        return 1 - self.below(value)

    def width(self, level: float = 0.68) -> np.ndarray:
        """(n,) width of the central interval of this probability, in the quantity's unit. Raises ValueError."""
        check_level(level)
        return self.quantile(0.5 + level / 2) - self.quantile(0.5 - level / 2)

    def prior(self) -> Posterior:
        """The prior, as one posterior more (1, M)."""
        return Posterior(self.label, self.edges, np.full((1, self.probabilities.shape[1]), 1.0))

    def bin_of(self, values: np.ndarray) -> np.ndarray:
        """(n,) int: the bin of each value (`bins_of`)."""
        return bins_of(self.edges, values)


def check_level(level: float | np.ndarray) -> None:
    """Raise ValueError unless these are probabilities."""
    levels = np.asarray(level, dtype=float)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(
            f"expected a probability from 0 to 1, found {levels[~((levels >= 0) & (levels <= 1))].flat[0]:g}"
        )


def bins_of(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) int: the bin of each value between edges (M + 1,); those beyond them are in the first or last bin.

    Where the prior repeats a value, several edges are the same: such values go to the bins at it in turns (`_share`).
    """
    first, end = np.searchsorted(edges, values, side="left"), np.searchsorted(edges, values, side="right")
    bins = np.where(end > first, first + (_share(len(first)) * (end - first)).astype(int), end - 1)
    return np.clip(bins, 0, len(edges) - 2)


def _share(count: int) -> np.ndarray:
    """(count,) numbers that fill 0 to 1 evenly, always the same: fractional parts of multiples of the golden ratio."""
    return np.arange(count) * ((np.sqrt(5) - 1) / 2) % 1
