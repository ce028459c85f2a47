"""Fit a telescope image: its galaxy, the lens and the source, from nothing but noise map, PSF and pixel scale.

Light first, arcs as outliers (`light`); the Einstein radius searched in what is left (`search`); lens and source
fitted with priors from several starts (`sersic_fit`); the light again without the arcs, and the lens again; last a
flexible source (`grid_fit`). See docs/real_lenses.md.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from darklens.fit.observed import flags, grid_fit, mge, neighbours, sersic_fit
from darklens.fit.observed.cutout import Cutout, cut_out
from darklens.fit.observed.flexible_source import with_flexible_source
from darklens.fit.observed.joint import COOLED, JointFit, Problem, temperature
from darklens.fit.observed.light import NUMBER, LightFit, LightModel, errors, fit_light
from darklens.fit.observed.noise_check import SCALES, SkyNoise, sky_noise
from darklens.fit.observed.parameters import priors
from darklens.fit.observed.rays import SourceGrid
from darklens.fit.observed.result import SYSTEMATIC, ObservedFit, ring_chi_square
from darklens.fit.observed.search import ring_start, search

WINDOW, PIXELS = 7.05, 141  # arcsec and pixels on a side: the larger of both is fitted, if the image has it
FAR = 6.0  # standard deviations: pixels so far from the first model are left out of the second light


@dataclasses.dataclass
class Stage:
    """Where a fit stands: the cutout with its noise, light, and fit."""

    cutout: Cutout
    light: LightModel
    problem: Problem
    fit: JointFit
    temper: float


def fit_observed(
    image: np.ndarray,
    noise: np.ndarray | None,
    psf: np.ndarray | None,
    pixel_scale: float,
    mask: np.ndarray | None = None,
    *,
    source: str = "sersic",
) -> ObservedFit:
    """The smooth lens of a telescope image (h, w) with the lens about its middle.

    noise: (h, w) standard deviations in the image's unit, 0, infinite or huge for bad pixels; its scale is checked.
    None: measured in the image. psf: (k, l) at the image's pixel scale. None: a Gaussian of 2 pixels FWHM.
    pixel_scale: arcsec. mask: (h, w) True where a pixel must not count. source: one of `settings.SOURCES`;
    "flexible" goes on with splines (`flexible_source`) and has ln B of further mass.
    Raises ValueError where shapes don't fit together.
    """
    fit = fit_cutout(cut_out(image, noise, psf, pixel_scale, mask), source)
    missing = ["noise measured in the image"] * (noise is None)
    missing += ["no PSF: a Gaussian of 2 pixels FWHM"] * (psf is None)
    return dataclasses.replace(fit, note="; ".join(filter(None, (fit.note, *missing))))


def fit_cutout(cutout: Cutout, source: str = "sersic", *, view: bool = False) -> ObservedFit:
    """The same of a `Cutout` of a whole image; view: with a flexible source's residual for networks."""
    cutout = cutout.window(min(max(PIXELS, round(WINDOW / cutout.pixel_scale)), cutout.size))
    if not flags.usable(cutout):
        return flags.empty(cutout)
    first, out = fit_light(cutout)
    noise = sky_noise(cutout, cutout.data - first.image, out, first.shape.centre)
    cutout = dataclasses.replace(cutout, sigma=cutout.sigma * np.clip(noise.scale, *SCALES))
    objects = neighbours.detect(cutout, cutout.data - first.image, errors(cutout, first))
    far, _ = objects.beyond(first.shape.centre, neighbours.farthest_image(0.4 * cutout.half))
    stage, rivals = first_fit(masked(cutout, far), first, out)
    far, number = objects.beyond(first.shape.centre, neighbours.farthest_image(stage.fit.q[0]))
    stage = dataclasses.replace(stage, cutout=masked(cutout, far))
    stage = second_fit(stage)
    final, grid = grid_source_fit(stage)
    result = report(stage, rivals, final, grid, noise, number)
    if not view:  # which has no such column
        without_shear, _ = grid_source_fit(stage, shear=False)
        result = dataclasses.replace(result, radius_without_shear=float(without_shear.q[0]))
    if source == "flexible":
        table = priors(ellipticity(stage.light, stage.cutout, 1.5 * stage.fit.q[0]), stage.light.shape.centre)
        result = with_flexible_source(result, stage.light, stage.fit.linear, table, view=view)
        result = dataclasses.replace(result, note=flags.note(result.noise, number))
    return result


def masked(cutout: Cutout, out: np.ndarray) -> Cutout:
    """The cutout without the pixels `out` (n, n)."""
    return dataclasses.replace(cutout, good=cutout.good & ~out)


