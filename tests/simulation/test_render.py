"""Rendered lenses against lens theory, whatever batch they come in."""

import dataclasses

import numpy as np
import pytest
import torch
from simulated import F, J, altered, edited, lens, rod_at

from darklens.simulation import draw, recipes, render
from darklens.simulation.deflect import deflection, grid
from darklens.simulation.recipes import RECIPES

SHARP = edited(F, psf={"kind": "none", "fwhm": "none"})
ROUND = {"lens__shear": 0, "source__x": 0, "source__y": 0}
DOUBLE = {"dtype": torch.float64}


def source_light(parameters, recipe, dtype=torch.float64):
    return render.light_and_sky(parameters, recipe, dtype=dtype)[0][0].numpy()


def test_ring_has_the_einstein_radius():
    p = lens(**ROUND, source__effective_radius=0.1)
    light = source_light(p, SHARP)
    x, y = grid(edited(SHARP, image={"supersample": 1}), dtype=torch.float64)
    radius = torch.sqrt(x * x + y * y)[0].numpy()
    mean = light.sum() / (light / radius).sum()  # mean radius, the growing circumference taken out
    assert mean == pytest.approx(p["lens.einstein_radius"][0], rel=2e-3)


@pytest.mark.parametrize("gamma", [0.05, 0.15, 0.29])
def test_sheared_axes(gamma):
    p = lens(**ROUND | {"lens__shear": gamma}, lens__shear_angle=0, source__effective_radius=0.1)
    theta_e = p["lens.einstein_radius"][0]
    light, middle = source_light(p, SHARP), F.image.pixels // 2
    along, across = light[middle - 1 : middle + 1].sum(0), light[:, middle - 1 : middle + 1].sum(1)
    for profile, expected in ((along, theta_e / (1 - gamma)), (across, theta_e / (1 + gamma))):
        right = middle + np.argmax(profile[middle:])
        left = np.argmax(profile[:middle])
        assert (right - left) / 2 == pytest.approx(expected / F.image.pixel_scale, abs=1)


def test_published_rings_lean_up_to_the_right():
    for index in range(5):
        p = lens("no", F, index, **ROUND | {"lens__shear": 0.2})
        light = source_light(p, F)
        x, y = (v[0].numpy() for v in grid(edited(F, image={"supersample": 1}), dtype=torch.float64))
        angle = np.degrees(np.arctan2(2 * (light * x * y).sum(), (light * (x * x - y * y)).sum()) / 2)
        assert 0 < angle < 6.6 and angle == pytest.approx(p["lens.shear_angle"][0], abs=0.3)


@pytest.mark.parametrize("beta", [0.15, 0.3])
def test_magnification_of_a_small_source(beta):
    fine = edited(SHARP, image={"supersample": 8})
    changes = {"lens__shear": 0, "source__x": 0.8 * beta, "source__y": 0.6 * beta, "source__effective_radius": 0.015}
    p = lens(**changes)
    lensed, plain = source_light(p, fine).sum(), source_light(lens(**changes, lens__total_mass=0), fine).sum()
    assert lensed / plain == pytest.approx(2 * p["lens.einstein_radius"][0] / beta, rel=0.03)


def test_massless_substructure_changes_nothing():
    expected, none = render.render(lens("no"), F), {"mass": [0, 0, 0], "x": [0.1, 0.2, 0.3], "y": [0, 0, 0]}
    rod = {"vortex__length": 1, "vortex__x": 0.2}
    for other in (lens(subhalos=none), lens(**rod), lens(subhalos=none, **rod)):
        assert torch.equal(render.render(other, F), expected)


@pytest.mark.parametrize("name", ["f", "euclid"])
def test_massless_substructure_beside_a_massive_one_changes_nothing(name):
    """Padding in a batch: each lens is as if it were alone."""
    recipe, share = RECIPES[name], np.array([[1.0], [0.0], [1.0]])
    batch = draw.draw(recipe, "sphere", 0, "train", range(3))
    empty = {**batch.subhalos, "mass": batch.subhalos["mass"] * share}
    empty = draw.with_masses(recipe, dataclasses.replace(batch, subhalos=empty))
    none = {key: value[:, :0] for key, value in batch.subhalos.items()}
    plain = draw.with_masses(recipe, dataclasses.replace(batch, subhalos=none))
    x, y = grid(recipe)
    together, alone = deflection(empty, recipe, x, y), deflection(plain, recipe, x, y)
    assert torch.equal(together[0][1], alone[0][1]) and torch.equal(together[1][1], alone[1][1])
    assert torch.equal(render.render(empty[1:2], recipe), render.render(plain[1:2], recipe))


