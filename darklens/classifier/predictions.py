"""What does a network say of each image? A typed row for tables, and columns for arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from darklens.classifier.exposure import OutlierDetector
from darklens.classifier.features import FeatureHooks
from darklens.classifier.figures import network_figures
from darklens.classifier.novelty import Novelty
from darklens.classifier.posterior import Inference
from darklens.fit import SmoothModel
from darklens.fit.model import FIT_COLUMNS

UNLIKE, CONSTANT, FILLED = "unlike training data", "constant image", "NaN border filled"
MUCH = 1.5  # novelty that is flagged whatever the detector of outliers says


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of one image, and what to beware of.

    probabilities, calibrated: by class, the latter empty without a temperature. novelty: None without such a score.
    outlier: None of a network without a detector, NaN where there is nothing for it to read.
    fit_row: the smooth lens, columns of `Fit.table`, NaN where not fitted. dark_matter: columns of the posterior.
    features: (D,) what the network's last layer reads.
    """

    class_name: str
    probabilities: Mapping[str, float]
    calibrated: Mapping[str, float]
    novelty: float | None
    outlier: float | None = None
    fit_row: Mapping[str, float] = field(default_factory=dict)
    dark_matter: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    features: np.ndarray | None = None

    def as_row(self) -> dict[str, str]:
        """The cells of a table by column; those of numbers that are not known are empty."""
        return {name: format_cell(value, spec) for name, value, spec in self._cells()}

    def as_values(self) -> dict[str, str | float]:
        """The same as numbers and text."""
        return {name: math.nan if value is None else value for name, value, _ in self._cells()}

    def _cells(self) -> Iterator[tuple[str, str | float | None, str]]:
        yield "class", self.class_name, ""
        for kind, probabilities in (("p", self.probabilities), ("calibrated", self.calibrated)):
            for name, value in probabilities.items():
                yield f"{kind}_{name}", value, ".6f"
        yield "novelty", self.novelty, ".4g"
        if self.outlier is not None:
            yield "outlier", self.outlier, ".4g"
        for name, value in (*self.fit_row.items(), *self.dark_matter.items()):
            yield name, value, ".6g"
        yield "flag", "; ".join(self.flags), ""


def _exceeds(score: float | None, limit: float) -> bool:
    return score is not None and score > limit


def format_cell(value: str | float | None, spec: str = ".6g") -> str:
    """A cell of a table; nothing for a number that is not known."""
    return "" if value is None or value != value else format(value, spec)


def columns_of(
    classes: Sequence[str],
    smooth_model: SmoothModel | None,
    inference: Inference | None,
    *,
    outliers: bool = False,
    source: str = "sersic",
) -> list[str]:
    """The names of all columns of such a network's predictions, in order.

    outliers: whether it has a detector. source: "flexible" has the Bayes factor of a fit beside the network's own.
    """
    probabilities = [f"{kind}_{name}" for kind in ("p", "calibrated") for name in classes]
    fitted = [] if smooth_model is None else fit_columns(smooth_model, source)
    scores = ["novelty", *["outlier"] * outliers]
    return ["class", *probabilities, *scores, *fitted, *(inference.columns() if inference else ()), "flag"]


def fit_columns(smooth_model: SmoothModel, source: str = "sersic") -> list[str]:
    """The columns of the smooth lens, its flag aside; what is fitted again, where it is flagged, before chi-square.

    source: as of `columns_of`.
    """
    names = [name for name in smooth_model.columns if name not in smooth_model.fit_columns]
    last = smooth_model.fit_columns if source == "sersic" else FIT_COLUMNS[source]
    return [*names, *smooth_model.refitted_columns, *(name for name in last if name != "flag")]


def as_table(predictions: Sequence[Prediction], columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns (n,): text of `class` and `flag`, else float64, NaN where a number is not known."""
    rows = [prediction.as_values() for prediction in predictions]
    return {
        name: np.array([row.get(name, math.nan) for row in rows], dtype=str if name in ("class", "flag") else float)
        for name in columns
    }


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network at work: views of images in, predictions out.

    observe: of `Classifier.observer`, with `hooks` attached where there is a posterior of the dark matter.
    """

    observe: Callable[[Tensor], tuple[Tensor, list[Tensor]]]
    classes: Sequence[str]
    temperature: float | None = None
    novelty: Novelty | None = None
    inference: Inference | None = None
    hooks: FeatureHooks | None = None
    outliers: OutlierDetector | None = None

    def __call__(
        self,
        views: Tensor,
        fit_rows: Sequence[Mapping[str, float]],
        flags: Sequence[Sequence[str]],
        figures: Sequence[Mapping[str, float]] | None = None,
    ) -> list[Prediction]:
        """Predictions of B images. views: (B, C, S, S) of `Preprocess`; fit_rows, flags: one each; figures: of the
        images and their fits, `figures.image_figures`, where there is a detector of outliers and something to read."""
        logits, parts = self.observe(views)
        logits, features = logits.cpu().double(), parts[0].cpu().numpy()
        novelty = self.novelty.score(parts).tolist() if self.novelty else [None] * len(views)
        outlier = self._outlier_scores(logits, parts, figures)
        names = [self.classes[k] for k in logits.argmax(1).tolist()]
        probabilities, dark_matter = self._by_class(logits, 1.0), self._dark_matter(fit_rows)
        calibrated = self._by_class(logits, self.temperature) if self.temperature else [{}] * len(views)
        unlike = [
            _exceeds(a, 1) if b is None or math.isnan(b) else _exceeds(a, MUCH) or _exceeds(b, 1)
            for a, b in zip(novelty, outlier, strict=True)
        ]
        flags = [(*image_flags, *[UNLIKE] * bad) for image_flags, bad in zip(flags, unlike, strict=True)]
        scores = zip(novelty, outlier, strict=True)
        rows = zip(names, probabilities, calibrated, scores, fit_rows, dark_matter, flags, features, strict=True)
        return [Prediction(*row[:3], *row[3], *row[4:]) for row in rows]

    def _outlier_scores(
        self, logits: Tensor, parts: Sequence[Tensor], figures: Sequence[Mapping[str, float]] | None
    ) -> list[float | None]:
        """Of B images; None without a detector, NaN without figures."""
        if self.outliers is None or self.novelty is None:
            return [None] * len(logits)
        rows = [number for number, row in enumerate(figures or ()) if row]
        scores = np.full(len(logits), math.nan)
        if figures and rows:
            columns = {name: np.array([figures[number][name] for number in rows]) for name in figures[rows[0]]}
            distances = self.novelty.distances(parts).numpy()[rows]
            columns |= network_figures(logits.numpy()[rows], list(self.classes), distances)
            scores[rows] = self.outliers.score(columns)
        return scores.tolist()

    def _by_class(self, logits: Tensor, temperature: float) -> list[dict[str, float]]:
        shares = (logits / temperature).softmax(1).tolist()
        return [dict(zip(self.classes, row, strict=True)) for row in shares]

    def _dark_matter(self, fit_rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        """The posterior's columns of the images that `observe` has just been called with."""
        if self.hooks is None or self.inference is None:
            return [{}] * len(fit_rows)
        features, names = self.hooks.take(), self.inference.columns()
        if not fit_rows[0]:  # of residuals alone: the posterior needs the fits too
            return [dict.fromkeys(names, math.nan)] * len(fit_rows)
        fits = {name: np.array([row[name] for row in fit_rows]) for name in fit_rows[0]}
        rows = self.inference.rows(features, fits).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]
