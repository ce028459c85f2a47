"""Time of a flexible fit against a generic pixel-grid inversion of the same lens, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/pixel_grid.py                    # one lens with a clumpy source, 60 evaluations
    OMP_NUM_THREADS=1 python benchmarks/pixel_grid.py --evaluations 200

The reference does what is usual (Warren & Dye 2003, ApJ 590, 673; Suyu et al. 2006, MNRAS 371, 983): a grid of as many
source pixels as the flexible source has coefficients, bilinear between them, through the PSF, a gradient prior whose
strength maximises the evidence, and a simplex (Nelder & Mead 1965) over the lens's seven parameters from the same
start. It stops after so many evaluations, converged or not, and knows the noise; samplers take thousands. Prints
seconds of both and their ratio.
"""

import argparse
import time

import numpy as np
import structured_sources
from scipy import linalg, ndimage, optimize, sparse

from darklens.fit import SmoothModel, fit
from darklens.fit.structured import StructuredFit, fit_structured
from darklens.simulation.render import simulate

NAMES = "einstein_radius", "shear_1", "shear_2", "centre_x", "centre_y", "halo_1", "halo_2"
WINDOW, SCALE, SUPERSAMPLE = 105, 0.05, 2  # pixels; arcsec a pixel
SIDE, SPACING = 34, 0.06  # source pixels each way, as many as the flexible source's coefficients; arcsec
SIGMA = 1.7  # pixels, of the PSF


