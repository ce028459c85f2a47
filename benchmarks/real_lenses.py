"""How close does the fit of real lenses come to their published Einstein radii?

    python benchmarks/real_lenses.py FOLDER                        # every lens, a table, and the summary
    python benchmarks/real_lenses.py FOLDER J0946 f390w            # those whose names begin so
    python benchmarks/real_lenses.py FOLDER --picture real.png     # 12 of them with their residuals
    python benchmarks/real_lenses.py FOLDER --source flexible      # splines, and ln B of further mass
    python benchmarks/real_lenses.py FOLDER --measure-noise        # as if there were no noise maps

FOLDER has `slacs/NAME/{image,noise,psf}.fits` with `slacs/einstein_radii.csv` (name, einstein_radius in arcsec; 0.05"
a pixel), and may have `jwst_cosmos_web/NAME/` and `hst_f390w/` with `{data,noise_map,psf}.fits` (PIXSCALE in the
header). Seconds are of one core: run it with OMP_NUM_THREADS=1.
"""

import argparse
import csv
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from darklens.fit.observed.result import ObservedFit
from darklens.fit.observed.run import fit_observed
from darklens.fit.settings import SOURCES

OTHERS = {  # published Einstein radii in arcsec of the lenses that aren't in the SLACS table
    "jwst_cosmos_web/J095921p02063_F277W": 0.707,
    "jwst_cosmos_web/J100012p02201_F277W": 0.748,
    "hst_f390w": 1.2,
}
SLACS_SCALE = 0.05  # arcsec a pixel
PICTURE = (
    *("J0037-0942", "J0330-0020", "J0728+3835", "J0903+4116", "J0946+1006", "J0959+4416"),
    *("J1143-0144", "J1402+6321", "J1630+4520", "J2341+0000", "J095921p02063_F277W", "hst_f390w"),
)


@dataclasses.dataclass(frozen=True)
class RealLens:
    """One lens's files."""

    name: str
    published: float  # arcsec
    files: tuple[Path, Path, Path]  # image, noise, PSF
    pixel_scale: float
    slacs: bool

    def read(self) -> list[np.ndarray]:
        from astropy.io import fits

        return [fits.getdata(path).astype(float) for path in self.files]


