"""Priors and random streams."""

import numpy as np
import pytest
from simulated import F, J, altered, edited, inside

from darklens.errors import RecipeError
from darklens.simulation import draw, recipes
from darklens.simulation.priors import Prior
from darklens.simulation.recipes import RECIPES


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
def test_priors_stay_in_their_range_and_fill_it(recipe):
    p, quirk = {c: draw.draw(recipe, c, 3, "train", range(1500)) for c in recipes.CLASSES}, (0, 2 * np.pi)
    rod = recipe.classes["vort"].vortex
    every = [
        *((q["lens.z_lens"], recipe.lens.z_lens.bounds) for q in p.values()),
        *((q["lens.z_source"], recipe.lens.z_source.bounds) for q in p.values()),
        *((q["lens.shear"], (0, 0.3)) for q in p.values()),
        *((q["lens.shear_angle"], quirk) for q in p.values()),
        *((q["source.angle"], quirk if recipe is J else (0, 0)) for q in p.values()),
        *((np.hypot(q["source.x"], q["source.y"]), (0, 0.5)) for q in p.values()),
        *((q["source.effective_radius"], (0.5, 0.5)) for q in p.values()),
        *((q["source.axis_ratio"], (0.4, 1) if recipe is J else (1, 1)) for q in p.values()),
        (p["vort"]["vortex.mass"] / 1e12, rod.mass_fraction.bounds),
        (p["vort"]["vortex.length"], (1, 4)),
        (p["vort"]["vortex.angle"], (0, 360)),
    ]
    for values, (low, high) in every:
        assert inside(values, (low, high))
        assert abs(values.mean() - (low + high) / 2) <= 5 * (high - low) / np.sqrt(12 * len(values)) + 1e-12
    centre = np.concatenate([p["vort"]["vortex.x"], p["vort"]["vortex.y"]])
    assert centre.std() == pytest.approx(0.5, rel=0.08)
    assert not p["no"]["substructure.mass"].any() and not p["no"]["image.x"].any()


def test_subhalos_follow_their_priors():
    s = draw.draw(F, "sphere", 3, "train", range(1500)).subhalos
    real, radius = s["mass"] > 0, np.hypot(s["x"], s["y"])
    assert real.sum(1).mean() == pytest.approx(25, abs=5 * np.sqrt(25 / 1500))
    assert inside(s["mass"][real], (1e6, 1e10)) and inside(radius[real], (0, 2))
    assert radius[real].mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("slope", [-0.9, -1.0, -1.9])
def test_power_law_quantiles(slope):
    """dN/dm ~ m^slope, from quantiles: equal steps of u hold equal integrals of it."""
    m = draw.power_law(np.linspace(0, 1, 9), 1e6, 1e10, slope)
    assert m[0] == pytest.approx(1e6) and m[-1] == pytest.approx(1e10)
    parts = []
    for low, high in zip(m[:-1], m[1:], strict=True):
        t = np.linspace(np.log(low), np.log(high), 20001)
        parts.append(
            np.trapezoid(np.exp((slope + 1) * t), t)
            if hasattr(np, "trapezoid")
            else np.trapz(np.exp((slope + 1) * t), t)
        )
    assert np.ptp(parts) <= 1e-6 * parts[0]


def test_quirks_are_switches():
    def first(class_name="no", **quirks):
        return draw.draw(recipes.with_quirks(J, quirks), class_name, 0, "train", range(50))

    plain, free = first(), first(random_shear_axis=True)
    assert free["lens.shear_angle"] == pytest.approx(np.degrees(plain["lens.shear_angle"]))
    assert np.array_equal(free["source.x"], plain["source.x"])
    assert first(random_source_axis=True)["source.angle"].max() > 300
    assert first("vort")["vortex.angle"].max() > 300
    assert first("vort", random_vortex_axis=False)["vortex.angle"].max() < 6.3
    radius = "lens.einstein_radius"
    assert (first(distances="angular")[radius] > 1.2 * plain[radius]).all()
    few, many = (first("sphere", subhalo_slope=s)["substructure.mass"].mean() for s in (-1.9, -0.9))
    assert few < 0.01 * many
    whole = first("vort", conserve_mass=False)
    assert np.allclose(whole["halo.einstein_radius"], whole[radius])
    assert (first("vort")["halo.einstein_radius"] < 0.99 * whole[radius]).all()
    with pytest.raises(RecipeError, match="distances"):
        first(distances="parallax")


