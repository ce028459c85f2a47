"""One batch of images on its way through the fit: its windows, its noise, its solver."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from darklens.fit import noise as noises
from darklens.fit import start as starts
from darklens.fit.correlation import Correlation, measure_correlation
from darklens.fit.model import SmoothModel
from darklens.fit.noise import HIGH_PASS, NoiseModel, Variance
from darklens.fit.renderer import renderer
from darklens.fit.search import Search
from darklens.fit.solver import Problem, Solver, State, solve
from darklens.fit.window import Window, cut, middle

STEPS = 40
SHARE = 4  # images whose rays a CPU's cache holds
Rows = Tensor | slice


@dataclasses.dataclass(frozen=True)
class Explained:
    """What the best amplitudes at some parameters make of B windows; float64, in the data's unit."""

    linear: Tensor  # (B, L + 1 + E) amplitudes of the lights, sky, amplitudes of further columns
    lights: Tensor  # (B, L, S, S) with their amplitudes
    residual: Tensor  # (B, S, S)

    @property
    def sky(self) -> Tensor:
        """(B,)"""
        return self.linear[:, self.lights.shape[1]]


@dataclasses.dataclass(frozen=True)
class Batch:
    """B windows to fit with one model."""

    model: SmoothModel
    window: Window
    data: Tensor  # (B, S, S) of the window, in the working precision
    noise: NoiseModel
    solver: Solver
    columns: Tensor | None = None  # (B, E, N) further linear columns, N = S^2 (`solver.Problem`)
    start: np.ndarray | None = None  # (B, P)

    def problem(self, variance: Tensor, rows: Rows = slice(None)) -> Problem:
        """The least squares of some rows."""
        weight = torch.where(self.window.good[rows], variance[rows].rsqrt(), 0.0)
        columns = None if self.columns is None else self.columns[rows]
        return Problem(self.data[rows].flatten(1), weight.flatten(1), columns)

    def minimise(self, q: Tensor, variance: Tensor, tolerance: float, rows: Rows = slice(None)) -> State:
        """Where Levenberg-Marquardt leads from q (B, Q)."""
        problem = self.problem(variance, rows)
        return self.solver.minimise(self.solver.evaluate(q, problem), problem, STEPS, tolerance)

    def given_start(self) -> Tensor:
        """(B, Q) the start that the caller gave, within the bounds."""
        q = torch.as_tensor(self.model.held(), device=self.data.device).repeat(len(self.data), 1)
        q[:, list(self.model.free)] = torch.as_tensor(self.start, device=q.device)
        return starts.clamp(q, self.model)

    def search(self, variance: Tensor, rows: Rows = slice(None), retry: bool = False) -> Search:
        """A search for starts on bins of the image."""
        return Search(self.window.data[rows], self.window.good[rows], variance[rows], self.model, retry=retry)

    def explain(self, q: Tensor, variance: Tensor) -> Explained:
        """Data minus the best model at q (B, Q), and the lights with their amplitudes."""
        lights = self.solver.renderer.lights(q).double().unflatten(2, self.data.shape[1:])
        if self.columns is None:
            linear = best_amplitudes(lights, self.window, variance)
            lights = linear[:, :-1, None, None] * lights
            return Explained(linear, lights, self.window.data - lights.sum(1) - linear[:, -1, None, None])
        count, columns = lights.shape[1], self.columns.double().unflatten(2, self.data.shape[1:])
        linear = best_amplitudes(torch.cat((lights, columns), 1), self.window, variance)
        linear = torch.cat((linear[:, :count], linear[:, -1:], linear[:, count:-1]), 1)  # the sky after the lights
        lights = linear[:, :count, None, None] * lights
        further = (linear[:, count + 1 :, None, None] * columns).sum(1)
        return Explained(linear, lights, self.window.data - lights.sum(1) - further - linear[:, count, None, None])

    def chi_square_without_lens(self, lights: Tensor | None, variance: Tensor) -> Tensor:
        """(B,) chi-square of the best sky, and of the best amplitudes of the lights (B, L, S, S), without any other."""
        lights = self.window.data.new_empty((len(self.data), 0, *self.data.shape[1:])) if lights is None else lights
        linear = best_amplitudes(lights, self.window, variance)
        weight = torch.where(self.window.good, variance.double().reciprocal(), 0.0)
        model = (linear[:, :-1, None, None] * lights).sum(1) + linear[:, -1, None, None]
        return (weight * (self.window.data - model).square()).sum((1, 2))

    def first_variance(self) -> Variance:
        """The noise before anything is fitted: the image itself, smoothed, stands for the model."""
        smooth = noises.smooth(self.data, self.window.good)
        filled = torch.where(self.window.good, self.data, smooth)
        sky = torch.zeros_like(self.window.scale)
        return self.noise.variance(self.window, smooth.clamp(min=0), sky, filled, "data")

    def measured_variance(self, q: Tensor, variance: Tensor) -> tuple[Variance, Correlation]:
        """The noise that the residual at q shows. Measured noise is scaled as its correlation demands."""
        explained = self.explain(q, variance)
        residual = torch.where(self.window.good, explained.residual, 0.0)
        return self.variance_of(residual, explained.lights.sum(1).clamp(min=0), explained.sky)

    def variance_of(self, residual: Tensor, signal: Tensor, sky: Tensor) -> tuple[Variance, Correlation]:
        """The noise that a residual (B, S, S) shows, beside a signal (B, S, S), 0 or more, and the skies (B,)."""
        good, assumed = self.window.good, self.model.noise_correlation
        noise = self.noise.variance(self.window, signal, sky, residual, "residual")
        correlation = measure_correlation(residual / noise.pixels.double().sqrt(), good, assumed)
        if not isinstance(self.noise, noises.MeasuredNoise):
            return noise, correlation
        response = [HIGH_PASS["residual"].response(width) for width in (assumed, *correlation.width.tolist())]
        return noise.scaled(response[0] / residual.new_tensor(response[1:])), correlation

    def fitted_columns(self, q: Tensor, explained: Explained, variance: Tensor) -> Tensor:
        """(B, P + L + 1 + E, S, S) all that was fitted, over the standard deviations: derivatives by the P free
        parameters, lights, sky and further columns; one ray a pixel will do."""
        model = dataclasses.replace(self.model, supersample=1)
        camera = renderer(model, self.data.shape[-1], 1, str(self.data.device), self.data.dtype)
        weight = torch.where(self.window.good, variance.rsqrt(), 0.0)[:, None]
        columns = camera.columns(q)  # (B, R, S, S)
        lights, mixing = camera.mixing()
        mixed = torch.einsum("rpl,bl->bpr", mixing, explained.linear[:, : len(lights)]).to(columns.dtype)
        derivatives = (mixed @ columns.flatten(2)).unflatten(2, columns.shape[2:])
        parts = [derivatives, columns[:, lights], torch.ones_like(columns[:, :1])]
        if self.columns is not None:
            parts.append(self.columns.unflatten(2, columns.shape[2:]))
        return torch.cat(parts, 1) * weight


