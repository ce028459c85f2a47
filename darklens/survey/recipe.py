"""What was measured on a survey's cutouts, as a commented recipe, and beside images drawn from it."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from darklens.simulation.psf import load_kernel
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.render import simulate
from darklens.storage.files import replacing
from darklens.survey.measure import GALAXY, Survey

SCALE = 0.1  # arcsec, where the files don't say
SHOWN = 4  # images of each


def recipe_text(survey: Survey, name: str) -> str:
    """A recipe (TOML) on the base of `euclid`: what was measured in numbers, what was not to be edited."""
    scale, galaxy = survey.pixel_scale or SCALE, _galaxy(survey)
    tables = [
        _header(survey, name, galaxy),
        ["[image]", *_image(survey, scale)],
        ["[psf]", *_psf(survey, scale)],
        ["[noise]", *_noise(survey)],
        ["[lens]", *_lens(survey.ring[np.isfinite(survey.ring)] * scale, len(survey.images))],
        ["[source]", 'magnitude = "none"  # noise.peak_snr sets it'],
        _lens_light(galaxy),
    ]
    return "\n\n".join("\n".join(lines) for lines in tables if lines) + "\n"


def _galaxy(s: Survey) -> float:
    """Light of the lens galaxy over the rest, 0 where none was seen."""
    central = s.central[np.isfinite(s.central)]
    ratio = float(np.median(central)) if len(central) else 0.0
    return ratio if ratio > GALAXY else 0.0


def _header(s: Survey, name: str, galaxy: float) -> list[str]:
    n, size = s.images.shape[:2]
    return [
        f"# Measured on {n} images of {size} x {size} pixels, unit {_unit(s)}.",
        "# Edit it; `simulate.py --recipe THIS --sheet FILE.png` draws it. Keys: darklens/simulation/recipe_tables.py.",
        *(f"# {' '.join(note.split())}" for note in s.notes),
        f'name = "{name}"',
        'base = "euclid"  # source, substructure and axes are its own until they are named here',
        *([] if galaxy else ['lens_light = "none"  # none was seen in the middle']),
    ]


def _image(s: Survey, scale: float) -> list[str]:
    scale_source = "from the files" if s.pixel_scale else "NOT KNOWN: put the pixel scale here"
    return [
        f"pixels = {s.images.shape[1]}",
        f"pixel_scale = {scale:.5g}  # arcsec, {scale_source}",
        "centre_scatter = 1  # pixels",
    ]


def _noise(s: Survey) -> list[str]:
    low, high = np.percentile(s.peak_snr, [10, 90])
    has_sky = abs(np.median(s.sky)) > np.median(s.noise) / 2 and np.median(s.sky) > 0
    return [
        'sky_magnitude = "none"',
        'zero_point = "none"',
        'read_noise = "none"  # part of background_rms',
        'exposures = "none"',
        "gain = 1.0",
        f"exposure_time = {_time(s):.4g}  # photons a unit: {_how(s)}",
        f"background_rms = {_prior(s.noise)}  # of the empty sky",
        f"correlation = {s.correlation:.2g}  # pixels: the smoothing that neighbours show",
        f"peak_snr = [{max(low, 1):.3g}, {max(high, 1):.3g}]  # of the brightest pixel, 10% to 90% of them",
        *([f"sky = {_prior(s.sky)}"] if has_sky else []),
        f"keep_sky = {str(bool(has_sky)).lower()}",
        'output = "rate"',
    ]


def _lens_light(ratio: float) -> list[str]:
    if not ratio:
        return []
    span = f"[{ratio / 2:.2g}, {2 * ratio:.2g}]"
    return [
        "[lens_light]",
        'magnitude = "none"',
        f"flux_ratio = {span}  # of the source's flux in the image: a rough guess",
    ]


def _unit(s: Survey) -> str:
    return " ".join(s.unit.split()) if s.unit else "not given"


def _prior(values: np.ndarray) -> str:
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))  # a few odd images do not count
    return f"{{normal = [{middle:.4g}, {spread:.2g}]}}" if spread > 1e-3 * abs(middle) else f"{middle:.4g}"


def _time(s: Survey) -> float:
    return min(1 / s.variance_per_unit, 1e8) if s.variance_per_unit > 0 else 1e8


def _how(s: Survey) -> str:
    return "noise against signal" if s.variance_per_unit > 0 else "no photon noise was seen"


def _psf(s: Survey, scale: float) -> list[str]:
    width = f'fwhm = {2 * scale:.3g}  # arcsec: NOT MEASURED, two pixels; or kind = "file" with a kernel of your own'
    if s.psf is None:
        return [width]
    try:
        load_kernel(s.psf)
    except (OSError, ValueError) as error:
        return [f"# The PSF beside the images cannot be used: {' '.join(str(error).split())}", width]
    return ['kind = "file"', *tomli_w.dumps({"file": str(s.psf.resolve())}).splitlines(), 'fwhm = "none"']


def _lens(ring: np.ndarray, n: int) -> list[str]:
    if not len(ring):
        return ["einstein_radius = [0.7, 2.0]  # arcsec: no ring was seen"]
    low, high = 0.8 * float(np.min(ring)), 1.2 * float(np.max(ring))
    return [f"einstein_radius = [{low:.3g}, {high:.3g}]  # arcsec: rings seen in {len(ring)} of {n}, and 20% more"]


def write_comparison(path: str | Path, survey: Survey, recipe: SimulationConfig, seed: int = 0) -> None:
    """A picture of theirs above ours, with the pixels' histogram and the power spectrum. Raises OSError."""
    from matplotlib.figure import Figure

    both = {"theirs": survey.images, "ours": _of_all_classes(recipe, max(len(survey.images), 3 * SHOWN), seed)}
    figure = Figure(figsize=(12, 10), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2, 1.2))
    pictures, plots = parts
    for row, (title, images) in zip(pictures.subplots(2, SHOWN), both.items(), strict=True):
        for axes, image in zip(row, images, strict=False):
            axes.imshow(image, cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.7))
            axes.set_title(title)
        for axes in row:
            axes.set_axis_off()
    _plot_statistics(plots.subplots(1, 2), both, survey)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=70)
    with replacing(path, "wb", sync=False) as file:
        file.write(buffer.getvalue())


