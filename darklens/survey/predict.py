"""What does a trained network see in images that nobody has labelled?

    classifier = load_model("images_f_D_8/2026-11-22-10-30-00/best-model-parameters.pt")
    counts = predict_folder(classifier, "survey", "predictions.csv")
    print(counts.summary())

Any folder of .npy, FITS, PNG and TIFF files, folders in it too, or one file, or a table of files (catalogue.py). Every
image gets a row in a CSV table (UTF-8, RFC 4180), in order of folder and name, or of the list:

    file          relative to the folder; bytes that are no UTF-8 as \xff
    ...           the list's other columns
    class         the likeliest; empty for a file that was rejected
    p_...         probability of each class
    calibrated_...   the same at the temperature fitted on validation images; empty where the network has none
    novelty       above 1.0: unlike the training data; empty where the network has no such score
    outlier       above 1.0: like images that were changed so that the class is wrong; of networks with such a detector
    einstein_radius, shear, source_x, ... and their standard deviations ..._sd, chi_square per pixel: of the smooth
                  lens (arcsec, radians), where the network sees what it leaves of the image
    log_bayes_factor   of further mass against none, where a flexible source was fitted; `Classifier.with_structured`
                  has it of those images alone whose source has structure, and their class by another network (`note`)
    CLASS_...     how much dark matter, given the class: median, 16% and 84% of its posterior, ..._above_limit the
                  probability of more than the detection limit; where the network has learned it
    flag          empty, or what to beware of, or why the file was rejected
    unit          of the pixels, where the file says; nothing depends on it
    pixel_scale   arcsec, where the file or the list says; more than 5% off the network's are flagged, or resampled
    note          what the reader of the file has to say

Images larger than the network's input are cropped, each axis about its own centre; what is not looked at need not be
finite. Smaller ones, or with another number of channels, are rejected.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import torch

from darklens.classifier.classifier import Classifier
from darklens.classifier.classify import check_source
from darklens.data.outputs import check_output
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress
from darklens.survey import tables
from darklens.survey.catalogue import Catalogue, check_columns, find_survey
from darklens.survey.items import Reading
from darklens.survey.pages import page_writer
from darklens.survey.parts import Part, network_digest, open_part, origin_of
from darklens.survey.stream import NetworkRun
from darklens.survey.tables import Tally


class Counts(NamedTuple):
    """Files that were classified, those among them with a flag, files rejected; strays and hidden files skipped.

    rows_before: how many of them had been in the table before, of a part that was killed. unused: columns of the list
    that are for a fit, of a network without one; misspelt: columns that are not read, and those that seem to be meant.
    fitted: telescopes' images of which the network is not meant to say a class. structured: whose source may have
    structure that the fit of a Sersic profile leaves, or that were fitted again for it.
    """

    classified: int
    flagged: int
    rejected: int
    skipped: int
    rows_before: int = 0
    unused: tuple[str, ...] = ()
    misspelt: tuple[tuple[str, str], ...] = ()
    fitted: int = 0
    structured: int = 0

    @classmethod
    def of(cls, tally: Tally, survey: Catalogue, rows_before: int, unused: tuple[str, ...]) -> Counts:
        counts = tally.classified, tally.flagged, tally.rejected, survey.skipped
        return cls(*counts, rows_before, unused, survey.misspelt, tally.fitted, tally.structured)

    def summary(self) -> str:
        """One line for people."""
        why = " (the column `flag` says why)" if self.rejected else ""
        fitted = f"; {self.fitted} fitted, without a class (`flag` says why)" if self.fitted else ""
        earlier = f"; {self.rows_before} rows were there before" if self.rows_before else ""
        names = " and ".join(self.unused)
        unused = f"; {names} of the list not used: this network sees the image, not a fit" if names else ""
        unread = "".join(f"; the column {name} was not used: call it {meant} if it is" for name, meant in self.misspelt)
        return (
            f"{self.classified} images classified, {self.flagged} of them flagged; {self.rejected} rejected{why}; "
            f"{self.skipped} other files and folders skipped{fitted}{earlier}{unused}{unread}"
        )


def predict_folder(
    classifier: Classifier,
    folder: str | Path,
    output: str | Path,
    *,
    precision: str = "fp32",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    quiet: bool = False,
    hdu: str | None = None,
    resample: bool = False,
    file_column: str = "file",
    part: tuple[int, int] | None = None,
    embeddings: str | Path | None = None,
    page: str | Path | None = None,
    source: str = "sersic",
) -> Counts:
    """Classify every image under `folder`, or the one file or those of the list that it is; write a table to `output`.

    device: None: where the network is. workers: processes that read, and fit (None: one a core). hdu: name or number,
    of FITS files. resample: bring images to the network's pixel scale. file_column: of the list. embeddings: a .npy
    file for the features (rows, D) float32 that the network's last layer reads, NaN for rejected images. page: an .html
    file for a browser: pictures, figures, labels by keyboard (darklens.page). source: "flexible" adds the column
    `log_bayes_factor`, of a fit with such a source, in seconds a lens. batch_size: None: 32, or 4 of such fits.

    part: (k, n): the k-th of n parts, which goes on where it stopped, see parts.py. Else the table appears whole or not
    at all: a file that was there stays until the last row is written. Only the list, a few batches, and what a
    page has, are ever in memory. The order and, up to rounding, the figures depend on neither batch size nor workers.

    Raises DataError if there is no image or, of the whole, if all were rejected, UsageError if the table would replace
    an image or a flag makes no sense, ResultsError if a file cannot be written.
    """
    check_output("--output", output, folder)
    if resample and classifier.pixel_scale is None:
        raise UsageError("--resample: this network does not say which pixel scale it was trained at")
    check_source(source, classifier.preprocess)
    if classifier.structured and embeddings:
        raise UsageError("--embeddings: features of two networks do not belong into one file: name one by --weights")
    survey, width = find_survey(folder, file_column), tables.feature_width(classifier)
    check_columns(folder, tables.table_columns(classifier, (), source), survey.columns)
    tables.check_embeddings(embeddings, output, folder, width)
    columns = tables.table_columns(classifier, survey.columns, source)
    if part is None:
        table = tables.open_table(output, embeddings, columns, len(survey.entries), width)
    else:
        flags = {"part": "/".join(map(str, part)), "precision": precision, "hdu": hdu, "resample": resample}
        flags |= {"source": source} if source != "sersic" else {}
        flags |= {"structured": network_digest(classifier.structured)} if classifier.structured else {}
        origin = origin_of(classifier, survey, {**flags, "embeddings": embeddings is not None})
        survey = survey.part(*part)
        table = open_part(Part(survey, columns, width, origin, Path(output), Path(embeddings) if embeddings else None))
    reading = Reading(hdu, resample, classifier.pixel_scale, page is not None, source)
    target = page_writer(page, classifier, folder, output, survey.columns)
    network = NetworkRun(classifier, precision, batch_size or _batch_size(classifier, source), device, workers)
    reason, count = "", len(survey.entries)
    with target as pages, table as (writer, rows_before):
        batches = contextlib.closing(network.classify(survey, reading, rows_before))
        with progress(count, "predicting", quiet=quiet, start=rows_before) as bar, batches as items_read:
            for items in items_read:
                writer.write(items)
                pages.add(items)
                reason = reason or next((item.reason for item in items if item.reason), "")
                bar.update(len(items))
        if not (part or writer.tally.classified or writer.tally.fitted):
            raise DataError(f"{folder}: no file of {count} is an image for this network; the first: {reason}")
    unused = () if classifier.preprocess.smooth_model else survey.side_files
    return Counts.of(writer.tally, survey, rows_before, unused)


def _batch_size(classifier: Classifier, source: str) -> int:
    """Images to a batch, which a killed part makes again."""
    return 4 if "flexible" in (source, classifier.preprocess.view) else 32
