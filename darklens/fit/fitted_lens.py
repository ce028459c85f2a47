"""From the fit of a Sersic source to a lens whose source may have structure."""

import torch
from torch import Tensor

from darklens.fit.batch import Batch
from darklens.fit.flexible import FlexibleLens
from darklens.fit.result import Fit
from darklens.fit.spline_source import SplineSource


def fitted_lens(batch: Batch, fits: Fit, row: int, weight: Tensor) -> FlexibleLens:
    """The lens of a row of a batch where its fit has it, without splines; weight: (S, S) float64, 1 / sigma."""
    q = torch.as_tensor(fits.parameters[row : row + 1]).clone()
    source = SplineSource(batch.model.table.named(q), float(fits.amplitude[row] / batch.window.scale[row]))
    further = torch.zeros(0, batch.data[row].numel())
    return FlexibleLens(batch.solver.renderer, q, batch.window.data[row], weight, source, further)
