"""A lens behind its galaxy's light again, with a source of splines: what positive Gaussians missed, and ln B of mass.

The fit of `run` has settled the galaxy's light, the lens and a Sersic source. From there `FlexibleLens` solves for the
source's splines, the lens's next step, the source's amplitude and changes of the galaxy's light and the sky together;
all but the lens's have priors (`light_prior`), and all are marginalised in ln B.

Noise of drizzled images is correlated, which smooth columns x feel: the variance of x^T n is not x^T x but x^T C x. So
sigma is enlarged by the root of their ratio (`variance_ratio`), taken over the image's derivatives by the lens, which
are as smooth as what mass does. It is exact for one column, and no more than that for many.
"""

import dataclasses

import numpy as np
import torch

from darklens.fit import mass_map
from darklens.fit.correlation import measure_correlation, variance_ratio
from darklens.fit.descent import Descent
from darklens.fit.flexible import FlexibleLens
from darklens.fit.model import SmoothModel
from darklens.fit.observed import flags
from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.light import LightModel, errors
from darklens.fit.observed.light_prior import light_prior, moves
from darklens.fit.observed.noise_check import SCALES
from darklens.fit.observed.parameters import INDEX_OF, LENS, NAMES, Priors
from darklens.fit.observed.rays import Rays
from darklens.fit.observed.result import SYSTEMATIC, ObservedFit, ring_chi_square
from darklens.fit.renderer import renderer
from darklens.fit.spline_source import COARSE, LEVELS, STIFF, SplineSource
from darklens.fit.structured import ONE_PERCENT

MARGIN = 1.0, 0.5  # Einstein radii, arcsec: how far beyond the Einstein radius an image of the source may be
LEAST = 0.2  # arcsec: of the effective radius that the splines start from
PICTURE = 101  # pixels of the source's picture
HELD = 1e12  # precision of the lens's own sky: the light's has one
PSF_LOSS = 1e-3  # of the PSF's light, that its kernel's outermost pixels may lose: smaller kernels are faster


