"""What a recipe's keys must be together: each check is a condition and one line with the key."""

from collections.abc import Iterator

from darklens.errors import RecipeError
from darklens.simulation.physics import comoving_distance, einstein_radius
from darklens.simulation.priors import mean_mass
from darklens.simulation.recipe_tables import LensClass, SimulationConfig, Subhalos

MIN_GAP = 1e-3  # of the source's distance: its least from the lens
LOGARITHMS = 20  # Msun: what masses are below when their logarithms were meant
MANY = 200_000  # subhalos of a lens
TOP = 0.999  # quantile of a prior: a normal one has no end


def check_recipe(recipe: SimulationConfig) -> None:
    """Raises RecipeError for the first thing that doesn't fit together."""
    for wrong, line in _all(recipe):
        if wrong:
            raise RecipeError(line)


def _all(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    yield from _psf(recipe)
    yield from _noise(recipe)
    yield from _lens(recipe)
    yield from _source(recipe)
    yield from _lens_light(recipe)
    for name, kind in recipe.classes.items():
        yield from _class(recipe, f"classes.{name}", kind)


def _keys_set(table: object, *keys: str) -> list[str]:
    return [key for key in keys if getattr(table, key) is not None]


def _one_of(table: object, where: str, *keys: str) -> tuple[bool, str]:
    present = _keys_set(table, *keys)
    names = " or ".join(f"{where}.{key}" for key in keys)
    problem = f"only one of them, not {' and '.join(present)}" if present else "one of them must be given"
    return len(present) != 1, f"{names}: {problem}"


def _psf(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    p = recipe.psf
    needs = {"gaussian": ("fwhm",), "moffat": ("fwhm", "beta"), "file": ("file",), "none": ()}[p.kind]
    for key in ("fwhm", "beta", "file"):
        is_set = getattr(p, key) is not None or (key == "file" and p.kernel is not None)
        yield key in needs and not is_set, f"psf.{key} is missing: a PSF of kind {p.kind!r} needs it"
        yield is_set and key not in needs, f"psf.{key} has no meaning for a PSF of kind {p.kind!r}"
    width = p.fwhm.bounds[1] / recipe.image.pixel_scale if p.fwhm else 0
    fixed = p.kind in ("file", "none") and not recipe.robust.psf_width.is_fixed
    yield fixed, f"robust.psf_width has no meaning for a PSF of kind {p.kind!r}"
    yield (
        width > recipe.image.pixels and width != float("inf"),
        f"psf.fwhm is {width:.0f} pixels, wider than the image of {recipe.image.pixels}: it is in arcsec",
    )


def _noise(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    n = recipe.noise
    sky = ("sky", "sky_magnitude", "sky_fraction", "background_rms")
    present = _keys_set(n, *sky)
    both = present in (["sky", "background_rms"], ["sky_magnitude", "background_rms"])
    yield len(present) > 1 and not both, f"noise.{' and noise.'.join(present)}: only one of them"
    rms, reads = n.background_rms is not None, n.read_noise.bounds[1] > 0
    yield rms and reads, "noise.read_noise is part of noise.background_rms: give one of them"
    bare = n.sky_magnitude is not None and n.zero_point is None
    yield bare, "noise.zero_point is missing: noise.sky_magnitude needs it (magnitude of 1 electron/s)"
    twice = n.kind == "twice" and (n.output != "counts" or n.gain != 1)
    yield twice, 'noise.kind = "twice" draws counts twice: it needs output = "counts" and gain = 1'


def _lens(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    lens = recipe.lens
    yield _one_of(lens, "lens", "total_mass", "einstein_radius")
    z_lens, z_source = lens.z_lens.bounds[1], lens.z_source.bounds[0]
    for key in ("z_lens", "z_source"):
        open_end = getattr(lens, key).kind == "normal" and not getattr(lens, key).is_fixed
        yield open_end, f"lens.{key}: a normal prior has no ends, and redshifts need them; did you mean [low, high]?"
    in_front = f"lens.z_lens reaches {z_lens:g}, not well in front of the source (lens.z_source from {z_source:g})"
    d_l, d_s = comoving_distance(z_lens), comoving_distance(z_source)
    yield d_s - d_l < MIN_GAP * d_s, in_front


def _source(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    s, by_snr = recipe.source, recipe.noise.peak_snr is not None
    present = [f"source.{k}" for k in _keys_set(s, "brightness", "magnitude")] + ["noise.peak_snr"] * by_snr
    yield not present, "source.brightness, source.magnitude or noise.peak_snr: one of them must be given"
    yield len(present) > 1, f"{' and '.join(present)}: only one of them sets the source's light"
    bare = s.magnitude is not None and recipe.noise.zero_point is None
    yield bare, "noise.zero_point is missing: source.magnitude needs it (magnitude of 1 electron/s)"
    if s.stamps is None:
        yield s.effective_radius is None, "source.effective_radius is missing (arcsec), or source.stamps"
        yield s.stamp_scale is not None, "source.stamp_scale has no meaning without source.stamps"
    elif s.structure is None:
        yield s.stamp_scale is None, "source.stamp_scale is missing (arcsec a pixel of the stamps)"
        yield s.brightness is not None, "source.brightness is a Sersic's: give stamps a source.magnitude"
    else:
        yield True, "source.stamps and source.structure: only one of them"
    if s.structure is not None:
        yield s.brightness is not None, "source.brightness is a Sersic's: give a source.magnitude with source.structure"
    yield from _source_position(recipe)


def _source_position(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    s = recipe.source
    half = recipe.image.pixels * recipe.image.pixel_scale / 2
    for key in ("offset", "x", "y"):
        place = getattr(s, key)
        reach = max(abs(float(place.quantile(u))) for u in (0.01, 0.99)) if place is not None else 0
        outside = f"source.{key} reaches {reach:.3g}, outside the image, which ends at {half:.3g}: it is in arcsec"
        yield reach > half, outside
    yield (s.x is None) != (s.y is None), "source.x and source.y belong together"
    yield s.offset is not None and s.x is not None, "source.offset and source.x: only one of them"


def _largest_mass(recipe: SimulationConfig) -> float:
    """Msun of the halo, nearly the largest that the priors allow."""
    lens = recipe.lens
    if lens.total_mass is not None:
        return float(lens.total_mass.quantile(TOP))
    assert lens.einstein_radius is not None  # one of the two
    of_one = einstein_radius(1.0, lens.z_lens.quantile(TOP), lens.z_source.quantile(1 - TOP), lens.distances)
    return float((lens.einstein_radius.quantile(TOP) / of_one) ** 2)


def _subhalo_masses(recipe: SimulationConfig, where: str, table: Subhalos) -> Iterator[tuple[bool, str]]:
    """Whether masses were written as logarithms, or a lens has so many subhalos that no memory would hold them."""
    low, high = table.mass
    slip = f"{where}.mass = [{low:g}, {high:g}]: expected Msun; did you mean [1e{low:g}, 1e{high:g}]?"
    yield high < LOGARITHMS, slip
    if table.mass_fraction is None:
        return
    number = float(table.mass_fraction.quantile(TOP) * _largest_mass(recipe) / mean_mass(low, high, table.slope))
    many = f"{where}.mass = [{low:g}, {high:g}] (Msun) asks for {number:.1g} subhalos a lens: at most {MANY}"
    yield number > MANY, many


def _lens_light(recipe: SimulationConfig) -> Iterator[tuple[bool, str]]:
    for number, light in enumerate(recipe.lens_lights):
        where = f"lens_light.{number}" if len(recipe.lens_lights) > 1 else "lens_light"
        keys = ("magnitude", "relative_flux") if number else ("magnitude", "flux_ratio")
        other = "flux_ratio" if number else "relative_flux"
        meaning = f"{where}.{other} has no meaning for {'a further' if number else 'the first'} component"
        yield getattr(light, other) is not None, meaning
        yield _one_of(light, where, *keys)
        bare = light.magnitude is not None and recipe.noise.zero_point is None
        yield bare, f"noise.zero_point is missing: {where}.magnitude needs it (magnitude of 1 electron/s)"
        mixed = light.magnitude is not None and recipe.lens_lights[0].magnitude is None
        yield mixed, f"{where}.magnitude: the first component has a flux_ratio; give {where}.relative_flux"


def _class(recipe: SimulationConfig, where: str, kind: LensClass) -> Iterator[tuple[bool, str]]:
    if kind.subhalos is not None:
        sub = f"{where}.subhalos"
        yield _one_of(kind.subhalos, sub, "count", "mass_fraction")
        yield from _subhalo_masses(recipe, sub, kind.subhalos)
        wide = kind.subhalos.profile == "tnfw" and recipe.lens.distances != "angular"
        yield wide, f'{sub}.profile = "tnfw" needs lens.distances = "angular"'
    if kind.vortex is not None:
        yield _one_of(kind.vortex, f"{where}.vortex", "length", "axion_mass")