def prepare(
    images: Tensor,
    model: SmoothModel,
    *,
    start: np.ndarray | None = None,
    noise: Tensor | str | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """The batch of images (B, H, W), float64; the arguments as in `fit`, on the images' device."""
    window = cut(images, mask, model)
    data = window.data.to(dtype)
    noise_model: NoiseModel = noises.MeasuredNoise(dtype, model.noise_correlation)
    if isinstance(noise, Tensor):
        noise_model, window = noises.given_noise(middle(noise, data.shape[-1]), window, dtype)
    elif noise == "poisson":
        noise_model = noises.PoissonNoise(dtype)
    camera = renderer(model, data.shape[-1], 1, str(data.device), dtype)
    solver = Solver(camera, SHARE if data.device.type == "cpu" else None)
    return Batch(model, window, data, noise_model, solver, start=start)


def best_amplitudes(lights: Tensor, window: Window, variance: Tensor) -> Tensor:
    """(B, L + 1) best amplitudes and sky for the lights (B, L, S, S)."""
    weight = torch.where(window.good, variance.double().reciprocal(), 0.0).flatten(1)[:, None]  # (B, 1, N)
    total, lights = weight.sum(2).clamp(min=1e-300), lights.flatten(2)  # (B, 1), (B, L, N)
    mean = (weight * lights).sum(2) / total  # (B, L)
    centred = weight * (lights - mean[:, :, None])
    data = window.data.flatten(1)[..., None]
    amplitudes = solve(centred @ lights.mT, (centred @ data)[..., 0])
    return torch.cat((amplitudes, (weight @ data)[:, 0] / total - (amplitudes * mean).sum(1, keepdim=True)), 1)
