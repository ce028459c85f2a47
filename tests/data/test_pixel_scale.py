"""The scale of a pixel by a header's WCS: what astropy reads of the whole header, for every projection."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from darklens.data.checks import Request
from darklens.data.image import read_file
from darklens.data.pixel_scale import header_scale

SIDE = 0.339 / 3600  # degrees
POINT = {"CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 75.0, "CRPIX2": 75.0}
CD = {"CD1_1": -SIDE, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SIDE}
PARAMETERS = {  # of projections that are undefined without them
    "ZPN": {"PV2_1": 1.0, "PV2_3": 42.0, "PV2_5": -10000.0},
    "COP": {"PV2_1": 45.0, "PV2_2": 25.0},
    "COE": {"PV2_1": -25.0, "PV2_2": 25.0},
    "COD": {"PV2_1": 45.0, "PV2_2": 25.0},
    "COO": {"PV2_1": -45.0, "PV2_2": 25.0},
    "BON": {"PV2_1": 45.0},
    "AZP": {"PV2_1": 2.0, "PV2_2": 10.0},
    "AIR": {"PV2_1": 45.0},
    "TPV": {"PV1_0": 0.0, "PV1_1": 1.0, "PV1_2": 0.0, "PV2_0": 0.0, "PV2_1": 1.0, "PV2_2": 0.0},
}
PROJECTIONS = "TAN SIN ARC STG ZEA NCP CAR CEA MER SFL AIT MOL PCO HPX".split() + list(PARAMETERS)


def projected(name: str) -> dict:
    return POINT | CD | {"CTYPE1": f"RA---{name}", "CTYPE2": f"DEC--{name}"} | PARAMETERS.get(name, {})


TAN = projected("TAN")
OTHER_CARDS = {
    "galactic": TAN | {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    "latitude first": TAN | {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.2, "CRVAL2": 150.1},
    "arcsec": TAN | {key: 3600 * value for key, value in CD.items()} | {"CUNIT1": "arcsec", "CUNIT2": "arcsec"},
    "turned": TAN | {"CD1_1": -0.8 * SIDE, "CD1_2": 0.6 * SIDE, "CD2_1": 0.6 * SIDE, "CD2_2": 0.8 * SIDE},
    "oblong": TAN | {"CD1_1": -2 * SIDE},
    "PC": POINT | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -SIDE, "CDELT2": SIDE, "PC1_2": 0.1},
    "CROTA": POINT | {"CTYPE1": "RA---ARC", "CTYPE2": "DEC--ARC", "CDELT1": -SIDE, "CDELT2": SIDE, "CROTA2": 30.0},
    "old CD": {key: TAN[key] for key in ("CTYPE1", "CTYPE2", *POINT)}
    | {"CD001001": -SIDE, "CD001002": 0.0, "CD002001": 0.0, "CD002002": SIDE},
    "old PC": {key: TAN[key] for key in ("CTYPE1", "CTYPE2", *POINT)}
    | {"PC001001": 1.0, "PC001002": 0.0, "PC002001": 0.0, "PC002002": 1.0, "CDELT1": -SIDE, "CDELT2": SIDE},
    "SIP": TAN | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6},
    "a third axis": TAN | {"WCSAXES": 3, "CTYPE3": "FREQ", "CD3_3": 1e6, "CRVAL3": 1e9, "CUNIT3": "Hz"},
}


def truth(cards: dict) -> tuple[float, float]:
    """Height and width, arcsec."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        width, height = WCS(fits.Header(cards), naxis=2).proj_plane_pixel_scales()
    return height.to_value("arcsec"), width.to_value("arcsec")


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_projection(name):
    scale, problem = header_scale(fits.Header(projected(name)))
    assert scale == pytest.approx(truth(projected(name)), rel=1e-9) == (0.339, 0.339) and not problem


@pytest.mark.parametrize("name", OTHER_CARDS)
def test_every_spelling(name):
    scale, problem = header_scale(fits.Header(OTHER_CARDS[name]))
    assert scale == pytest.approx(truth(OTHER_CARDS[name]), rel=1e-9) and not problem
    assert 0.3 < scale[0] < 0.4 and 0.3 < scale[1] < 0.7


@pytest.mark.parametrize(
    "cards",
    [
        {"CPDIS1": "Lookup", "CPDIS2": "Lookup", "DP1.EXTVER": 1.0},  # tables of distortions that lie in other HDUs
        {"D2IMDIS1": "Lookup", "AXISCORR": 1},
        {"A_ORDER": 3},  # and no B_ORDER
        {"PV2_77": 1e300},
        {"LONPOLE": "north"},
        {"CRVAL2": 1e9},
    ],
)
def test_what_is_wrong_with_other_cards_does_not_matter(cards):
    scale, _ = header_scale(fits.Header(TAN | cards))
    assert scale == pytest.approx((0.339, 0.339), rel=1e-9)


@pytest.mark.parametrize("value", [0.339, "0.339", " 0.339 "])
def test_cards_that_say_it(value):
    assert header_scale(fits.Header({"PIXSCALE": value})) == ((0.339, 0.339), "")
    assert header_scale(fits.Header({"PIXSCAX": value, "PIXSCAY": 0.2})) == ((0.2, 0.339), "")


NO_SCALE = {
    "unknown projection": (projected("ZPX"), "CD1_1"),
    "projection without its parameters": (POINT | CD | {"CTYPE1": "RA---COE", "CTYPE2": "DEC--COE"}, "CD1_1"),
    "unit that is none": (TAN | {"CUNIT1": "furlong", "CUNIT2": "furlong"}, "CD1_1"),
    "no type": (POINT | CD, "CD1_1"),
    "no size": (POINT | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}, "CTYPE1"),
    "singular": (TAN | {"CD2_2": 0.0}, "CD1_1"),
    "wavelength": ({"CDELT1": 0.1, "CDELT2": 0.1, "CTYPE1": "WAVE"}, "CDELT1"),
    "another WCS only": ({f"{key}A": value for key, value in TAN.items()}, "CD1_1A"),
    "text": ({"PIXSCALE": "wide"}, "PIXSCALE"),
    "zero": ({"PIXSCALE": 0.0}, "PIXSCALE"),
    "negative": ({"PIXSCALE": -0.1}, "PIXSCALE"),
}


@pytest.mark.parametrize("name", NO_SCALE)
def test_cards_of_which_no_scale_comes_are_named(name):
    cards, first = NO_SCALE[name]
    scale, problem = header_scale(fits.Header(cards))
    assert scale is None and problem.startswith("no pixel scale in its header, although there is ")
    assert problem.endswith((first, "CTYPE1", "CTYPE1A"))
    assert header_scale(fits.Header(cards), fits.Header({"PIXSCALE": 0.1})) == ((0.1, 0.1), "")  # said elsewhere


def test_a_header_that_says_nothing_is_no_problem():
    assert header_scale(fits.Header({"EXPTIME": 100.0}), fits.Header()) == (None, "")


@pytest.mark.parametrize("packed", [False, True])
def test_files_have_it(tmp_path, packed):
    hdu = fits.CompImageHDU if packed else fits.ImageHDU
    image = hdu(np.ones((40, 40), np.float32), header=fits.Header(projected("ZPN")), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "x.fits")
    assert read_file(tmp_path / "x.fits", Request()).scale == pytest.approx((0.339, 0.339), rel=1e-9)
    fits.writeto(tmp_path / "y.fits", np.ones((40, 40)), fits.Header(projected("ZPX")))
    content = read_file(tmp_path / "y.fits", Request())
    assert content.scale is None and "although there is" in content.scale_problem
