"""The flags of `--mode Predict` and `--mode Fit` on a survey, and that of a page. Imports nothing heavy."""

import argparse
import math
import os
import re
from argparse import Namespace

LENS_LIGHT = "auto", "mge", "none"
SOURCES = "sersic", "flexible"
SHARED = {"file_column": "file", "hdu": None, "part": None, "source": "sersic"}  # by Predict and Fit, as --output is
OF_PREDICT = {"resample": False, "embeddings": None}
OF_PAGE = {"page": None}
OF_FIT = {"pixel_scale": None, "psf": None, "lens_light": "auto", "detect": False}
DEFAULTS = {**SHARED, **OF_PREDICT, **OF_PAGE, **OF_FIT}


def part(text: str) -> str:
    """K/N with 1 <= K <= N."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N, the K-th of N parts, as 3/16, found {text!r}")
    return f"{int(match[1])}/{int(match[2])}"


def pixel_scale(text: str) -> float:
    """Arcsec a pixel, above 0."""
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise argparse.ArgumentTypeError(f"expected arcsec a pixel, above 0, found {text!r}")
    return scale


def add_flags(parser: argparse.ArgumentParser, switch: dict) -> None:
    """Add them to the parser. switch: what makes a flag one of True or False."""
    add = parser.add_argument_group("with --mode Predict or Fit").add_argument
    add("--output", type=os.path.expanduser, metavar="FILE", help="the table to write (predictions.csv, fits.csv)")
    add("--file_column", metavar="NAME", help="where DIR is a list.csv: its column with the images' files (file)")
    add("--hdu", metavar="NAME", help="of FITS files: number or name of the HDU to read (found by its name)")
    add("--part", type=part, metavar="K/N", help="only the K-th of N parts; goes on where it was killed")
    add(
        "--source",
        choices=SOURCES,
        help="a Sersic profile; flexible, splines about it, and the Bayes factor of mass "
        "that a smooth lens lacks, with Predict beside what the network sees (sersic; Predict without a named network "
        "goes on to flexible where a fit fails)",
    )
    add = parser.add_argument_group("with --mode Predict").add_argument
    add("--resample", **switch, help="bring images of another pixel scale to the network's; flux is conserved (False)")
    add(
        "--embeddings",
        type=os.path.expanduser,
        metavar="FILE",
        help="also write the network's features, a row an image, as a .npy file",
    )
    page = "also with Test: write a page for a browser, FILE.html: pictures, figures, labels by keyboard"
    add("--page", type=os.path.expanduser, metavar="FILE", help=page)
    add = parser.add_argument_group("with --mode Fit").add_argument
    add(
        "--pixel_scale",
        type=pixel_scale,
        metavar="ARCSEC",
        help="of files that do not say it, nor does a list (such files are rejected)",
    )
    add("--psf", type=os.path.expanduser, metavar="FILE", help="of images for which a list names none (a Gaussian)")
    add(
        "--lens_light",
        choices=LENS_LIGHT,
        help="of the lens galaxy: mge, a sum of Gaussians; none, no such light; auto, as the image shows (auto)",
    )
    add("--detect", **switch, help="with --source flexible: the strongest subhalo, its place and Bayes factor (False)")


def contradictions(settings: Namespace) -> list[tuple[bool, str]]:
    """What goes wrong, and what to say of it."""
    kinds = {"Predict or Fit": ("output", *SHARED), "Predict": OF_PREDICT, "Predict or Test": OF_PAGE, "Fit": OF_FIT}
    blind = settings.detect and settings.source != "flexible"
    wrong = [
        (name in settings.explicit and settings.mode not in modes.split(" or "), f"--{name} goes with --mode {modes}")
        for modes, names in kinds.items()
        for name in names
    ]
    return [*wrong, (blind, "--detect goes with --source flexible")]