class PixelGrid:
    """The inversion of one image (WINDOW, WINDOW) with noise sigma."""

    def __init__(self, image: np.ndarray, sigma: np.ndarray, middle: tuple[float, float]) -> None:
        self.weight, self.middle = 1 / sigma.ravel(), middle
        self.data = image.ravel() * self.weight
        steps = (np.arange(WINDOW * SUPERSAMPLE) + 0.5) * (SCALE / SUPERSAMPLE) - WINDOW * SCALE / 2
        self.x, self.y = (each.ravel() for each in np.meshgrid(steps, -steps))
        rows, columns = (np.arange(WINDOW * SUPERSAMPLE) // SUPERSAMPLE for _ in range(2))
        self.pixel = (rows[:, None] * WINDOW + columns).ravel()
        slope = sparse.diags([1.0, -1.0], [0, 1], shape=(SIDE - 1, SIDE))
        both = sparse.kron(slope, sparse.eye(SIDE)), sparse.kron(sparse.eye(SIDE), slope)
        self.smoothness = sum((each.T @ each).toarray() for each in both) + 1e-6 * np.eye(SIDE**2)
        self.log_det = np.linalg.slogdet(self.smoothness)[1]

    def source_plane(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u, v of all rays, arcsec: an isothermal ellipsoid (Kormann, Schneider & Bartelmann 1994) and shear."""
        theta, g1, g2, cx, cy, h1, h2 = q
        ratio, angle = np.exp(-max(np.hypot(h1, h2), 1e-4)), np.arctan2(h2, h1) / 2
        x, y = self.x - cx, self.y - cy
        a, b = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        f = np.sqrt(1 - ratio**2)
        psi = np.sqrt(ratio**2 * a**2 + b**2) + 1e-9
        factor = theta * np.sqrt(ratio) / f
        ta, tb = factor * np.arctan(f * a / psi), factor * np.arctanh(f * b / psi)
        ax, ay = np.cos(angle) * ta - np.sin(angle) * tb, np.sin(angle) * ta + np.cos(angle) * tb
        return (1 - g1) * self.x - g2 * self.y - ax, (1 + g1) * self.y - g2 * self.x - ay

    def columns(self, q: np.ndarray) -> np.ndarray:
        """(SIDE^2 + 1, N) images of the source pixels, and the sky, over sigma."""
        u, v = (each - at for each, at in zip(self.source_plane(q), self.middle, strict=True))
        i, j = (each / SPACING + (SIDE - 1) / 2 for each in (u, v))
        inside = (i >= 0) & (i < SIDE - 1) & (j >= 0) & (j < SIDE - 1)
        i, j, pixel = i[inside], j[inside], self.pixel[inside]
        i0, j0 = np.floor(i).astype(int), np.floor(j).astype(int)
        corners = [((1 - i + i0, i0), (i - i0, i0 + 1)), ((1 - j + j0, j0), (j - j0, j0 + 1))]
        planes = sparse.coo_matrix((SIDE**2, WINDOW**2))
        for wi, ki in corners[0]:
            for wj, kj in corners[1]:
                planes = planes + sparse.coo_matrix((wi * wj, (ki * SIDE + kj, pixel)), shape=planes.shape)
        planes = planes.toarray().reshape(-1, WINDOW, WINDOW) / SUPERSAMPLE**2
        blurred = ndimage.gaussian_filter(planes, (0, SIGMA, SIGMA), truncate=5)
        return np.concatenate((blurred.reshape(SIDE**2, -1), np.ones((1, WINDOW**2)))) * self.weight

    def log_evidence(self, q: np.ndarray) -> float:
        """At the best strength of the prior (Suyu et al. 2006, eq. 19)."""
        columns = self.columns(q)
        gram, projection = columns @ columns.T, columns @ self.data
        result = optimize.minimize_scalar(
            lambda strength: -self._given_strength(gram, projection, 10**strength),
            bounds=(-8, 2),
            method="bounded",
            options={"xatol": 0.3},
        )
        return -result.fun

    def _given_strength(self, gram: np.ndarray, projection: np.ndarray, strength: float) -> float:
        normal = gram.copy()
        normal[:-1, :-1] += strength * self.smoothness
        factor = linalg.cholesky(normal, lower=True)
        mean = linalg.cho_solve((factor, True), projection)
        square = self.data @ self.data - projection @ mean
        log_det = 2 * np.log(factor.diagonal()).sum()
        return 0.5 * (SIDE**2 * np.log(strength) + self.log_det - log_det - square)


def middle(values: np.ndarray, size: int = WINDOW) -> np.ndarray:
    """The middle (size, size) of (n, n)."""
    edge = (len(values) - size) // 2
    return values[edge : edge + size, edge : edge + size].astype(float)


def time_flexible(images: np.ndarray) -> tuple[StructuredFit, float]:
    """The fits, and seconds of a core a lens."""
    fit_structured(images[:1])  # what is made once
    start = time.process_time()
    structured = fit_structured(images)
    return structured, (time.process_time() - start) / len(images)


def time_reference(reference: PixelGrid, q: np.ndarray, evaluations: int) -> tuple[optimize.OptimizeResult, float]:
    """A simplex from lens parameters q (7,), and its seconds."""
    start = time.process_time()
    simplex = q + np.concatenate((np.zeros((1, len(q))), 0.03 * np.eye(len(q))))
    options = {"maxfev": evaluations, "initial_simplex": simplex}
    result = optimize.minimize(lambda at: -reference.log_evidence(at), q, method="Nelder-Mead", options=options)
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=60, help="of the reference's evidence (60)")
    parser.add_argument("--lenses", type=int, default=8, help="whose flexible fits are timed (8)")
    args = parser.parse_args()
    config = structured_sources.recipe("clumpy", None)
    images = simulate(config, "no", range(args.lenses), structured_sources.SEED).astype(float)
    structured, seconds = time_flexible(images)
    print(f"flexible fit: {seconds:.2f} s of a core a lens, {len(images)} lenses", flush=True)
    index = structured.fit.model.table.index
    best = structured.fit.parameters[0]
    place = float(best[index["source_x"]]), float(best[index["source_y"]])
    reference = PixelGrid(middle(images[0]), middle(structured.fit.deviation[0]), place)
    smooth = fit(images[:1], SmoothModel(free_centre=True, free_halo=True)).parameters[0]
    columns = [index[name] for name in NAMES]
    result, total = time_reference(reference, smooth[columns], args.evaluations)
    state = "converged" if result.success else "not converged"
    rate = f"{total / result.nfev:.2f} s an evaluation, {total:.0f} s for {result.nfev}"
    print(f"pixel grid of {SIDE} x {SIDE}: {rate}, {state}")
    print(f"Einstein radius {result.x[0]:.4f}, of the flexible fit {best[columns[0]]:.4f}")
    print(
        f"ln E of the grid: {-result.fun:.0f}, at the flexible fit's lens {reference.log_evidence(best[columns]):.0f}"
    )
    print(f"ratio {total / seconds:.0f}")


if __name__ == "__main__":
    main()
