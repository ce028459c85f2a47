"""The files that a recipe names, a PSF or galaxy stamps: read, checked, and kept with the recipe.

`load_recipe` puts the kernel itself and a checksum of the stamps into the recipe, and so into the manifest of a data
set, a run's record and a checkpoint: they work in any folder, and a file that has changed since is noticed.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darklens.errors import RecipeError
from darklens.simulation.psf import checked_kernel, load_kernel
from darklens.simulation.recipe_tables import Psf, SimulationConfig, Source
from darklens.simulation.stamps import load_stamps, stamp_files

UNREADABLE = (OSError, ValueError, TypeError, EOFError, ImportError)


def with_inputs(recipe: SimulationConfig) -> SimulationConfig:
    """The recipe with the PSF's kernel and the stamps' checksum. Raises RecipeError in one line with the key."""
    psf, source = recipe.psf, recipe.source
    if psf.file is not None and psf.kernel is None:
        psf = dataclasses.replace(psf, kernel=kernel_rows(_read_kernel(psf.file)))
    if source.stamps is not None and source.stamps_sha256 is None:
        stamps(source.stamps, source.background_cut)
        source = dataclasses.replace(source, stamps_sha256=stamps_digest(source.stamps))
    return dataclasses.replace(recipe, psf=psf, source=source)


def measured_kernel(psf: Psf) -> np.ndarray:
    """(k, k) float64 of sum 1: the kernel that came with the recipe, else that of its file. Raises RecipeError."""
    if psf.kernel is None:
        return _read_kernel(str(psf.file))
    return _parse_kernel(psf.kernel)


def kernel_rows(kernel: np.ndarray) -> tuple[str, ...]:
    """A kernel (k, k) as a recipe keeps it: a text of numbers for each row, which give the same bits back."""
    return tuple(" ".join(map(repr, row)) for row in np.asarray(kernel, dtype=np.float64).tolist())


@functools.lru_cache(maxsize=16)
def _parse_kernel(rows: tuple[str, ...]) -> np.ndarray:
    try:
        return checked_kernel(np.array([[float(number) for number in row.split()] for row in rows]), "psf.kernel")
    except ValueError as error:
        raise RecipeError(f"psf.kernel: expected rows of numbers, as many in each: {_line(error)}") from None


@functools.lru_cache(maxsize=16)
def _read_kernel(path: str) -> np.ndarray:
    try:
        return load_kernel(path)
    except UNREADABLE as error:
        raise RecipeError(f"psf.file = {path!r}: {_line(error, path)}") from None


def source_stamps(source: Source) -> Sequence[np.ndarray]:
    """The stamps of a recipe's sources, each of sum 1.

    Raises RecipeError if they can't be read, or are not those that the recipe was made with.
    """
    shelf, digest = stamps(str(source.stamps), source.background_cut), source.stamps_sha256
    if digest is not None and stamps_digest(str(source.stamps)) != digest:
        raise RecipeError(f"source.stamps = {source.stamps!r}: the stamps have changed since the recipe was read")
    return shelf


@functools.lru_cache(maxsize=4)
def stamps(folder: str, cut: float) -> Sequence[np.ndarray]:
    """`load_stamps`. Raises RecipeError in one line with the key."""
    try:
        return load_stamps(folder, cut)
    except UNREADABLE as error:
        raise RecipeError(f"source.stamps = {folder!r}: {_line(error, folder)}") from None


@functools.lru_cache(maxsize=4)
def stamps_digest(folder: str) -> str:
    """SHA-256 of the names and bytes of a folder's stamps."""
    digest = hashlib.sha256()
    for path in stamp_files(folder):
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _line(error: BaseException, name: str | Path = "") -> str:
    """What went wrong, in one line, without the name if that is said already."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"it {text.removeprefix(f'{name} ')}" if text.startswith(f"{name} ") else text.removeprefix(f"{name}: ")
