"""From images to fits: cut, measure the noise, find the start, minimise, measure the noise again, minimise."""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from darklens.fit import result as results
from darklens.fit import score as scores
from darklens.fit.batch import Batch, prepare
from darklens.fit.model import SmoothModel
from darklens.fit.report import FAINT, POOR, report
from darklens.fit.result import Fit
from darklens.fit.solver import State
from darklens.fit.source_test import flag_structure
from darklens.fit.window import as_images

LOOSE, TIGHT = 3e-3, 1e-5  # distance to the minimum in chi-square: before and after the noise is measured again
SHIFTED = 1.2  # with a free centre others are tried above this chi-square per pixel
AGAIN = 2.0  # with a lens galaxy another start is tried above this chi-square per pixel


@torch.inference_mode()
def fit(
    images: np.ndarray | Tensor,
    model: SmoothModel | None = None,
    *,
    start: np.ndarray | None = None,
    noise: np.ndarray | Tensor | str | None = None,
    mask: np.ndarray | Tensor | None = None,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    pictures: bool = True,
    score_test: bool = True,
) -> Fit:
    """Fit the best smooth lens to each of the images (B, H, W), in any unit, square, on their device.

    start: (B, P) or (P,) the free parameters (`model.names`) to start from; None: found from the image.
    noise: None: measured in the image itself; "poisson": the images are counts, sky included; or the standard
    deviation of each pixel, in the images' units, (B, H, W) or (H, W).
    mask: (B, H, W) or (H, W), True where a pixel must not count; pixels that aren't finite never do.
    batch: images at once (None: 16 on a CPU, 512 elsewhere).
    pictures: False leaves out `image` and `deviation`, two thirds of the result's memory.
    score_test: False leaves out the tests of what is held (score.py), of the source's structure (source_test.py), and
    of what the residual holds beyond noise (significance.py), a third of the time: no flag comes of the first two, and
    `refit_flagged` has no effect; the third, `residual_significance`, is not a number.

    Raises ValueError for images that aren't square, or a start or noise of another shape. An image that can't be
    fitted raises nothing: its `flag` says why, and its residual is finite. An image's company changes its residual by
    less than 1e-3; with batch=1 by nothing, at twice the time on a CPU.
    """
    model = model or SmoothModel()
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    images = as_images(images, device)
    inputs = check_inputs(images, model, start, noise, mask)
    batch = batch or (16 if device.type == "cpu" else 512)
    fits = []
    with plain_arithmetic(device):
        for i in range(0, max(len(images), 1), batch):
            rows = slice(i, i + batch)
            prepared, part = _fit_batch(images[rows], model, inputs[rows], dtype, score_test)
            if score_test:
                flag_structure(prepared, part)
            empty = np.zeros((len(part), 0, 0), dtype=np.float32)
            fits.append(part if pictures else dataclasses.replace(part, image=empty, deviation=empty))
    return results.join(fits)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the caller says of each image."""

    start: np.ndarray | None  # (B, P)
    noise: Tensor | str | None  # (B, H, W)
    mask: Tensor | None  # (B, H, W)

    def __getitem__(self, rows: slice | np.ndarray) -> "Inputs":
        noise = self.noise if self.noise is None or isinstance(self.noise, str) else self.noise[rows]
        start = None if self.start is None else self.start[rows]
        return Inputs(start, noise, None if self.mask is None else self.mask[rows])


def check_inputs(
    images: Tensor,
    model: SmoothModel,
    start: np.ndarray | None,
    noise: np.ndarray | Tensor | str | None,
    mask: np.ndarray | Tensor | None,
) -> Inputs:
    """Start, noise and mask of each of the images (B, H, W), as `fit` takes them. Raises ValueError."""
    if start is not None:
        start = np.broadcast_to(np.asarray(start, dtype=float), (len(images), len(model.free))).copy()
    if noise is not None and not isinstance(noise, str):
        noise = as_images(noise, images.device).expand(images.shape)
    elif noise not in (None, "poisson"):
        raise ValueError(f'noise must be None, "poisson" or an array, not {noise!r}')
    if mask is not None:
        mask = mask if isinstance(mask, Tensor) else torch.as_tensor(np.array(mask, dtype=bool))
        mask = mask.to(images.device).expand(images.shape)
    return Inputs(start, noise, mask)


@contextlib.contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """One thread on a CPU (small matrices; cores are for processes), no TF32 on a GPU."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _fit_batch(
    images: Tensor, model: SmoothModel, inputs: Inputs, dtype: torch.dtype, score_test: bool
) -> tuple[Batch, Fit]:
    """One batch and its fit; with `refit_flagged` those whose centre or halo is flagged for good once more, these free.

    Such a fit keeps its flag. It has the covariance of the parameters that `model` frees, marginalised over the others.
    """
    batch = prepare(images, model, start=inputs.start, noise=inputs.noise, mask=inputs.mask, dtype=dtype)
    fits, significant = _fit_once(batch, score_test)
    for flag, freed in scores.refitted(model).items() if model.refit_flagged and score_test else ():
        rows = np.flatnonzero((fits.flag == flag) & significant)
        if len(rows) == 0:
            continue
        restart = dataclasses.replace(inputs[rows], start=fits.parameters[rows][:, list(freed.free)])
        _, refit = _fit_batch(images[rows], freed, restart, dtype, score_test)
        better = (refit.good | np.isin(refit.flag, list(scores.TESTS))) & (refit.chi_square < fits.chi_square[rows])
        results.replace(fits, rows[better], refit, better)
    return batch, fits


