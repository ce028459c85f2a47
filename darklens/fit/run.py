"""From images to fits: cut, measure the noise, find the start, minimise, measure the noise again, minimise."""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from darklens.fit import noise as noises
from darklens.fit import result as results
from darklens.fit import score as scores
from darklens.fit import start as starts
from darklens.fit.model import NAMES, SmoothModel
from darklens.fit.renderer import renderer
from darklens.fit.result import Fit
from darklens.fit.search import Search
from darklens.fit.solver import Problem, Solver, State, solve
from darklens.fit.window import Window, as_images, cut, middle

STEPS = 40
LOOSE, TIGHT = 3e-3, 1e-5  # distance to the minimum in chi-square: before and after the noise is measured again
SHARE = 4  # images whose rays a CPU's cache holds
POOR = 6.0  # chi-square per pixel above which another start is tried, and the fit flagged
AGAIN = 2.0  # with a lens galaxy another start is tried above this
FINEST = 1e-5  # of the image's range: less noise than that counts as that
FAINT = 50.0  # the source's light must improve chi-square by more


@torch.inference_mode()
def fit(
    images: np.ndarray | Tensor,
    model: SmoothModel | None = None,
    start: np.ndarray | None = None,
    noise: np.ndarray | Tensor | str | None = None,
    mask: np.ndarray | Tensor | None = None,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    pictures: bool = True,
    doubts: bool = True,
) -> Fit:
    """Fit the best smooth lens to each of the images (B, H, W), in any unit, square, on their device.

    start: (B, P) or (P,) the free parameters (`model.names`) to start from; None: found from the image.
    noise: None: measured in the image itself; "poisson": the images are counts, sky included; or the standard
    deviation of each pixel, in the images' units, (B, H, W) or (H, W).
    mask: (B, H, W) or (H, W), True where a pixel must not count; pixels that aren't finite never do.
    batch: images at once (None: 16 on a CPU, 512 elsewhere).
    pictures: False leaves out `image` and `deviation`, two thirds of the result's memory.
    doubts: False leaves out the score test of what is held (score.py), a fifth of the time: no flag comes of it, and
    `free_doubted` has no effect.

    Raises ValueError for images that aren't square, or a start or noise of another shape. An image that can't be
    fitted raises nothing: its `flag` says why, and its residual is finite. An image's company changes its residual by
    less than 1e-3; with batch=1 by nothing, at twice the time on a CPU.
    """
    model = model or SmoothModel()
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    images = as_images(images, device)
    if start is not None:
        start = np.broadcast_to(np.asarray(start, dtype=float), (len(images), len(model.free))).copy()
    if noise is not None and not isinstance(noise, str):
        noise = as_images(noise, device).expand(images.shape)
    elif noise not in (None, "poisson"):
        raise ValueError(f'noise must be None, "poisson" or an array, not {noise!r}')
    if mask is not None:
        mask = torch.as_tensor(mask, device=device).expand(images.shape)
    batch = batch or (16 if device.type == "cpu" else 512)
    fits = []
    with plain_arithmetic(device):
        for i in range(0, max(len(images), 1), batch):
            rows = slice(i, i + batch)
            part = [value if value is None or isinstance(value, str) else value[rows] for value in (start, noise, mask)]
            found = _whole(images[rows], model, *part, dtype, doubts)
            empty = np.zeros((len(found), 0, 0), dtype=np.float32)
            fits.append(found if pictures else dataclasses.replace(found, image=empty, deviation=empty))
    return results.join(fits)


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


def _whole(
    images: Tensor,
    model: SmoothModel,
    start: np.ndarray | None,
    noise: Tensor | str | None,
    mask: Tensor | None,
    dtype: torch.dtype,
    doubts: bool,
) -> Fit:
    """The fit of one batch; with `free_doubted` those whose centre or halo is in grave doubt once more, these free.

    Such a fit keeps its flag. It has the covariance of the parameters that `model` frees, marginalised over the others.
    """
    job = _Job(images, model, start, noise, mask, dtype, doubts)
    found = job.run()
    for reason, freed in scores.freed(model).items() if model.free_doubted and doubts else ():
        rows = np.flatnonzero((found.flag == reason) & job.sure)
        if len(rows) == 0:
            continue
        given = [value[rows] if isinstance(value, Tensor) else value for value in (noise, mask)]
        more = _whole(images[rows], freed, found.parameters[rows][:, list(freed.free)], *given, dtype, doubts)
        better = (more.good | np.isin(more.flag, list(scores.DOUBTS))) & (more.chi_square < found.chi_square[rows])
        results.replace(found, rows[better], more, better)
    return found


