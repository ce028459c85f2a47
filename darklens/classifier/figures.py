"""What an image, its smooth lens and the residual look like, in numbers that say whether they can be trusted.

    figures = image_figures(fit, images)             # {name: (B,)}: turns, mirrors and units change none of them

Fitted parameters and their errors; the residual's largest peaks on the ring and off it; gain, zero and noise in
quadrants, rows and columns; the noise's correlation; the steps between the values of pixels, and how many of them share
the largest and the smallest one. `exposure.py` trains a classifier on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from darklens.fit import Fit

ON_RING = 2.0  # standard deviations of the model's light in a pixel: on the ring
WIDTHS = (1.0, 1.7, 3.0)  # pixels: of the smoothing under which peaks are sought; stars have 1.7
ANGLES = ("shear_angle", "source_angle", "halo_angle", "light_angle")
OF_NOISE = ("residual_significance", "noise_correlation", "noise_scale")  # measured here in other ways
VECTORS = (("source_x", "source_y"), ("centre_x", "centre_y"))
Figures = dict[str, np.ndarray]


def image_figures(fit: Fit, images: np.ndarray) -> Figures:
    """Name -> (B,) float64, finite. images: (B, H, W) what was fitted, in any unit."""
    rows = [_of_image(*parts) for parts in zip(*_arrays(fit, images), strict=True)]
    figures = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
    figures |= fit_figures(fit.table())
    figures["excess_chi_square"] = (fit.chi_square - 1) * np.sqrt(fit.pixels / 2)
    figures["fit_flag"] = (fit.flag != "").astype(float)
    return {
        name: np.nan_to_num(values.astype(float), nan=0, posinf=1e6, neginf=-1e6) for name, values in figures.items()
    }


def fit_figures(table: Mapping[str, np.ndarray]) -> Figures:
    """Of a table of fits: no angles, lengths instead of coordinates, logarithms of errors."""
    skipped = {*ANGLES, *(name for pair in VECTORS for name in pair), *OF_NOISE, "flag"}
    figures = {}
    for name, values in table.items():
        if name.removesuffix("_sd") in skipped:
            continue
        figures[name] = np.log(np.clip(values, 1e-9, 1e9)) if name.endswith("_sd") else np.asarray(values, dtype=float)
    for x, y in VECTORS:
        if x in table:
            figures[x.removesuffix("_x") + "_offset"] = np.hypot(table[x], table[y])
    return figures


def _arrays(fit: Fit, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pixels, model over the sky and residual in standard deviations, usable pixels, sky's deviation: of each image."""
    size = fit.residual.shape[-1]
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    pixels = np.asarray(images[:, top : top + size, left : left + size], dtype=np.float64)
    deviation = np.maximum(fit.deviation.astype(np.float64), 1e-30)
    signal = (fit.image - fit.sky[:, None, None]) / deviation
    return pixels, signal, fit.residual.astype(np.float64), ~fit.mask, np.sqrt(np.maximum(fit.noise[:, 0], 1e-60))


def _of_image(pixels: np.ndarray, signal: np.ndarray, residual: np.ndarray, good: np.ndarray, sigma: float) -> dict:
    """All figures of one image (S, S)."""
    light = ndimage.uniform_filter(signal, 5)
    ring = (light > max(ON_RING, 0.05 * light.max())) & good
    off = ~ndimage.binary_dilation(ring, iterations=3) & good
    figures = _peaks(residual, signal, ring, off) | _levels(residual, signal, ring, off, good)
    figures |= _correlation(residual, off, "off") | _correlation(residual, ring, "on")
    figures |= _amplifiers(residual, signal, ring, off) | _lines(residual, good)
    return figures | _values(pixels[good], sigma) | _flat_top(pixels, residual, signal, good)