def test_streams_differ():
    base = {"recipe": F, "class_name": "no", "seed": 0, "split": "train", "indices": [3]}
    others = [
        {"recipe": J},
        {"class_name": "vort"},
        {"seed": 1},
        {"split": "val"},
        {"split": "test"},
        {"indices": [4]},
    ]
    shears = [draw.draw(**{**base, **other})["lens.shear"][0] for other in [{}, *others]]
    assert len(set(shears)) == len(shears)
    assert (
        draw.stream(F, "no", 0, "train", 3, 0).generate_state(2).tolist()
        != draw.stream(F, "no", 0, "train", 3, 1).generate_state(2).tolist()
    )


@pytest.mark.parametrize("bad", [{"class_name": "axion"}, {"split": "dev"}, {"seed": -1}, {"indices": [-1]}])
def test_unknown_names_and_negative_numbers_are_refused(bad):
    with pytest.raises(ValueError):
        draw.draw(**{"recipe": F, "class_name": "no", "seed": 0, "split": "train", "indices": [0], **bad})


def test_recipes_that_differ_in_a_key_share_the_rest():
    one, other = RECIPES["euclid"], edited("euclid", lens_light="none", psf={"fwhm": 0.2})
    a, b = (draw.draw(recipe, "sphere", 0, "train", range(3)) for recipe in (one, other))
    assert np.isnan(b["lens_light.magnitude"]).all()
    same = [key for key in a.values if not key.startswith(("lens_light", "psf"))]
    assert all(np.array_equal(a[key], b[key], equal_nan=True) for key in same)
    assert np.array_equal(a.subhalos["mass"], b.subhalos["mass"])


@pytest.mark.parametrize("name", ["f", "wide", "hst", "i"])
def test_draws_keep_their_priors(name):
    recipe = RECIPES[name]
    lenses = draw.draw(recipe, "vort", 0, "train", range(300))
    for key, values in lenses.values.items():
        table, _, part = key.partition(".")
        prior = getattr(getattr(recipe, table, None), part, None)
        if isinstance(prior, Prior) and key not in ("lens.total_mass", "source.x", "source.y"):
            assert prior.bounds[0] <= values.min() and values.max() <= prior.bounds[1], key
    halos = draw.draw(recipe, "sphere", 0, "train", range(50))
    table, s = recipe.classes["sphere"].subhalos, halos.subhalos
    used, radius = s["mass"] > 0, np.hypot(s["x"], s["y"])
    assert (s["mass"][used] >= table.mass[0] * 0.999).all() and (s["mass"] <= table.mass[1] * 1.001).all()
    assert (radius[used] >= table.radius[0] - 1e-9).all() and (radius <= table.radius[1]).all()


def test_number_of_subhalos():
    poisson, always = (
        (draw.draw(RECIPES[name], "sphere", 0, "train", range(400)).subhalos["mass"] > 0).sum(1) for name in ("f", "i")
    )
    assert (always == 25).all()
    assert abs(poisson.mean() - 25) < 1.5 and abs(poisson.var() / 25 - 1) < 0.4


def test_mass_fraction_is_met_on_average():
    lenses = draw.draw(RECIPES["euclid"], "sphere", 0, "train", range(1500))
    share = lenses.subhalos["mass"].sum(1) / lenses["lens.total_mass"]
    assert abs(share.mean() / 0.03 - 1) < 0.1


def test_warm_dark_matter_lacks_small_halos():
    halos = {"count": 50, "mass": [1e7, 1e10], "radius": [0, 2]}
    warm = {**halos, "half_mode_mass": 1e8}
    recipe = edited("f", classes={"no": {}, "cold": {"subhalos": halos}, "warm": {"subhalos": warm}})
    cold, warm = (draw.draw(recipe, name, 0, "train", range(100)).subhalos["mass"] for name in ("cold", "warm"))
    few = [(m[m > 0] < 1e8).sum() for m in (cold, warm)]
    many = [(m > 2e9).sum() for m in (cold, warm)]
    assert few[1] < 0.4 * few[0] and many[1] > 0.8 * many[0] - 20


