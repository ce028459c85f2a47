"""Survey images: lens theory, brightness, random draws."""

import dataclasses

import numpy as np
import pytest
import torch
from darklens.lenses.drawn import draw, mean_mass, power_law, subhalo_mass
from darklens.lenses.survey import add_noise, simulate
from darklens.lenses.survey_render import deflection, grid, light_and_sky, render

from darklens.lenses.priors import Prior, fixed
from darklens.lenses.recipe_file import load_recipe, merge, parse_recipe, recipe_dict

CLASSES = ("no", "sphere", "vort")
DOUBLE = {"dtype": torch.float64}


def edited(base, **tables):
    return parse_recipe(merge(recipe_dict(load_recipe(base)), tables))


def set_values(lenses, **values):
    """The lenses with some values set: table__key=value."""
    new = {key.replace("__", "."): np.full(len(lenses), float(v)) for key, v in values.items()}
    return dataclasses.replace(lenses, values=lenses.values | new)


# --------------------------------------------------------------------------------------------------- lens theory
def test_massless_substructure_gives_the_smooth_image():
    recipe = load_recipe("euclid")
    halos = draw(recipe, "sphere", 0, "train", range(2))
    empty = {key: np.zeros_like(v) for key, v in halos.subhalos.items()}
    smooth = dataclasses.replace(halos, subhalos={key: v[:, :0] for key, v in halos.subhalos.items()})
    one, other = (render(x, recipe) for x in (dataclasses.replace(halos, subhalos=empty), smooth))
    assert torch.equal(one, other)


@pytest.mark.parametrize("profile", ["point", "tnfw"])
def test_the_halo_has_what_the_substructure_leaves(profile):
    """On a ring about all of it, by Gauss's theorem: an SIS of mass M - m within its own Einstein radius, and m."""
    halos = {"profile": profile, "count": 6, "mass": [1e9, 1e10], "radius": [0, 0.3]}
    round_lens = {"axis_ratio": 1, "shear": 0}
    recipe = edited("euclid", lens=round_lens, classes={"sphere": {"subhalos": halos}})
    lenses = draw(recipe, "sphere", 0, "train", [0])
    theta = torch.linspace(0, 2 * np.pi, 721, dtype=torch.float64)[:-1]
    radius = float(lenses["lens.einstein_radius"][0])
    x, y = (radius * f(theta)[None, None] for f in (torch.cos, torch.sin))
    ax, ay = deflection(lenses, recipe, x, y)
    mean = float((ax * torch.cos(theta) + ay * torch.sin(theta)).mean()) / radius
    share = subhalo_mass(lenses).sum() / lenses["lens.total_mass"][0]
    if profile == "point":
        assert abs(mean - np.sqrt(1 - share) - share) < 1e-9
    assert np.sqrt(1 - share) + 0.5 * share < mean < np.sqrt(1 - share) + share + 1e-9  # tnfw: some of it lies outside


# ----------------------------------------------------------------------------------------------------- brightness
@pytest.mark.parametrize("name", ["wide", "euclid"])
def test_peak_signal_to_noise(name):
    change = {"noise": {"peak_snr": [10, 60]}, "source": {"magnitude": "none"}, "lens_light": "none"}
    recipe = load_recipe("wide") if name == "wide" else edited("euclid", **change)
    lenses = draw(recipe, "no", 0, "train", range(4))
    light, sky = light_and_sky(lenses, recipe, **DOUBLE)
    time, reads = lenses["noise.exposure_time"], recipe.noise.exposures * lenses["noise.read_noise"] ** 2
    peak = light.amax((1, 2)).numpy() * time
    assert np.allclose(peak / np.sqrt(peak + sky * time + reads), lenses["noise.peak_snr"])
    if name == "wide":
        assert np.allclose(sky * time / peak, lenses["noise.sky_fraction"])


def test_lens_light_in_proportion_to_the_source():
    recipe = edited("f", lens_light={"flux_ratio": 3.0, "effective_radius": 0.3, "sersic_index": 1.0})
    plain = load_recipe("f")
    lenses = draw(recipe, "no", 0, "train", [0])
    both, source = (light_and_sky(lenses, r, **DOUBLE)[0].sum() for r in (recipe, plain))
    assert abs(float(both / source) - 4) < 0.01


def test_stamps_as_sources(tmp_path):
    y, x = np.indices((41, 41)) - 20
    np.save(tmp_path / "galaxy.npy", np.exp(-np.hypot(x, 2 * y) / 4) + 0.01)
    change = {"stamps": str(tmp_path), "stamp_scale": 0.02, "effective_radius": "none", "background_cut": 0}
    recipe = edited("euclid", source=change, lens_light="none")
    lenses = set_values(draw(recipe, "no", 0, "train", range(3)), lens__total_mass=1.0)  # no lens to speak of
    lenses = set_values(lenses, lens__shear=0)
    light, _ = light_and_sky(lenses, recipe, **DOUBLE)
    wanted = 10 ** (-0.4 * (lenses["source.magnitude"] - recipe.noise.zero_point))
    assert np.allclose(light.sum((1, 2)).numpy(), wanted, rtol=0.05)


# ---------------------------------------------------------------------------------------------------- random draws
@pytest.mark.parametrize("name", ["f", "euclid", "i", "ii"])
def test_an_image_is_the_same_in_any_company(name):
    recipe = edited(name, image={"pixels": 32})
    together = simulate(recipe, "sphere", [0, 5, 2])
    assert together.dtype == (np.uint16 if name in "fi" else np.float32)
    assert np.array_equal(simulate(recipe, "sphere", [5])[0], together[1])
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(simulate(recipe, "sphere", [5], seed=1)[0], together[1])
    assert not np.array_equal(simulate(recipe, "sphere", [5], split="val")[0], together[1])


