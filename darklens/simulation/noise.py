"""The noise of a recipe's images: on a CPU by NumPy, image by image, on a GPU by torch, all at once."""

import math

import numpy as np
import torch
from torch import Tensor

from darklens.simulation import detector
from darklens.simulation.draw import LensSample
from darklens.simulation.priors import fixed
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.terms import columns


def _exposure(recipe: SimulationConfig, values: dict[str, np.ndarray], i: int) -> detector.Exposure:
    """How lens i is exposed."""
    n, rms = recipe.noise, values["noise.background_rms"][i]
    return detector.Exposure(
        time=values["noise.exposure_time"][i],
        gain=n.gain * values["robust.gain"][i],
        read_noise=values["noise.read_noise"][i],
        exposures=n.exposures,
        rms=None if np.isnan(rms) else rms,
        correlation=values["noise.correlation"][i],
        keep_sky=n.keep_sky,
        output=n.output,
    )


def is_counts(recipe: SimulationConfig) -> bool:
    """Whether the images are whole counts (uint16); else they are float32."""
    n = recipe.noise
    plain = n.read_noise.bounds[1] == n.correlation.bounds[1] == 0 and n.background_rms is None
    unit_gain = n.gain == 1 and recipe.robust.gain == fixed(1)
    return unit_gain and (n.kind == "twice" or (n.kind == "ccd" and n.output == "counts" and n.keep_sky and plain))


def image_dtype(recipe: SimulationConfig) -> type[np.generic]:
    """What `simulate` gives: uint16 for whole counts, else float32."""
    return np.uint16 if is_counts(recipe) else np.float32


def add_noise(recipe: SimulationConfig, lenses: LensSample, light: Tensor, sky: np.ndarray, rngs: list) -> np.ndarray:
    """Noisy images (B, n, n), float64, of light (B, n, n) and sky (B,), both in electrons/s a pixel."""
    images = np.empty(light.shape)
    for i, (one, rng) in enumerate(zip(light.cpu().numpy().astype(np.float64), rngs, strict=True)):
        exposure = _exposure(recipe, lenses.values, i)
        if recipe.noise.kind == "none":
            images[i] = detector.expected_image(one, sky[i], exposure)
        else:
            images[i] = detector.observe(one, sky[i], rng, exposure)
        if recipe.noise.kind == "twice":
            images[i] = rng.poisson(np.maximum(images[i], 0))
        if lenses["robust.eight_bits"][i]:
            images[i] = detector.eight_bits(images[i])
    return images


def noisy(
    recipe: SimulationConfig, lenses: LensSample, light: Tensor, sky: np.ndarray, generator: torch.Generator
) -> Tensor:
    """`add_noise` on the light's device (B, n, n), in its dtype: the same distribution, other numbers."""
    n, v = recipe.noise, lenses.values
    time, gain, rms = v["noise.exposure_time"], n.gain * v["robust.gain"], v["noise.background_rms"]
    counted_sky = np.where(np.isnan(rms), sky, 0)
    electrons = _electrons(recipe, lenses, (light + columns(counted_sky, light)) * columns(time, light), generator)
    electrons = electrons + columns((n.keep_sky * sky - counted_sky) * time, light)
    image = electrons / columns(gain * time if n.output == "rate" else gain, light)
    if n.kind == "twice":
        image = torch.poisson(image.clamp(min=0), generator)
    eight = v["robust.eight_bits"] > 0
    return torch.where(columns(eight, light) > 0, _eight_bits(image), image) if eight.any() else image


def _electrons(recipe: SimulationConfig, lenses: LensSample, expected: Tensor, generator: torch.Generator) -> Tensor:
    """Electrons with noise (B, n, n) of those expected."""
    n, v = recipe.noise, lenses.values
    if n.kind == "none":
        return expected
    electrons = torch.poisson(expected.clamp(min=0), generator)
    rms = v["noise.background_rms"] * n.gain * v["robust.gain"] * v["noise.exposure_time"]
    sigma = np.where(np.isnan(rms), math.sqrt(n.exposures) * v["noise.read_noise"], rms)
    if sigma.any():
        normal = torch.randn(expected.shape, generator=generator, dtype=expected.dtype, device=expected.device)
        electrons += columns(sigma, expected) * normal
    width = v["noise.correlation"]
    return expected + _correlate(electrons - expected, columns(width, expected)) if width.any() else electrons


def _correlate(noise: Tensor, width: Tensor) -> Tensor:
    """`detector.correlate` of (B, n, n) by FFT; width: (B, 1, 1) pixels."""
    size = noise.shape[-1]
    square = torch.fft.fftfreq(size, device=noise.device, dtype=noise.dtype).square()
    kernel = torch.exp(-2 * math.pi**2 * width**2 * square)  # (B, 1, n)
    kernel = kernel / kernel.square().mean(2, keepdim=True).sqrt()
    spectrum = torch.fft.rfft2(noise) * kernel.transpose(1, 2) * kernel[..., : size // 2 + 1]
    return torch.fft.irfft2(spectrum, s=(size, size))


def _eight_bits(image: Tensor) -> Tensor:
    """`detector.eight_bits` of each of (B, n, n)."""
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    span = (high - low).clamp(min=torch.finfo(image.dtype).tiny)
    return ((image - low) * (256 / span)).floor().clamp(max=255)
