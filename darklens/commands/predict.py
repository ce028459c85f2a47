"""Classify images without labels."""

from pathlib import Path

from darklens import machine
from darklens.classifier.classifier import Classifier
from darklens.commands.flags import Settings
from darklens.commands.network import network_of
from darklens.data.outputs import check_output
from darklens.runs.trained import NetworkChoice, TrainedNetwork, open_network
from darklens.survey.parts import part_name
from darklens.survey.predict import predict_folder

STRUCTURED_SOURCES = "compact-j_sources"  # the network for them that comes with the program
NAMING = {"test_time", "weights"}


def predict(settings: Settings) -> None:
    """Classify images without labels, one row of a table a file."""
    trained = network_of(settings)
    classifier = _with_structured(settings, trained)
    if not NAMING & settings.explicit:
        print(f"network: {settings.weights}, which comes with the program; --test_time or --weights name another")
    check_output("--output", settings.output, None, trained.path)
    if settings.page:
        check_output("--page", settings.page, None, trained.path)
    default = "fp32" if settings.embeddings else classifier.record.precision  # else features are turned to 1%
    precision = machine.choose_precision(settings.precision or default, trained.device)
    options = {name: getattr(settings, name) for name in ("hdu", "resample", "file_column", "quiet", "source")}
    options |= {"batch_size": settings.batch_size} if settings.batch_size else {}
    part, output, embeddings, page = _part(settings)
    options |= {"precision": precision, "device": trained.device, "workers": settings.num_workers}
    options |= {"part": part, "embeddings": embeddings, "page": page}
    counts = predict_folder(classifier, settings.data_dir, output, **options)
    print(counts.summary())
    if counts.structured:
        print(_of_structured(counts.structured, classifier))
    if classifier.novelty is None:
        print("no novelty scores: this network was saved without them (by the original, or before training had ended)")
    files = {"predictions": output, "embeddings": embeddings, "page": page}
    print(", ".join(f"{name}: {file}" for name, file in files.items() if file))
    if page and counts.rows_before:
        print(f"the page is without the {counts.rows_before} rows that were there before: their pictures are not kept")


def _with_structured(settings: Settings, trained: TrainedNetwork) -> Classifier:
    """The network; of those that come with the program also the one for structured sources, if none was named."""
    if (NAMING | {"source", "embeddings"}) & settings.explicit:
        return trained.classifier
    other = open_network(NetworkChoice(STRUCTURED_SOURCES), trained.device, settings.conv)
    return trained.classifier.with_structured(other.classifier)


def _of_structured(count: int, classifier: Classifier) -> str:
    if classifier.structured:
        return f"sources with structure: {count} images, fitted again with such a source; class by {STRUCTURED_SOURCES}"
    return (
        f"sources with structure: {count} images may have them; --weights {STRUCTURED_SOURCES} fits such sources, in "
        "seconds an image"
    )


def _part(settings: Settings) -> tuple[tuple[int, int] | None, str | Path, str | Path | None, str | Path | None]:
    """The part to classify, and the names of its files: table, embeddings, page."""
    files = settings.output, settings.embeddings, settings.page
    if settings.part is None:
        return None, *files
    number, count = map(int, settings.part.split("/"))
    output, embeddings, page = (name and part_name(name, (number, count)) for name in files)
    return (number, count), output, embeddings, page
