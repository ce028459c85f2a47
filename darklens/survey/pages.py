"""The page beside the table of predictions, and that of a labelled data set: their lenses, row by row."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from darklens.classifier.classifier import Classifier
from darklens.data.folder import Split
from darklens.data.outputs import check_output
from darklens.data.source import Files
from darklens.errors import UsageError
from darklens.page.builder import PageWriter, pictures_folder, write_page
from darklens.page.row import PageInfo, PageRow
from darklens.storage.progress import progress
from darklens.survey.catalogue import Catalogue, Entry
from darklens.survey.items import Item, Reading
from darklens.survey.stream import NetworkRun

TRUE = "true class"  # the column of a labelled data set
SHOWN = {"file", "class", "novelty", "flag", "chi_square", "einstein_radius", "einstein_radius_sd", TRUE}


class SurveyPage:
    """Takes the items of a survey; without a page it passes over them."""

    def __init__(self, writer: PageWriter | None):
        self.writer = writer

    def add(self, items: Sequence[Item]) -> None:
        """A few more, in order."""
        if self.writer is not None:
            for item in items:
                self.writer.add(page_row(item))


def check_page(page: str | Path, folder: str | Path, *outputs: str | Path) -> None:
    """Raise UsageError where the page would replace what is read or another output, or its pictures be taken for images
    of the survey."""
    check_output("--page", page, folder, *outputs)
    if Path(page).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--page {page}: expected a name that ends in .html")
    if os.path.isdir(folder) and Path(os.path.realpath(pictures_folder(page))).is_relative_to(os.path.realpath(folder)):
        raise UsageError(f"--page {page}: its pictures would be taken for images in {folder}: choose another folder")


@contextlib.contextmanager
def page_writer(
    page: str | Path | None, classifier: Classifier, folder: str | Path, title: str | Path, listed: Sequence[str] = ()
) -> Iterator[SurveyPage]:
    """What takes the items of a survey in `folder`; the page is written at the end.

    title: the table's file; listed: columns of the list. Raises UsageError and ResultsError.
    """
    if page is None:
        yield SurveyPage(None)
        return
    check_page(page, folder, title)
    info = PageInfo(
        Path(title).name,
        classifier.classes,
        calibrated=bool(classifier.temperature),
        listed=listed,
        source=os.path.realpath(folder),
        network=describe(classifier),
    )
    with write_page(page, info) as writer:
        yield SurveyPage(writer)


def check_labelled_page(page: str | Path, split: Split) -> None:
    """Raise UsageError where there can be no page of the split's images, or not by this name."""
    if not isinstance(split.images, Files):
        raise UsageError(f"--page: expected images in files of their own, {split.images.folder} has them packed")
    check_page(page, split.images.folder)


def write_labelled_page(page: str | Path, network: NetworkRun, split: Split, *, quiet: bool = False) -> None:
    """The page of a labelled split, with the true classes; its lenses are read, and fitted, once more.

    Raises UsageError, DataError for an image, ResultsError.
    """
    check_labelled_page(page, split)
    images, classes = split.images, network.classifier.classes
    entries = [Entry(images.name(k), cells=(classes[label],)) for k, label in enumerate(split.labels)]
    survey = Catalogue(str(images.folder), entries, (TRUE,))
    reading = Reading(scale=network.classifier.pixel_scale, strips=True)
    title = f"{images.folder.parent.name}, {split.name}"
    with (
        page_writer(page, network.classifier, images.folder, title) as pages,
        progress(len(entries), "drawing the page", quiet=quiet) as bar,
        contextlib.closing(network.classify(survey, reading)) as batches,
    ):
        for items in batches:
            pages.add(items)
            bar.update(len(items))


def describe(classifier: Classifier) -> str:
    """The network, for the head of a page."""
    config, view = classifier.config, classifier.preprocess.view
    group = f"{config['sym_group'][0]}{config['N']}" if "sym_group" in config else classifier.kind
    inputs = {
        "image": "images",
        "residual": "residuals",
        "both": "images and residuals",
        "flexible": "residuals of a flexible source",
    }[view]
    return " ".join(filter(None, [config.get("arch"), group, "network, on", inputs]))


def page_row(item: Item) -> PageRow:
    """What the page shows of an item: what it has no place for goes into its other columns."""
    cells, prediction = item.as_row(), item.prediction
    columns = {name: cell for name, cell in cells.items() if cell and name not in SHOWN}
    fit = item.fit_row
    row = PageRow(
        cells["file"],
        item.strip,
        flag=cells["flag"],
        chi_square=fit.get("chi_square"),
        einstein_radius=fit.get("einstein_radius"),
        einstein_radius_sd=fit.get("einstein_radius_sd"),
        columns=columns,
    )
    if prediction is None:
        return row
    return replace(
        row,
        class_name=prediction.class_name,
        probabilities=tuple((prediction.calibrated or prediction.probabilities).values()),
        novelty=prediction.novelty,
        columns={name: cell for name, cell in columns.items() if not name.startswith(("p_", "calibrated_"))},
        embedding=prediction.features,
        true=item.listed.get(TRUE, ""),
    )
