"""From the fit of a Sersic source to a lens whose source may have structure."""

import torch
from torch import Tensor

from darklens.fit.batch import Batch
from darklens.fit.flexible import FlexibleLens
from darklens.fit.renderer import renderer
from darklens.fit.result import Fit
from darklens.fit.spline_source import STIFF, SplineSource

BINNING = 3  # pixels a bin, each way, where coarse lattices do


def fitted_lens(batch: Batch, fits: Fit, row: int, weight: Tensor) -> FlexibleLens:
    """The lens of a row of a batch where its fit has it, without splines, their prior stiff, on the CPU.

    weight: (S, S) float64, 1 / sigma, on the CPU too.
    """
    q = torch.as_tensor(fits.parameters[row : row + 1]).clone()
    amplitude = float(fits.amplitude[row] / batch.window.scale[row])
    source = SplineSource(batch.model.table.named(q), amplitude, largest_share=STIFF)
    further = torch.zeros(0, batch.data[row].numel())
    camera = renderer(batch.model, batch.data.shape[-1], 1, "cpu", batch.data.dtype)
    return FlexibleLens(camera, q, batch.window.data[row].cpu(), weight, source, further)