def _peaks(residual: np.ndarray, signal: np.ndarray, ring: np.ndarray, off: np.ndarray) -> dict:
    """Highest and lowest values of the residual, smoothed or not, on the ring and off it, and their shapes."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in residual.shape)
    radius, ring_radius = np.hypot(y[:, None], x), _mean_radius(signal, ring)
    figures = {"ring_pixels": float(ring.sum()), "peak_signal": float(signal.max())}
    maps = {0.0: residual} | {w: ndimage.gaussian_filter(residual, w) * 2 * math.sqrt(math.pi) * w for w in WIDTHS}
    for where, inside in (("on", ring), ("off", off)):
        for width, values in maps.items():
            chosen = np.where(inside, values, 0.0)
            figures |= {f"high_{where}_{width:g}": chosen.max(), f"low_{where}_{width:g}": chosen.min()}
            figures[f"extreme_share_{where}_{width:g}"] = (np.abs(chosen) > 4).sum() / max(inside.sum(), 1)
        smooth = np.where(inside, maps[WIDTHS[0]], 0.0)
        for sign, name in ((1, "high"), (-1, "low")):
            place = np.unravel_index((sign * smooth).argmax(), smooth.shape)
            figures[f"{name}_radius_{where}"] = radius[place] / max(ring_radius, 1.0)
            figures[f"{name}_width_{where}"] = maps[WIDTHS[1]][place] / (smooth[place] or 1.0)
            figures[f"{name}_breadth_{where}"] = maps[WIDTHS[2]][place] / (smooth[place] or 1.0)
            figures[f"{name}_sharpness_{where}"] = residual[place] / (smooth[place] or 1.0)
            figures[f"{name}_over_signal_{where}"] = smooth[place] / max(signal.max(), 1.0)
    figures |= _single_spots(maps, residual, ring | off)
    centre = radius < 5
    return figures | {
        "centre_mean": residual[centre].mean() * math.sqrt(centre.sum()),
        "centre_high": smooth_at(maps, centre),
    }


def _single_spots(maps: dict[float, np.ndarray], residual: np.ndarray, inside: np.ndarray) -> dict:
    """Which share of the residual's excess chi-square a single spot explains, of a star's width and of a galaxy's."""
    excess = max(float((residual[inside] ** 2).sum() - inside.sum()), math.sqrt(2 * inside.sum()))
    figures = {}
    for width in WIDTHS[1:]:
        values = np.where(inside, maps[width], 0.0)
        figures[f"spot_share_{width:g}"] = values.max() ** 2 / excess
        figures[f"hole_share_{width:g}"] = values.min() ** 2 / excess
    narrow, wide = maps[WIDTHS[0]], ndimage.gaussian_filter(residual, 4.0)
    sharp = np.where(inside, narrow / (2 * math.sqrt(math.pi) * WIDTHS[0]) - wide, 0.0) * 2 * math.sqrt(math.pi)
    return figures | {"sharp_high": sharp.max(), "sharp_low": sharp.min()}


def smooth_at(maps: dict[float, np.ndarray], inside: np.ndarray) -> float:
    """The largest absolute value of the smoothed residual there, with its sign."""
    values = maps[WIDTHS[0]][inside]
    return float(values[np.abs(values).argmax()])


def _mean_radius(signal: np.ndarray, ring: np.ndarray) -> float:
    y, x = (np.arange(n) - (n - 1) / 2 for n in signal.shape)
    weight = np.where(ring, signal, 0.0)
    return float((weight * np.hypot(y[:, None], x)).sum() / max(weight.sum(), 1e-9))


def _levels(residual: np.ndarray, signal: np.ndarray, ring: np.ndarray, off: np.ndarray, good: np.ndarray) -> dict:
    """Mean and mean square of the residual where the model is faint and bright; shape of its distribution; trends."""
    figures = {"total_signal": math.log(max(float((signal[good] ** 2).sum()), 1.0))}
    top = max(float(signal.max()), 1e-9)
    for name, low, high in (
        ("faint", 0.0, 0.05),
        ("low", 0.05, 0.2),
        ("middle", 0.2, 0.5),
        ("bright", 0.5, 0.8),
        ("top", 0.8, 2.0),
    ):
        values = residual[good & (signal >= low * top) & (signal < high * top)]
        count = max(len(values), 1)
        figures[f"mean_{name}"] = values.sum() / math.sqrt(count)
        figures[f"square_{name}"] = (values**2).sum() / count
        figures[f"square_excess_{name}"] = ((values**2).sum() - count) / math.sqrt(2 * count)
    for where, inside in (("on", ring), ("off", off)):
        values = residual[inside] if inside.any() else np.zeros(1)
        spread = 1.4826 * np.median(np.abs(values - np.median(values))) or 1.0
        figures |= {
            f"spread_{where}": spread,
            f"tails_{where}": (np.abs(values) > 3).mean(),
            f"kurtosis_{where}": (np.clip(values, -20, 20) ** 4).mean() / max((values**2).mean() ** 2, 1e-12),
            f"skewness_{where}": (np.clip(values, -20, 20) ** 3).mean() / max((values**2).mean() ** 1.5, 1e-12),
            f"median_{where}": np.median(values) * math.sqrt(len(values)),
        }
    s = np.clip(signal[good] / top, 0, None)
    curve = s**2 - s * (s**3).sum() / max((s**2).sum(), 1e-12)  # what a wrong amplitude doesn't explain
    size = math.sqrt(max((curve**2).sum(), 1e-12))
    return figures | {
        "nonlinearity": (residual[good] * curve).sum() / size,
        "relative_nonlinearity": (residual[good] * curve).sum() / size**2 / top,
    }