def lenses(folder: Path) -> Iterator[RealLens]:
    """All that the folder has."""
    table = folder / "slacs" / "einstein_radii.csv"
    for row in csv.DictReader(table.read_text().splitlines()) if table.is_file() else ():
        files = tuple(folder / "slacs" / row["name"] / f"{kind}.fits" for kind in ("image", "noise", "psf"))
        if all(path.is_file() for path in files):
            yield RealLens(row["name"], float(row["einstein_radius"]), files, SLACS_SCALE, True)
    for place, radius in OTHERS.items():
        files = tuple(folder / place / f"{kind}.fits" for kind in ("data", "noise_map", "psf"))
        if all(path.is_file() for path in files):
            from astropy.io import fits

            yield RealLens(Path(place).name, radius, files, float(fits.getheader(files[0])["PIXSCALE"]), False)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A lens and its fit."""

    lens: RealLens
    fit: ObservedFit
    seconds: float

    @property
    def off(self) -> float:
        """Percent of the published radius."""
        return 100 * (self.fit.einstein_radius / self.lens.published - 1)

    def line(self) -> str:
        fit = self.fit
        parts = f"| {self.lens.name} | {fit.einstein_radius:.3f} | {fit.einstein_radius_sd:.3f}"
        parts += f" | {self.lens.published:.2f} | {self.off:+.1f} | {fit.chi_square:.2f}"
        parts += f" | {fit.log_bayes_factor:.1f}" * (fit.lens is not None)
        return f"{parts} | {fit.flag} | {self.seconds:.1f} |"


def run(lens: RealLens, source: str = "sersic", *, measure_noise: bool = False) -> Outcome:
    """Fit one, with the clock of this process."""
    start = time.process_time()
    image, noise, psf = lens.read()
    fit = fit_observed(image, None if measure_noise else noise, psf, lens.pixel_scale, source=source)
    return Outcome(lens, fit, time.process_time() - start)


def summary(outcomes: list[Outcome]) -> str:
    """Counts over the SLACS lenses."""
    off = np.abs([outcome.off for outcome in outcomes])
    flagged = np.array([bool(outcome.fit.flag) for outcome in outcomes])
    lines = [f"{len(off)} SLACS lenses: {(off <= 5).sum()} within 5%, {(off <= 10).sum()} within 10%,"]
    lines[0] += f" {(off > 20).sum()} off by more than 20%; median {np.median(off):.1f}%"
    lines.append(f"flagged {flagged.sum()}; not flagged and off by more than 10%: {(~flagged & (off > 10)).sum()}")
    chi_square = np.median([outcome.fit.chi_square for outcome in outcomes])
    lines.append(f"median chi-square round the arcs {chi_square:.2f}")
    lines.append(f"median seconds of one core {np.median([outcome.seconds for outcome in outcomes]):.1f}")
    return "\n".join(lines)


def draw(outcomes: list[Outcome], path: Path) -> None:
    """The arcs without the galaxy, their model and the residual, three lenses a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(outcomes) // 3)
    figure, axes = plt.subplots(rows, 9, figsize=(15, 1.8 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for outcome, trio in zip(outcomes, axes.reshape(-1, 3), strict=False):  # (rows, 9) -> (rows * 3, 3)
        fit, cutout = outcome.fit, outcome.fit.cutout
        reach = min(2.2 * fit.einstein_radius, cutout.half)
        part = slice(*np.searchsorted(cutout.steps, (-reach, reach)))
        extent = (-reach, reach, -reach, reach)
        arcs = np.where(cutout.good, (cutout.data - fit.light) / cutout.sigma, np.nan)
        top = np.nanpercentile(arcs[part, part], 99.5)
        images = (arcs, fit.arcs / cutout.sigma, fit.residual)
        styles = [{"cmap": "magma", "vmin": -2, "vmax": top}] * 2 + [{"cmap": "RdBu_r", "vmin": -5, "vmax": 5}]
        for axis, image, style in zip(trio, images, styles, strict=True):
            axis.imshow(image[part, part], extent=extent, **style)
        angle = np.linspace(0, 2 * np.pi, 99)
        for radius, style in ((outcome.lens.published, "w:"), (fit.einstein_radius, "c-")):
            trio[0].plot(
                fit["centre_x"] + radius * np.cos(angle), fit["centre_y"] + radius * np.sin(angle), style, lw=0.6
            )
        trio[0].set_title(
            f'{outcome.lens.name[:10]} {fit.einstein_radius:.2f}" ({outcome.lens.published:.2f}")', fontsize=7
        )
        trio[2].set_title(f"chi-square {fit.chi_square:.2f} {fit.flag}", fontsize=7)
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="fit those whose names begin so")
    parser.add_argument("--source", choices=SOURCES, default=SOURCES[0])
    parser.add_argument("--measure-noise", action="store_true", help="take no notice of the noise maps")
    parser.add_argument("--picture", type=Path, help="draw 12 lenses into this file")
    options = parser.parse_args(arguments)
    chosen = [x for x in lenses(options.folder) if not options.names or x.name.startswith(tuple(options.names))]
    if not chosen:
        print(f"skipped: no lenses in {options.folder}")
        return
    titles = ["lens", "Einstein radius", "sd", "published", "off by %", "chi-square", "flag", "seconds"]
    if options.source == "flexible":
        titles.insert(6, "ln B")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    outcomes = []
    for lens in chosen:
        outcomes.append(run(lens, options.source, measure_noise=options.measure_noise))
        print(outcomes[-1].line(), flush=True)
    slacs = [outcome for outcome in outcomes if outcome.lens.slacs]
    if slacs:
        print("\n" + summary(slacs))
    if options.picture:
        draw([outcome for outcome in outcomes if outcome.lens.name in PICTURE] or outcomes[:12], options.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
