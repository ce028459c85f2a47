"""Survey images: against the simulator of the published sets, against lenstronomy, and as random draws."""

import dataclasses

import numpy as np
import pytest
import torch

import simulate as published
from darklens.lenses import physics, profiles, psf
from darklens.lenses.drawn import Lenses, draw, mean_mass, power_law
from darklens.lenses.priors import Prior, fixed
from darklens.lenses.recipe_file import load_recipe, merge, parse_recipe, recipe_dict
from darklens.lenses.survey import simulate
from darklens.lenses.survey_render import deflection, grid, light_and_sky, render

CLASSES = ("no", "sphere", "vort")
DOUBLE = {"dtype": torch.float64}


def edited(base, **tables):
    return parse_recipe(merge(recipe_dict(load_recipe(base)), tables))


def set_values(lenses, **values):
    """The lenses with some values set: table__key=value."""
    new = {key.replace("__", "."): np.full(len(lenses), float(v)) for key, v in values.items()}
    return dataclasses.replace(lenses, values=lenses.values | new)


# ------------------------------------------------------------------ against the simulator of the published sets
def as_ours(p, recipe):
    """The published simulator's parameters as ours."""
    start = draw(recipe, "no", 0, "train", range(len(p)))
    names = {
        "z_lens": "lens.z_lens",
        "z_source": "lens.z_source",
        "shear": "lens.shear",
        "source_x": "source.x",
        "source_y": "source.y",
        "source_radius": "source.effective_radius",
        "axis_ratio": "source.axis_ratio",
        "vortex_mass": "vortex.mass",
        "vortex_length": "vortex.length",
        "vortex_x": "vortex.x",
        "vortex_y": "vortex.y",
    }
    angles = {"shear_angle": "lens.shear_angle", "source_angle": "source.angle", "vortex_angle": "vortex.angle"}
    values = {new: getattr(p, old) for old, new in names.items()}
    values |= {new: np.degrees(getattr(p, old)) for old, new in angles.items()}
    values["lens.einstein_radius"] = p.theta_e
    zero = np.zeros_like(p.subhalo_mass)
    subhalos = {"mass": p.subhalo_mass, "x": p.subhalo_x, "y": p.subhalo_y, "concentration": zero, "truncation": zero}
    return Lenses(start.values | values, subhalos)


