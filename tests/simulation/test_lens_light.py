"""A lens galaxy of several components: against lenstronomy and plain NumPy, in float64."""

import numpy as np
import pytest
import torch
from lenstronomy_reference import lenstronomy_lens_light
from simulated import altered, edited, scalar

from darklens.simulation import profiles
from darklens.simulation.draw import draw
from darklens.simulation.physics import sersic_b
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import light_and_sky, simulate

BULGE = {"magnitude": [18, 19], "sersic_index": [3, 5], "effective_radius": [0.3, 0.6], "axis_ratio": 0.7, "angle": 20}
DISC = {
    "relative_flux": [0.3, 2],
    "sersic_index": 1,
    "effective_radius": [1, 2],
    "axis_ratio": [0.4, 0.6],
    "angle": -35,
}
TWO = edited("hst", lens_light=[BULGE, DISC])
BOXY = changed(TWO, {"lens_light.0.a4": [-0.04, -0.02], "lens_light.1.a4": {"normal": [0.02, 0.01]}})


def galaxy(recipe, lenses):
    """Light of the lens galaxy alone, without PSF."""
    sharp = changed(recipe, {"psf.kind": "none", "psf.fwhm": None, "psf.beta": None})
    return light_and_sky(altered(lenses, sharp, source__magnitude=60), sharp, dtype=torch.float64)[0].numpy()


def test_two_components_equal_lenstronomy():
    lenses = draw(TWO, "no", 0, "train", range(3))
    for i in range(3):
        expected = lenstronomy_lens_light(lenses[i : i + 1], TWO)
        assert np.abs(galaxy(TWO, lenses[i : i + 1])[0] - expected).max() <= 1e-10 * expected.max()


def test_components_have_the_flux_that_they_are_given():
    wide = changed(TWO, {"image.pixels": 800, "image.centre_scatter": 0, "lens_light.0.sersic_index": 1})
    lenses = draw(wide, "no", 0, "train", range(2))
    flux = 10 ** (-0.4 * (lenses["lens_light.magnitude"] - wide.noise.zero_point))
    assert np.allclose(galaxy(wide, lenses).sum((1, 2)), flux * (1 + lenses["lens_light_2.relative_flux"]), rtol=1e-3)
    by_ratio = changed(wide, {"lens_light.0.magnitude": None, "lens_light.0.flux_ratio": 2.0})
    lenses = draw(by_ratio, "no", 0, "train", range(1))
    both, source = (
        float(light_and_sky(lenses, recipe, dtype=torch.float64)[0].sum())
        for recipe in (by_ratio, edited(by_ratio, lens_light="none"))
    )
    assert both / source - 1 == pytest.approx(2 * (1 + lenses["lens_light_2.relative_flux"][0]), rel=1e-2)


def test_isophotes_are_boxy_and_discy():
    """Along the axes an isophote's radius is R (1 + a4), between them R (1 - a4), in elliptical coordinates."""
    n, radius, q, angle = 2.5, 0.8, 0.6, 0.4
    for a4 in (-0.05, 0.0, 0.1):
        terms = profiles.isophote_terms(np.array([n]), *map(scalar, (radius, q, angle, a4)))
        phi = np.linspace(0, 2 * np.pi, 33)
        r = 1.3 * (1 + a4 * np.cos(4 * phi))
        u, v = r * np.cos(phi) / np.sqrt(q), r * np.sin(phi) * np.sqrt(q)
        x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
        light = profiles.isophote_light(*(torch.from_numpy(w)[None, None] for w in (x, y)), *terms)[0, 0].numpy()
        assert np.allclose(light, np.exp(-sersic_b(n) * ((1.3 / radius) ** (1 / n) - 1)), rtol=1e-12)
    plain = profiles.sersic_terms(np.array([n]), *map(scalar, (radius, q, angle)))
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, 1, 200)))
    boxless = profiles.isophote_terms(np.array([n]), *map(scalar, (radius, q, angle, 0)))
    assert torch.allclose(profiles.isophote_light(x, y, *boxless), profiles.sersic_profile(x, y, *plain), rtol=1e-11)


def test_isophotes_keep_the_flux():
    steps = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    x, y = steps.view(1, 1, -1), steps.view(1, -1, 1)
    terms = profiles.isophote_terms(np.array([1.0]), *map(scalar, (0.4, 0.7, 0.3, 0.2)))
    total = float(profiles.isophote_light(x, y, *terms).sum()) * 0.006**2
    assert total == pytest.approx(float(profiles.sersic_area(1.0, 0.4, 0.2)), rel=1e-3)


def test_further_components_leave_the_rest_as_it_is():
    plain, lenses, boxy = (
        draw(r, "sphere", 0, "train", range(4)) for r in (edited("hst", lens_light=BULGE), TWO, BOXY)
    )
    assert all(np.array_equal(lenses[key], values, equal_nan=True) for key, values in plain.values.items())
    assert {key for key in lenses.values if key not in plain.values} == {
        f"lens_light_2.{key}"
        for key in "magnitude flux_ratio sersic_index effective_radius axis_ratio angle relative_flux".split()
    }
    assert np.array_equal(lenses.subhalos["mass"], plain.subhalos["mass"])
    assert ((boxy["lens_light.a4"] >= -0.04) & (boxy["lens_light.a4"] <= -0.02)).all()
    assert np.ptp(boxy["lens_light_2.a4"]) > 0 and np.array_equal(
        boxy["lens_light_2.angle"], lenses["lens_light_2.angle"]
    )


def test_boxy_galaxies_in_a_batch_are_those_that_come_alone():
    together = simulate(BOXY, "no", range(4))
    assert np.array_equal(together[[2]], simulate(BOXY, "no", [2]))
    assert np.isfinite(together).all() and not np.array_equal(together, simulate(TWO, "no", range(4)))


def test_a_list_in_a_file_reads_as_it_is_written(tmp_path):
    from darklens.simulation.recipe_file import load_recipe, parse_recipe, recipe_dict

    (tmp_path / "two.toml").write_text(
        'name = "two"\nbase = "hst"\n[[lens_light]]\nmagnitude = 18\neffective_radius = 0.5\n'
        "[[lens_light]]\nrelative_flux = 0.4\neffective_radius = 2\na4 = -0.02\n"
    )
    recipe = load_recipe(tmp_path / "two.toml")
    assert len(recipe.lens_lights) == 2 and recipe.lens_light is recipe.lens_lights[0]
    assert parse_recipe(recipe_dict(recipe)) == recipe
    assert changed(recipe, {"lens_light.1.a4": 0.1}).lens_lights[1].a4.values == (0.1,)
    assert len(RECIPES["hst"].lens_lights) == 1 and RECIPES["f"].lens_light is None
