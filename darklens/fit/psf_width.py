"""Was the PSF wider, or narrower, than a fit with a flexible source took it to be? A score test.

A PSF that is convolved with a narrow Gaussian of variance v changes the image to first order by v / 2 times its
Laplacian, and a negative v makes it narrower; so given kernels are tested as Gaussians are. With the columns X of the
fit's last step, their priors' precisions p, and C = 1 + X^T diag(1 / p) X in units of the noise (`evidence`), the
column z, half of the Laplacian over sigma, has

    G = z^T C^-1 z,   b = z^T C^-1 y,   v = b / G,   gain = b^2 / G,

v the best variance and `gain` how far chi-square and priors would fall with it: Rao's score test (1948, Math. Proc.
Cambridge Phil. Soc. 44, 50), source, lens, amplitude, sky and light marginalised. Real substructure looks like a wrong
PSF, and a wrong PSF like substructure, in part. Twice ln B of further mass is what mass gains, so a lens is flagged
where the width alone gains a fair share of that.
"""

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from darklens.fit.flexible import FlexibleLens
from darklens.fit.noise_ratio import information_and_score

WIDER = "its PSF may be wider than assumed"
NARROWER = "its PSF may be narrower than assumed"
MIN_GAIN, MIN_SHARE = 50.0, 0.27  # that are flagged (docs/residual.md has how many lenses reach them)
STENCIL = ((0.0, 0.5, 0.0), (0.5, -2.0, 0.5), (0.0, 0.5, 0.0))  # half of the Laplacian, pixels


@dataclasses.dataclass(frozen=True)
class PsfTest:
    """Of one lens."""

    variance: float  # pixels^2: by how much the PSF's is larger than assumed, to first order
    gain: float  # of chi-square and priors, were it so

    def flag(self, log_bayes_factor: float) -> str:
        """WIDER or NARROWER, "" where the width explains too little. log_bayes_factor: of further mass."""
        if not self.gain > max(MIN_GAIN, MIN_SHARE * 2 * log_bayes_factor):
            return ""
        return WIDER if self.variance > 0 else NARROWER


def psf_test(lens: FlexibleLens) -> PsfTest:
    """The test at the last step of a lens (`FlexibleLens.run`). Raises ValueError before the first."""
    information, score = (float(each) for each in information_and_score(lens, _column(lens)[None]))
    return PsfTest(score / information, score**2 / information) if information > 0 else PsfTest(0.0, 0.0)


def _column(lens: FlexibleLens) -> Tensor:
    """(N,) half of the Laplacian of the source's image through the PSF, over sigma, at the pixels of the design."""
    design, light = lens.design, lens.source.light(*lens.rays())[0]
    plane = lens.renderer.grid.pixels(light[None])
    wide = F.pad(plane[:, None], (1, 1, 1, 1), mode="replicate")  # (1, h, h) -> (1, 1, h + 2, h + 2)
    change = lens.blur(F.conv2d(wide, plane.new_tensor(STENCIL)[None, None])[:, 0])[0]
    return change[design.pixels] * design.weight.to(change.dtype)
