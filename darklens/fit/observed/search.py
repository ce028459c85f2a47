"""Where the Einstein radius may be: for each of a range of radii, the best source of positive Gaussians on a grid.

What a lens of the wrong radius can't explain by any positive source stays in chi-square; its minima along the radius
are where fits start (the adaptive, positive source stands for one that isn't known yet: Warren & Dye 2003, ApJ 590,
673). The image is binned; the galaxy's columns stay free beside the source.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.light import LightModel
from darklens.fit.observed.linear import amplitudes
from darklens.fit.observed.parameters import PARAMETERS
from darklens.fit.observed.rays import Rays, SourceGrid

BIN = 0.15  # arcsec a bin at most
MIN_BINS = 15  # on a side
RADII = 19  # log-spaced
REACH, STEP, WIDTH = 0.72, 0.12, 0.75  # of the grid, in Einstein radii, and its Gaussians in steps
APART = 0.07  # of ln Einstein radius, between starts
STARTS = 4


@dataclasses.dataclass
class Search:
    """What a search result: chi-square along the radius, and starts in order of it."""

    radii: np.ndarray  # (R,)
    chi2: np.ndarray  # (H, R) for each halo tried
    starts: list[np.ndarray]  # (P,) parameters each
    heights: list[float]  # their chi-square


def _bins(values: np.ndarray, weight: np.ndarray, b: int) -> np.ndarray:
    """(K, n, n) times weight, summed over bins b x b about the middle: (K, k, k)."""
    n = values.shape[-1]
    k = n // b - (n - n // b * b) % 2
    cut = (n - k * b) // 2
    part = slice(cut, cut + k * b)
    product = (values * weight)[:, part, part]
    return product.reshape(len(values), k, b, k, b).sum((2, 4))  # (K, k b, k b) -> (K, k, b, k, b) -> (K, k, k)


def range_of_radii(cutout: Cutout) -> np.ndarray:
    """(R,) arcsec: from what the PSF and the pixels resolve to what fits into the window."""
    least = max(0.3, 3 * cutout.psf.width * cutout.pixel_scale, 4 * cutout.pixel_scale)
    return np.geomspace(least, max(0.63 * cutout.half, 1.3 * least), RADII + 4)


def search(cutout: Cutout, light: LightModel, sigma: np.ndarray, halo: np.ndarray) -> Search:
    """Starts for a lens whose galaxy is `light`; sigma: (n, n); halo: (2,) the light's ellipticity."""
    b = max(1, min(int(BIN / cutout.pixel_scale + 1e-6), cutout.size // MIN_BINS))
    weight = np.where(cutout.good, sigma**-2.0, 0.0)
    total = _bins(np.ones((1, *weight.shape)), weight, b)[0]
    root = np.sqrt(total).ravel()
    mean = np.where(total > 0, 1 / np.where(total > 0, total, 1), 0.0)
    columns = _bins(light.columns, weight, b) * mean
    data = (_bins(cutout.data[None], weight, b)[0] * mean).ravel() * root
    lights = columns.reshape(len(columns), -1) * root
    k = total.shape[0]
    binned = Cutout(total, total, total > 0, cutout.psf, cutout.pixel_scale * b)
    rays = Rays(binned, binned.half, 2)
    grid = SourceGrid(REACH, STEP, STEP * WIDTH)
    gram_light, projection_light = lights @ lights.T + np.diag(light.ridge), lights @ data
    positive = np.concatenate((light.positive, np.ones(len(grid.places), bool)))
    radii = range_of_radii(cutout)
    chi2, sources = np.zeros((2, len(radii))), {}
    for h, shape in enumerate((np.zeros(2), halo)):
        q = _start(1.0, shape, light.shape.centre)
        (u, v), _, (ax, ay), (dx, dy) = rays.source_plane(q)
        for r, radius in enumerate(radii):
            planes = grid.columns((dx / radius - ax), (dy / radius - ay))
            flat = rays.pixels(planes).reshape(len(planes), k * k) * root
            cross = flat @ lights.T
            gram = np.block([[gram_light, cross.T], [cross, flat @ flat.T]])
            projection = np.concatenate((projection_light, flat @ data))
            linear, _ = amplitudes(gram, projection, positive)
            chi2[h, r] = data @ data - 2 * projection @ linear + linear @ gram @ linear
            sources[h, r] = linear[len(lights) :]
    return _starts(radii, chi2, sources, grid, halo, light.shape.centre)


def _start(radius: float, halo: np.ndarray, centre: np.ndarray) -> np.ndarray:
    q = np.zeros(len(PARAMETERS))
    q[0], q[3:5], q[5:7], q[9], q[12] = radius, halo, centre, math.log(0.12), math.log(1.5)
    return q


def _starts(
    radii: np.ndarray,
    chi2: np.ndarray,
    sources: dict[tuple[int, int], np.ndarray],
    grid: SourceGrid,
    halo: np.ndarray,
    centre: np.ndarray,
) -> Search:
    best = chi2.min(0)
    order: list[int] = []
    for r in np.argsort(best):
        lower = best[max(r - 1, 0)] >= best[r] and best[min(r + 1, len(best) - 1)] >= best[r]
        if lower and all(abs(math.log(radii[r] / radii[s])) > APART for s in order):
            order.append(int(r))
    starts = []
    for r in order[:STARTS]:
        h = int(chi2[:, r].argmin())
        q = _start(radii[r], halo * h, centre)
        q[7:9] = _cluster(sources[h, r], grid) * radii[r]
        starts.append(q)
    return Search(radii, chi2, starts, [float(best[r]) for r in order[:STARTS]])


def _cluster(source: np.ndarray, grid: SourceGrid) -> np.ndarray:
    """(2,) the middle of the brightest cluster of amplitudes (K,)."""
    n = len(grid.nodes)
    image = np.zeros(n * n)
    image[grid.inside] = source
    smooth = ndimage.uniform_filter(image.reshape(n, n), 3, mode="constant").ravel()[grid.inside]
    cluster = np.abs(grid.places - grid.places[smooth.argmax()]).max(1) < 1.5 * STEP
    total = source[cluster].sum()
    return (source[cluster, None] * grid.places[cluster]).sum(0) / total if total > 0 else np.zeros(2)


def ring_start(cutout: Cutout, rest: np.ndarray, result: Search, halo: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(P,) a start for a ring: the radius where what the galaxy leaves, rest (n, n), is brightest on average."""
    distance, z = cutout.radius(centre), np.clip(rest / cutout.sigma, -3, 10)
    edges = np.geomspace(result.radii[0], result.radii[-1], 20)
    shell = np.where(cutout.good, np.digitize(distance, edges), 0).ravel()
    number = np.bincount(shell, minlength=21)[1:20]
    total = np.bincount(shell, z.ravel(), minlength=21)[1:20]
    brightest = np.where(number > 10, total / np.maximum(number, 1), -np.inf).argmax()
    return _start(float(np.sqrt(edges[brightest] * edges[brightest + 1])), halo, centre)
