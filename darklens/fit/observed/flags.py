"""What speaks against a fit of a telescope image, in words; and what a reader of the table should know."""

import numpy as np

from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.joint import JointFit
from darklens.fit.observed.noise_check import SkyNoise
from darklens.fit.observed.parameters import NAMES, PARAMETERS, bounds
from darklens.fit.observed.result import ObservedFit

MIN_PIXELS = 400  # that count
BROAD = 0.55  # arcsec: a source that large has taken over light of the lens galaxy
CLOSE = 25.0  # of penalised chi-square: a start that ends so near the best is a rival
POOR = 10.0  # of chi-square a pixel round the arcs
UNCERTAIN = 0.1  # of the Einstein radius: its standard deviation
FAINT = 10.0  # signal-to-noise of all arcs: less is no lens, or none that could be told from the galaxy
NOT_SOLVED = "source_not_solved"  # the word for a flexible source whose equations have no solution: the Gaussians stay
APART = 0.05  # of the Einstein radius: the two sources' fits, or a rival's


def usable(cutout: Cutout) -> bool:
    """Whether there is anything to fit."""
    good = cutout.good
    return bool(good.sum() >= MIN_PIXELS and np.ptp(cutout.data[good]) > 0)


def empty(cutout: Cutout) -> ObservedFit:
    """What is said of an image with nothing to fit."""
    nothing, blank = np.full(len(PARAMETERS), np.nan), np.zeros(cutout.data.shape)
    reason = "nothing to fit: constant, or fewer than 400 good pixels"
    source = np.zeros((1, 1))
    noise = SkyNoise(1.0, 0.0, 0)
    return ObservedFit(nothing, nothing, np.nan, noise, "no_fit", reason, cutout, blank, blank, source, 0.0)


def rivals(best: JointFit, fits: list[JointFit]) -> list[JointFit]:
    """Those of the fits of one problem, under one temperature, that are nearly as good as the best of them."""
    return [fit for fit in fits if fit is not best and fit.penalised - best.penalised < CLOSE]


def words(
    fit: JointFit, final: JointFit, rivals: list[JointFit], *, chi_square: float, uncertainty: float, signal: float
) -> str:
    """The flag: words for what speaks against the Einstein radius.

    rivals: as of `rivals`. chi_square: a pixel round the arcs. uncertainty: of the Einstein radius, relative.
    signal: to noise, of the arcs.
    """
    flag = ["poor_fit"] * (chi_square > POOR) + ["uncertain"] * (uncertainty > UNCERTAIN)
    flag += ["no_arcs"] * (signal < FAINT)
    if np.exp(fit.q[NAMES.index("log_radius")]) > BROAD:
        flag.append("broad_source")
    if abs(final.q[0] / fit.q[0] - 1) > APART:
        flag.append("source_models_disagree")
    if any(abs(rival.q[0] / fit.q[0] - 1) > APART for rival in rivals):
        flag.append("rival_fit")
    low, high = bounds()
    at_bound = (final.q <= low) | (final.q >= high)
    if at_bound[:7].any():
        flag.append("at_bound")
    return " ".join(flag)


def revised(flag: str, chi_square: float, ratio: float) -> str:
    """The flag after another source; chi_square: a pixel round the arcs; ratio: of the Einstein radius to the first."""
    words = [word for word in flag.split() if word != "poor_fit"]
    if chi_square > POOR:
        words.append("poor_fit")
    if abs(ratio - 1) > APART and "source_models_disagree" not in words:
        words.append("source_models_disagree")
    return " ".join(words)


def note(noise: SkyNoise, masked_objects: int) -> str:
    """What was done to the image."""
    parts = []
    if masked_objects:
        parts.append(f"{masked_objects} other object{'s' * (masked_objects > 1)} masked")
    if not 0.8 < noise.scale < 1.25:
        parts.append(f"noise map times {noise.scale:.2f}")
    return "; ".join(parts)
