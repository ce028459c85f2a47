"""How large a pixel is on the sky, by a FITS header: its WCS, or else a card that says so."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Mapping

STEP = re.compile(r"(CDELT|CROTA)[12]|(CD|PC)[12]_[12]|(CD|PC)00[12]00[12]")  # without one, no size of a pixel
WCS_CARDS = re.compile(rf"{STEP.pattern}|(CTYPE|CUNIT|CRVAL|CRPIX)[12]|P[VS][12]_\d{{1,2}}|PROJP\d|LONPOLE|LATPOLE")
ANY_WCS = re.compile(rf"({STEP.pattern}|CTYPE[12])[A-Z]?")  # also of another than the primary WCS
SCALES = ("PIXSCAY", "PIXSCALE", "PIXSCAX"), ("PIXSCAX", "PIXSCALE", "PIXSCAY")  # arcsec: height, width
Card = tuple[str, str | int | float]
Scale = tuple[float, float]  # height and width of a pixel, arcsec


def header_scale(*headers: Mapping) -> tuple[Scale | None, str]:
    """Height and width of a pixel in arcsec, by the first of the headers that says it: WCS before PIXSCALE, PIXSCAY/X.

    Also what is wrong where none says it although there are such cards: damaged, incomplete, or not of the sky.
    """
    cards: list[str] = []
    for header in headers:
        if scale := _by_wcs(header) or _by_cards(header):
            return scale, ""
        cards += [key for key in header if ANY_WCS.fullmatch(key) or key in SCALES[0]]
    return None, f"no pixel scale in its header, although there is {cards[0]}" if cards else ""


def mean_scale(scale: Scale) -> float:
    """The side of a square pixel of the same area."""
    return math.sqrt(scale[0] * scale[1])


def _by_wcs(header: Mapping) -> Scale | None:
    """By all cards of the WCS: some projections need their parameters. Where they are damaged, by the matrix alone."""
    cards = [(key, value) for key in header if WCS_CARDS.fullmatch(key) and (value := _card(header, key)) is not None]
    if not any(STEP.fullmatch(key) for key, _ in cards):
        return None
    plain = [card for card in cards if STEP.fullmatch(card[0]) or card[0].startswith(("CTYPE", "CUNIT"))]
    return _wcs_scale(tuple(cards)) or _wcs_scale(tuple(plain))


@functools.lru_cache(maxsize=1024)  # the cutouts of a survey have the same cards
def _wcs_scale(cards: tuple[Card, ...]) -> Scale | None:
    """Of two celestial axes, at the reference point (Calabretta & Greisen 2002, A&A 395, 1077)."""
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


def _by_cards(header: Mapping) -> Scale | None:
    height, width = (next(filter(None, (_number(header, key) for key in keys)), 0.0) for keys in SCALES)
    return _checked(height, width)


def _checked(height: float, width: float) -> Scale | None:
    return (height, width) if all(0 < side < math.inf for side in (height, width)) else None


def _number(header: Mapping, key: str) -> float | None:
    """The value of a card, also where it is stored as text."""
    try:
        return float(_card(header, key) or 0)
    except ValueError:
        return None


def _card(header: Mapping, key: str) -> str | int | float | None:
    """A card's value, None where it is missing, cannot be read or is neither text nor a number."""
    try:
        value = header.get(key)
    except Exception:  # astropy raises whatever its code runs into
        return None
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None
