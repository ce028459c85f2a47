"""Renders lenses: expected counts, and counts with Poisson noise."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from darklens.lenses.draw import Parameters, draw, stream
from darklens.lenses.physics import external_shear, gaussian_blur, point_masses, rod, sersic, sis
from darklens.lenses.recipes import Recipe
from darklens.machine import one_thread


def grid(
    recipe: Recipe, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """x (1, 1, n) and y (1, n, 1) in arcsec of the supersampled rays; y falls with the row."""
    n = recipe.pixels * recipe.supersample
    steps = torch.arange(n, device=device, dtype=dtype) - (n - 1) / 2
    steps = steps * (recipe.pixel_scale / recipe.supersample)
    return steps.reshape(1, 1, n), -steps.reshape(1, n, 1)


def _columns(values: np.ndarray, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    return torch.as_tensor(np.ascontiguousarray(values.T), device=like.device).to(like.dtype)[..., None, None]


def deflection(parameters: Parameters, recipe: Recipe, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec), (B, h, w) each, at x and y (arcsec; they broadcast: (1, 1, w) and (1, h, 1)).

    Halo (SIS) + external shear + subhalos (point masses) + vortex (rod). A mass m has the squared Einstein
    radius theta_E^2 m / total mass; with `conserve_mass` the halo has what the substructure leaves.
    """
    p, to = parameters, functools.partial(_columns, like=x)
    square = p.theta_e**2 / recipe.total_mass  # arcsec^2 / Msun
    halo = np.maximum(recipe.total_mass - recipe.conserve_mass * p.substructure_mass, 0)
    parts = [
        sis(x, y, to(np.sqrt(square * halo))),
        external_shear(x, y, to(p.shear), to(p.shear_angle)),
    ]
    if p.subhalo_mass.any():
        theta2 = to(square[:, None] * p.subhalo_mass)
        parts.append(point_masses(x, y, to(p.subhalo_x), to(p.subhalo_y), theta2))
    if p.vortex_mass.any():
        dx, dy = x - to(p.vortex_x), y - to(p.vortex_y)
        parts.append(rod(dx, dy, to(square * p.vortex_mass), to(p.vortex_length), to(p.vortex_angle)))
    ax, ay = parts[0]
    for more_x, more_y in parts[1:]:
        ax, ay = ax.add_(more_x), ay.add_(more_y)
    return ax, ay


def render_batch(
    parameters: Parameters,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`render`, all lenses at once: for a GPU (a CPU is faster one by one, its cache being small)."""
    x, y = grid(recipe, device, dtype)
    ax, ay = deflection(parameters, recipe, x, y)
    p, to, s = parameters, functools.partial(_columns, like=x), recipe.supersample
    u, v = (x - to(p.source_x)) - ax, (y - to(p.source_y)) - ay
    light = sersic(u, v, recipe.sersic_index, to(p.source_radius), to(p.axis_ratio), to(p.source_angle))
    rows = functools.reduce(torch.add, (light[:, i::s] for i in range(s)))  # (B, n s, n s) -> (B, n, n s)
    pixels = functools.reduce(torch.add, (rows[:, :, i::s] for i in range(s)))  # -> (B, n, n)
    source = gaussian_blur(pixels * (recipe.source_counts / s**2), recipe.psf_sigma / recipe.pixel_scale)
    if recipe.peak_snr is None:
        return source + recipe.sky
    peak = source.amax((1, 2), keepdim=True)
    exposure = to(p.peak_snr) ** 2 * (peak + recipe.sky) / peak**2  # S/N = t peak / sqrt(t (peak + sky))
    return exposure * (source + recipe.sky)


@torch.no_grad()
def render(
    parameters: Parameters,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Expected counts (B, pixels, pixels), sky included, without noise.

    On a CPU each lens is computed by itself in one thread, so its bits don't depend on the batch.
    """
    if torch.device(device).type != "cpu":
        return render_batch(parameters, recipe, device, dtype)
    torch.empty(1 << 22)  # freed at once: glibc then keeps freed memory instead of fetching it anew (3x faster)
    with one_thread():
        images = [render_batch(parameters[i : i + 1], recipe, device, dtype) for i in range(len(parameters))]
    return torch.cat(images) if images else torch.zeros((0, recipe.pixels, recipe.pixels), dtype=dtype)


def add_noise(rate: Tensor, streams: Sequence[np.random.SeedSequence]) -> np.ndarray:
    """Poisson counts, uint16 (B, n, n), of the expected counts `rate`; counts above 65535 are cut to it.

    Each image has its own stream. On a CPU that is NumPy's Philox and Generator.poisson; elsewhere torch's
    generator of that device, seeded with 64 bits of the stream: the same distribution, other numbers.
    """
    if rate.device.type == "cpu":
        pairs = zip(rate.numpy(), streams, strict=True)
        noisy = [np.random.Generator(np.random.Philox(s)).poisson(r) for r, s in pairs]
        counts = np.array(noisy, dtype=np.int64).reshape(rate.shape)
    else:
        generator, counts = torch.Generator(rate.device), torch.empty_like(rate)
        for image, r, s in zip(counts, rate, streams, strict=True):
            image.copy_(torch.poisson(r, generator.manual_seed(int(s.generate_state(1, np.uint64)[0]))))
        counts = counts.clamp_(max=65535).int().cpu().numpy()
    return np.minimum(counts, 65535).astype(np.uint16)


def simulate(
    recipe: Recipe,
    class_name: str,
    indices: Iterable[int],
    seed: int = 0,
    split: str = "train",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Noisy images `indices` of a class: uint16 counts (B, pixels, pixels), as `write_dataset` writes them.

    Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    indices = [int(i) for i in indices]
    rate = render(draw(recipe, class_name, seed, split, indices), recipe, device)
    return add_noise(rate, [stream(recipe, class_name, seed, split, i, 1) for i in indices])
