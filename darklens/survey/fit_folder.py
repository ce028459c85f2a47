"""What is the lens in each image of a survey? A table of fits, and pictures of them; no network is asked.

    counts = fit_folder("list.csv", "fits.csv", FitOptions(pixel_scale=0.05))
    print(counts.summary())

Every image gets a row (UTF-8, RFC 4180), in order of folder and name, or of the list:

    file          relative to the folder; bytes that are no UTF-8 as \\xff
    ...           the list's other columns
    einstein_radius, einstein_radius_sd, shear, ...    see `lens_fit.COLUMNS`: arcsec, radians
    chi_square    a pixel: round the arcs where the lens galaxy's light was modelled, else of the window
    flag          empty, or what to beware of, or why there is no fit
    unit, pixel_scale, note    of the pixels; arcsec; what was done: masked neighbours, bad pixels, the noise's scale
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from darklens import machine
from darklens.classifier.predictions import format_cell
from darklens.data.checks import RawImage, Request, layout
from darklens.data.image import read_file
from darklens.data.noise_psf import read_mask, read_noise, read_psf, split_hdu
from darklens.data.outputs import check_output
from darklens.data.pixel_scale import mean_scale
from darklens.data.reader import read_ahead
from darklens.errors import DataError, ResultsError, one_line
from darklens.storage.files import cannot_write
from darklens.storage.progress import progress
from darklens.survey.catalogue import Catalogue, Entry, check_columns, find_survey, printable
from darklens.survey.lens_fit import COLUMNS, LensFit, LensImage, fit_lens
from darklens.survey.parts import Part, list_digest, open_part
from darklens.survey.tables import TableWriter, Tally, open_table

ANSWER = "einstein_radius"  # the column that is full where there is a fit
CHUNK = 2  # images that a process takes at a time
MIN_SIZE = 21  # pixels: below that nothing is fitted
Size = tuple[int, int]


@dataclass(frozen=True)
class FitOptions:
    """How images are read and fitted.

    hdu: of FITS files; pixel_scale: arcsec, of files and lists that do not say it; psf: a file, of images for which a
    list names none; lens_light: one of `lens_fit.LENS_LIGHT`; source: one of `fit.settings.SOURCES`; pictures: the
    folder for a picture of each lens; detect: the strongest subhalo too, behind a flexible source.
    """

    hdu: str | None = None
    pixel_scale: float | None = None
    psf: str | None = None
    lens_light: str = "auto"
    pictures: str | None = None
    source: str = "sersic"
    detect: bool = False


@dataclass(eq=False)
class FitItem:
    """One image's row."""

    entry: Entry
    listed: Mapping[str, str]
    values: Mapping[str, float | str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unit: str = ""
    scale: float | None = None
    prediction: None = None  # of no network

    def as_row(self) -> dict[str, str]:
        """The cells of the table, by column; those that are missing are empty."""
        cells = {name: value if isinstance(value, str) else format_cell(value) for name, value in self.values.items()}
        file_cells = {"unit": self.unit, "pixel_scale": format_cell(self.scale), "note": "; ".join(self.notes)}
        return {"file": printable(self.entry.file), **self.listed, **cells, "flag": "; ".join(self.flags), **file_cells}


class LensReader(Dataset):
    """Reads and fits the images of a survey by their numbers."""

    def __init__(self, survey: Catalogue, options: FitOptions):
        self.survey, self.options = survey, options

    def __len__(self) -> int:
        return len(self.survey.entries)

    def __getitem__(self, numbers: np.ndarray) -> list[FitItem]:
        from threadpoolctl import threadpool_limits  # cores are for processes

        with threadpool_limits(1):
            return [self.fit(self.survey.entries[number]) for number in numbers]

    def fit(self, entry: Entry) -> FitItem:
        """The row of one image; what is wrong with it becomes its flag."""
        item = FitItem(entry, dict(zip(self.survey.columns, entry.cells, strict=True)))
        path, hdu = split_hdu(entry.file, self.survey.root)
        try:
            if not entry.file:
                raise DataError("no file is named")
            image = self._read(item, path, hdu)
        except DataError as error:
            item.flags.insert(0, str(error).removeprefix(str(DataError(f"{path}: "))))
            return item
        try:
            options = self.options
            draw, source, detect = options.pictures is not None, options.source, options.detect
            result = fit_lens(image, options.lens_light, draw, source=source, detect=detect)
        except (ValueError, ArithmeticError, LookupError) as error:  # one image must not cost a survey its table
            item.flags.insert(0, one_line(f"the fit failed: {error}"))
            return item
        item.values = result.values
        item.flags += result.flags
        item.notes += result.notes
        self._draw(item, result)
        return item

    def _draw(self, item: FitItem, result: LensFit) -> None:
        """The picture of a fit; the row says where it could not be written."""
        from darklens.plots.lens import plot_lens

        title, folder = f"{Path(item.entry.file).name}  {'; '.join(item.flags)}", self.options.pictures
        if folder is None or result.pictures is None:
            return
        try:
            plot_lens(folder, picture_name(item.entry.file), result.pictures, result.values, title)
        except ResultsError as error:
            item.notes.append(f"no picture: {error}")

    def _read(self, item: FitItem, path: str, hdu: str | None) -> LensImage:
        """The image with what lies beside it. Raises DataError."""
        contents = read_file(path, Request(hdu or self.options.hdu, None, MIN_SIZE))
        shape = layout(contents.array.shape)
        if shape is None or shape[0] != 1 or contents.array.dtype.kind not in "uif":
            raise DataError(f"expected one plane of numbers, found {contents.array.dtype} of {contents.array.shape}")
        if min(shape[1:]) < MIN_SIZE:
            raise DataError(f"expected {MIN_SIZE} x {MIN_SIZE} pixels or more, found {shape[1]} x {shape[2]}")
        item.unit, item.notes = contents.unit or "", [*contents.notes]
        item.scale = self._scale(item, contents)
        pixels = contents.array.reshape(shape[1:]).astype(np.float64)
        root, entry, size = self.survey.root, item.entry, (shape[1], shape[2])
        noise = _beside(item, "noise measured in the image: noise_map", entry.noise_map, read_noise, root, size)
        mask = _beside(item, "nothing masked: mask", entry.mask, read_mask, root, size)
        return LensImage(pixels, item.scale, noise, self._psf(item), mask)

    def _scale(self, item: FitItem, contents: RawImage) -> float:
        """Arcsec a pixel, by the file's header, else by the list, else as all files are said to have. DataError."""
        if contents.scale is not None:
            return mean_scale(contents.scale)
        scale = item.entry.pixel_scale or self.options.pixel_scale
        if scale is None:
            problem = f" ({contents.scale_problem})" if contents.scale_problem else ""
            advice = "a column pixel_scale in a list.csv or --pixel_scale does"
            raise DataError(f"the file does not say its pixel scale{problem}: {advice}")
        return scale

    def _psf(self, item: FitItem) -> np.ndarray | None:
        """The kernel that the list names, else the one of all images."""
        name, root = (item.entry.psf, self.survey.root) if item.entry.psf else (self.options.psf, "")
        if not name:
            return None
        try:
            kernel, note = read_psf(name, root)
        except DataError as error:
            item.flags.append(f"PSF not used: {error}")
            return None
        item.notes += [note] if note else []
        return np.array(kernel)


def _beside(
    item: FitItem, problem: str, name: str, read: Callable[[str, str, Size], np.ndarray], root: str, size: Size
) -> np.ndarray | None:
    """A plane beside the image, where one is listed that can be used. read: (name, root, size) -> (H, W)."""
    if not name:
        return None
    try:
        return read(name, root, size)
    except DataError as error:
        item.flags.append(f"{problem} {error}")
        return None


def picture_name(file: str) -> str:
    """The stem of an image's picture: its path with one kind of separator."""
    stem = printable(file).replace("/", "_").replace("\\", "_")
    return stem[:150] or "image"


class FitCounts(NamedTuple):
    """Images that were fitted, those among them with a flag, files without a fit; other files in the folder."""

    fitted: int
    flagged: int
    rejected: int
    skipped: int
    rows_before: int = 0

    @classmethod
    def of(cls, tally: Tally, skipped: int, rows_before: int) -> FitCounts:
        return cls(tally.classified, tally.flagged, tally.rejected, skipped, rows_before)

    def summary(self) -> str:
        """One line for people."""
        why = " (the column `flag` says why)" if self.rejected else ""
        earlier = f"; {self.rows_before} rows were there before" if self.rows_before else ""
        return (
            f"{self.fitted} images fitted, {self.flagged} of them flagged; {self.rejected} rejected{why}; "
            f"{self.skipped} other files and folders skipped{earlier}"
        )


def fit_columns(listed: tuple[str, ...] = ()) -> list[str]:
    """The names of the table's columns. listed: those of the survey's list that pass through."""
    return ["file", *listed, *COLUMNS, "flag", "unit", "pixel_scale", "note"]


def fit_folder(
    folder: str | Path,
    output: str | Path,
    options: FitOptions | None = None,
    *,
    workers: int | None = None,
    quiet: bool = False,
    file_column: str = "file",
    part: tuple[int, int] | None = None,
) -> FitCounts:
    """Fit the lens in every image under `folder`, or the one file or those of the list that it is; write `output`.

    workers: processes (None: one a core). part: (k, n): the k-th of n parts, which goes on where it stopped. Else the
    table appears whole or not at all. Raises DataError if there is no image or, of the whole, none could be fitted,
    UsageError if the table would replace an image, ResultsError if a file cannot be written.
    """
    options = options or FitOptions()
    check_output("--output", output, folder)
    survey = find_survey(folder, file_column)
    check_columns(folder, fit_columns(), survey.columns)
    _make_folder(options.pictures)
    table, survey = _table(survey, output, options, part)
    reader, reason = LensReader(survey, options), ""
    workers = machine.usable_cores() if workers is None else workers
    with table as (writer, rows_before), progress(len(reader), "fitting", quiet=quiet, start=rows_before) as bar:
        chunks = [np.arange(i, min(i + CHUNK, len(reader))) for i in range(rows_before, len(reader), CHUNK)]
        with contextlib.closing(read_ahead(reader, chunks, workers if len(chunks) > 1 else 0, str(folder))) as batches:
            for items in batches:
                writer.write(items)
                reason = reason or next((item.flags[0] for item in items if not item.values and item.flags), "")
                bar.update(len(items))
        if not (part or writer.tally.classified):
            raise DataError(f"{folder}: no file of {len(reader)} could be fitted; the first: {reason}")
    return FitCounts.of(writer.tally, survey.skipped, rows_before)


def _make_folder(path: str | None) -> None:
    """For the pictures. Raises ResultsError."""
    if path is not None:
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(Path(path), error) from error


def _table(
    survey: Catalogue, output: str | Path, options: FitOptions, part: tuple[int, int] | None
) -> tuple[contextlib.AbstractContextManager[tuple[TableWriter, int]], Catalogue]:
    """Where rows are written, and the images of the part."""
    columns = fit_columns(survey.columns)
    if part is None:
        return open_table(output, None, columns, len(survey.entries), 0, answer=ANSWER), survey
    flags = {name: value for name, value in dataclasses.asdict(options).items() if name != "pictures"}
    origin = {"part": "/".join(map(str, part)), **flags, "list": list_digest(survey)}
    survey = survey.part(*part)
    return open_part(Part(survey, columns, 0, origin, Path(output), None, ANSWER)), survey
