"""Render the lenses of a recipe, and give them the detector's noise.

recipe = load_recipe("euclid")
images = simulate(recipe, "sphere", range(8))                # (8, pixels, pixels)
render(draw(recipe, "sphere", 0, "train", range(8)), recipe)   # the same without noise
"""

import functools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from darklens.machine import one_thread
from darklens.simulation import detector
from darklens.simulation.brightness import brighten, sky_rate
from darklens.simulation.deflect import grid
from darklens.simulation.draw import LensSample, draw, generator, stream
from darklens.simulation.light import blur_each, lens_light, light_terms, psf_widths, source_light
from darklens.simulation.noise import add_noise, image_dtype, noisy
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.terms import Terms, columns, each

CHUNK = 64  # lenses at a time whose sources have lattices of their own, half a megabyte each


def _blurred(terms: Terms, recipe: SimulationConfig, widths: list) -> tuple[Tensor, Tensor | None]:
    """Light after the PSF (B, n, n): of the source and, where it is needed apart, of the lens, else both in one."""
    source = source_light(terms, recipe)
    if recipe.lens_light is None:
        return blur_each(source, recipe, widths), None
    galaxy = lens_light(terms, recipe, source)
    if _has_peak(recipe):
        return blur_each(source, recipe, widths), blur_each(galaxy, recipe, widths)
    return blur_each(galaxy.add_(source), recipe, widths), None


def _has_peak(recipe: SimulationConfig) -> bool:
    """Whether the source's brightest pixel sets something."""
    return recipe.noise.peak_snr is not None or recipe.noise.sky_fraction is not None


def _exposed(
    lenses: LensSample, recipe: SimulationConfig, total: Tensor, galaxy: Tensor | None
) -> tuple[Tensor, np.ndarray]:
    """`light_and_sky` of what `_blurred` gives."""
    sky = sky_rate(lenses, recipe)
    if not _has_peak(recipe):
        return total, sky
    peak = total.amax((1, 2)).double().cpu().numpy()
    total = total if galaxy is None else total + galaxy
    if recipe.noise.peak_snr is not None:
        factor = brighten(lenses, recipe, peak, sky)
        total, peak = total.mul_(columns(factor, total)), peak * factor
    return total, sky + np.nan_to_num(lenses["noise.sky_fraction"]) * peak


def light_batch(lenses: LensSample, recipe: SimulationConfig, x: Tensor, y: Tensor) -> tuple[Tensor, np.ndarray]:
    """`light_and_sky`, all lenses at once, at the rays of `grid`: for a GPU (a CPU is faster one by one)."""
    terms, widths = light_terms(lenses, recipe, x, y), psf_widths(lenses)
    return _exposed(lenses, recipe, *_blurred(terms, recipe, widths))


def _one_by_one(lenses: LensSample, recipe: SimulationConfig, x: Tensor, y: Tensor) -> tuple[Tensor, np.ndarray]:
    terms, mass = light_terms(lenses, recipe, x, y), lenses.subhalos["mass"]
    counts = ((mass > 0) * np.arange(1, mass.shape[1] + 1)).max(1, initial=0)  # without the padding
    torch.empty(1 << 22)  # freed at once: glibc then keeps freed memory instead of fetching it anew
    with one_thread():
        pairs = [
            _blurred(one, recipe, [width]) for one, width in zip(each(terms, counts), psf_widths(lenses), strict=True)
        ]
    total = torch.cat([source for source, _ in pairs])
    galaxies = [galaxy for _, galaxy in pairs if galaxy is not None]
    return _exposed(lenses, recipe, total, torch.cat(galaxies) if galaxies else None)


@torch.no_grad()
def light_and_sky(
    lenses: LensSample,
    recipe: SimulationConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, np.ndarray]:
    """Light (B, pixels, pixels) and sky (B,), both in electrons/s a pixel.

    On a CPU each lens is computed by itself in one thread: its bits don't depend on the batch, and it stays in cache.
    """
    x, y = grid(recipe, device, dtype)
    if not len(lenses):
        return x.new_zeros((0, recipe.image.pixels, recipe.image.pixels)), np.zeros(0)
    if recipe.source.structure and len(lenses) > CHUNK:
        chunks = (lenses[i : i + CHUNK] for i in range(0, len(lenses), CHUNK))
        lights, skies = zip(*(light_and_sky(chunk, recipe, device, dtype) for chunk in chunks), strict=True)
        return torch.cat(lights), np.concatenate(skies)
    return (_one_by_one if x.device.type == "cpu" else light_batch)(lenses, recipe, x, y)


def render(
    lenses: LensSample,
    recipe: SimulationConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The expected image (B, pixels, pixels) in the recipe's output unit, with its sky if it is kept, without noise."""
    light, sky = light_and_sky(lenses, recipe, device, dtype)
    to, n, time = functools.partial(columns, template=light), recipe.noise, lenses["noise.exposure_time"]
    gain = to(n.gain * lenses["robust.gain"])
    exposure = detector.Exposure(to(time), gain, keep_sky=n.keep_sky, output=n.output)
    return detector.expected_image(light, to(sky), exposure)


def simulate(
    recipe: SimulationConfig,
    class_name: str,
    indices: Iterable[int],
    seed: int = 0,
    split: str = "train",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Noisy images `indices` of a class, (B, pixels, pixels): uint16 if they are whole counts, else float32.

    Counts above 65535 are cut to it. Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    indices = [int(i) for i in indices]
    lenses = draw(recipe, class_name, seed, split, indices)
    light, sky = light_and_sky(lenses, recipe, device)
    streams = [stream(recipe, class_name, seed, split, i, 1) for i in indices]
    if light.device.type == "cpu":
        images = add_noise(recipe, lenses, light, sky, list(map(generator, streams)))
    else:
        images = _noisy_each(recipe, lenses, light, sky, streams)
    dtype = image_dtype(recipe)
    return (np.clip(images, 0, 65535) if dtype == np.uint16 else images).astype(dtype)


def _noisy_each(
    recipe: SimulationConfig, lenses: LensSample, light: Tensor, sky: np.ndarray, streams: list
) -> np.ndarray:
    """Images on a GPU, each with its own stream: 64 bits of it seed the device's generator."""
    generator, images = torch.Generator(light.device), torch.empty_like(light)
    for i, one in enumerate(streams):
        generator.manual_seed(int(one.generate_state(1, np.uint64)[0]))
        images[i] = noisy(recipe, lenses[i : i + 1], light[i : i + 1], sky[i : i + 1], generator)[0]
    return images.cpu().numpy()
