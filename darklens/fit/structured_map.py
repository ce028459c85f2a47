"""Where would a subhalo be seen behind a source with structure, and where does the image ask for one?

    structured = fit_structured(images, lenses=True)
    maps = detect_structured(structured, masses=[1e9, 1e10])
    maps.expected                    # (B, M, G) delta chi-square of a subhalo of each mass at each place
    maps.observed                    # (B, M, G) how far the image favours it, in standard deviations

A mass at p changes the image by d = PSF * [S(rays bent by it) - S(rays)], S the source as it was fitted. Lens, source,
amplitude, sky and the lens galaxy's light have the priors of the fit's last step, so that the data's covariance is
C = 1 + X^T diag(1 / p) X in units of the noise (`evidence`), and

    expected = d^T C^-1 d,   observed = d^T C^-1 y / sqrt(expected),
    ln p(y | m, p) / p(y) = d^T C^-1 y - expected / 2.

In noise that something smoothed expected and ln p are less by the change's `noise_ratio`, the mean of places side by
side. In mass nothing is linearised, in source and lens all is. Where the source is flat, or can make up for the mass,
little is expected (Vegetti & Koopmans 2009, MNRAS 392, 945; Hezaveh et al. 2016, ApJ 823, 37).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.fit.detect import MASSES, TOTAL_MASS, DetectionMap, check_scan, grid
from darklens.fit.flexible import FlexibleLens
from darklens.fit.noise_ratio import noise_ratio, whitened
from darklens.fit.perturbers import PROFILES
from darklens.fit.run import plain_arithmetic
from darklens.fit.structured import StructuredFit

SPACING = 0.1  # of the finest lattice's: between the points at which the splines are tabulated
CHUNK = 8  # places at a time


@torch.no_grad()
def detect_structured(
    structured: StructuredFit,
    masses: Sequence[float] = MASSES,
    positions: np.ndarray | None = None,
    total_mass: float | np.ndarray = TOTAL_MASS,
    *,
    profile: str = "point",
) -> DetectionMap:
    """Expected and observed detection of one subhalo in each of B fits with a flexible source.

    Arguments and errors as of `detect`; ValueError too for fits without their lenses
    (`fit_structured(..., lenses=True)`).
    """
    if not structured.lenses:
        raise ValueError("these fits have no lenses: fit_structured(..., lenses=True) keeps them")
    fits = structured.fit
    positions = grid(fits.residual.shape[-1], fits.model.pixel_scale) if positions is None else positions
    weights, positions = np.atleast_1d(np.asarray(masses, dtype=float)), np.asarray(positions, dtype=float)
    total = np.broadcast_to(np.asarray(total_mass, dtype=float), len(fits))
    check_scan(weights, positions, total, profile)
    maps = np.zeros((2, len(fits), len(weights), len(positions)))
    radius = fits.parameters[:, fits.model.table.index["einstein_radius"]]
    with plain_arithmetic(torch.device("cpu")):
        for k, lens in enumerate(structured.lenses):
            if lens is not None:
                maps[:, k] = lens_map(lens, radius[k] ** 2 * weights / total[k], positions, profile)
    return DetectionMap(positions, weights, *maps)


def lens_map(lens: FlexibleLens, squares: np.ndarray, positions: np.ndarray, profile: str = "point") -> np.ndarray:
    """Expected and observed, (2, M, G), for squared Einstein radii (M,) arcsec^2 at places (G, 2) arcsec.

    lens: after `run(..., hold=True)`. profile: one of `perturbers.PROFILES`.
    """
    scan = _Scan(lens, profile)
    maps = np.zeros((2, len(squares), len(positions)))
    for row, square in enumerate(squares):
        parts = [torch.stack(scan.scores(change)) for change in scan.changes(float(square), positions)]
        maps[:, row] = torch.cat(parts, 1).numpy()
    return maps


class _Scan:
    """One lens, its source's splines tabulated: ten times as many points as nodes, linear between them."""

    def __init__(self, lens: FlexibleLens, profile: str) -> None:
        self.lens, self.design, self.bend = lens, lens.design, PROFILES[profile]
        self.u, self.v = lens.rays()
        lattices = lens.source.lattices
        self.reach = max((len(each.column) // 2 + 2) * each.spacing for each in lattices)
        self.table = self._tabulated(SPACING * min(each.spacing for each in lattices))
        self.base = self._light(self.u[None], self.v[None])

    def _tabulated(self, spacing: float) -> Tensor:
        """(1, 1, n, n) the splines' light, v by rows, u by columns."""
        count = 2 * round(self.reach / spacing) + 1
        steps = torch.linspace(-self.reach, self.reach, count, dtype=torch.float64)
        light = torch.zeros(count, count, dtype=torch.float64)
        for lattice in self.lens.source.lattices:
            light += lattice.on_grid(self.lens.source.coefficients, steps).T
        return light[None, None].to(self.u.dtype)

    def _light(self, u: Tensor, v: Tensor) -> Tensor:
        """(K, n) of rays that meet the source plane at u, v (K, n)."""
        source, places = self.lens.source, torch.stack((u, v), -1)[None] / self.reach  # (1, K, n, 2)
        structure = F.grid_sample(self.table, places, align_corners=True)[0, 0]
        return structure.add_(source.sersic(u.flatten(), v.flatten())[0].view_as(u), alpha=source.amplitude)

    def changes(self, square: float, positions: np.ndarray) -> Iterator[Tensor]:
        """d over sigma, (K, N), for a squared Einstein radius at the places (G, 2), K places at a time."""
        camera = self.lens.renderer.grid
        for part in torch.as_tensor(positions).to(self.u.dtype).split(CHUNK):
            x, y = part.T[:, None, :, None]  # (1, K, 1) each
            ax, ay = self.bend(camera.x[None], camera.y[None], x, y, torch.full_like(x, square))
            light = self._light(self.u - ax, self.v - ay) - self.base
            yield self.lens.blur(camera.pixels(light))[:, self.design.pixels] * self.design.weight.to(light.dtype)

    def scores(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """Expected and observed (K,) of changes (K, N)."""
        wide, projected = change.double(), whitened(self.lens, change)  # (K, N), (columns, K)
        ratio = noise_ratio(self.lens, change, projected)
        expected = (wide.square().sum(1) - projected.square().sum(0)).clamp(min=0) / ratio
        observed = wide @ self.design.residual / ratio / expected.clamp(min=1e-300).sqrt()
        return expected, torch.where(expected > 0, observed, 0.0)