def _correlation(residual: np.ndarray, inside: np.ndarray, where: str) -> dict:
    """Autocorrelation of the residual at lags of 1 and 2 pixels; how much rows and columns differ."""
    values = np.where(inside, np.clip(residual, -5, 5), 0.0)
    variance = (values**2).sum() / max(inside.sum(), 1)

    def lag(rows: int, columns: int) -> float:
        size = values.shape
        a = slice(0, size[0] - rows), slice(0, size[1] - columns)
        b = slice(rows, size[0]), slice(columns, size[1])
        pairs = (inside[a] & inside[b]).sum()
        return float((values[a] * values[b]).sum() / max(pairs, 1) / max(variance, 1e-12))

    down, across = lag(1, 0), lag(0, 1)
    return {
        f"lag1_{where}": (down + across) / 2,
        f"lag1_difference_{where}": abs(down - across),
        f"lag11_{where}": lag(1, 1),
        f"lag2_{where}": (lag(2, 0) + lag(0, 2)) / 2,
    }


def _amplifiers(residual: np.ndarray, signal: np.ndarray, ring: np.ndarray, off: np.ndarray) -> dict:
    """Gain, zero and noise as measured in each quadrant and half: how far they lie apart, and how surely."""
    height, width = residual.shape
    rows, columns = np.arange(height)[:, None] >= height // 2, np.arange(width)[None] >= width // 2
    quadrants = [a & b for a in (rows, ~rows) for b in (columns, ~columns)]
    gains, errors, zeros, noises = [], [], [], []
    for quadrant in quadrants:
        s, r = np.where(quadrant & ring, signal, 0.0), np.where(quadrant & ring, residual, 0.0)
        power = max((s**2).sum(), 1.0)
        gains.append((s * r).sum() / power)
        errors.append(power**-0.5)
        sky = residual[quadrant & off] if (quadrant & off).any() else np.zeros(1)
        zeros.append(sky.mean() * math.sqrt(len(sky)))
        noises.append(math.log(max(float(np.abs(sky).mean()), 1e-3)))
    gain, error = np.array(gains), np.array(errors)
    centred = gain - np.average(gain, weights=error**-2)
    edges = {span: sorted(map(abs, _edges(residual, signal, span)), reverse=True) for span in (3, 8)}
    return {
        "gain_range": np.ptp(gain),
        "gain_sure": math.sqrt(float((centred**2 / error**2).sum())),
        "gain_largest": float(np.abs(centred / error).max()),
        "zero_high": max(zeros),
        "zero_low": min(zeros),
        "zero_range": np.ptp(zeros),
        "noise_range": np.ptp(noises),
        **{f"edge_{span}_{rank}": steps[rank] for span, steps in edges.items() for rank in range(3)},
    }


def _edges(residual: np.ndarray, signal: np.ndarray, span: int) -> list[float]:
    """The largest step of the residual's gain, over its error, across each of the four lines that part quadrants.

    Between `span` rows (or columns) on either side; where amplifiers meet need not be quite the middle.
    """
    steps = []
    for axis in (0, 1):
        products, powers = (np.moveaxis(values, axis, 0) for values in (signal * residual, signal**2))
        half, middle = products.shape[1] // 2, len(products) // 2
        for side in (slice(0, half), slice(half, None)):
            numerator, power = (np.concatenate([[0], np.cumsum(v[:, side].sum(1))]) for v in (products, powers))
            place = np.arange(middle - 7, middle + 8)
            sums = [[v[p + span] - v[p], v[p] - v[p - span]] for v in (numerator, power) for p in [place]]
            (second, first), (power_second, power_first) = sums[0], np.maximum(sums[1], 1.0)
            t = (second / power_second - first / power_first) / np.sqrt(1 / power_second + 1 / power_first)
            steps.append(float(t[np.abs(t).argmax()]))
    return steps