@pytest.mark.parametrize("name", ["f", "j"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_images_equal_the_published_simulators(name, class_name):
    recipe = load_recipe(name)
    sky, counts = recipe.noise.sky.values[0], recipe.source.brightness.values[0]
    old = dataclasses.replace(published.RECIPES[name], sky=sky, source_counts=counts, peak_snr=None)
    p = published.draw(old, class_name, 3, "train", range(3))
    expected = published.render(p, old, dtype=torch.float64)
    ours = render(as_ours(p, recipe), recipe, **DOUBLE)
    assert (ours - expected).abs().max() <= 1e-10 * expected.max()


# -------------------------------------------------------------------------------------------- against lenstronomy
def ellipse(q, degrees):
    e, phi = (1 - q) / (1 + q), np.radians(degrees)
    return {"e1": e * np.cos(2 * phi), "e2": e * np.sin(2 * phi)}


def their_sersic(v, table, amp, x, y, degrees):
    """Their b_n is another: another radius and amplitude give the very same profile."""
    n, radius = v[f"{table}.sersic_index"][0], v[f"{table}.effective_radius"][0]
    ours, theirs = physics.sersic_b(n), 1.9992 * n - 0.3271
    place = {"amp": amp * np.exp(ours - theirs), "n_sersic": n, "center_x": x, "center_y": y}
    return {**place, "R_sersic": radius * (theirs / ours) ** n, **ellipse(v[f"{table}.axis_ratio"][0], degrees)}


def their_subhalos(lenses, recipe):
    s, x, y = lenses.subhalos, lenses["image.x"][0], lenses["image.y"][0]
    z = lenses["lens.z_lens"][0], lenses["lens.z_source"][0]
    places = [{"center_x": x + a, "center_y": y + b} for a, b in zip(s["x"][0], s["y"][0], strict=True)]
    if lenses.profile == "tnfw":
        rs, alpha = profiles.nfw_angles(s["mass"][0], s["concentration"][0], *z)
        halos = zip(rs, alpha, s["truncation"][0] * rs, strict=True)
        kwargs = [{"Rs": a, "alpha_Rs": b, "r_trunc": c} for a, b, c in halos]
    else:
        kwargs = [{"theta_E": physics.einstein_radius(m, *z, recipe.lens.distances)} for m in s["mass"][0]]
    name = {"tnfw": "TNFW", "sis": "SIS", "point": "POINT_MASS"}[lenses.profile]
    return [name] * len(places), [a | b for a, b in zip(kwargs, places, strict=True)]


def their_lens(lenses, recipe, halo_mass):
    v, x, y = lenses.values, lenses["image.x"][0], lenses["image.y"][0]
    z = v["lens.z_lens"][0], v["lens.z_source"][0]
    theta_e, phi = physics.einstein_radius(halo_mass, *z, recipe.lens.distances), np.radians(v["lens.shear_angle"][0])
    halo = {"theta_E": theta_e, "center_x": x, "center_y": y, **ellipse(v["lens.axis_ratio"][0], v["lens.angle"][0])}
    gammas = v["lens.shear"][0] * np.cos(2 * phi), v["lens.shear"][0] * np.sin(2 * phi)
    shear = {"gamma1": gammas[0], "gamma2": gammas[1], "ra_0": x, "dec_0": y}
    names, kwargs = their_subhalos(lenses, recipe)
    return ["SIE", "SHEAR", *names], [halo, shear, *kwargs]


def their_flux(light, kwargs, rate):
    """The kwargs with the amplitude that gives a flux."""
    return kwargs | {"amp": rate / light.total_flux([kwargs | {"amp": 1.0}])[0] * kwargs["amp"]}


def their_model(recipe, kernel=None):
    """(function of lens, source and light kwargs -> image, the pieces that it needs)."""
    pytest.importorskip("lenstronomy")
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF

    n, scale = recipe.image.pixels, recipe.image.pixel_scale
    corner = -(n - 1) / 2 * scale
    grid_of = {"transform_pix2angle": np.eye(2) * scale, "ra_at_xy_0": corner, "dec_at_xy_0": corner}
    data = ImageData(np.zeros((n, n)), **grid_of, background_rms=1, exposure_time=1)
    if kernel is None:
        return data, PSF(psf_type="GAUSSIAN", fwhm=recipe.psf.fwhm.values[0], truncation=5)
    return data, PSF(psf_type="PIXEL", kernel_point_source=kernel[::-1].copy())  # our row 0 is the top


def lenstronomy_image(lenses, recipe, kernel=None):
    """electrons/s a pixel of a lens with magnitudes, row 0 at the top."""
    data, spread = their_model(recipe, kernel)
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    v, x, y = lenses.values, lenses["image.x"][0], lenses["image.y"][0]
    names, kwargs = their_lens(lenses, recipe, their_halo_mass(lenses))
    light, zero = LightModel(["SERSIC_ELLIPSE"]), recipe.noise.zero_point
    degrees = v["lens.angle"][0] + v["lens_light.angle"][0]
    galaxy = their_sersic(v, "lens_light", 1.0, x, y, degrees)
    place = x + v["source.x"][0], y + v["source.y"][0]
    source = their_sersic(v, "source", 1.0, *place, v["source.angle"][0])
    for one, table in ((galaxy, "lens_light"), (source, "source")):
        one["amp"] = 10 ** (-0.4 * (v[f"{table}.magnitude"][0] - zero)) / light.total_flux([one | {"amp": 1.0}])[0]
    numerics = {"supersampling_factor": recipe.image.supersample, "supersampling_convolution": False}
    model = ImageModel(data, spread, LensModel(names), light, light, kwargs_numerics=numerics)
    return model.image(kwargs, [source], [galaxy])[::-1]


def their_halo_mass(lenses):
    s = lenses.subhalos
    masses = s["mass"][0]
    if lenses.profile == "tnfw":
        masses = profiles.tnfw_mass(masses, s["concentration"][0], s["truncation"][0])
    return lenses["lens.total_mass"][0] - lenses["lens.conserve_mass"][0] * masses.sum()


@pytest.mark.parametrize("profile", ["point", "sis", "tnfw"])
def test_whole_images_equal_lenstronomy(profile):
    """SIE, shear, subhalos, lens light and source by magnitude, a Moffat PSF by FFT, an off-centre lens."""
    halos = {"profile": profile, "count": 4, "mass": [1e8, 1e10], "radius": [0, 3]}
    moffat = {"kind": "moffat", "fwhm": 0.2, "beta": 3.0, "edges": "zero"}
    recipe = edited("hst", psf=moffat, classes={"sphere": {"subhalos": halos}}, image={"pixels": 60})
    lenses = draw(recipe, "sphere", 0, "train", [1])
    expected = lenstronomy_image(lenses, recipe, psf.moffat_kernel(0.2 / 0.08, 3.0))
    ours, _ = light_and_sky(lenses, recipe, **DOUBLE)
    assert np.abs(ours[0].numpy() - expected).max() <= 1e-10 * expected.max()


def test_gaussian_image_with_lens_light_equals_lenstronomy():
    recipe = edited("euclid", psf={"fwhm": 0.16}, image={"pixels": 60})
    lenses = draw(recipe, "no", 0, "train", [2])
    ours, _ = light_and_sky(lenses, recipe, **DOUBLE)
    expected = lenstronomy_image(lenses, recipe)
    assert np.abs(ours[0].numpy() - expected).max() <= 1e-10 * expected.max()


def test_a_measured_psf_is_used(tmp_path):
    kernel = psf.moffat_kernel(2.5, 3.0, 21)
    kernel[10, 12] += 0.02  # asymmetric: rows and columns must not be mixed up
    kernel[13, 10] += 0.04
    np.save(tmp_path / "psf.npy", kernel)
    measured = {"kind": "file", "fwhm": "none", "beta": "none", "file": str(tmp_path / "psf.npy"), "edges": "zero"}
    recipe = edited("hst", psf=measured, image={"pixels": 50})
    lenses = draw(recipe, "no", 0, "train", [0])
    ours, _ = light_and_sky(lenses, recipe, **DOUBLE)
    expected = lenstronomy_image(lenses, recipe, kernel / kernel.sum())
    assert np.abs(ours[0].numpy() - expected).max() <= 1e-10 * expected.max()


def test_a_published_model_iii_ring():
    """theta_E and shear of the forward fit to a published Model III image, in its pixels."""
    lenses, recipe = draw(load_recipe("iii"), "no", 0, "train", [0]), load_recipe("iii")
    assert np.isclose(lenses["lens.einstein_radius"][0] / recipe.image.pixel_scale, 10.160855, rtol=1e-6)
    assert np.isclose(lenses["lens.shear"][0], 0.0317157383, rtol=1e-9)


def test_models_ii_and_iii_scale_their_substructure_with_the_halo():
    """All deflections carry one factor: that of the halo's Einstein radius."""
    ii, i = (draw(load_recipe(name), "vort", 0, "train", [0]) for name in ("ii", "i"))
    factor = ii["lens.einstein_radius"] / i["lens.einstein_radius"]
    assert np.isclose(ii["vortex.mass"] / i["vortex.mass"], factor, rtol=2e-4)
    halos = [load_recipe(name).classes["sphere"].subhalos.mass[1] for name in ("ii", "i")]
    assert np.isclose(halos[0] / halos[1], factor, rtol=2e-4)


# --------------------------------------------------------------------------------------------------- lens theory
def test_massless_substructure_gives_the_smooth_image():
    recipe = load_recipe("euclid")
    halos = draw(recipe, "sphere", 0, "train", range(2))
    empty = {key: np.zeros_like(v) for key, v in halos.subhalos.items()}
    smooth = dataclasses.replace(halos, subhalos={key: v[:, :0] for key, v in halos.subhalos.items()})
    one, other = (render(x, recipe) for x in (dataclasses.replace(halos, subhalos=empty), smooth))
    assert torch.equal(one, other)


@pytest.mark.parametrize("profile", ["point", "tnfw"])
def test_mass_is_conserved_far_away(profile):
    """With conserve_mass the deflection at a far ring doesn't know of the substructure, but for its centre."""
    halos = {"profile": profile, "count": 6, "mass": [1e9, 1e10], "radius": [0, 0.3]}
    base = {"lens": {"axis_ratio": 1, "shear": 0}, "classes": {"sphere": {"subhalos": halos}, "no": {}}}
    recipe = edited("euclid", **base)
    lenses = draw(recipe, "sphere", 0, "train", [0])
    theta = torch.linspace(0, 2 * np.pi, 721, dtype=torch.float64)[:-1]
    radius = float(lenses["lens.einstein_radius"][0])
    x, y = (radius * f(theta)[None, None] for f in (torch.cos, torch.sin))
    ax, ay = deflection(lenses, recipe, x, y)
    mean = float((ax * torch.cos(theta) + ay * torch.sin(theta)).mean())  # 2 M(<R) / R by Gauss's theorem
    share = 1.5 * lenses.subhalos["mass"].sum() / lenses["lens.total_mass"][0]
    # an SIS's mass within its own Einstein radius shrinks with it: theta_E^2 = square (M - m), M(<R) = theta_E R
    assert abs(mean / radius - 1) < share


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
    from darklens.lenses.survey import add_noise

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
    from darklens.lenses.survey import add_noise

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
