"""Where a fit with a structured source starts: a Sersic robustly, then coarse lattices on bins of pixels.

A Sersic that tried to explain clumps would drag the lens with it, so while it converges the noise is enlarged by half
of the signal, and the halo is round. With its centre free it may still settle on a wrong side of a ring; where coarse
lattices leave more than noise there, a start with the centre held is tried, too, and that goes on which leaves less.
"""

import dataclasses

import torch
from torch import Tensor

from darklens.fit import noise as noises
from darklens.fit import result as results
from darklens.fit.batch import Batch, prepare
from darklens.fit.fitted_lens import BINNING, fitted_lens
from darklens.fit.flexible import FlexibleLens
from darklens.fit.model import SmoothModel
from darklens.fit.result import Fit
from darklens.fit.run import Inputs, fit
from darklens.fit.spline_source import COARSE

SIGNAL_AS_NOISE = 0.5  # of the signal, added to the noise while the Sersic converges
COARSE_STEPS = 15  # at most, then: they cost little
EXCESS = 2.0  # standard deviations above noise, from where more is tried


@dataclasses.dataclass(frozen=True)
class Start:
    """A lens with coarse lattices, and by how many standard deviations its bins exceed noise."""

    lens: FlexibleLens
    excess: float


class Starts:
    """The starts of B images (B, H, W) with what is known of them."""

    def __init__(self, images: Tensor, model: SmoothModel, inputs: Inputs) -> None:
        self.images, self.model, self.mask = images, model, inputs.mask
        self.enlarged = _enlarged(images, model, inputs)

    def lenses(self, batch: Batch) -> tuple[Fit, list[FlexibleLens | None]]:
        """The Sersic fits, and the lenses that the images' own pixels have seen once, in which the noise is measured;
        None where there is none."""
        rounded = dataclasses.replace(self.model, source="sersic", free_halo=False)
        robust = self._fit(rounded)
        weight = torch.where(batch.window.good, batch.first_variance().pixels.double().rsqrt(), 0.0)
        starts = [coarse_start(batch, robust, k, weight[k]) for k in range(len(robust))]
        doubtful = [k for k, start in enumerate(starts) if start is not None and start.excess > EXCESS]
        if doubtful and rounded.free_centre:
            centred = self._fit(dataclasses.replace(rounded, free_centre=False))
            for k in doubtful:
                pair = [start for start in (starts[k], coarse_start(batch, centred, k, weight[k])) if start is not None]
                starts[k] = min(pair, key=lambda start: start.excess)
        free = self._fit(self.model, robust)
        return free, [None if start is None else _at_all_pixels(start.lens) for start in starts]

    def _fit(self, model: SmoothModel, start: Fit | None = None) -> Fit:
        """Under the enlarged noise."""
        parameters = None if start is None else start.parameters[:, list(model.free)]
        return fit(self.images, model, noise=self.enlarged, mask=self.mask, start=parameters, score_test=False)


def _enlarged(images: Tensor, model: SmoothModel, inputs: Inputs) -> Tensor:
    """(B, H, W) standard deviations: the noise, and a share of the signal."""
    whole = dataclasses.replace(model, window=images.shape[-1])
    batch = prepare(images, whole, noise=inputs.noise, mask=inputs.mask)
    signal = noises.smooth(batch.data, batch.window.good).clamp(min=0)
    variance = batch.first_variance().pixels + (SIGNAL_AS_NOISE * signal).square()
    return variance.double().sqrt() * batch.window.scale[:, None, None]


def coarse_start(batch: Batch, fits: Fit, row: int, weight: Tensor) -> Start | None:
    """Coarse lattices on bins, from where a Sersic fit is; None where there is none. weight: as of `fitted_lens`."""
    if fits.flag[row] in (results.CONSTANT, results.NO_LENS):
        return None
    lens = fitted_lens(batch, fits, row, weight)
    try:
        coarse = lens.coarser(BINNING)
        coarse.run(COARSE, hold=False, steps=COARSE_STEPS)
    except torch.linalg.LinAlgError:
        return None
    lens.q, lens.source, lens.sky = coarse.q, coarse.source, coarse.sky
    return Start(lens, coarse.excess)


def _at_all_pixels(lens: FlexibleLens) -> FlexibleLens | None:
    """The lens after a step at the image's own pixels; None where that cannot be solved."""
    try:
        lens.refine(COARSE)
        lens.step(adapt=True)
    except torch.linalg.LinAlgError:
        return None
    lens.forget()
    return lens