def _of_all_classes(recipe: SimulationConfig, count: int, seed: int) -> np.ndarray:
    """`count` or a few more images of a recipe, the classes in turn."""
    classes = list(recipe.classes)
    parts = [simulate(recipe, name, range(-(-count // len(classes))), seed).astype(float) for name in classes]
    return np.stack(parts, 1).reshape(-1, *parts[0].shape[1:])  # (n, classes, S, S) -> (n * classes, S, S)


def _plot_statistics(axes: Any, both: dict[str, np.ndarray], survey: Survey) -> None:
    histogram, spectrum = axes
    unit = np.median(survey.noise)
    edges = np.linspace(-5, max(30, float(np.percentile(survey.peak_snr, 90))), 71)
    for label, images in both.items():
        pixels = (images - np.median(images, (1, 2), keepdims=True)) / unit
        histogram.stairs(np.histogram(pixels, edges, density=True)[0], edges, label=label)
        spectrum.loglog(*power_spectrum(images / unit), label=label)
    histogram.set(xlabel="pixel value over the sky's noise", ylabel="density", yscale="log")
    spectrum.set(xlabel="cycles a pixel", ylabel="power")
    histogram.legend()


def power_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequency (cycles a pixel) and mean power in rings of it, of images (n, S, S) less their means."""
    size = images.shape[1]
    power = np.abs(np.fft.fft2(images - images.mean((1, 2), keepdims=True))) ** 2 / size**2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    ring = np.minimum((frequency * size).astype(int), size // 2).ravel()
    mean = np.bincount(ring, power.mean(0).ravel()) / np.maximum(np.bincount(ring), 1)
    return np.arange(1, size // 2) / size, mean[1 : math.floor(size / 2)]
