"""What a fit found: parameters with covariance, what they mean, and what the smooth lens leaves."""

import dataclasses

import numpy as np

from darklens.fit.components import reported_columns
from darklens.fit.model import SmoothModel
from darklens.fit.reported import KINDS, Measured

CONSTANT, NO_LENS, NOT_CONVERGED, AT_BOUND, UNDETERMINED, POOR = (
    "nothing to fit",
    "no lens found",
    "not converged",
    "at a bound",
    "not determined",
    "poor fit",
)
STRUCTURED = "its source may have structure"
FLAG_TYPE = "<U48"  # holds every flag


@dataclasses.dataclass(frozen=True)
class Fit:
    """B fits of P free parameters in windows of S x S pixels; float64 arrays, images in float32."""

    model: SmoothModel
    parameters: np.ndarray  # (B, Q) in the order of `model.table`: what isn't free has its held value
    fitted: np.ndarray  # (B, Q) bool: which of them were free in the end, what `refit_flagged` freed included
    covariance: np.ndarray  # (B, P, P) of the free ones, `model.names`; marginalised over amplitudes and sky
    amplitude: np.ndarray  # (B,) source light at its effective radius, in the image's units a pixel
    light_amplitude: np.ndarray  # (B,) the same of the lens galaxy; 0 where it is not fitted
    sky: np.ndarray  # (B,) in the image's units a pixel
    noise: np.ndarray  # (B, 2) variance of the empty sky; variance per unit of signal: in the image's units
    noise_correlation: np.ndarray  # (B,) of pixels side by side, measured
    noise_width: np.ndarray  # (B,) pixels: of the Gaussian that smoothed it, as it was used; 0: white
    noise_scale: np.ndarray  # (B,) standard deviation measured over that of a noise map; 1 without one
    chi_square: np.ndarray  # (B,) per pixel
    light_chi_square: np.ndarray  # (B,) by how much the source's light improves chi-square over bare sky
    residual_significance: np.ndarray  # (B,) standard deviations: how surely the residual is more than noise
    log_bayes_factor: np.ndarray  # (B,) ln B of further mass against none; NaN with a Sersic source
    pixels: np.ndarray  # (B,) how many pixels counted
    steps: np.ndarray  # (B,) evaluations of the image at full resolution
    flag: np.ndarray  # (B,) str, "" where all is well
    mask: np.ndarray  # (B, S, S) bool, True where a pixel did not count
    residual: np.ndarray  # (B, S, S) data minus model in standard deviations; 0 where masked
    stiff_residual: (
        np.ndarray
    )  # (B, S, S) that under the stiff prior of a flexible source, where mass shows; or (B, 0, 0)
    image: np.ndarray  # (B, S, S) the model, sky included, in the image's units
    deviation: np.ndarray  # (B, S, S) standard deviation of a pixel in the image's units

    def __repr__(self) -> str:
        return f"Fit({len(self)} images, {self.residual.shape[-1]} x {self.residual.shape[-1]} pixels)"

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, rows: slice | np.ndarray) -> "Fit":
        """The fits in some rows."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}
        return Fit(self.model, **{name: values[rows] for name, values in arrays.items()})

    @property
    def view_residual(self) -> np.ndarray:
        """(B, S, S) the residual that networks see: of a flexible source under its stiff prior, where mass shows."""
        return self.stiff_residual if self.stiff_residual.size else self.residual

    @property
    def good(self) -> np.ndarray:
        """(B,) bool: fits without a flag."""
        return self.flag == ""

    @property
    def free(self) -> np.ndarray:
        """(B, P) the free parameters, in the order of `model.names` and of the covariance."""
        return self.parameters[:, list(self.model.free)]

    def table(self) -> dict[str, np.ndarray]:
        """Columns (B,) for readers, each measured one followed by its standard deviation `NAME_sd`.

        Lengths in arcsec, angles in radians counter-clockwise from +x within [0, pi). Standard deviations by
        propagation of the covariance; an angle whose magnitude isn't measured has pi / sqrt(12), that of a uniform one.
        """
        columns = self._measured_columns()
        table: dict[str, np.ndarray] = {}
        for name, (value, deviation) in columns.items():
            table |= {name: value, f"{name}_sd": deviation}
        table |= {"light_amplitude": self.light_amplitude} if self.model.frees("light") else {}
        return table | {name: getattr(self, name) for name in self.model.fit_columns}

    def refitted(self) -> dict[str, np.ndarray]:
        """What `refit_flagged` has freed: columns (B,) as in `table`, without deviations, NaN where it was held."""
        freed = dataclasses.replace(self.model, free_centre=True, free_halo=True)
        names, table = self.model.refitted_columns, self.model.table
        none = np.zeros((len(self), len(table), len(table)))
        columns: dict[str, np.ndarray] = {}
        for column in reported_columns(freed):
            places = [table.index[name] for name in column.of]
            pairs = KINDS[column.kind](Measured(freed, self.parameters, none), *places)
            for name, (values, _) in zip(column.names, pairs, strict=True):
                columns |= {name: np.where(self.fitted[:, places].all(1), values, np.nan)} if name in names else {}
        return columns

    def _measured_columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Values and standard deviations (B,) by name."""
        table, free = self.model.table, list(self.model.free)
        covariance = np.zeros((len(self), len(table), len(table)))
        covariance[:, np.array(free)[:, None], free] = self.covariance
        measured = Measured(self.model, self.parameters, covariance)
        columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for column in reported_columns(self.model):
            places = [table.index[name] for name in column.of]
            columns |= dict(zip(column.names, KINDS[column.kind](measured, *places), strict=True))
        return columns


def join(fits: list[Fit]) -> Fit:
    """The fits of several calls with one model, one after the other."""
    arrays = [f.name for f in dataclasses.fields(Fit) if f.name != "model"]
    return Fit(fits[0].model, **{name: np.concatenate([getattr(fit, name) for fit in fits]) for name in arrays})


def replace(fits: Fit, rows: np.ndarray, others: Fit, chosen: np.ndarray) -> None:
    """Put chosen ones (bool) of `others`, which have at least the same free parameters, in these rows, flags aside."""
    same = [others.model.free.index(i) for i in fits.model.free]
    for field in dataclasses.fields(Fit):
        if field.name not in ("model", "flag"):
            values = getattr(others, field.name)[chosen]
            getattr(fits, field.name)[rows] = values[:, same][..., same] if field.name == "covariance" else values
