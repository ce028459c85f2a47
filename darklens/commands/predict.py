"""Classify images without labels."""

from argparse import Namespace

from darklens import machine
from darklens.analysis.predict import predict_folder
from darklens.commands.trained import load_network
from darklens.data.outputs import check_output


def predict(settings: Namespace, given: set[str]) -> None:
    """Classify images without labels, one row of a table a file."""
    path, classifier, device = load_network(settings, given)
    check_output("--output", settings.output, None, path)
    precision = machine.choose_precision(settings.precision or classifier.record.get("precision"), device)
    options = {"batch_size": settings.batch_size} if settings.batch_size else {}
    counts = predict_folder(
        classifier, settings.data_dir, settings.output, precision, device=device, quiet=settings.quiet, **options
    )
    print(counts.summary())
    if classifier.novelty is None:
        print("no novelty scores: this network was saved without them (by the original, or before training had ended)")
    print(f"predictions: {settings.output}")
