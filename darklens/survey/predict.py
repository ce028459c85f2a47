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
    einstein_radius, shear, source_x, ... and their standard deviations ..._sd, chi_square per pixel: of the smooth
                  lens (arcsec, radians), where the network sees what it leaves of the image
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from darklens import machine
from darklens.classifier.classifier import Classifier
from darklens.classifier.features import FeatureHooks
from darklens.data.outputs import check_output
from darklens.data.reader import read_ahead
from darklens.errors import DataError, UsageError
from darklens.storage.progress import progress
from darklens.survey import parts, tables
from darklens.survey.catalogue import Catalogue, check_columns, find_survey
from darklens.survey.items import UNLIKE, Item, Items, Reading


class Counts(NamedTuple):
    """Files that were classified, those among them with a flag, files rejected; strays and hidden files skipped.

    before: how many of them had been in the table before, of a part that was killed. unused: columns of the list that
    are for a fit, of a network without one.
    """

    classified: int
    flagged: int
    rejected: int
    skipped: int
    before: int = 0
    unused: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        why = " (the column `flag` says why)" if self.rejected else ""
        before = f"; {self.before} rows were there before" if self.before else ""
        names = " and ".join(self.unused)
        unused = f"; {names} of the list not used: this network sees the image, not a fit" if names else ""
        return (
            f"{self.classified} images classified, {self.flagged} of them flagged; {self.rejected} rejected{why}; "
            f"{self.skipped} other files and folders skipped{before}{unused}"
        )


def predict_folder(
    classifier: Classifier,
    folder: str | Path,
    output: str | Path,
    precision: str = "fp32",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    workers: int | None = None,
    quiet: bool = False,
    hdu: str | None = None,
    resample: bool = False,
    file_column: str = "file",
    part: tuple[int, int] | None = None,
    embeddings: str | Path | None = None,
) -> Counts:
    """Classify every image under `folder`, or the one file or those of the list that it is; write a table to `output`.

    device: None: where the network is. workers: processes that read, and fit (None: one a core). hdu: name or number,
    of FITS files. resample: bring images to the network's pixel scale. file_column: of the list. embeddings: a .npy
    file for the features (rows, D) float32 that the network's last layer reads, NaN for rejected images.

    part: (k, n): the k-th of n parts, which goes on where it stopped, see parts.py. Else the table appears whole or not
    at all: a file that was there stays until the last row is written. Only the list, and a few batches, are ever in
    memory. The order and, up to rounding, the figures depend on neither batch size nor workers.

    Raises DataError if there is no image or, of the whole, if all were rejected, UsageError if the table would replace
    an image or a flag makes no sense, ResultsError if a file cannot be written.
    """
    check_output("--output", output, folder)
    _check_resample(resample, classifier)
    survey = find_survey(folder, file_column)
    check_columns(folder, tables.columns(classifier), survey.columns)
    tables.check_embeddings(embeddings, output, folder, tables.width(classifier))
    options = {"precision": precision, "hdu": hdu, "resample": resample, "embeddings": embeddings is not None}
    target = _target(classifier, survey, output, embeddings, part, options)
    survey = survey.part(*part) if part else survey
    reader = Items(survey, classifier, Reading(hdu, resample, classifier.pixel_scale))
    workers, reason = machine.usable_cores() if workers is None else workers, ""
    with target as (writer, before), progress(len(reader), "predicting", quiet=quiet, start=before) as bar:
        chunks = [np.arange(i, min(i + batch_size, len(reader))) for i in range(before, len(reader), batch_size)]
        items = read_ahead(reader, chunks, workers if len(chunks) > 1 else 0, str(folder))
        classify = _classify(classifier, precision, device)
        with contextlib.closing(items):
            for batch in items:
                classify(batch)
                writer.write(batch)
                reason = reason or next((item.reason for item in batch if item.reason), "")
                bar.update(len(batch))
        if not (part or writer.counts["classified"]):
            raise DataError(f"{folder}: no file of {len(reader)} is an image for this network; the first: {reason}")
    unused = () if classifier.preprocess.smooth_model else survey.beside
    return Counts(*(writer.counts[kind] for kind in Counts._fields[:3]), survey.skipped, before, unused)


def _check_resample(resample: bool, classifier: Classifier) -> None:
    if resample and classifier.pixel_scale is None:
        raise UsageError("--resample: this network does not say which pixel scale it was trained at")


def _target(
    classifier: Classifier,
    survey: Catalogue,
    output: str | Path,
    embeddings: str | Path | None,
    part: tuple[int, int] | None,
    options: dict,
) -> contextlib.AbstractContextManager[tuple[tables.Writer, int]]:
    """Where rows are written, and how many of them there are already."""
    names, width = tables.columns(classifier, survey.columns), tables.width(classifier)
    if part is None:
        return tables.whole(output, embeddings, names, len(survey.entries), width)
    made_of = parts.origin(classifier, survey, {"part": "/".join(map(str, part)), **options})
    embeddings = Path(embeddings) if embeddings else None
    return parts.part(Path(output), embeddings, names, survey.part(*part), width, made_of)


def _classify(classifier: Classifier, precision: str, device) -> Callable[[list[Item]], None]:
    """A function that gives items their figures, and flags those that are unlike the training data."""
    hooks = FeatureHooks() if classifier.inference else None
    run = classifier.observer(precision, device, hooks)

    def classify(items: list[Item]) -> None:
        items = [item for item in items if item.image is not None]
        if not items:
            return
        logits, seen = run(torch.from_numpy(np.stack([item.image for item in items])))
        scores = classifier.novelty.score(seen).tolist() if classifier.novelty else [None] * len(items)
        figures, features = _figures(classifier, logits.cpu().double()), seen[0].cpu().numpy()
        for item, cells, score, row in zip(items, figures, scores, features, strict=True):
            item.features = row
            item.figures = [*cells, "" if score is None else f"{score:.4g}"]
            item.flags += [UNLIKE] if score is not None and score > 1 else []
        if hooks:
            fits = {name: np.array([item.lens[name] for item in items]) for name in items[0].lens}
            for item, row in zip(items, classifier.inference.rows(hooks.take(), fits), strict=True):
                item.dark_matter = row.tolist()

    return classify


def _figures(classifier: Classifier, logits: Tensor) -> Iterator[list[str]]:
    """Class and probabilities, as text, of each row of logits (B, K)."""
    names, temperature = [classifier.classes[k] for k in logits.argmax(1).tolist()], classifier.temperature
    calibrated = _text((logits / temperature).softmax(1)) if temperature else [[""] * logits.shape[1]] * len(logits)
    for name, plain, tempered in zip(names, _text(logits.softmax(1)), calibrated, strict=True):
        yield [name, *plain, *tempered]


def _text(probabilities: Tensor) -> list[list[str]]:
    return [[f"{p:.6f}" for p in row] for row in probabilities.tolist()]
