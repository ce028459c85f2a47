"""How large a pixel is on the sky, by a FITS header: its WCS, or else a card that says so."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Mapping

STEPS = re.compile(r"(CDELT|CROTA)[12]|(CD|PC)[12]_[12]")  # without one of them there are no pixels on the sky
FRAME = re.compile(r"(CTYPE|CUNIT)[12]")
SCALES = ("PIXSCAY", "PIXSCALE", "PIXSCAX"), ("PIXSCAX", "PIXSCALE", "PIXSCAY")  # arcsec: height, width


def header_scale(*headers: Mapping) -> tuple[float, float] | None:
    """Height and width of a pixel in arcsec, by the first of the headers that says it: WCS before PIXSCALE, PIXSCAY/X.

    None where none does: cards that are damaged, no numbers, or not above 0 say nothing.
    """
    for header in headers:
        if scale := _by_wcs(header) or _by_cards(header):
            return scale
    return None


def mean_scale(scale: tuple[float, float]) -> float:
    """The side of a square pixel of the same area."""
    return math.sqrt(scale[0] * scale[1])


def _by_wcs(header: Mapping) -> tuple[float, float] | None:
    if not any(STEPS.fullmatch(key) for key in header):
        return None
    cards = [(key, _card(header, key)) for key in header if STEPS.fullmatch(key) or FRAME.fullmatch(key)]
    return _wcs_scale(tuple(card for card in cards if isinstance(card[1], str | int | float)))


@functools.lru_cache(maxsize=1024)  # the cutouts of a survey have the same cards
def _wcs_scale(cards: tuple[tuple[str, object], ...]) -> tuple[float, float] | None:
    """By CD, or CDELT with PC or CROTA, of two celestial axes (Calabretta & Greisen 2002, A&A 395, 1077)."""
    from astropy.io.fits import Header
    from astropy.wcs import WCS
    from astropy.wcs.utils import proj_plane_pixel_scales

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(Header(cards), naxis=2)
            width, height = 3600 * proj_plane_pixel_scales(wcs) if wcs.is_celestial else (0, 0)
    except Exception:  # astropy raises whatever its code runs into
        return None
    return _checked(float(height), float(width))


def _by_cards(header: Mapping) -> tuple[float, float] | None:
    sides = [next(filter(None, (_number(header, key) for key in keys)), 0) for keys in SCALES]
    return _checked(*sides)


def _checked(height: float, width: float) -> tuple[float, float] | None:
    return (height, width) if all(0 < side < math.inf for side in (height, width)) else None


def _number(header: Mapping, key: str) -> float | None:
    value = _card(header, key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _card(header: Mapping, key: str) -> object:
    """A card's value, None where it is missing or cannot be read."""
    try:
        return header.get(key)
    except Exception:  # astropy raises whatever its code runs into
        return None
