"""The flags of `--mode Predict` on a survey. Imports nothing heavy."""

import argparse
import os
import re
from argparse import Namespace

DEFAULTS = {"file_column": "file", "hdu": None, "resample": False, "part": None, "embeddings": None}


def part(text: str) -> str:
    """K/N with 1 <= K <= N."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N, the K-th of N parts, as 3/16, found {text!r}")
    return f"{int(match[1])}/{int(match[2])}"


def add_flags(parser: argparse.ArgumentParser, switch: dict) -> None:
    """Add them to the parser. switch: what makes a flag one of True or False."""
    add = parser.add_argument_group("with --mode Predict").add_argument
    add("--output", type=os.path.expanduser, metavar="FILE", help="the table to write (predictions.csv)")
    add("--file_column", metavar="NAME", help="where DIR is a list.csv: its column with the images' files (file)")
    add("--hdu", metavar="NAME", help="of FITS files: number or name of the HDU to read (found by its name)")
    add("--resample", **switch, help="bring images of another pixel scale to the network's; flux is conserved (False)")
    add("--part", type=part, metavar="K/N", help="only the K-th of N parts; goes on where it was killed")
    add(
        "--embeddings",
        type=os.path.expanduser,
        metavar="FILE",
        help="also write the network's features, a row an image, as a .npy file",
    )


def contradictions(settings: Namespace) -> list[tuple[bool, str]]:
    """What goes wrong, and what to say of it."""
    names = [name for name in ("output", *DEFAULTS) if name in settings.explicit]
    return [(settings.mode != "Predict" and bool(names), f"--{names[0] if names else ''} goes with --mode Predict")]
