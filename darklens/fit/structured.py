"""Fit lenses whose source has structure: the Sersic robustly first, then splines about it, then the Bayes factor.

    structured = fit_structured(images)
    structured.fit.residual              # (B, S, S) what neither lens nor source explain, in standard deviations
    structured.log_bayes_factor          # (B,) ln B of mass that a smooth lens lacks against none

The halo's centre and shape are always free: held ones that are 0.1 pixels or an axis ratio of 0.9 off look like mass.
"""

import dataclasses
import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from darklens.fit import mass_map
from darklens.fit import result as results
from darklens.fit.batch import Batch, prepare
from darklens.fit.correlation import Correlation
from darklens.fit.flexible import FlexibleLens
from darklens.fit.model import SmoothModel
from darklens.fit.noise import Variance
from darklens.fit.psf_width import psf_test
from darklens.fit.report import POOR, noise_columns, noise_uncertainty
from darklens.fit.result import Fit
from darklens.fit.run import check_inputs, plain_arithmetic
from darklens.fit.spline_source import LEVELS, LOOSE
from darklens.fit.structured_significance import structured_significance
from darklens.fit.structured_start import EXCESS, Starts
from darklens.fit.window import as_images

ODDS = 1.0  # ln B, from where the prior is loosened, as from EXCESS
ONE_PERCENT = 2.326, math.log(100)  # standard deviations and ln B that one smooth lens in a hundred exceeds, at most
MORE_NODES, MORE_STEPS = 2.0, 2  # so many times the coefficients then, and at most so many steps
PICTURE = 101  # pixels of the source's picture


@dataclasses.dataclass(frozen=True)
class StructuredFit:
    """B fits with a source of splines."""

    fit: Fit  # of the Sersic at first, with the lens, residual, image, chi-square and Bayes factor of the end
    source: np.ndarray  # (B, 101, 101) light in the source plane about its Sersic's centre, a quarter of a pixel each
    determined: np.ndarray  # (B,) how many numbers the data determine: chi-square expects as much less than pixels
    lenses: tuple[FlexibleLens | None, ...] = ()  # with their last linear problems, where they were asked for

    @property
    def log_bayes_factor(self) -> np.ndarray:
        """(B,) ln B of further mass against none; NaN where nothing was fitted."""
        return self.fit.log_bayes_factor


def fit_structured(
    images: np.ndarray | Tensor,
    model: SmoothModel | None = None,
    *,
    noise: np.ndarray | Tensor | str | None = None,
    mask: np.ndarray | Tensor | None = None,
    lenses: bool = False,
    view_only: bool = False,
) -> StructuredFit:
    """Fit images (B, H, W) as `fit` does, with the same arguments and errors, and a source with structure.

    lenses: keep them for `detect_structured`; 70 to 170 MB each. view_only: nothing but the stiff prior's fit, in half
    of the time, without a Bayes factor and the tests.
    """
    model = dataclasses.replace(model or SmoothModel(), source="flexible")
    if model.free_light:
        raise ValueError("a lens galaxy's light is for fit_behind_galaxies")
    images = as_images(images, torch.device("cpu"))
    inputs = check_inputs(images, model, None, noise, mask)
    with plain_arithmetic(images.device), torch.no_grad():
        batch = prepare(images, model, noise=inputs.noise, mask=inputs.mask)
        robust, started = Starts(images, model, inputs).lenses(batch)
        variance, correlation = _measured(batch, started)
        measured = {name: value.numpy() for name, value in noise_columns(batch, variance, correlation).items()}
        robust = _changed(robust, measured | {"stiff_residual": robust.residual})
        parts = []
        for k, lens in enumerate(started):
            parts.append(_finished(batch, robust, lens, (variance, correlation), k, view_only))
            if lens is not None and not lenses:
                lens.forget()
    return dataclasses.replace(_joined(robust, parts), lenses=tuple(started) if lenses else ())


def _measured(batch: Batch, lenses: list[FlexibleLens | None]) -> tuple[Variance, Correlation]:
    """The noise that the residual of the coarse lattices shows, as `Batch.variance_of` gives it."""
    signal, sky = torch.zeros_like(batch.window.data), torch.zeros_like(batch.window.scale)
    for k, lens in enumerate(lenses):
        if lens is not None:
            signal[k], sky[k] = lens.image().clamp(min=0), lens.sky
    residual = torch.where(batch.window.good, batch.window.data - signal - sky[:, None, None], 0.0)
    return batch.variance_of(residual, signal, sky)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What of one lens's `Fit` changes, and what is added."""

    changed: dict[str, np.ndarray]
    source: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((PICTURE, PICTURE)))
    determined: float = np.nan


