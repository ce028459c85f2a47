"""Galaxies with structure: each part against plain formulas, and lensed as stamps are."""

import dataclasses

import numpy as np
import pytest
import torch
from simulated import altered, edited, sersic_light

from darklens.errors import RecipeError
from darklens.fit.assumptions import is_smooth
from darklens.simulation import render, structure
from darklens.simulation.draw import draw
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import light_and_sky, simulate
from darklens.simulation.structure import EXTENT, SIZE, Galaxy, draw_galaxy

PLAIN = Galaxy(sersic_index=1.5, axis_ratio=0.6)
X, Y = structure.lattice()
R = np.hypot(X * np.sqrt(0.6), Y / np.sqrt(0.6))


def galaxy(seed=0, **parts):
    return draw_galaxy(dataclasses.replace(PLAIN, **parts), np.random.default_rng(seed))


def test_without_structure_it_is_a_sersic():
    light, inside = galaxy(), np.hypot(X, Y) < structure.TAPER
    x, y = (torch.from_numpy(np.broadcast_to(w, light.shape).copy())[None] for w in (X, Y))
    one = torch.ones((1, 1, 1), dtype=torch.float64)
    expected = sersic_light(x, y, 1.5, one, 0.6 * one, 0 * one)[0].numpy()
    ratio = (light / expected)[inside]
    assert np.ptp(ratio) < 1e-10 * ratio.mean() and light.sum() == pytest.approx(1)
    assert light[0].max() < 1e-3 * light.max() and (light >= 0).all()


def test_a_bulge_and_clumps_have_their_share_of_the_light():
    bulge = galaxy(bulge_fraction=0.3, bulge_radius=0.1, bulge_index=1.0) - 0.7 * galaxy()
    assert bulge.sum() == pytest.approx(0.3) and bulge.min() > -1e-12
    near = np.hypot(X, Y) < 0.1
    assert 0.4 < bulge[near].sum() / 0.3 < 0.6  # half of it within its effective radius
    clumpy = galaxy(clumps=8, clump_fraction=0.4, clump_radius=0.1) - 0.6 * galaxy()
    assert clumpy.sum() == pytest.approx(0.4) and clumpy.min() > -1e-12
    assert np.array_equal(galaxy(clumps=0, clump_fraction=0.4), galaxy())