def test_short_rod_is_a_point_mass():
    points = np.array([0.3 + 0.1j, -0.02 + 0.01j, 2 - 3j, -1j])
    expected = 0.05 * points / np.abs(points) ** 2
    for length, tolerance in ((1e-3, 1e-2), (1e-5, 1e-6), (0.0, 1e-8)):
        ours, _ = rod_at(points, max(length, 1e-300), 0.7)
        assert np.abs(ours - expected).max() <= tolerance
    p = lens("vort", vortex__length=1e-6)
    there = {key: p[f"vortex.{key}"] for key in ("mass", "x", "y")}
    light = source_light(altered(p, F, subhalos=there, vortex__mass=0), F)
    assert np.abs(source_light(p, F) - light).max() <= 1e-9 * light.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_top_of_a_mass_are_finite(dtype):
    odd = edited(F, image={"pixels": 151, "supersample": 1})  # the middle ray hits the origin
    sub = lens("sphere", subhalos={"mass": [1e10], "x": [0], "y": [0]})
    ends = lens("vort", vortex__x=0, vortex__y=0, vortex__length=1, vortex__angle=0)
    point = altered(ends, F, vortex__length=0)
    for p in (lens(), sub, ends, point):
        assert torch.isfinite(render.render(p, odd, dtype=dtype)).all()


def turned(p, angle=0.0, mirror=False):
    """The same lenses seen in a mirror (y -> -y), or turned by `angle` degrees."""
    sign, values, subhalos = (-1 if mirror else 1), dict(p.values), dict(p.subhalos)
    for table in (values, subhalos):
        for name in ("source.", "vortex.", "image.") if table is values else ("",):
            z = (table[f"{name}x"] + 1j * sign * table[f"{name}y"]) * np.exp(1j * np.radians(angle))
            table |= {f"{name}x": z.real, f"{name}y": z.imag}
    for name in ("lens.shear_angle", "lens.angle", "source.angle", "vortex.angle"):
        values[name] = sign * values[name] + angle
    values["lens_light.angle"] = sign * values["lens_light.angle"]  # from the mass's
    return dataclasses.replace(p, values=values, subhalos=subhalos)