@dataclasses.dataclass(frozen=True)
class _Tests:
    """What shows that a lens is not the whole of its image; NaN where that was not asked."""

    significance: float = np.nan
    log_bayes_factor: float = np.nan
    psf: str = ""

    @classmethod
    def of(cls, lens: FlexibleLens, of_noise: Tensor) -> "_Tests":
        """of_noise: (2, 2) covariance, as of `structured_significance`."""
        log_b = mass_map.log_bayes_factor(lens)
        return cls(structured_significance(lens, of_noise), log_b, psf_test(lens).flag(log_b))

    @property
    def show_mass(self) -> bool:
        """Whether both tests exceed what one smooth lens in a hundred does; so, too, where they were not made."""
        return not (self.significance < ONE_PERCENT[0] or self.log_bayes_factor < ONE_PERCENT[1])


def _tested(lens: FlexibleLens, of_noise: Tensor) -> _Tests:
    """The tests of a lens under the stiff prior, or where one of these shows more than noise, under a loose one with
    more coefficients: what mass seems to do a sharp source can do, too."""
    if lens.excess < EXCESS:
        tests = _Tests.of(lens, of_noise)
        if tests.significance < EXCESS and tests.log_bayes_factor < ODDS and not tests.psf:
            return tests
    lens.source = dataclasses.replace(lens.source, largest_share=LOOSE)
    lens.run(len(LEVELS), hold=True, steps=MORE_STEPS, nodes=MORE_NODES)
    return _Tests.of(lens, of_noise)


def _finished(
    batch: Batch,
    robust: Fit,
    lens: FlexibleLens | None,
    noise: tuple[Variance, Correlation],
    k: int,
    view_only: bool,
) -> _Part:
    """The lens with all lattices, under the noise as measured; flagged where their equations cannot be solved."""
    failed = _Part({} if robust.flag[k] else {"flag": np.array(results.NOT_CONVERGED)})
    if lens is None:
        return failed
    good, (variance, correlation) = batch.window.good[k], noise
    lens.weight = torch.where(good, variance.pixels[k].double().rsqrt(), 0.0)
    lens.noise_width = float(correlation.width[k])
    try:
        lens.run(len(LEVELS), hold=True)
        stiff = lens.residual().float()
        tests = _Tests() if view_only else _tested(lens, noise_uncertainty(batch, correlation)[k])
    except torch.linalg.LinAlgError:
        return failed
    scale, image = batch.window.scale[k], lens.image() + lens.sky
    residual = (batch.window.data[k] - image) * lens.weight
    changed = {
        "parameters": lens.q[0],
        "covariance": _covariance(robust, lens, k),
        "amplitude": lens.source.amplitude * scale,
        "sky": batch.window.background[k] + lens.sky * scale,
        "chi_square": residual.square().sum() / good.sum().clamp(min=1),
        "residual": residual.float(),
        "stiff_residual": stiff if tests.show_mass else residual.float(),
        "image": (batch.window.background[k] + scale * image).float(),
        "deviation": (variance.pixels[k].double().sqrt() * scale).float(),
    }
    picture = lens.source.picture(PICTURE, batch.model.pixel_scale / 4) * scale
    arrays = {name: value.numpy() for name, value in changed.items()}
    arrays["residual_significance"] = np.array(tests.significance)
    arrays["log_bayes_factor"] = np.array(tests.log_bayes_factor)
    if robust.flag[k] in ("", results.POOR):
        arrays["flag"] = np.array(results.POOR if arrays["chi_square"] > POOR else tests.psf)
    return _Part(arrays, picture.numpy(), lens.determined)


def _covariance(robust: Fit, lens: FlexibleLens, k: int) -> Tensor:
    """(P, P): of the lens's parameters with the source marginalised, of the Sersic's as they were."""
    names, design = robust.model.names, lens.design
    places = [names.index(name) for name in design.moved]
    first = len(lens.source.coefficients)
    block = slice(first, first + len(design.moved))
    covariance = torch.as_tensor(robust.covariance[k]).clone()
    covariance[places], covariance[:, places] = 0.0, 0.0
    covariance[np.ix_(places, places)] = design.posterior.covariance_of(block)
    return covariance


def _changed(fits: Fit, arrays: dict[str, np.ndarray]) -> Fit:
    """The fits with other values in some of their fields."""
    return dataclasses.replace(fits, **cast(dict[str, Any], arrays))


def _joined(robust: Fit, parts: list[_Part]) -> StructuredFit:
    arrays = {}
    for name in dict.fromkeys(name for part in parts for name in part.changed):
        values = getattr(robust, name).copy()
        for k, part in enumerate(parts):
            values[k] = part.changed.get(name, values[k])
        arrays[name] = values
    return StructuredFit(
        _changed(robust, arrays),
        np.array([part.source for part in parts]),
        np.array([part.determined for part in parts]),
    )
