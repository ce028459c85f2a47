"""Fit the lens in each image of a survey; no network is needed."""

from pathlib import Path

from darklens.commands.flags import Settings
from darklens.survey.fit_folder import FitOptions, fit_folder
from darklens.survey.parts import part_name


def fit(settings: Settings) -> None:
    """Fit images, one row of a table a file."""
    part = None
    if settings.part is not None:
        number, count = map(int, settings.part.split("/"))
        part = number, count
    output = settings.output if part is None else part_name(settings.output, part)
    pictures = str(Path(settings.output).with_suffix("")) + "_pictures" if settings.explain else None
    options = FitOptions(
        settings.hdu,
        settings.pixel_scale,
        settings.psf,
        settings.lens_light,
        pictures,
        settings.source,
        settings.detect,
    )
    counts = fit_folder(
        settings.data_dir,
        output,
        options,
        workers=settings.num_workers,
        quiet=settings.quiet,
        file_column=settings.file_column,
        part=part,
    )
    print(counts.summary())
    print(f"fits: {output}" + (f", pictures: {pictures}" if pictures else ""))
