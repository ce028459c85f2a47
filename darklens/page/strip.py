"""The pictures of one lens as one small PNG: image, best smooth lens, residual, source, detection map.

They lie below each other, which packs better than side by side. One palette of 256 colours serves all: brightness in
the first half, residuals and detection maps in the second. Three noisy panels of 105 pixels a side take about 17 kB.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

LIMIT = 5.0  # standard deviations: the ends of the residual's colours
MAX_SIDE = 160  # pixels of a panel; larger pictures are averaged over blocks
LEVELS = 128  # of brightness
SIGNED_LEVELS = 63  # of residuals: odd, to have a middle; six a standard deviation, since noise is costly to keep
MISSING = 255  # of the palette: transparent
SOFTENING = 8.0  # standard deviations of the sky: asinh is linear below, logarithmic above
BRIGHTNESS = (  # from faint to bright, of even steps in lightness, also for the colour-blind
    "000004 0d0829 280b53 470b6a 65156e 82206c 9f2a63 bc3754 d44842 e8602d f57d15 fc9f07 fac228 f3e55d fcffa4"
)
SIGNED = "08306b 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"  # blue: below, red: above zero
PANELS = {
    "image": "image",
    "smooth_lens": "best smooth lens",
    "residual": "residual / σ",
    "source": "source",
    "detection": "detection map / σ",
}


@dataclass(frozen=True, eq=False)
class Pictures:
    """Square pictures (S, S) of one lens, each of its own S, None where there is none; NaN where nothing is known.

    image, smooth_lens, source: in any unit, the first two in the same; residual, detection: standard deviations.
    """

    image: np.ndarray
    smooth_lens: np.ndarray | None = None
    residual: np.ndarray | None = None
    source: np.ndarray | None = None
    detection: np.ndarray | None = None


@dataclass(frozen=True)
class Strip:
    """A PNG of square panels, one below the other, and which (keys of PANELS) they are."""

    png: bytes
    panels: tuple[str, ...]


def draw_strip(pictures: Pictures) -> Strip:
    """Draw the panels that there are; image and smooth lens have the same range of brightness."""
    arrays = {name: _shrink(array) for name in PANELS if (array := getattr(pictures, name)) is not None}
    side = max(len(array) for array in arrays.values())
    window = brightness_range(arrays["image"])
    panels = {name: _enlarge(_levels(name, array, window), side) for name, array in arrays.items()}
    return Strip(encode_png(np.concatenate(list(panels.values())), palette()), tuple(panels))


def brightness_range(image: np.ndarray) -> tuple[float, float, float]:
    """Black, white and the softening of an asinh stretch: from below the sky to the brightest 0.1% of the pixels."""
    finite = image[np.isfinite(image)]
    if not len(finite):
        return 0.0, 1.0, 1.0
    sky, brightest = float(np.median(finite)), float(np.percentile(finite, 99.9))
    border = np.abs(finite[finite <= sky] - sky)
    noise = 1.4826 * float(np.median(border)) or (brightest - float(finite.min())) / 20 or max(abs(sky), 1) * 1e-6
    black = max(sky - 2 * noise, float(finite.min()))
    return black, max(brightest, black + noise), SOFTENING * noise


def palette() -> np.ndarray:
    """(256, 3) uint8: brightness, residuals, and what is missing."""
    colours = np.full((256, 3), 128)
    colours[:LEVELS] = _colours(BRIGHTNESS, LEVELS)
    colours[LEVELS : LEVELS + SIGNED_LEVELS] = _colours(SIGNED, SIGNED_LEVELS)
    return colours.astype(np.uint8)


def encode_png(indices: np.ndarray, colours: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8 indices into (256, 3) uint8 colours, the last of them transparent (W3C PNG, 11.2)."""
    height, width = indices.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = indices
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", colours.tobytes()),
        (b"tRNS", bytes([255] * MISSING + [0])),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _colours(anchors: str, count: int) -> np.ndarray:
    """(count, 3) float: colours between anchors at even distances."""
    rgb = np.array([list(bytes.fromhex(colour)) for colour in anchors.split()], float)  # (anchors, 3)
    places = np.linspace(0, len(rgb) - 1, count)
    return np.stack([np.interp(places, np.arange(len(rgb)), channel) for channel in rgb.T], axis=1).round()


def _levels(name: str, array: np.ndarray, window: tuple[float, float, float]) -> np.ndarray:
    """(S, S) uint8 indices into the palette."""
    finite = np.isfinite(array)
    if name in ("residual", "detection"):
        share, first, count = (np.where(finite, array, 0) / LIMIT + 1) / 2, LEVELS, SIGNED_LEVELS
    else:
        black, white, softening = brightness_range(array) if name == "source" else window
        stretched = np.arcsinh((np.where(finite, array, black) - black) / softening)
        share, first, count = stretched / np.arcsinh((white - black) / softening), 0, LEVELS
    indices = first + np.rint(np.clip(share, 0, 1) * (count - 1)).astype(int)
    return np.where(finite, indices, MISSING).astype(np.uint8)


def _shrink(array: np.ndarray) -> np.ndarray:
    """(S, S) -> at most MAX_SIDE pixels a side, means of whole blocks; float64."""
    array = np.asarray(array, np.float64)
    block = -(-len(array) // MAX_SIDE)
    side = len(array) // block
    # (S, S) -> (side, block, side, block) -> (side, side)
    return array[: side * block, : side * block].reshape(side, block, side, block).mean((1, 3))


def _enlarge(indices: np.ndarray, side: int) -> np.ndarray:
    """(S, S) -> (side, side): the nearest pixel."""
    if len(indices) == side:
        return indices
    nearest = (np.arange(side) * len(indices)) // side
    return indices[nearest[:, None], nearest]