class _Job:
    """One batch on its way through the fit."""

    def __init__(
        self,
        images: Tensor,
        model: SmoothModel,
        start: np.ndarray | None,
        noise: Tensor | str | None,
        mask: Tensor | None,
        dtype: torch.dtype,
        doubts: bool,
    ) -> None:
        self.model, self.start, self.noise, self.dtype, self.doubts = model, start, noise, dtype, doubts
        self.window: Window = cut(images, mask, model)
        self.size = self.window.data.shape[-1]
        self.data = self.window.data.to(dtype)
        if isinstance(noise, Tensor):
            self.noise = middle(noise, self.size)
        share = SHARE if self.data.device.type == "cpu" else None
        self.fine = Solver(renderer(self.model, self.size, 1, str(self.data.device), self.dtype), share)

    def run(self) -> Fit:
        """The whole fit of the batch."""
        smooth = noises.smooth(self.data, self.window.good)
        filled = torch.where(self.window.good, self.data, smooth)
        variance = self._variance(smooth.clamp(min=0), torch.zeros_like(self.window.scale), filled, "data")[0]
        state = self._minimise(self._coarse(variance), variance, LOOSE)
        self._retry(state, variance)
        q, steps = self.fine.finish(state), state.steps
        variance, noise = self._measured(q, variance)
        state = self._minimise(q, variance, TIGHT)
        state.steps += steps
        return self._report(state, variance, noise)

    def _measured(self, q: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The variance (B, S, S) and noise (B, 2) that the residual at q shows."""
        residual, lights = self._residual(q, variance)
        residual = torch.where(self.window.good, residual, 0.0)
        signal = lights.sum(1).clamp(min=0)
        variance, v0, k = self._variance(signal, self.linear[:, -1], residual, "residual")
        return variance, torch.stack((v0, k), 1)

    # ------------------------------------------------------------------------------------------------- noise
    def _variance(self, signal: Tensor, sky: Tensor, image: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, S) variance of each pixel (of the data's unit), v0 (B,) and k (B,)."""
        w = self.window
        if isinstance(self.noise, Tensor):
            variance = (self.noise / w.scale[:, None, None]).square().to(self.dtype)
            usable = variance.isfinite() & (variance > 0) & (self.noise > 0)
            w.good &= usable
            variance = torch.where(usable, variance, 1.0)
            return variance, variance.flatten(1).median(1).values, torch.zeros_like(sky)
        if self.noise == "poisson":
            v0 = ((w.background + w.scale * sky) / w.scale.square()).clamp(min=1e-12)
            k = 1 / w.scale
        else:
            floor = (w.step.square() / 12).clamp(min=FINEST**2)  # rounding to steps is noise too
            given = image.to(self.dtype), signal.to(self.dtype), w.good, floor, kind
            v0, k = noises.measure(*given, self.model.noise_correlation)
        return torch.addcmul(v0[:, None, None], k[:, None, None], signal).to(self.dtype), v0, k

    def _problem(self, variance: Tensor, rows: Tensor | slice = slice(None)) -> Problem:
        weight = torch.where(self.window.good[rows], variance[rows].rsqrt(), 0.0)
        return Problem(self.data[rows].flatten(1), weight.flatten(1))

    # ------------------------------------------------------------------------------------------------- starts
    def _given(self) -> Tensor:
        q = torch.as_tensor(self.model.held(), device=self.data.device).repeat(len(self.data), 1)
        q[:, list(self.model.free)] = torch.as_tensor(self.start, device=q.device)
        return starts.clamp(q, self.model)

    def _search(self, variance: Tensor, rows: Tensor | slice = slice(None), again: bool = False) -> Search:
        return Search(self.window.data[rows], self.window.good[rows], variance[rows], self.model, again)

    def _coarse(self, variance: Tensor) -> Tensor:
        """Starts (B, Q), given or found in the image, improved on bins of it."""
        if self.start is not None and self.model.free_light:  # bins are too coarse for a galaxy's middle
            return self._given()
        search = self._search(variance)
        if self.model.free_light:
            return search.best()
        return search.improved(search.from_moments() if self.start is None else self._given())

    def _retry(self, state: State, variance: Tensor) -> None:
        """Where the fit is poor or unfinished: a grid of starts on the binned image, the best of them refined."""
        pixels = self.window.good.sum((1, 2))
        seen = self._bare(variance) - state.chi2 > FAINT
        most = AGAIN if self.model.free_light else POOR
        rows = ((state.chi2 > most * pixels) | ~state.converged) & seen & ~self.window.constant
        for row in rows.nonzero():
            q = self._search(variance, row, again=True).from_grid(0)
            new = self._minimise(q, variance, LOOSE, row.expand(len(q)))
            new = new[new.chi2.argmin()[None]]
            if new.chi2 < state.chi2[row]:
                state.put(row, new)

    def _minimise(self, q: Tensor, variance: Tensor, tolerance: float, rows: Tensor | slice = slice(None)) -> State:
        problem = self._problem(variance, rows)
        return self.fine.minimise(self.fine.evaluate(q, problem), problem, STEPS, tolerance)

    # ------------------------------------------------------------------------------------------------- results
    def _residual(self, q: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Data minus the best model at q, (B, S, S), and the lights with their amplitudes, (B, L, S, S); float64."""
        lights = self.fine.renderer.lights(q).double().unflatten(2, self.data.shape[1:])
        self.linear = _linear(lights, self.window, variance)
        lights = self.linear[:, :-1, None, None] * lights
        return self.window.data - lights.sum(1) - self.linear[:, -1, None, None], lights

    def _bare(self, variance: Tensor, lights: Tensor | None = None) -> Tensor:
        """(B,) chi-square of the best sky, and of the best amplitudes of the lights (B, L, S, S), without any other."""
        none = self.window.data.new_empty((len(self.data), 0, *self.data.shape[1:]))
        lights = none if lights is None else lights
        linear = _linear(lights, self.window, variance)
        weight = torch.where(self.window.good, variance.double().reciprocal(), 0.0)
        model = (linear[:, :-1, None, None] * lights).sum(1) + linear[:, -1, None, None]
        return (weight * (self.window.data - model).square()).sum((1, 2))

    def _report(self, state: State, variance: Tensor, noise: Tensor) -> Fit:
        w, q = self.window, self.fine.finish(state)
        rest, lights = self._residual(q, variance)
        a, sky, scale = self.linear[:, 0], self.linear[:, -1], w.scale[:, None, None]
        galaxy = self.linear[:, 1] if self.model.free_light else torch.zeros_like(a)
        deviation = variance.double().sqrt()
        residual = torch.where(w.good, rest / deviation, 0.0)
        pixels, chi2 = w.good.sum((1, 2)), residual.square().sum((1, 2))
        gain = self._bare(variance, lights[:, 1:]) - chi2
        model = torch.where(w.constant[:, None, None], 0.0, w.data - rest)
        arrays = {
            "parameters": q,
            "covariance": _inverse(state.curvature),
            "amplitude": a * w.scale,
            "light_amplitude": galaxy * w.scale,
            "sky": w.background + w.scale * sky,
            "noise": noise * torch.stack((w.scale.square(), w.scale), 1),
            "chi_square": chi2 / pixels.clamp(min=1),
            "light_chi_square": gain,
            "pixels": pixels,
            "steps": state.steps,
        }
        pictures = {
            "residual": residual,
            "image": w.background[:, None, None] + scale * model,
            "deviation": deviation * scale,
        }
        arrays |= {name: value.clamp(-3e38, 3e38).float() for name, value in pictures.items()}
        flag = self._flags(state, q, arrays["chi_square"], (gain > FAINT) & (a > 0))
        if self.doubts:
            doubt, self.sure = scores.doubts(self.fine, q, self._problem(variance), chi2 - pixels)
            flag = np.where(flag == "", doubt, flag)
        return Fit(self.model, flag=flag, **{name: value.cpu().numpy() for name, value in arrays.items()})

    def _flags(self, state: State, q: Tensor, chi_square: Tensor, seen: Tensor) -> np.ndarray:
        """(B,) the first reason that holds for distrusting a fit, "" if none does."""
        free = list(self.model.free)
        low, high = (torch.as_tensor(bound, device=q.device)[free] for bound in self.model.bounds())
        checks = (
            (self.window.constant | (self.window.good.sum((1, 2)) < 2 * len(NAMES)), results.CONSTANT),
            (~seen, results.NO_LENS),
            (~state.converged, results.NOT_CONVERGED),
            (((q[:, free] <= low) | (q[:, free] >= high)).any(1), results.AT_BOUND),
            (chi_square > POOR, results.POOR),
        )
        flag = np.full(len(q), "", dtype="<U16")
        for failed, reason in reversed(checks):
            flag[failed.cpu().numpy()] = reason
        return flag


def _linear(lights: Tensor, window: Window, variance: Tensor) -> Tensor:
    """(B, L + 1) best amplitudes and sky for the lights (B, L, S, S)."""
    weight = torch.where(window.good, variance.double().reciprocal(), 0.0).flatten(1)[:, None]  # (B, 1, N)
    total, lights = weight.sum(2).clamp(min=1e-300), lights.flatten(2)  # (B, 1), (B, L, N)
    mean = (weight * lights).sum(2) / total  # (B, L)
    centred = weight * (lights - mean[:, :, None])
    data = window.data.flatten(1)[..., None]
    amplitudes = solve(centred @ lights.mT, (centred @ data)[..., 0])
    return torch.cat((amplitudes, (weight @ data)[:, 0] / total - (amplitudes * mean).sum(1, keepdim=True)), 1)


def _inverse(curvature: Tensor) -> Tensor:
    """(B, P, P) inverses of curvatures; infinite variances where there is none."""
    scale = curvature.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
    inverse, info = torch.linalg.inv_ex(curvature * scale[:, :, None] * scale[:, None])
    inverse = inverse * scale[:, :, None] * scale[:, None]
    good = (info == 0) & inverse.isfinite().all((1, 2)) & (inverse.diagonal(dim1=1, dim2=2) > 0).all(1)
    nothing = torch.diag_embed(torch.full_like(scale, torch.inf))
    return torch.where(good[:, None, None], inverse, nothing)