def test_models_ii_and_iii_scale_all_deflections_by_one_factor():
    """Their public code does; the ring of a published Model III image has this radius and shear, in its pixels."""
    ii, i, iii = (draw.draw(RECIPES[name], "vort", 0, "train", [0]) for name in ("ii", "i", "iii"))
    factor = ii["lens.einstein_radius"] / i["lens.einstein_radius"]
    assert np.isclose(ii["vortex.mass"] / i["vortex.mass"], factor, rtol=2e-4)
    halos = [RECIPES[name].classes["sphere"].subhalos.mass[1] for name in ("ii", "i")]
    assert np.isclose(halos[0] / halos[1], factor, rtol=2e-4)
    assert np.isclose(iii["lens.einstein_radius"][0] / RECIPES["iii"].image.pixel_scale, 10.160855, rtol=1e-6)
    assert np.isclose(iii["lens.shear"][0], 0.0317157383, rtol=1e-9)


def test_einstein_radii_are_those_of_the_real_images():
    """Forward fits to published images of Model J: mean 25.6, standard deviation 3.5 pixels; Model F: 25.6."""
    radii = draw.draw(J, "no", 0, "train", range(4000))["lens.einstein_radius"] / J.image.pixel_scale
    assert radii.mean() == pytest.approx(25.6, abs=0.3) and radii.std() == pytest.approx(3.5, abs=0.3)
    assert draw.draw(F, "no", 0, "train", [0])["lens.einstein_radius"][0] == pytest.approx(1.282, abs=1e-3)


def test_robust_recipes_vary_what_a_fit_assumes():
    p, plain = (draw.draw(r, "no", 0, "train", range(2000)) for r in (recipes.robust(J), J))
    assert inside(p["robust.psf_width"], (0.97, 1.03)) and p["robust.psf_width"].std() > 0.016
    assert inside(p["robust.gain"], (0.9, 1.1)) and p["robust.gain"].std() > 0.05
    assert p["image.x"].std() / J.image.pixel_scale == pytest.approx(0.1, rel=0.06)
    assert p["robust.eight_bits"].mean() == pytest.approx(0.2, abs=0.04)
    assert np.array_equal(p["lens.shear"], plain["lens.shear"])
    assert (plain["robust.psf_width"] == 1).all() and not plain["robust.eight_bits"].any()


def test_columns_and_rows():
    """What a file keeps comes back; rows have no more padding than they need."""
    p = draw.draw(F, "sphere", 0, "train", range(6))
    again = draw.draw(F, "sphere", 0, "train", ()).with_arrays(p.arrays())
    assert all(np.array_equal(again.arrays()[key], value, equal_nan=True) for key, value in p.arrays().items())
    few = p[[1, 4]]
    assert len(few) == 2 and few.subhalos["mass"].shape[1] == (p.subhalos["mass"][[1, 4]] > 0).sum(1).max()
    assert altered(p[:1], F, vortex__mass=1e10)["substructure.mass"][0] == p["substructure.mass"][0] + 1e10


@pytest.mark.parametrize(
    ("key", "prior", "limits"),
    [
        ("concentration", [8, 4], (0.5, 1000)),
        ("truncation", [2, 1.5], (0.05, 1000)),
        ("mass_fraction", [0.01, 0.02], None),
        ("count", [3, 4], None),
    ],
)
def test_tails_of_normal_priors_stay_within_the_limits_of_subhalos(key, prior, limits):
    halos = {"profile": "tnfw", "mass": [1e8, 1e10], "radius": [0, 3], key: {"normal": prior}}
    halos |= {} if key in ("count", "mass_fraction") else {"count": 5}
    recipe = edited("euclid", classes={"x": {"subhalos": halos}})
    lenses = draw.draw(recipe, "x", 0, "train", range(300))
    used = lenses.subhalos["mass"] > 0
    assert np.isfinite(lenses.subhalos["bound_mass"]).all() and (lenses.subhalos["bound_mass"] >= 0).all()
    if limits is not None:
        values = lenses.subhalos[key][used]
        assert values.min() == limits[0] and inside(values, limits)
    else:
        assert (~used.any(1)).any() and used.any(1).any()


def test_a_lens_takes_the_substructure_of_another():
    """Halo and source stay; the vortex's mass comes out of the halo's."""
    lenses, vortices = (draw.draw(RECIPES["j_sources"], name, 3, "train", range(2)) for name in ("no", "vort"))
    sample = draw.with_substructure(RECIPES["j_sources"], lenses, vortices)
    for key in ("lens.axis_ratio", "source.x", "structure.seed", "image.y", "lens.total_mass"):
        assert (sample[key] == lenses[key]).all()
    assert (sample["vortex.mass"] == vortices["vortex.mass"]).all()
    assert (sample["substructure.mass"] == vortices["vortex.mass"]).all()
    assert (sample["halo.einstein_radius"] < lenses["halo.einstein_radius"]).all()
