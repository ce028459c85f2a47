"""What the data sets are drawn from: priors, units, and the quirks of the published sets."""

import dataclasses

CLASSES = ("no", "sphere", "vort")
TITLES = {"no": "No Sub", "sphere": "Spherical", "vort": "Vortex"}
SPLITS = ("train", "val", "test")
DISTANCES = ("luminosity", "angular")
SIMULATOR = 1  # raise it whenever the same recipe and seed give other images


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a data set is drawn from; pairs are the bounds of a uniform prior. The defaults are Model F.

    Sources: P = forward fits to 25 published images of Model F, C = the authors' public PyAutoLens code,
    T = a transcription of the papers' tables (second-hand), A = our assumption. Model F is thus recovered
    from pictures. Model J rests on second-hand tables and no image of it was available: no fidelity is
    claimed beyond those.
    """

    name: str = "f"
    pixels: int = 150  # on a side (P, C)
    pixel_scale: float = 0.05  # arcsec (P, C)
    supersample: int = 2  # rays a pixel, each way (P, C)
    z_lens: tuple[float, float] = (0.5, 0.5)  # (C, T)
    z_source: tuple[float, float] = (1.0, 1.0)  # (C, T)
    total_mass: float = 1e12  # Msun, halo and substructure within the Einstein radius (C)
    shear: tuple[float, float] = (0.0, 0.3)  # magnitude (C, T)
    source_offset: tuple[float, float] = (0.0, 0.5)  # arcsec from the halo, any direction (P)
    sersic_index: float = 1.5  # (P; J: T)
    effective_radius: tuple[float, float] = (0.5, 0.5)  # arcsec, geometric mean of the axes (P; J: T)
    axis_ratio: tuple[float, float] = (1.0, 1.0)  # of the source (P; J: T)
    psf_sigma: float = 0.085  # arcsec, 1.7 pixels (P; J: A)
    sky: float = 29.0  # counts a pixel (P; J: A)
    source_counts: float = 94.5  # counts a pixel at the effective radius, unlensed (P; J: A)
    peak_snr: tuple[float, float] | None = None  # None: exposure as given; else scaled so the brightest pixel has it
    subhalo_count: float = 25.0  # mean of a Poisson (C, T)
    subhalo_mass: tuple[float, float] = (1e6, 1e10)  # Msun (C, T)
    subhalo_radius: tuple[float, float] = (0.0, 2.0)  # arcsec from the halo, any direction (P)
    vortex_fraction: tuple[float, float] = (0.03, 0.055)  # of the total mass (T)
    vortex_length: tuple[float, float] = (0.5, 2.0)  # arcsec (T)
    vortex_scatter: float = 0.5  # arcsec, standard deviation of the centre in x and in y (T)
    # Quirks of the published sets: the default is their choice.
    random_shear_axis: bool = False  # False: U(0, 2 pi) read as degrees (P): rings are stretched along one axis
    random_source_axis: bool = False  # False: likewise for the axis of an elliptical source (A)
    random_vortex_axis: bool = True  # True: any angle (T)
    distances: str = "luminosity"  # in the Einstein radius, with D_ls = D_s - D_l (C, P); "angular" is the physics
    subhalo_slope: float = -0.9  # dN/dm ~ m^slope (P); the papers print -1.9, which leaves nothing visible
    conserve_mass: bool = True  # halo mass = total - substructure (P)

    def __post_init__(self) -> None:
        if self.distances not in DISTANCES:
            raise ValueError(f"distances must be one of {', '.join(DISTANCES)}, not {self.distances!r}")
        if not -10 < self.subhalo_slope < 10:
            raise ValueError(f"subhalo_slope must lie between -10 and 10, not {self.subhalo_slope}")


RECIPES = {
    "f": Recipe(),
    "j": Recipe(
        name="j",
        z_lens=(0.4, 0.6),  # (T)
        z_source=(0.8, 1.2),  # (T)
        effective_radius=(0.25, 1.0),  # (T)
        axis_ratio=(0.4, 1.0),  # (T)
        peak_snr=(10.0, 30.0),  # (A)
    ),
}
QUIRKS = {
    "random_shear_axis": "draw the shear's axis from all directions, not from 0 to 6.28 degrees",
    "random_source_axis": "draw an elliptical source's axis from all directions, not from 0 to 6.28 degrees",
    "random_vortex_axis": "draw the vortex's axis from all directions, not from 0 to 6.28 degrees",
    "conserve_mass": "take the mass of the substructure from the halo",
    "distances": "distances in the Einstein radius",
    "subhalo_slope": "slope of the subhalos' mass function dN/dm",
}