def _fit_once(batch: Batch, score_test: bool) -> tuple[Fit, np.ndarray]:
    """The fits of a batch, and which of them the score test flags significantly."""
    variance = batch.first_variance().pixels
    state = batch.minimise(_coarse(batch, variance), variance, LOOSE)
    _retry(batch, state, variance)
    q, steps = batch.solver.finish(state), state.steps
    noise, correlation = batch.measured_variance(q, variance)
    state = batch.minimise(q, noise.pixels, TIGHT)
    state.steps += steps
    return report(batch, state, noise, correlation, tests=score_test)


def _coarse(batch: Batch, variance: Tensor) -> Tensor:
    """Starts (B, Q), given or found in the image, improved on bins of it."""
    if batch.start is not None and batch.model.free_light:  # bins are too coarse for a galaxy's middle
        return batch.given_start()
    search = batch.search(variance)
    if batch.model.free_light:
        return search.best()
    return search.improved(search.from_moments() if batch.start is None else batch.given_start())


def _retry(batch: Batch, state: State, variance: Tensor) -> None:
    """Where the fit is poor or unfinished: a grid of starts on the binned image, the best of them refined, in place.

    Then, where the lens's centre is free and the fit is still poor, from where that is not: a ring that is nearly whole
    has minima on several sides of the middle.
    """
    pixels = batch.window.good.sum((1, 2))
    lensed = batch.chi_square_without_lens(None, variance) - state.chi2 > FAINT
    highest = AGAIN if batch.model.free_light else POOR
    lensed &= ~batch.window.constant
    for row in (((state.chi2 > highest * pixels) | ~state.converged) & lensed).nonzero():
        _improve(batch, state, variance, row, batch.search(variance, row, retry=True).from_grid(0))
    if not batch.model.free_centre or batch.model.free_light:
        return
    low, high = (torch.as_tensor(bound, device=state.q.device) for bound in batch.model.bounds())
    free = list(batch.model.free)
    bound = ((state.q <= low) | (state.q >= high))[:, free].any(1)
    for row in (((state.chi2 > SHIFTED * pixels) | ~state.converged | bound) & lensed).nonzero():
        _improve(batch, state, variance, row, batch.search(variance, row).from_shifts(0, state.q[row[0]]))


def _improve(batch: Batch, state: State, variance: Tensor, row: Tensor, q: Tensor) -> None:
    """Put the best of the fits from starts q (K, Q) in a row (1,) of the state, in place, if it is better."""
    new = batch.minimise(q, variance, LOOSE, row.expand(len(q)))
    new = new[new.chi2.argmin()[None]]
    if new.chi2 < state.chi2[row]:
        state.update(row, new)