@pytest.mark.parametrize("name", ["j", "euclid"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_mirrored_and_turned_lenses_give_mirrored_and_turned_images(name, class_name):
    recipe = recipes.with_quirks(RECIPES[name], {"random_shear_axis": True, "random_source_axis": True})
    p = lens(class_name, recipe, 2)
    image = source_light(p, recipe)
    assert np.abs(source_light(turned(p, mirror=True), recipe) - image[::-1]).max() <= 1e-11 * image.max()
    assert np.abs(source_light(turned(p, angle=90), recipe) - np.rot90(image)).max() <= 1e-11 * image.max()


def test_halo_gives_up_the_mass_of_its_substructure():
    p, far = lens("vort", lens__shear=0), torch.full((1, 1, 1), 1e6, dtype=torch.float64)
    kept = deflection(p, F, far, 0 * far)[0].item()
    free = deflection(altered(p, F, lens__conserve_mass=0), F, far, 0 * far)[0].item()
    assert kept / free == pytest.approx(np.sqrt(1 - p["vortex.mass"][0] / 1e12), rel=1e-6)


@pytest.mark.parametrize("name", ["f", "j", "hst", "ii"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_images_do_not_depend_on_their_company(name, class_name):
    recipe = edited(name, image={"pixels": 40})
    together = render.simulate(recipe, class_name, range(6), seed=4)
    assert np.array_equal(render.simulate(recipe, class_name, [5, 2], seed=4), together[[5, 2]])
    alone = [render.simulate(recipe, class_name, [i], seed=4)[0] for i in range(6)]
    assert np.array_equal(together, alone)
    assert not np.array_equal(render.simulate(recipe, class_name, [5], seed=4, split="val")[0], together[5])


def test_images_do_not_depend_on_torch_threads():
    before = torch.get_num_threads()
    images = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        images.append(render.render(draw.draw(F, "vort", 0, "train", range(2)), F))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(*images)


@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_the_batched_path_agrees(class_name):
    """All lenses at once, as on a GPU; float32 against float64."""
    p = draw.draw(J, class_name, 0, "train", range(5))
    one_by_one, _ = render.light_and_sky(p, J)
    together, sky = render.light_batch(p, J, *grid(J))
    assert torch.allclose(together, one_by_one, rtol=1e-5, atol=1e-5) and (sky == 10.8).all()
    exact, _ = render.light_and_sky(p, J, **DOUBLE)
    error = (one_by_one - exact).abs().amax((1, 2)) / exact.amax((1, 2))
    assert error.max() < 1e-3 and render.render(p[:0], J).shape == (0, 150, 150)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_gpu_agrees_with_cpu(class_name):
    p = draw.draw(F, class_name, 0, "train", range(8))
    cpu, gpu = render.render(p, F), render.render(p, F, "cuda").cpu()
    assert ((cpu - gpu).abs().amax((1, 2)) / cpu.amax((1, 2))).max() < 1e-3
    together = render.simulate(F, class_name, range(8), device="cuda")
    assert together.mean() == pytest.approx(cpu.mean().item(), rel=1e-2)


@pytest.mark.parametrize("profile", ["point", "tnfw"])
def test_the_halo_has_what_the_substructure_leaves(profile):
    """On a ring about all of it, by Gauss's theorem: an SIS of mass M - m within its own Einstein radius, and m."""
    halos = {"profile": profile, "count": 6, "mass": [1e9, 1e10], "radius": [0, 0.3]}
    round_lens = {"axis_ratio": 1, "shear": 0}
    recipe = edited("euclid", lens=round_lens, classes={"sphere": {"subhalos": halos}})
    lenses = draw.draw(recipe, "sphere", 0, "train", [0])
    theta = torch.linspace(0, 2 * np.pi, 721, dtype=torch.float64)[:-1]
    radius = float(lenses["lens.einstein_radius"][0])
    x, y = (radius * f(theta)[None, None] for f in (torch.cos, torch.sin))
    ax, ay = deflection(lenses, recipe, x, y)
    mean = float((ax * torch.cos(theta) + ay * torch.sin(theta)).mean()) / radius
    share = lenses["substructure.mass"][0] / lenses["lens.total_mass"][0]
    if profile == "point":
        assert abs(mean - np.sqrt(1 - share) - share) < 1e-9
    assert np.sqrt(1 - share) + 0.5 * share < mean < np.sqrt(1 - share) + share + 1e-9  # tnfw: some of it lies outside


@pytest.mark.parametrize("name", ["wide", "euclid"])
def test_peak_signal_to_noise(name):
    change = {"noise": {"peak_snr": [10, 60]}, "source": {"magnitude": "none"}, "lens_light": "none"}
    recipe = RECIPES["wide"] if name == "wide" else edited("euclid", **change)
    lenses = draw.draw(recipe, "no", 0, "train", range(4))
    light, sky = render.light_and_sky(lenses, recipe, **DOUBLE)
    time, reads = lenses["noise.exposure_time"], recipe.noise.exposures * lenses["noise.read_noise"] ** 2
    peak = light.amax((1, 2)).numpy() * time
    assert np.allclose(peak / np.sqrt(peak + sky * time + reads), lenses["noise.peak_snr"])
    if name == "wide":
        assert np.allclose(sky * time / peak, lenses["noise.sky_fraction"])


def test_lens_light_in_proportion_to_the_source():
    recipe = edited("f", lens_light={"flux_ratio": 3.0, "effective_radius": 0.3, "sersic_index": 1.0})
    plain = RECIPES["f"]
    lenses = draw.draw(recipe, "no", 0, "train", [0])
    both, source = (render.light_and_sky(lenses, r, **DOUBLE)[0].sum() for r in (recipe, plain))
    assert abs(float(both / source) - 4) < 0.01


def test_stamps_as_sources(tmp_path):
    y, x = np.indices((41, 41)) - 20
    np.save(tmp_path / "galaxy.npy", np.exp(-np.hypot(x, 2 * y) / 4) + 0.01)
    change = {"stamps": str(tmp_path), "stamp_scale": 0.02, "effective_radius": "none", "background_cut": 0}
    recipe = edited("euclid", source=change, lens_light="none")
    lenses = draw.draw(recipe, "no", 0, "train", range(3))
    lenses = altered(lenses, recipe, lens__total_mass=1.0, lens__shear=0)  # no lens to speak of
    light, _ = render.light_and_sky(lenses, recipe, **DOUBLE)
    wanted = 10 ** (-0.4 * (lenses["source.magnitude"] - recipe.noise.zero_point))
    assert np.allclose(light.sum((1, 2)).numpy(), wanted, rtol=0.05)


def test_unknown_names_are_refused():
    recipe = RECIPES["f"]
    with pytest.raises(ValueError, match="no class 'spere' in recipe f; did you mean 'sphere'"):
        render.simulate(recipe, "spere", [0])
    with pytest.raises(ValueError, match="no split 'training'; did you mean 'train'"):
        render.simulate(recipe, "no", [0], split="training")


def test_no_images():
    assert render.simulate(RECIPES["f"], "no", []).shape == (0, 150, 150)
    assert grid(F)[0].shape == (1, 1, 300)