def _lines(residual: np.ndarray, good: np.ndarray) -> dict:
    """The rows and columns that stand out most from their neighbours, and how much they differ on the whole."""
    extremes, spreads, odd = [], [], []
    for axis in (0, 1):
        count = np.maximum(good.sum(axis), 1)
        means = np.where(good, np.clip(residual, -30, 30), 0.0).sum(axis) / np.sqrt(count)
        step = means[1:-1] - (means[:-2] + means[2:]) / 2
        extremes.append((step.max(), step.min()))
        spreads.append(float(np.median(np.abs(step))))
        odd.append(abs(float(means[::2].mean() - means[1::2].mean())))
    high, low = np.array(extremes).T
    return {
        "line_high": high.max(),
        "line_low": low.min(),
        "stripes": max(spreads),
        "other_stripes": min(spreads),
        "odd_rows": max(odd),
    }


def _values(pixels: np.ndarray, sigma: float) -> dict:
    """Steps between the values of pixels in the sky's deviation; how many share the largest and the smallest one."""
    values, counts = np.unique(pixels, return_counts=True)
    steps = np.diff(values) / sigma if len(values) > 1 else np.zeros(1)
    faint = np.diff(values[: max(len(values) // 2, 2)]) / sigma if len(values) > 2 else steps
    return {
        "different_values": math.log(len(values) / len(pixels)),
        "step": math.log(max(float(steps.min()), 1e-6)),
        "median_step": math.log(max(float(np.median(faint)), 1e-6)),
        "largest_share": math.log(counts[-1]),
        "smallest_share": math.log(counts[0]),
        "commonest_share": counts.max() / len(pixels),
        "peak_over_sigma": math.log(max(float(values[-1] - np.median(pixels)) / sigma, 1e-3)),
        "lowest_over_sigma": float(np.median(pixels) - values[0]) / sigma,
        "dynamic_range": math.log(max(len(values), 1)),
    }


def _flat_top(pixels: np.ndarray, residual: np.ndarray, signal: np.ndarray, good: np.ndarray) -> dict:
    """Is the brightest part flat? How many pixels lie near the maximum, of the image and of the model."""
    sky = np.median(pixels[good])
    light = (pixels - sky) / max(pixels[good].max() - sky, 1e-30)
    model = signal / max(signal.max(), 1e-30)
    close = [float(((values > share) & good).sum()) for share in (0.97, 0.9, 0.7) for values in (light, model)]
    brightest = good & (signal >= np.sort(signal[good])[-min(20, int(good.sum()))])
    return {
        "near_top_97": math.log1p(close[0]) - math.log1p(close[1]),
        "near_top_90": math.log1p(close[2]) - math.log1p(close[3]),
        "near_top_70": math.log1p(close[4]) - math.log1p(close[5]),
        "near_top": math.log1p(close[0]),
        "brightest_mean": residual[brightest].mean() * math.sqrt(brightest.sum()),
        "brightest_square": (residual[brightest] ** 2).mean(),
    }


def network_figures(logits: np.ndarray, classes: list[str], distances: np.ndarray) -> Figures:
    """Of what a network says. logits: (B, K); distances: (B, P) of the novelty's parts, above 0."""
    shifted = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    ordered = np.sort(probabilities, 1)
    figures = {f"logit_{name}": logits[:, k] - logits.mean(1) for k, name in enumerate(classes)}
    figures |= {f"p_{name}": probabilities[:, k] for k, name in enumerate(classes)}
    figures |= {"p_max": ordered[:, -1], "p_second": ordered[:, -2]}
    logs = np.log(np.clip(distances, 1e-9, 1e9))
    return figures | {f"novelty_{k}": logs[:, k] for k in range(logs.shape[1])}