def ellipticity(light: LightModel, cutout: Cutout, aperture: float) -> np.ndarray:
    """(2,) mean of the light's sets, weighted by their light within a Gaussian aperture in arcsec."""
    sets = len(light.shape.ellipticity)
    widths = mge.widths(cutout, NUMBER)
    flux = light.linear[: sets * NUMBER].reshape(sets, NUMBER) * (1 - np.exp(-0.5 * (aperture / widths) ** 2))
    return flux.sum(1) / max(flux.sum(), 1e-300) @ light.shape.ellipticity


def first_fit(cutout: Cutout, light: LightModel, out: np.ndarray) -> tuple[Stage, list[JointFit]]:
    """The best of the fits from the search's starts, and its rivals."""
    rest = np.where(cutout.good, cutout.data - light.image, 0.0)
    shape = ellipticity(light, cutout, 0.4 * cutout.half)
    search_result = search(cutout, light, errors(cutout, light), shape)
    sigma = errors(cutout, light, ndimage.gaussian_filter(rest, 1.5))
    problem = Problem(cutout, light, sigma)
    temper = temperature(search_result.heights[0] / max(problem.pixels, 1))
    table = priors(shape, light.shape.centre)
    starts = [*search_result.starts[:3], ring_start(cutout, rest, search_result, shape, light.shape.centre)]
    fits = [sersic_fit.fit_sersic(problem, start, table, temper) for start in starts]
    best = min(fits, key=lambda fit: fit.penalised)
    return Stage(cutout, light, problem, best, temper), flags.rivals(best, fits)


def second_fit(stage: Stage) -> Stage:
    """Light fitted again beside the arcs, then the lens beside that light."""
    cutout, light, fit = stage.cutout, stage.light, stage.fit
    arcs = sersic_fit.arcs(stage.problem, fit)
    sigma = errors(cutout, light, arcs)
    image = np.tensordot(fit.linear[: len(light.columns)], light.columns, 1) + arcs
    off = np.abs(cutout.data - image) > FAR * sigma
    lights = LightFit(cutout, 2, NUMBER, harmonics=True)
    light = lights.fit(light.shape, np.where(cutout.good & ~off, 1 / sigma, 0.0), cutout.data - arcs, steps=4)
    problem = Problem(cutout, light, errors(cutout, light, arcs))
    table = priors(ellipticity(light, cutout, 1.5 * fit.q[0]), light.shape.centre)
    temper = min(stage.temper, COOLED)
    fit = sersic_fit.fit_sersic(problem, fit.q, table, temper, steps=10)
    return Stage(cutout, light, problem, fit, temper)


def grid_source_fit(stage: Stage, *, shear: bool = True) -> tuple[JointFit, SourceGrid]:
    """The lens with a source of positive Gaussians, its Einstein radius tied to that of the Sersic source; shear: free,
    or 0."""
    cutout, light, fit = stage.cutout, stage.light, stage.fit
    ring_cutout = masked(cutout, ~grid_fit.near_arcs(stage.problem, fit.q))
    problem = Problem(ring_cutout, light, errors(cutout, light, sersic_fit.arcs(stage.problem, fit)))
    shape = ellipticity(light, cutout, 1.5 * fit.q[0])
    table = priors(shape, light.shape.centre, einstein_radius=(fit.q[0], grid_fit.TIED * fit.q[0]))
    return grid_fit.fit_grid(problem, fit, table, stage.temper * grid_fit.COOLER, shear=shear)


def report(
    stage: Stage, rivals: list[JointFit], final: JointFit, grid: SourceGrid, noise: SkyNoise, masked_objects: int
) -> ObservedFit:
    """The result with its flag and note."""
    cutout, light = stage.cutout, stage.light
    arcs = grid_fit.arcs(stage.problem, final, grid)
    model = np.tensordot(final.linear[: len(light.columns)], light.columns, 1) + arcs
    q, sd = stage.fit.q.copy(), np.sqrt(np.maximum(stage.fit.covariance.diagonal(), 0))
    q[:7] = final.q[:7]
    sd[0] = np.sqrt(sd[0] ** 2 + ((final.q[0] - stage.fit.q[0]) / 2) ** 2 + (SYSTEMATIC * q[0]) ** 2)
    chi_square = ring_chi_square(cutout, model, q)
    signal = float(np.sqrt(np.square((arcs / cutout.sigma)[cutout.good]).sum()))
    quality = {"chi_square": chi_square, "uncertainty": float(sd[0] / q[0]), "signal": signal}
    words = flags.words(stage.fit, final, rivals, **quality)
    note = flags.note(noise, masked_objects)
    source = np.zeros(len(grid.nodes) ** 2)
    source[grid.inside] = final.linear[len(light.columns) :]
    side = len(grid.nodes)
    return ObservedFit(
        q, sd, chi_square, noise, words, note, cutout, model, arcs, source.reshape(side, side), float(grid.nodes[-1])
    )