def odd_kernel(cutout: Cutout) -> np.ndarray:
    """(k, k) the PSF with its star in the middle of an odd side."""
    kernel = cutout.psf.kernel
    reach = max(max(k // 2, k - 1 - k // 2) for k in kernel.shape)
    margins = [(reach - k // 2, reach - (k - 1 - k // 2)) for k in kernel.shape]
    kernel = np.pad(kernel, margins)
    light = [kernel[c : len(kernel) - c, c : len(kernel) - c].sum() for c in range(reach)]
    cut = max(int(np.sum(np.array(light) > 1 - PSF_LOSS)) - 1, 0)
    return kernel[cut : len(kernel) - cut, cut : len(kernel) - cut]


def smooth_parameters(q: np.ndarray, model: SmoothModel) -> torch.Tensor:
    """(1, Q) of `SmoothModel` for (P,) of `observed.parameters`, whose source and shear are about the lens's centre."""
    values = dict(zip(NAMES, q, strict=True))
    table = dict(zip(model.table.names, model.held(), strict=True))
    x, y = _moved(values)
    table |= values | {"source_x": values["source_x"] + x, "source_y": values["source_y"] + y}
    return torch.tensor([[float(table[name]) for name in model.table.names]], dtype=torch.float64)


def observed_parameters(q: torch.Tensor, model: SmoothModel) -> np.ndarray:
    """The inverse: (P,)."""
    values = {name: float(value) for name, value in zip(model.table.names, q[0], strict=True)}
    x, y = _moved(values)
    values |= {"source_x": values["source_x"] - x, "source_y": values["source_y"] - y}
    return np.array([values[name] for name in NAMES])


def _moved(values: dict[str, float]) -> tuple[float, float]:
    """Where shear alone takes the lens's centre, arcsec."""
    x, y, g1, g2 = (values[name] for name in ("centre_x", "centre_y", "shear_1", "shear_2"))
    return (1 - g1) * x - g2 * y, (1 + g1) * y - g2 * x


def remeasured(observed: ObservedFit) -> ObservedFit:
    """The fit with the noise's scale and correlation as its residual's finest detail has them: `noise_check` measures
    them in the window's corners, where another galaxy may be."""
    cutout, noise = observed.cutout, observed.noise
    residual, good = (torch.as_tensor(each)[None] for each in (np.nan_to_num(observed.residual), cutout.good))
    measured = measure_correlation(residual, good)
    scale = float(measured.scale.clamp(*SCALES))
    noise = dataclasses.replace(noise, scale=noise.scale * scale, correlation=float(measured.lag))
    return dataclasses.replace(observed, noise=noise, cutout=dataclasses.replace(cutout, sigma=cutout.sigma * scale))


def inflation(observed: ObservedFit, sigma: np.ndarray) -> float:
    """By what sigma (n, n) grows for columns as smooth as those of the lens's parameters."""
    cutout, lag = observed.cutout, observed.noise.correlation
    planes = Rays(cutout, cutout.half).sersic(observed.q)[1 : 1 + LENS]
    return float(np.sqrt(max(variance_ratio(planes * np.where(cutout.good, 1 / sigma, 0.0), lag), 1.0)))


@dataclasses.dataclass(frozen=True)
class Part:
    """The middle of a cutout, where a source is seen, in units of the noise."""

    cutout: Cutout
    size: int
    unit: float  # of the image's

    @property
    def slice(self) -> slice:
        first = (self.cutout.size - self.size) // 2
        return slice(first, first + self.size)

    def pixels(self, values: np.ndarray) -> torch.Tensor:
        """(..., n, n) -> (..., S, S) float64."""
        return torch.as_tensor(np.ascontiguousarray(values[..., self.slice, self.slice]), dtype=torch.float64)


def flexible_lens(
    observed: ObservedFit, light: LightModel, amplitudes: np.ndarray, sigma: np.ndarray, priors: Priors
) -> tuple[FlexibleLens, Part, np.ndarray]:
    """A `FlexibleLens` where a fit ended, the part of the cutout that it has, and the light (n, n) that it starts from.

    amplitudes: (K + 1,) of the light's columns and of the Sersic; sigma: (n, n).
    """
    cutout, q = observed.cutout, observed.q
    weight = np.where(cutout.good, 1 / sigma, 0.0)
    reach = min((1 + MARGIN[0]) * q[0] + MARGIN[1], cutout.half)
    near = cutout.radius(q[5:7]) < reach
    changes = moves(light, amplitudes[:-1], cutout)
    prior = light_prior(light, amplitudes[:-1], changes, cutout.data, np.where(near, 0.0, weight))
    size = 2 * round((reach + np.abs(q[5:7]).max()) / cutout.pixel_scale) + cutout.size % 2
    part = Part(cutout, min(size, cutout.size), float(np.median(cutout.sigma[cutout.good])))
    model = SmoothModel(
        pixel_scale=cutout.pixel_scale,
        window=part.size,
        supersample=Rays(cutout, 1.0).s,
        psf_kernel=tuple(map(tuple, odd_kernel(cutout).tolist())),
        free_index=True,
        free_centre=True,
        free_halo=True,
    )
    table = smooth_parameters(q, model)
    source, amplitude = _broad(model.table.named(table.clone()), float(amplitudes[-1] / part.unit))
    lens_priors = dict(zip(NAMES[:LENS], zip(priors.mean, priors.sd, strict=True), strict=False))
    lens = FlexibleLens(
        renderer(model, part.size, 1, "cpu", torch.float32),
        table,
        part.pixels((cutout.data - prior.image) / part.unit),
        part.pixels(np.where(near, weight, 0.0) * part.unit),
        SplineSource(source, amplitude),
        part.pixels(prior.columns / part.unit).flatten(1).float(),
        torch.as_tensor(np.append(HELD, prior.precision)),
        lens_priors,
    )
    return lens, part, prior.image


def with_flexible_source(
    observed: ObservedFit, light: LightModel, amplitudes: np.ndarray, priors: Priors, *, view: bool = False
) -> ObservedFit:
    """The fit with a source of splines; as it was where there are no arcs, and flagged where the equations cannot be
    solved. amplitudes: as of `flexible_lens`; view: with a residual for networks."""
    if "no_arcs" in observed.flag or not amplitudes[-1] > 0:
        return observed
    try:
        with torch.no_grad():
            fit, end = _solved(remeasured(observed), light, amplitudes, priors)
            return dataclasses.replace(fit, view_residual=_view_residual(fit, light, end)) if view else fit
    except torch.linalg.LinAlgError:
        return dataclasses.replace(observed, flag=f"{observed.flag} {flags.NOT_SOLVED}".strip())


@dataclasses.dataclass(frozen=True)
class _End:
    """Where the steps ended, in which part of the cutout, and the light (n, n) that they started from."""

    descent: Descent
    part: Part
    light: np.ndarray

    def drawn(self, observed: ObservedFit) -> ObservedFit:
        """The fit with the lens and the image of where the descent is."""
        return _drawn(observed, self.descent, self.part, self.light)


def _solved(
    observed: ObservedFit, light: LightModel, amplitudes: np.ndarray, priors: Priors
) -> tuple[ObservedFit, _End]:
    """The same where there are arcs. Raises torch.linalg.LinAlgError."""
    sigma = errors(observed.cutout, light)
    sigma = sigma * inflation(observed, sigma)
    lens, part, image = flexible_lens(observed, light, amplitudes, sigma, priors)
    end = _End(Descent(lens), part, image)
    for levels in (COARSE, len(LEVELS)):
        end.descent.run(levels, hold=False)
    observed = remeasured(end.drawn(observed))  # what Gaussians left may be no noise
    of_noise = errors(observed.cutout, light)
    lens.weight *= part.pixels(sigma / (of_noise * inflation(observed, of_noise)))
    end.descent.run(len(LEVELS), hold=True)
    return _result(end.drawn(observed), lens, part.unit), end


def _view_residual(fit: ObservedFit, light: LightModel, end: _End) -> np.ndarray:
    """(n, n) what is left, in units of the noise and the light's error; under the stiff prior where ln B shows mass."""
    lens, near = end.descent.lens, np.zeros_like(light.image, dtype=bool)
    if fit.log_bayes_factor > ONE_PERCENT[1]:
        lens.source = dataclasses.replace(lens.source, largest_share=STIFF)
        end.descent.run(len(LEVELS), hold=True)
    near[end.part.slice, end.part.slice] = lens.weight.numpy() > 0
    left = (fit.cutout.data - end.drawn(fit).model) / errors(fit.cutout, light)
    return np.where(near, left, 0.0)


def _broad(values: dict[str, torch.Tensor], amplitude: float) -> tuple[dict[str, torch.Tensor], float]:
    """A Sersic source of the same light that is no smaller than LEAST: one that fits a knot does not say where the rest
    of its galaxy is, and the splines' nodes lie where it shines."""
    radius = values["log_radius"].clamp(min=float(np.log(LEAST)))
    share = float((2 * (values["log_radius"] - radius)).exp())
    return values | {"log_radius": radius}, amplitude * share


def _drawn(observed: ObservedFit, descent: Descent, part: Part, light: np.ndarray) -> ObservedFit:
    """The fit with the lens and the image of where a descent is; light (n, n): that of its start."""
    lens, arcs, light = descent.lens, np.zeros_like(light), light.copy()
    change = (descent.rest[2:] @ lens.further.double()).view_as(lens.data)
    arcs[part.slice, part.slice] = (lens.image() * part.unit).numpy()
    light[part.slice, part.slice] += (change * part.unit).numpy()
    q = observed_parameters(lens.q, lens.renderer.model)
    ratio, chi_square = q[0] / observed.q[0], ring_chi_square(observed.cutout, light + arcs, q)
    flag = flags.revised(observed.flag, chi_square, ratio)
    return dataclasses.replace(observed, q=q, chi_square=chi_square, flag=flag, model=light + arcs, arcs=arcs)


def _result(fit: ObservedFit, lens: FlexibleLens, unit: float) -> ObservedFit:
    """A fit with standard deviations, source and Bayes factor of a lens, in units of `unit`, whose prior is held."""
    design, sd, first = lens.design, fit.sd.copy(), len(lens.source.coefficients)
    variance = design.posterior.variance()[first : first + len(design.moved)].numpy()
    sd[[INDEX_OF[name] for name in design.moved]] = np.sqrt(variance)
    sd[0] = np.hypot(sd[0], SYSTEMATIC * fit.q[0])
    step = lens.renderer.model.pixel_scale / 4
    return dataclasses.replace(
        fit,
        sd=sd,
        source=lens.source.picture(PICTURE, step).numpy()[::-1] * unit,
        source_half=PICTURE * step / 2,
        log_bayes_factor=mass_map.log_bayes_factor(lens),
        lens=lens,
    )
