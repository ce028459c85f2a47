"""Lenses and data sets of the simulator, for tests."""

import dataclasses

import numpy as np
import torch

from darklens.commands import simulate
from darklens.simulation import draw, physics, profiles, recipes
from darklens.simulation.recipe_file import merge, parse_recipe, recipe_dict

F, J = recipes.RECIPES["f"], recipes.RECIPES["j"]


def scalar(value):
    return torch.full((1, 1, 1), float(value), dtype=torch.float64)


def edited(base, **tables):
    """A recipe (or that of a name) with other tables laid over its own."""
    recipe = recipes.load_recipe(base) if isinstance(base, str) else base
    return parse_recipe(merge(recipe_dict(recipe), tables))


def clumpy(pixels=52, pixel_scale=0.1):
    """Model J on other pixels, with two fifths of each source's light in clumps."""
    tables = recipe_dict(recipes.load_recipe("j"))
    tables["source"].pop("brightness")
    tables["source"] |= {"structure": {"clumps": [4, 8], "clump_fraction": 0.4, "clump_radius": [0.06, 0.2]}}
    tables["noise"]["peak_snr"] = [25, 30]
    tables["image"] |= {"pixels": pixels, "pixel_scale": pixel_scale}
    return parse_recipe(tables)


def altered(lenses, recipe, subhalos=None, **values):
    """The lenses with some values set, table__key=value, and what follows from their masses.

    subhalos: mass, x, y as lists of one lens.
    """
    new = lenses.values | {key.replace("__", "."): np.full(len(lenses), float(v)) for key, v in values.items()}
    halos = lenses.subhalos
    if subhalos is not None:
        halos = {key: np.zeros((1, len(subhalos["mass"]))) for key in halos}
        halos |= {key: np.array([v], dtype=float) for key, v in subhalos.items()}
    return draw.with_masses(recipe, dataclasses.replace(lenses, values=new, subhalos=halos))


def lens(class_name="no", recipe=F, index=0, **changes):
    """One drawn lens with some values set."""
    return altered(draw.draw(recipe, class_name, 0, "train", [index]), recipe, **changes)


def sie(x, y, theta_e, axis_ratio, angle):
    """Deflection of a singular isothermal ellipsoid; arcsec, radians."""
    return profiles.sie_deflection(*profiles.sie_terms(x, y, theta_e, axis_ratio, angle))


def tnfw(x, y, rs, alpha_rs, r_trunc):
    """Deflection of one truncated NFW halo at the origin; arcsec."""
    terms = (value.reshape(1, 1, 1, 1) for value in (rs, alpha_rs, r_trunc))
    origin = torch.zeros((1, 1, 1, 1), dtype=x.dtype)
    ax, ay = profiles.tnfw_subhalos(x, y, origin, origin, *profiles.tnfw_terms(*terms))
    return ax[0], ay[0]


def sersic_light(x, y, n, radius, axis_ratio, angle):
    """Sersic light over its value at the effective radius; arcsec, radians."""
    return profiles.sersic_profile(x, y, *profiles.sersic_terms(np.array([n]), radius, axis_ratio, angle))


def rod_at(points, length, angle, theta2=0.05):
    """Our rod, and the same from its complex closed form, at complex points."""
    x, y = (torch.from_numpy(np.ascontiguousarray(v))[None, None] for v in (points.real, points.imag))
    ax, ay = physics.rod_deflection(*physics.rod_terms(x, y, scalar(theta2), scalar(length), scalar(angle)))
    turned, a = points * np.exp(-1j * angle), length / 2
    conjugate = theta2 / length * np.log((turned + a) / (turned - a)) * np.exp(-1j * angle)
    return (ax + 1j * ay).numpy()[0, 0], conjugate.conj()


def inside(values, bounds):
    return (values >= bounds[0] - 1e-12).all() and (values <= bounds[1] + 1e-12).all()


def run(folder, *flags):
    """The command line in this process, quietly; its exit code."""
    return simulate.main(["--model", "f", "--out", str(folder), "--quiet", "--device", "cpu", *map(str, flags)])


def contents(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def refusal(capsys):
    """The last line of what was printed; argparse's usage may stand above it."""
    return capsys.readouterr().err.strip().splitlines()[-1]
