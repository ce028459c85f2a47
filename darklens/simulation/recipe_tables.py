"""The tables of a recipe file: each key with its unit, its limits and what it means.

A "prior" is a number or one of the forms of `darklens.simulation.priors`; it is drawn for each image. Angles are in
degrees counter-clockwise from +x (the columns); `[0, 6.283185307179586]` is the quirk of the published sets, which
read a number of radians as degrees.
"""

import dataclasses
import math
from typing import Any

from darklens.simulation.priors import Prior, fixed

INF = math.inf


def _key(
    kind: str,
    unit: str = "",
    low: float = -INF,
    high: float = INF,
    *,
    required: bool = False,
    default: object = None,
    choices: tuple[str, ...] = (),
    table: type | None = None,
    apart: bool = False,
) -> Any:
    """A dataclass field of a table: how its value is read (`recipe_file`), its unit, and the limits of its value.

    choices: the texts that it may have; table: the dataclass of a nested table; apart: drawn from a stream of its own,
    as keys are that came later, lest all recipes have other lenses.
    """
    if kind == "prior" and isinstance(default, int | float):
        default = fixed(default)
    meta = {"kind": kind, "unit": unit, "low": low, "high": high, "required": required}
    return dataclasses.field(default=default, metadata=meta | {"choices": choices, "table": table, "apart": apart})


@dataclasses.dataclass(frozen=True)
class Image:
    """[image]: square, the lens amid it."""

    pixels: int = _key("whole", "pixels on a side", 8, 2048, required=True)
    pixel_scale: float = _key("number", "arcsec", 1e-3, 5, required=True)
    supersample: int = _key("whole", "rays a pixel, each way", 1, 16, default=2)
    centre_scatter: float = _key("number", "pixels, the lens's standard deviation in x and y", 0, 100, default=0.0)


@dataclasses.dataclass(frozen=True)
class Psf:
    """[psf]"""

    kind: str = _key("text", choices=("gaussian", "moffat", "file", "none"), required=True)
    fwhm: Prior | None = _key("prior", "arcsec", 1e-3, 10)
    beta: Prior | None = _key("prior", "the Moffat's exponent", 1.05, 100)
    file: str | None = _key("text")  # .npy or FITS, one kernel on the image's pixels
    kernel: tuple[str, ...] | None = _key("rows")  # the kernel itself, which `load_recipe` reads
    truncate: float = _key("number", "standard deviations of the Gaussian", 1, 20, default=5.0)
    edges: str = _key("text", choices=("repeat", "zero"), default="repeat")


@dataclasses.dataclass(frozen=True)
class Noise:
    """[noise]: a detector's. Sky by `sky`, `sky_magnitude` or `sky_fraction`, its noise also by `background_rms`."""

    kind: str = _key("text", choices=("ccd", "none", "twice"), default="ccd")  # twice: DeepLense's Model I
    exposure_time: Prior = _key("prior", "seconds, all exposures together", 1e-9, 1e9, default=1.0)
    exposures: int = _key("whole", "reads", 1, 100000, default=1)
    gain: float = _key("number", "electrons a count", 1e-6, 1e6, default=1.0)
    read_noise: Prior = _key("prior", "electrons a read", 0, 1e4, default=0.0)
    sky: Prior | None = _key("prior", "electrons/s a pixel", 0, 1e9)
    sky_magnitude: Prior | None = _key("prior", "mag/arcsec^2", 5, 40)
    sky_fraction: Prior | None = _key("prior", "of the lensed source's brightest pixel", 0, 1e3)
    background_rms: Prior | None = _key("prior", "counts/s a pixel", 0, 1e9)
    zero_point: float | None = _key("number", "magnitude of 1 electron/s", 0, 60)
    peak_snr: Prior | None = _key("prior", "S/N of the lensed source's brightest pixel", 1e-3, 1e5)
    correlation: Prior = _key("prior", "pixels, standard deviation of the smoothing", 0, 10, default=0.0)
    output: str = _key("text", choices=("counts", "rate"), default="counts")
    keep_sky: bool = _key("switch", default=True)