@pytest.mark.parametrize("slope", [2.0, 3.5])
def test_a_rough_surface_has_its_power_spectrum_and_scatter(slope):
    """Of many surfaces, below the largest wavelength: P(k) ~ k^-slope by a fit in the logarithms."""
    rng, fields = np.random.default_rng(0), []
    for _ in range(60):
        surface = rng.normal(size=(2, SIZE, SIZE // 2 + 1))
        fields.append(structure.rough(surface, Galaxy(roughness=0.4, slope=slope)))
    assert np.std(fields) == pytest.approx(0.4, rel=0.05)
    k = np.hypot(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)[:, None]) * SIZE / (2 * EXTENT)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    used = (k > 1.5 / structure.LARGEST) & (k < 8)
    assert -np.polyfit(np.log(k[used]), np.log(power[used]), 1)[0] == pytest.approx(slope, abs=0.1)


@pytest.mark.parametrize("arms", [2, 3])
def test_arms_repeat_when_they_are_turned_and_wind_by_their_pitch(arms):
    spiral = Galaxy(arms=arms, arm_contrast=0.7, pitch=25)
    theta, turn = np.linspace(0, 2 * np.pi, 50), 2 * np.pi / arms
    u, v = 1.3 * np.cos(theta), 1.3 * np.sin(theta)
    one = structure.spiral(u, v, spiral, 0.2)
    again = structure.spiral(1.3 * np.cos(theta + turn), 1.3 * np.sin(theta + turn), spiral, 0.2)
    assert np.allclose(one, again) and one.max() == pytest.approx(0.7 * 1.3 / 1.6, rel=0.01)
    far = 1.3 * np.exp(0.4 * np.tan(np.radians(25)))  # 0.4 radians further along an arm
    moved = structure.spiral(far * np.cos(theta + 0.4), far * np.sin(theta + 0.4), spiral, 0.2)
    assert np.allclose(moved / far * (far + structure.SOFT), one / 1.3 * (1.3 + structure.SOFT))


def test_the_same_seed_gives_the_same_places_whatever_the_numbers():
    one, other = galaxy(3, clumps=5, clump_fraction=0.5, clump_radius=0.05), galaxy(3, clumps=5, clump_fraction=0.1)
    assert np.array_equal(galaxy(3, clumps=5, clump_fraction=0.5, clump_radius=0.05), one)
    assert not np.array_equal(galaxy(4, clumps=5, clump_fraction=0.5, clump_radius=0.05), one)
    brightest = np.unravel_index((one - galaxy()).argmax(), one.shape)
    assert (other - 0.9 * galaxy())[brightest] > 0.05 * (other - 0.9 * galaxy()).max()


# ------------------------------------------------------------------------------------------------- as sources
SKY = RECIPES["hst_sky"]
NAMES = ["hst_sky", "euclid_sky", "rubin_sky", "jwst"]


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_depend_on_their_company(name):
    recipe = edited(name, image={"pixels": 40})
    together = simulate(recipe, "sphere", range(4), seed=1)
    assert together.dtype == np.float32 and np.isfinite(together).all()
    assert np.array_equal(together[[3, 1]], simulate(recipe, "sphere", [3, 1], seed=1))
    assert not is_smooth(recipe) and len(recipe.lens_lights) == 2
    assert recipe.noise.correlation.bounds[1] >= 0.5


def test_many_lenses_are_rendered_some_at_a_time():
    recipe = edited("hst_sky", image={"pixels": 24, "supersample": 1})
    count = render.CHUNK + 2
    images = simulate(recipe, "vort", range(count))
    assert len(images) == count
    assert np.array_equal(images[-3:], simulate(recipe, "vort", range(count - 3, count)))


def test_structure_leaves_the_lenses_as_they_are():
    smooth = changed(SKY, {"source.structure": None})
    a, b = (draw(recipe, "sphere", 0, "train", range(3)) for recipe in (SKY, smooth))
    assert all(np.array_equal(a[key], values, equal_nan=True) for key, values in b.values.items())
    assert {key for key in a.values if key not in b.values} > {"structure.seed", "structure.clumps"}
    assert np.array_equal(a.subhalos["mass"], b.subhalos["mass"])
    kept = draw(SKY, "sphere", 0, "train", ()).with_arrays(a.arrays())
    images = [light_and_sky(lenses, SKY)[0] for lenses in (a, kept)]
    assert torch.equal(*images)


def test_a_plain_galaxy_on_the_lattice_is_lensed_as_a_sersic():
    plain = {"sersic_index": 1.0, "effective_radius": 0.3}
    base = edited("hst", lens_light="none", source=plain)
    latticed = edited(base, source={"structure": {}})
    lenses, other = (draw(recipe, "no", 0, "train", range(3)) for recipe in (base, latticed))
    one, two = (
        light_and_sky(p, recipe, dtype=torch.float64)[0].numpy() for p, recipe in ((lenses, base), (other, latticed))
    )
    assert np.abs(one - two).max() < 0.01 * one.max()


def test_its_flux_is_that_of_its_magnitude():
    recipe = changed(SKY, {"lens_light": None, "image.pixels": 160, "image.supersample": 5})
    lenses = altered(draw(recipe, "no", 0, "train", range(3)), recipe, lens__total_mass=1.0, lens__shear=0)
    flux = 10 ** (-0.4 * (lenses["source.magnitude"] - recipe.noise.zero_point))
    assert np.allclose(light_and_sky(lenses, recipe, dtype=torch.float64)[0].sum((1, 2)), flux, rtol=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source.structure.clumpz": 3}, "unknown key source.structure.clumpz; did you mean 'clumps'"),
        ({"source.structure.slope": 9}, "source.structure.slope = 9: expected of the roughness's"),
        ({"source.magnitude": None, "source.brightness": 1}, "source.brightness is a Sersic's"),
        ({"source.stamps": "x", "source.stamp_scale": 0.1}, "source.stamps and source.structure: only one"),
    ],
)
def test_slips_are_one_line_with_the_key(changes, words):
    with pytest.raises(RecipeError, match=words):
        changed(SKY, changes)
