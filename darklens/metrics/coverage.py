"""Do posteriors say how uncertain they are? Simulation-based calibration.

    ranks = posterior.ranks(truth)                  # (n,) where the truth lies in each posterior
    calibration(ranks)                              # even from 0 to 1 if the posteriors are right

References
  Talts et al. 2018, arXiv:1804.06788 (simulation-based calibration: the ranks of the truth are uniform)
  Cook, Gelman & Rubin 2006, J. Comput. Graph. Stat. 15:675 (the same for the posterior's quantiles)
"""

from __future__ import annotations

import numpy as np

from darklens.metrics.intervals import wilson
from darklens.metrics.posterior import Posterior

LEVELS = (0.5, 0.68, 0.9, 0.95)  # of the central intervals
BINS, PER_BIN = 20, 25  # of the rank histogram: bins at most, and images in each on average at least
SLICES = 3  # of equal count, of each quantity that the lenses are sliced by


def calibration(ranks: np.ndarray) -> dict:
    """How even ranks (n,) are, and how often the truth lies in the central intervals.

    Returns: images; histogram: counts in up to BINS bins; p_value: of Pearson's chi-square that they are even (Talts
    et al. 2018, section 4.1, for infinitely many draws of each posterior, as it is known exactly); coverage: level to
    the share of truths within the central interval, its 95% interval (Wilson), and the expected binomial deviation.
    """
    from scipy.stats import chisquare

    counts = np.histogram(ranks, int(np.clip(len(ranks) // PER_BIN, 2, BINS)), (0, 1))[0]
    inside = {f"{level:g}": int((abs(ranks - 0.5) <= level / 2).sum()) for level in LEVELS}
    coverage = {
        name: {
            "share": number / len(ranks),
            "interval": wilson([number], [len(ranks)])[0].tolist(),
            "deviation": float(np.sqrt(level * (1 - level) / len(ranks))),
        }
        for level, (name, number) in zip(LEVELS, inside.items(), strict=True)
    }
    p_value = float(chisquare(counts).pvalue)
    return {"images": len(ranks), "histogram": counts.tolist(), "p_value": p_value, "coverage": coverage}


def sharpness(posterior: Posterior, truth: np.ndarray) -> dict[str, float]:
    """What is learned of a lens: information (nats, mean of log posterior over prior at the truth), widths.

    relative_width: mean width of the 68% interval over that of the prior; width: the mean itself, in the unit.
    """
    at = posterior.probabilities[np.arange(len(truth)), posterior.bin_of(truth)] * posterior.probabilities.shape[1]
    width = float(posterior.width().mean())
    relative = width / max(float(posterior.prior().width()[0]), 1e-300)
    return {"information": float(np.log(np.maximum(at, 1e-300)).mean()), "width": width, "relative_width": relative}


def coverage_report(posterior: Posterior, truth: np.ndarray, slices: dict[str, np.ndarray]) -> dict:
    """Calibration of n posteriors, of all lenses and in thirds of observable quantities.

    truth: (n,). slices: name to values (n,) that are known without the truth: a calibrated posterior is right on
    average over any of them, but not at a given true value. The posterior's median is added to them.
    """
    ranks = posterior.ranks(truth)
    report = {"label": posterior.label, **calibration(ranks), **sharpness(posterior, truth), "slices": {}}
    for name, values in (slices | {"posterior median": posterior.quantile(0.5)}).items():
        parts = np.array_split(np.argsort(values, kind="stable"), SLICES)
        report["slices"][name] = [
            {"low": float(values[part].min()), "high": float(values[part].max()), **calibration(ranks[part])}
            for part in parts
            if len(part)
        ]
    return report


def table(report: dict) -> str:
    """A line for each quantity, for people."""
    lines = ["posterior: share of truths in its intervals; information; width over that of the prior"]
    for class_name, quantities in report.items():
        for name, one in quantities.items():
            shares = ", ".join(f"{100 * c['share']:.1f} of {100 * float(k):g}%" for k, c in one["coverage"].items())
            lines.append(
                f"  {f'{class_name} {name}':<28}{shares} (p {one['p_value']:.2g}); "
                f"{one['information']:.2f} nats; {one['relative_width']:.2f}"
            )
    return "\n".join(lines)
