"""Is it the source, not the lens, that a fit does not describe? What splines explain of the residual, in one solve.

Structure of the source is seen in all images of it, and splines in the source plane explain most of it; subhalos and
vortices change some of the images, and splines explain half. The test is the first step of the flexible source's fit
(flexible.py) on bins of 3 x 3 pixels, from where the fit of a Sersic source has ended: with chi-square E above what
noise leaves before, and E' with the two coarse lattices, the share is 1 - E' / E.
"""

import numpy as np
import torch

from darklens.fit import result as results
from darklens.fit.batch import Batch
from darklens.fit.fitted_lens import BINNING, fitted_lens
from darklens.fit.result import Fit
from darklens.fit.spline_source import COARSE
from darklens.fit.window import binned

MISFIT = 1.35  # chi-square a pixel: more than noise and most substructure leave
LIMITS = (MISFIT, 0.8), (3.0, 0.67)  # chi-square a pixel, share: of the weaker residuals splines explain more anyway
MIN_WINDOW = 45  # pixels


def flag_structure(batch: Batch, fits: Fit) -> None:
    """Flag, in place, fits that leave more than noise, most of which a source with structure explains.

    Of flags that there are only "poor fit" gives way. Takes 0.05 s for each fit that leaves so much; lenses whose
    galaxy shines are left out.
    """
    if batch.model.free_light or fits.residual.shape[-1] < MIN_WINDOW:
        return
    for row in np.flatnonzero(np.isin(fits.flag, ["", results.POOR]) & (fits.chi_square > MISFIT)):
        share = structure_share(batch, fits, int(row))
        if any(fits.chi_square[row] > lowest and share > most for lowest, most in LIMITS):
            fits.flag[row] = results.STRUCTURED


def structure_share(batch: Batch, fits: Fit, row: int) -> float:
    """How much of a fit's chi-square above noise splines explain, 1 at most; 0 where their equations have no answer."""
    unit = float(batch.window.scale[row])
    deviation = torch.as_tensor(fits.deviation[row]).double().cpu() / unit
    weight = torch.where(batch.window.good[row].cpu(), deviation.reciprocal(), 0.0)
    bins = fitted_lens(batch, fits, row, weight).coarser(BINNING)
    misfit = torch.as_tensor(fits.residual[row]).double() * deviation
    before, _ = binned(misfit[None], (weight > 0)[None], BINNING)
    before = (before[0] * bins.weight).square().sum() - (bins.weight > 0).sum()
    bins.refine(COARSE)
    try:
        return float(1 - bins.held_problem(bins.source.precision(bins.source.node_brightness())).excess / before)
    except torch.linalg.LinAlgError:
        return 0.0