@dataclasses.dataclass(frozen=True)
class LensConfig:
    """[lens]: a singular isothermal ellipsoid with external shear."""

    z_lens: Prior = _key("prior", "redshift", 0.01, 10, required=True)
    z_source: Prior = _key("prior", "redshift", 0.02, 20, required=True)
    total_mass: Prior | None = _key("prior", "Msun within the Einstein radius", 1e6, 1e16)
    einstein_radius: Prior | None = _key("prior", "arcsec", 1e-3, 60)
    axis_ratio: Prior = _key("prior", "minor over major axis", 0.05, 1, default=1)
    angle: Prior = _key("prior", "degrees, of the major axis", -720, 720, default=0)
    shear: Prior = _key("prior", "no unit", 0, 0.9, default=0)
    shear_angle: Prior = _key("prior", "degrees, images stretch along it", -720, 720, default=0)
    distances: str = _key("text", choices=("angular", "luminosity"), default="angular")
    conserve_mass: Prior = _key("prior", "true: the halo has what the substructure leaves", 0, 1, default=True)


@dataclasses.dataclass(frozen=True)
class LensLight:
    """[lens_light]: a Sersic on the lens's centre. By `magnitude` or `flux_ratio`.

    Several [[lens_light]] tables are components of one galaxy, with a common centre and an ellipticity and an angle
    each; those after the first by `magnitude` or `relative_flux`.
    """

    magnitude: Prior | None = _key("prior", "magnitude", -10, 60)
    flux_ratio: Prior | None = _key("prior", "flux over the lensed source's in the image", 0, 1e6)
    sersic_index: Prior = _key("prior", "no unit", 0.3, 10, default=4)
    effective_radius: Prior = _key("prior", "arcsec, geometric mean of the axes", 1e-3, 60, required=True)
    axis_ratio: Prior = _key("prior", "minor over major axis", 0.05, 1, default=1)
    angle: Prior = _key("prior", "degrees from the mass's major axis", -720, 720, default=0)
    relative_flux: Prior | None = _key("prior", "flux over the first component's", 0, 1e6, apart=True)
    a4: Prior = _key("prior", "cos 4 phi of the isophotes' radius, below 0: boxy", -0.3, 0.3, default=0, apart=True)


@dataclasses.dataclass(frozen=True)
class Structure:
    """[source.structure]: what a source has beyond its Sersic disc (`structure.Galaxy`), nothing by default.

    Lengths are in effective radii of the source, fractions are of its light.
    """

    bulge_fraction: Prior = _key("prior", "of the light", 0, 1, default=0)
    bulge_radius: Prior = _key("prior", "effective, in the source's effective radii", 0.02, 2, default=0.3)
    bulge_index: Prior = _key("prior", "Sersic's", 0.3, 10, default=2.5)
    arms: Prior = _key("prior", "spiral arms", 1, 8, default=2)
    arm_contrast: Prior = _key("prior", "amplitude of the logarithm of the brightness", 0, 2, default=0)
    pitch: Prior = _key("prior", "degrees", 3, 80, default=20)
    clumps: Prior = _key("prior", "clumps", 0, 60, default=0)
    clump_fraction: Prior = _key("prior", "of the light", 0, 1, default=0)
    clump_radius: Prior = _key("prior", "standard deviation, in effective radii", 0.02, 1, default=0.1)
    roughness: Prior = _key("prior", "standard deviation of the logarithm of the brightness", 0, 2, default=0)
    slope: Prior = _key("prior", "of the roughness's power spectrum, P(k) ~ k^-slope", 0, 6, default=3)


@dataclasses.dataclass(frozen=True)
class Source:
    """[source]: a Sersic, one with `structure`, or `stamps` of galaxies.

    Its light by `brightness` (a Sersic's), `magnitude` or `noise.peak_snr`. Its place from the
    lens by `offset` and `offset_angle`, or by `x` and `y`.
    """

    brightness: Prior | None = _key("prior", "electrons/s a pixel at the effective radius, unlensed", 0, 1e9)
    magnitude: Prior | None = _key("prior", "magnitude, unlensed", -10, 60)
    offset: Prior | None = _key("prior", "arcsec", 0, 60)
    offset_angle: Prior = _key("prior", "degrees", -720, 720, default=0)
    x: Prior | None = _key("prior", "arcsec", -60, 60)
    y: Prior | None = _key("prior", "arcsec", -60, 60)
    sersic_index: Prior = _key("prior", "no unit", 0.3, 10, default=1)
    effective_radius: Prior | None = _key("prior", "arcsec, geometric mean of the axes", 1e-4, 60)
    axis_ratio: Prior = _key("prior", "minor over major axis", 0.05, 1, default=1)
    angle: Prior = _key("prior", "degrees, of the major axis, or that a stamp is turned by", -720, 720, default=0)
    stamps: str | None = _key("text")  # a folder of .npy or FITS images
    stamps_sha256: str | None = _key("text")  # of the stamps when the recipe was read
    stamp_scale: Prior | None = _key("prior", "arcsec a pixel of the stamps", 1e-6, 10)
    background_cut: float = _key("number", "times the stamp's background scatter", 0, 100, default=3.0)
    structure: Structure | None = _key("table", table=Structure)


