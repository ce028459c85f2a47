"""Is it an image of the sky, by its name? Masks, errors, weights, PSFs, models and the like lie beside it.

image_rank("SCI"), image_rank("PRIMARY"), image_rank("FLUX"), image_rank("SCIBKG")      # 0, 3, 4, None
side_files(["a_data.fits", "a_noise_map.fits", "b.fits"])                               # ["a_noise_map.fits"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PREFERRED = (("SCI", "SCIENCE"), ("DATA",), ("IMAGE", "IMG"), ("PRIMARY",))  # names of images, the first before others
PRIMARY = 3  # the primary HDU's, whatever its name
# Names with a word that begins or ends with one of MARKS, that ends with one of ENDS, or that is one of WORDS
MARKS = "MASK|MSK|DQ|ERR|NOISE|RMS|SIGMA|STD|UNC|VAR|IVAR|IVM|WHT|WGT|WEIGHT|PSF|KERNEL|CTX|FLAG|BAD|SEG|EXPTIME|EXPMAP"
ENDS = "QUAL|QUALITY|BKG|BKGD|BACKGROUND|MODEL|NPIX|NEXP|COVERAGE|CHI2|CHISQ|SNR|CONTEXT"
WORDS = "STAT|BACK|SKY|GAIN|TIME|SAMP|SAMPLES|AREA|S2N|WAVE|WAVELENGTH|LAMBDA|EXP|EXPOSURE|HITS|DEPTH|COV|CON|CATALOG"
NO_IMAGE = re.compile(rf"(^|[^A-Z])({MARKS})|({MARKS})([^A-Z]|$)|({ENDS})([^A-Z]|$)|(^|[^A-Z])({WORDS})([^A-Z]|$)")
LAST_RESORT = re.compile(r"(^|[^A-Z])(RESID|DETECTION)")  # images, but not the first choice

FILE_MARKS = frozenset(  # words at the end of a file's name
    "mask masks msk dq err errs error errors noise noisemap rms sigma sig std stddev unc uncert uncertainty var "
    "variance varmap ivar invvar ivm wht wgt wt weight weights weightmap psf psfs kernel ctx context flag flags bad "
    "badpix bpm seg segm segmap segmentation exptime expmap qual quality coverage".split()
)
FILE_WORDS = frozenset("bkg bkgd background sky model resid residual residuals exp exposure depth nexp gain".split())
ANY_MARK = re.compile("|".join(sorted(FILE_MARKS | FILE_WORDS)))
IMAGE_WORDS = frozenset("data sci science image img im drz drc cutout stamp lens map maps".split())


def image_rank(name: str) -> int | None:
    """How good a choice of an image an HDU of this name (capitals) is, the lower the better; None: it is no image."""
    if NO_IMAGE.search(name):
        return None
    plain = re.sub(r"[ _.,-]?\d+$", "", name)
    rank = next((number for number, names in enumerate(PREFERRED) if plain in names), len(PREFERRED))
    return rank + bool(LAST_RESORT.search(name))


def side_files(names: Sequence[str]) -> list[str]:
    """Those of the files of a folder that lie beside an image, by their names: `lens_noise_map.fits`, `psf.fits`.

    A name that ends in such a word is enough. One that has it elsewhere (`mask_12.npy`), or has a word that images may
    have, too (`lens_model.fits`), takes an image of the same name without it.
    """
    if not any(ANY_MARK.search(name.lower()) for name in names):
        return []
    words = {name: _words(name) for name in names}
    certain = {name for name, parts in words.items() if _last(parts) in FILE_MARKS}
    images = {_identity(parts) for name, parts in words.items() if name not in certain}
    numbers = {parts[-1] for parts in words.values() if parts and parts[-1].isdigit() and not FILE_MARKS & {*parts}}

    def has_partner(parts: tuple[str, ...]) -> bool:
        for place, word in enumerate(parts):
            rest = _identity(parts[:place] + parts[place + 1 :])
            numbered = word in FILE_MARKS and len(rest) == 1 and rest[0] in numbers
            if numbered or (word in FILE_MARKS | FILE_WORDS and rest in images):
                return True
        return False

    return [name for name in names if name in certain or has_partner(words[name])]


def _words(name: str) -> tuple[str, ...]:
    """The words and numbers of a file's name, without its ending: A_noise-map.fits.gz -> a, noise, map."""
    stem = re.sub(r"(\.(npy|fits|fit|fts|fz|gz|bz2|png|tiff?))+$", "", name.lower())
    return tuple(re.findall(r"[a-z]+|\d+", stem))


def last_word(name: str) -> str:
    """The last word of a file's name that says what it is: psf of lens_psf_image.fits."""
    return _last(_words(name))


def _last(words: tuple[str, ...]) -> str:
    rest = [word for word in words if word not in ("map", "maps", "image", "img")]
    return rest[-1] if rest else ""


def _identity(words: Sequence[str]) -> tuple[str, ...]:
    """What an image and the files beside it have in common."""
    return tuple(word for word in words if word not in IMAGE_WORDS)