def test_recipes_that_differ_in_a_key_share_the_rest():
    one, other = load_recipe("euclid"), edited("euclid", lens_light="none", psf={"fwhm": 0.2})
    a, b = (draw(recipe, "sphere", 0, "train", range(3)) for recipe in (one, other))
    assert np.isnan(b["lens_light.magnitude"]).all()
    same = [key for key in a.values if not key.startswith(("lens_light", "psf"))]
    assert all(np.array_equal(a[key], b[key], equal_nan=True) for key in same)
    assert np.array_equal(a.subhalos["mass"], b.subhalos["mass"])


@pytest.mark.parametrize("name", ["f", "wide", "hst", "i"])
def test_draws_keep_their_priors(name):
    recipe = load_recipe(name)
    lenses = draw(recipe, "vort", 0, "train", range(300))
    for key, values in lenses.values.items():
        table, _, part = key.partition(".")
        prior = getattr(getattr(recipe, table, None), part, None)
        if isinstance(prior, Prior) and key not in ("lens.total_mass", "source.x", "source.y"):
            assert prior.bounds[0] <= values.min() and values.max() <= prior.bounds[1], key
    halos = draw(recipe, "sphere", 0, "train", range(50))
    table, s = recipe.classes["sphere"].subhalos, halos.subhalos
    used, radius = s["mass"] > 0, np.hypot(s["x"], s["y"])
    assert (s["mass"][used] >= table.mass[0] * 0.999).all() and (s["mass"] <= table.mass[1] * 1.001).all()
    assert (radius[used] >= table.radius[0] - 1e-9).all() and (radius <= table.radius[1]).all()


def test_number_of_subhalos():
    poisson, always = (
        (draw(load_recipe(name), "sphere", 0, "train", range(400)).subhalos["mass"] > 0).sum(1) for name in ("f", "i")
    )
    assert (always == 25).all()
    assert abs(poisson.mean() - 25) < 1.5 and abs(poisson.var() / 25 - 1) < 0.4


def test_mass_fraction_is_met_on_average():
    lenses = draw(load_recipe("euclid"), "sphere", 0, "train", range(1500))
    share = lenses.subhalos["mass"].sum(1) / lenses["lens.total_mass"]
    assert abs(share.mean() / 0.03 - 1) < 0.1


def test_warm_dark_matter_lacks_small_halos():
    halos = {"count": 50, "mass": [1e7, 1e10], "radius": [0, 2]}
    warm = {**halos, "half_mode_mass": 1e8}
    recipe = edited("f", classes={"no": {}, "cold": {"subhalos": halos}, "warm": {"subhalos": warm}})
    cold, warm = (draw(recipe, name, 0, "train", range(100)).subhalos["mass"] for name in ("cold", "warm"))
    few = [(m[m > 0] < 1e8).sum() for m in (cold, warm)]
    many = [(m > 2e9).sum() for m in (cold, warm)]
    assert few[1] < 0.4 * few[0] and many[1] > 0.8 * many[0] - 20


def test_power_law_and_its_mean():
    u = (np.arange(200000) + 0.5) / 200000
    for slope in (-1.9, -1.0, -2.0, -0.9):
        assert np.isclose(power_law(u, 1e6, 1e8, slope).mean(), mean_mass(1e6, 1e8, slope), rtol=1e-3)


def test_noise_has_the_variance_of_the_recipe():
    """1000 noisy images of one lens: light, sky and reads."""
    recipe = edited("euclid", image={"pixels": 16})
    lens = draw(recipe, "no", 0, "train", [0])
    light, sky = light_and_sky(lens, recipe)
    rngs = [np.random.default_rng(i) for i in range(1000)]
    images = np.concatenate([add_noise(recipe, lens, light, sky, [rng]) for rng in rngs])
    time, reads = lens["noise.exposure_time"][0], 4 * 4.2**2
    expected = ((light[0].numpy() + sky[0]) * time + reads) / (time * 3.1) ** 2
    assert abs((images.var(0) / expected).mean() - 1) < 0.02
    assert np.abs(images.mean(0) - light[0].numpy() / 3.1).max() < 6 * np.sqrt(expected.max() / 1000)


def test_model_i_draws_its_noise_twice():
    recipe = edited("i", image={"pixels": 40}, noise={"exposure_time": 2000})
    lens = draw(recipe, "no", 0, "train", [0])
    light, sky = light_and_sky(lens, recipe)
    images = np.concatenate([add_noise(recipe, lens, light, sky, [np.random.default_rng(i)]) for i in range(600)])
    mean = light[0].numpy() * 2000
    bright = mean > 200  # where clipping at 0 plays no part
    assert abs((images.var(0)[bright] / (2 * mean[bright] + 400)).mean() - 1) < 0.03


def test_unknown_names_are_refused():
    recipe = load_recipe("f")
    with pytest.raises(ValueError, match="no class 'spere' in recipe f; did you mean 'sphere'"):
        simulate(recipe, "spere", [0])
    with pytest.raises(ValueError, match="no split 'training'; did you mean 'train'"):
        simulate(recipe, "no", [0], split="training")


def test_no_images():
    assert simulate(load_recipe("f"), "no", []).shape == (0, 150, 150)
    assert fixed(3).is_fixed and grid(load_recipe("f"))[0].shape == (1, 1, 300)