@dataclasses.dataclass(frozen=True)
class Subhalos:
    """[classes.NAME.subhalos]: dN/dm ~ m^slope. Their number by `count` or `mass_fraction`."""

    profile: str = _key("text", choices=("point", "sis", "tnfw"), default="point")
    count: Prior | None = _key("prior", "subhalos", 0, 10000)
    mass_fraction: Prior | None = _key("prior", "of the total mass, on average", 0, 1)
    mass: tuple[float, float] = _key("range", "Msun (tnfw: M200)", 1, 1e15, required=True)
    slope: float = _key("number", "of dN/dm", -10, 10, default=-1.9)
    half_mode_mass: float = _key("number", "Msun; warm dark matter: number times (1 + it/m)^-1.3", 0, 1e15, default=0.0)
    radius: tuple[float, float] = _key("range", "arcsec from the lens", 0, 60, required=True)
    spread: str = _key("text", choices=("area", "radius"), default="area")  # what their places are uniform in
    concentration: Prior = _key("prior", "r200 / rs (tnfw)", 0.5, 1000, default=15)
    truncation: Prior = _key("prior", "truncation radius / rs (tnfw)", 0.05, 1000, default=5)


@dataclasses.dataclass(frozen=True)
class Vortex:
    """[classes.NAME.vortex]: a thin uniform rod. Its length by `length` or `axion_mass`."""

    mass_fraction: Prior = _key("prior", "of the total mass", 0, 1, required=True)
    length: Prior | None = _key("prior", "arcsec, end to end", 0, 60)
    axion_mass: Prior | None = _key("prior", "eV", 1e-27, 1e-18)
    x: Prior = _key("prior", "arcsec, of the centre from the lens", -60, 60, default=0)
    y: Prior = _key("prior", "arcsec, of the centre from the lens", -60, 60, default=0)
    angle: Prior = _key("prior", "degrees", -720, 720, default=0)


@dataclasses.dataclass(frozen=True)
class Robust:
    """[robust]: what images differ in beyond what a fit assumes; nothing by default."""

    psf_width: Prior = _key("prior", "factor on psf.fwhm", 0.1, 10, default=1)
    registration: float = _key("number", "pixels, the lens's further scatter in x and y", 0, 100, default=0.0)
    gain: Prior = _key("prior", "factor on noise.gain", 1e-3, 1e3, default=1)
    eight_bits: Prior = _key("prior", "true: scaled to 0..255 and cut to whole levels", 0, 1, default=False)


@dataclasses.dataclass(frozen=True)
class LensClass:
    """[classes.NAME]: what its images have beyond the smooth lens."""

    title: str | None = _key("text")
    subhalos: Subhalos | None = _key("table", table=Subhalos)
    vortex: Vortex | None = _key("table", table=Vortex)


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """A whole recipe. `darklens.simulation.recipe_file` reads and writes it."""

    name: str
    image: Image
    psf: Psf
    noise: Noise
    lens: LensConfig
    source: Source
    classes: dict[str, LensClass]
    lens_lights: tuple[LensLight, ...] = ()  # `lens_light` in a file: a table, or a list of components
    robust: Robust = Robust()
    description: str = ""

    @property
    def lens_light(self) -> LensLight | None:
        """The first component of the lens galaxy, which sets its brightness."""
        return self.lens_lights[0] if self.lens_lights else None


TABLES = {
    "image": Image,
    "psf": Psf,
    "noise": Noise,
    "lens": LensConfig,
    "lens_light": LensLight,
    "source": Source,
    "robust": Robust,
}
OPTIONAL = ("lens_light", "robust")
