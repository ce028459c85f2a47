"""The simulator against lenstronomy, against lens theory, and as a writer of data sets."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from darklens.commands import simulate
from darklens.lenses import draw, physics, recipes, render
from darklens.lenses import manifest as lenses_manifest

F, J = recipes.RECIPES["f"], recipes.RECIPES["j"]
SHARP = dataclasses.replace(F, psf_sigma=1e-3)  # no PSF to speak of
ROUND = {"shear": 0.0, "source_x": 0.0, "source_y": 0.0}
SCRIPT = ROOT / "simulate.py"


def lens(class_name="no", recipe=F, index=0, **changes):
    """One drawn lens with some parameters set; a list makes an array of subhalos."""
    drawn = draw.draw(recipe, class_name, 0, "train", [index])
    return dataclasses.replace(drawn, **{k: np.array([v], dtype=float) for k, v in changes.items()})


def source_light(parameters, recipe, dtype=torch.float64):
    return render.render(parameters, recipe, dtype=dtype)[0].numpy() - recipe.sky


def scalar(value):
    return torch.full((1, 1, 1), float(value), dtype=torch.float64)


def rod_at(points, length, angle, theta2=0.05):
    """Our rod, and the same from its complex closed form, at complex points."""
    x, y = (torch.from_numpy(np.ascontiguousarray(v))[None, None] for v in (points.real, points.imag))
    ax, ay = physics.rod(x, y, scalar(theta2), scalar(length), scalar(angle))
    turned, a = points * np.exp(-1j * angle), length / 2
    conjugate = theta2 / length * np.log((turned + a) / (turned - a)) * np.exp(-1j * angle)
    return (ax + 1j * ay).numpy()[0, 0], conjugate.conj()


# ------------------------------------------------------------------------------------- against lenstronomy
def as_point_masses(p, nodes):
    """Subhalos as they are, the vortex as Gauss-Legendre nodes: mass (Msun), x, y (arcsec)."""
    if not p.vortex_mass.any():
        return p.subhalo_mass[0], p.subhalo_x[0], p.subhalo_y[0]
    t, w = np.polynomial.legendre.leggauss(nodes)
    half = p.vortex_length[0] / 2 * t
    x, y = (c[0] + half * f(p.vortex_angle[0]) for c, f in ((p.vortex_x, np.cos), (p.vortex_y, np.sin)))
    return p.vortex_mass[0] * w / 2, x, y


def lenstronomy_lens(p, recipe, nodes=600):
    mass, x, y = as_point_masses(p, nodes)
    square = p.theta_e[0] ** 2 / recipe.total_mass
    gamma, phi = p.shear[0], p.shear_angle[0]
    halo = {"theta_E": np.sqrt(square * (recipe.total_mass - mass.sum())), "center_x": 0, "center_y": 0}
    shear = {"gamma1": gamma * np.cos(2 * phi), "gamma2": gamma * np.sin(2 * phi), "ra_0": 0, "dec_0": 0}
    points = [
        {"theta_E": np.sqrt(square * m), "center_x": a, "center_y": b} for m, a, b in zip(mass, x, y, strict=True)
    ]
    return ["SIS", "SHEAR", *["POINT_MASS"] * len(points)], [halo, shear, *points]


def lenstronomy_source(p, recipe):
    """The source with lenstronomy's own b_n: another radius and amplitude give the very same profile."""
    n, q, phi = recipe.sersic_index, p.axis_ratio[0], p.source_angle[0]
    ours, theirs = physics.sersic_b(n), 1.9992 * n - 0.3271
    e = (1 - q) / (1 + q)
    return {
        "amp": recipe.source_counts * np.exp(ours - theirs),
        "R_sersic": p.source_radius[0] * (theirs / ours) ** n,
        "n_sersic": n,
        "e1": e * np.cos(2 * phi),
        "e2": e * np.sin(2 * phi),
        "center_x": p.source_x[0],
        "center_y": p.source_y[0],
    }


def lenstronomy_image(p, recipe, nodes=600):
    """The image before noise, without sky; row 0 at the top as ours."""
    pytest.importorskip("lenstronomy")
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    n, scale = recipe.pixels, recipe.pixel_scale
    corner = -(n - 1) / 2 * scale
    data = ImageData(
        np.zeros((n, n)),
        transform_pix2angle=np.eye(2) * scale,
        ra_at_xy_0=corner,
        dec_at_xy_0=corner,
        background_rms=1,
        exposure_time=1,
    )
    psf = PSF(psf_type="GAUSSIAN", fwhm=recipe.psf_sigma * np.sqrt(8 * np.log(2)), truncation=5)
    names, kwargs = lenstronomy_lens(p, recipe, nodes)
    numerics = {"supersampling_factor": recipe.supersample, "supersampling_convolution": False}
    source = LightModel(["SERSIC_ELLIPSE"])
    model = ImageModel(data, psf, LensModel(names), source, kwargs_numerics=numerics)
    image = model.image(kwargs, [lenstronomy_source(p, recipe)])
    return image[::-1] / scale**2  # theirs is light per square arcsec times the pixel's area


def between_rays(p):
    """A rod along the diagonal midway between the rays, where Gauss-Legendre quadrature converges."""
    changes = {"vortex_x": 0.2, "vortex_y": 0.2125, "vortex_angle": np.pi / 4, "vortex_length": 0.6}
    return dataclasses.replace(p, **{k: np.array([v]) for k, v in changes.items()})


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_deflection_equals_lenstronomy(recipe, class_name):
    pytest.importorskip("lenstronomy")
    from lenstronomy.LensModel.lens_model import LensModel

    rng = np.random.default_rng(1)
    for index in range(3):
        p = lens(class_name, recipe, index)
        x, y = rng.uniform(-4, 4, (2, 500))
        turn = np.exp(-1j * p.vortex_angle[0])
        along = ((x + 1j * y) - (p.vortex_x[0] + 1j * p.vortex_y[0])) * turn
        far = np.abs(along.imag) > 0.1  # where the quadrature of a rod is exact
        x, y = x[far], y[far]
        ax, ay = render.deflection(p, recipe, torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
        names, kwargs = lenstronomy_lens(p, recipe)
        expected = LensModel(names).alpha(x, y, kwargs)
        assert np.abs(ax[0, 0].numpy() - expected[0]).max() <= 1e-12
        assert np.abs(ay[0, 0].numpy() - expected[1]).max() <= 1e-12


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_image_equals_lenstronomy(recipe, class_name):
    p = lens(class_name, recipe, 1)
    p = between_rays(p) if class_name == "vort" else p
    expected = lenstronomy_image(p, recipe)
    ours = source_light(p, dataclasses.replace(recipe, peak_snr=None))
    assert np.abs(ours - expected).max() <= 1e-10 * expected.max()


def test_distances_equal_astropy():
    cosmology = pytest.importorskip("astropy.cosmology").FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    near, far = (cosmology.luminosity_distance(z).value for z in (0.45, 1.1))
    assert physics.lensing_distance(0.45, 1.1) == pytest.approx(near * far / (far - near), rel=1e-9)
    near, far = (cosmology.angular_diameter_distance(z).value for z in (0.45, 1.1))
    between = (far * 2.1 - near * 1.45) / 2.1
    assert physics.lensing_distance(0.45, 1.1, "angular") == pytest.approx(near * far / between, rel=1e-9)


# -------------------------------------------------------------------------------------------- lens theory
def test_einstein_radius_of_model_f():
    assert physics.einstein_radius(1e12, 0.5, 1.0) == pytest.approx(1.282, abs=1e-3)
    assert physics.einstein_radius(1e12, 0.5, 1.0, "angular") == pytest.approx(1.664, abs=1e-3)


def test_ring_has_the_einstein_radius():
    p = lens(**ROUND, source_radius=0.1)
    light = source_light(p, SHARP)
    x, y = render.grid(dataclasses.replace(SHARP, supersample=1), dtype=torch.float64)
    radius = torch.sqrt(x * x + y * y)[0].numpy()
    mean = light.sum() / (light / radius).sum()  # mean radius, the growing circumference taken out
    assert mean == pytest.approx(p.theta_e[0], rel=2e-3)


@pytest.mark.parametrize("gamma", [0.05, 0.15, 0.29])
def test_sheared_axes(gamma):
    p = lens(**{**ROUND, "shear": gamma}, shear_angle=0.0, source_radius=0.1)
    light, middle = source_light(p, SHARP), F.pixels // 2
    along, across = light[middle - 1 : middle + 1].sum(0), light[:, middle - 1 : middle + 1].sum(1)
    for profile, expected in ((along, p.theta_e[0] / (1 - gamma)), (across, p.theta_e[0] / (1 + gamma))):
        right = middle + np.argmax(profile[middle:])
        left = np.argmax(profile[:middle])
        assert (right - left) / 2 == pytest.approx(expected / F.pixel_scale, abs=1)


def test_published_rings_lean_up_to_the_right():
    for index in range(5):
        p = lens("no", F, index, **{**ROUND, "shear": 0.2})
        light = source_light(p, F)
        x, y = (v[0].numpy() for v in render.grid(dataclasses.replace(F, supersample=1), dtype=torch.float64))
        angle = np.degrees(np.arctan2(2 * (light * x * y).sum(), (light * (x * x - y * y)).sum()) / 2)
        assert 0 < angle < 6.6 and angle == pytest.approx(np.degrees(p.shear_angle[0]), abs=0.3)


@pytest.mark.parametrize("beta", [0.15, 0.3])
def test_magnification_of_a_small_source(beta):
    fine = dataclasses.replace(SHARP, supersample=8)
    changes = {"shear": 0.0, "source_x": 0.8 * beta, "source_y": 0.6 * beta, "source_radius": 0.015}
    p = lens(**changes)
    lensed, plain = source_light(p, fine).sum(), source_light(lens(**changes, theta_e=0.0), fine).sum()
    assert lensed / plain == pytest.approx(2 * p.theta_e[0] / beta, rel=0.03)


def test_psf_conserves_flux_and_is_a_gaussian():
    image = torch.zeros(1, 61, 61, dtype=torch.float64)
    image[0, 30, 30] = 1
    blurred = physics.gaussian_blur(image, 1.7)[0].numpy()
    offset = np.arange(61) - 30
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert (blurred.sum(0) * offset**2).sum() == pytest.approx(1.7**2, rel=1e-4)
    flat = torch.full((1, 20, 20), 3.0, dtype=torch.float64)
    assert torch.allclose(physics.gaussian_blur(flat, 1.7), flat, atol=1e-12)


def test_half_of_sersic_light_is_within_the_effective_radius():
    radius = torch.linspace(0, 60, 2_000_001, dtype=torch.float64)[1:]
    light = physics.sersic(radius.clone(), torch.zeros(()), 1.5, scalar(0.5), scalar(1), scalar(0))[0, 0] * radius
    assert light[radius < 0.5].sum() / light.sum() == pytest.approx(0.5, abs=1e-4)


def test_massless_substructure_changes_nothing():
    plain = lens("no")
    some = [[0.0, 0.0, 0.0]]
    subhalos = dataclasses.replace(
        plain, subhalo_mass=np.zeros((1, 3)), subhalo_x=np.array(some) + 0.1, subhalo_y=np.array(some)
    )
    vortex = dataclasses.replace(lens("no", vortex_length=1.0, vortex_x=0.2), vortex_mass=np.zeros(1))
    both = render.render(
        dataclasses.replace(vortex, **{k: getattr(subhalos, k) for k in ("subhalo_mass", "subhalo_x", "subhalo_y")}),
        F,
    )
    expected = render.render(plain, F)
    for other in (render.render(subhalos, F), render.render(vortex, F), both):
        assert torch.equal(other, expected)


def test_massless_substructure_beside_a_massive_one_changes_nothing():
    """Padding in a batch: each lens is as if it were alone."""
    batch = draw.draw(F, "sphere", 0, "train", range(3))
    empty = dataclasses.replace(batch, subhalo_mass=batch.subhalo_mass * np.array([[1.0], [0.0], [1.0]]))
    x, y = render.grid(F)
    plain = dataclasses.replace(batch, subhalo_mass=np.zeros_like(batch.subhalo_mass))
    together, alone = render.deflection(empty, F, x, y), render.deflection(plain, F, x, y)
    assert torch.equal(together[0][1], alone[0][1]) and torch.equal(together[1][1], alone[1][1])


def test_rod_equals_its_complex_form():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, 4000) + 1j * rng.uniform(-4, 4, 4000)
    for length, angle in ((0.5, 0.0), (1.3, 2.2), (2.0, 5.9)):
        ours, expected = rod_at(points, length, angle)
        assert np.abs(ours - expected).max() <= 1e-12


def test_short_rod_is_a_point_mass():
    points = np.array([0.3 + 0.1j, -0.02 + 0.01j, 2 - 3j, -1j])
    expected = 0.05 * points / np.abs(points) ** 2
    for length, tolerance in ((1e-3, 1e-2), (1e-5, 1e-6), (0.0, 1e-8)):
        ours, _ = rod_at(points, max(length, 1e-300), 0.7)
        assert np.abs(ours - expected).max() <= tolerance
    p = lens("vort", vortex_length=1e-6)
    mass, x, y = p.vortex_mass[:, None], p.vortex_x[:, None], p.vortex_y[:, None]
    point = dataclasses.replace(p, vortex_mass=np.zeros(1), subhalo_mass=mass, subhalo_x=x, subhalo_y=y)
    light = source_light(point, F)
    assert np.abs(source_light(p, F) - light).max() <= 1e-9 * light.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_top_of_a_mass_are_finite(dtype):
    odd = dataclasses.replace(F, pixels=151, supersample=1)  # the middle ray hits the origin
    sub = dataclasses.replace(
        lens("sphere"),
        subhalo_mass=np.array([[1e10]]),
        subhalo_x=np.zeros((1, 1)),
        subhalo_y=np.zeros((1, 1)),
    )
    ends = lens("vort", vortex_x=0.0, vortex_y=0.0, vortex_length=1.0, vortex_angle=0.0)
    point = dataclasses.replace(ends, vortex_length=np.zeros(1))
    for p in (lens(), sub, ends, point):
        assert torch.isfinite(render.render(p, odd, dtype=dtype)).all()


def turned(p, angle=0.0, mirror=False):
    """The same lenses seen in a mirror (y -> -y), or turned by `angle`."""
    sign, changes = (-1 if mirror else 1), {}
    for name in ("source", "vortex", "subhalo"):
        z = (getattr(p, f"{name}_x") + 1j * sign * getattr(p, f"{name}_y")) * np.exp(1j * angle)
        changes |= {f"{name}_x": z.real, f"{name}_y": z.imag}
    for name in ("shear_angle", "source_angle", "vortex_angle"):
        changes[name] = sign * getattr(p, name) + angle
    return dataclasses.replace(p, **changes)


@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_mirrored_and_turned_lenses_give_mirrored_and_turned_images(class_name):
    recipe = dataclasses.replace(J, random_shear_axis=True, random_source_axis=True, peak_snr=None)
    p = lens(class_name, recipe, 2)
    image = source_light(p, recipe)
    assert np.abs(source_light(turned(p, mirror=True), recipe) - image[::-1]).max() <= 1e-12 * image.max()
    quarter = source_light(turned(p, angle=np.pi / 2), recipe)
    assert np.abs(quarter - np.rot90(image)).max() <= 1e-12 * image.max()


# ------------------------------------------------------------------------------------------------- priors
def inside(values, bounds):
    return (values >= bounds[0] - 1e-12).all() and (values <= bounds[1] + 1e-12).all()


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
def test_priors_stay_in_their_range_and_fill_it(recipe):
    p = {c: draw.draw(recipe, c, 3, "train", range(1500)) for c in recipes.CLASSES}
    every = [
        *((q.z_lens, recipe.z_lens) for q in p.values()),
        *((q.z_source, recipe.z_source) for q in p.values()),
        *((q.shear, recipe.shear) for q in p.values()),
        *((q.shear_angle, (0, np.radians(2 * np.pi))) for q in p.values()),
        *((q.source_angle, (0, np.radians(2 * np.pi))) for q in p.values()),
        *((np.hypot(q.source_x, q.source_y), recipe.source_offset) for q in p.values()),
        *((q.source_radius, recipe.effective_radius) for q in p.values()),
        *((q.axis_ratio, recipe.axis_ratio) for q in p.values()),
        (p["vort"].vortex_mass / recipe.total_mass, recipe.vortex_fraction),
        (p["vort"].vortex_length, recipe.vortex_length),
        (p["vort"].vortex_angle, (0, 2 * np.pi)),
    ]
    for values, (low, high) in every:
        assert inside(values, (low, high))
        assert abs(values.mean() - (low + high) / 2) <= 5 * (high - low) / np.sqrt(12 * len(values)) + 1e-12
    centre = np.concatenate([p["vort"].vortex_x, p["vort"].vortex_y])
    assert centre.std() == pytest.approx(recipe.vortex_scatter, rel=0.08)
    assert not p["no"].substructure_mass.any()


def test_subhalos_follow_their_priors():
    p = draw.draw(F, "sphere", 3, "train", range(1500))
    real = p.subhalo_mass > 0
    assert real.sum(1).mean() == pytest.approx(25, abs=5 * np.sqrt(25 / 1500))
    assert inside(p.subhalo_mass[real], F.subhalo_mass)
    assert inside(np.hypot(p.subhalo_x, p.subhalo_y)[real], F.subhalo_radius)
    assert np.hypot(p.subhalo_x, p.subhalo_y)[real].mean() == pytest.approx(1, abs=0.02)


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
    def first(class_name="no", **changes):
        return draw.draw(dataclasses.replace(J, **changes), class_name, 0, "train", range(50))

    plain, free = first(), first(random_shear_axis=True)
    assert free.shear_angle == pytest.approx(np.degrees(plain.shear_angle)) and free.shear_angle.max() > 5
    assert np.array_equal(free.source_x, plain.source_x)
    assert first(random_source_axis=True).source_angle.max() > 5
    assert first("vort").vortex_angle.max() > 5 > first("vort", random_vortex_axis=False).vortex_angle.max()
    assert (first(distances="angular").theta_e > 1.2 * plain.theta_e).all()
    assert (
        first("sphere", subhalo_slope=-1.9).substructure_mass.mean() < 0.01 * first("sphere").substructure_mass.mean()
    )
    with pytest.raises(ValueError, match="distances"):
        first(distances="parallax")


def test_halo_gives_up_the_mass_of_its_substructure():
    p, far = lens("vort"), torch.full((1, 1, 1), 1e6, dtype=torch.float64)
    p = dataclasses.replace(p, shear=np.zeros(1))
    kept = render.deflection(p, F, far, 0 * far)[0].item()
    free = render.deflection(p, dataclasses.replace(F, conserve_mass=False), far, 0 * far)[0].item()
    share = 1 - p.vortex_mass[0] / F.total_mass
    assert kept / free == pytest.approx(np.sqrt(share), rel=1e-6)


# -------------------------------------------------------------------------------------------------- noise
def test_noise_is_poisson():
    rate = render.render(lens(), F).expand(60, -1, -1)
    streams = [draw.stream(F, "no", 0, "train", i, 1) for i in range(60)]
    counts, mean = render.add_noise(rate, streams).astype(float), rate.double().numpy()
    chi2 = (counts - mean) ** 2 / mean  # variance 2 + 1 / mean
    assert abs(chi2.mean() - 1) <= 5 * np.sqrt((2 + 1 / mean).mean() / chi2.size)
    pull = (counts - mean) / np.sqrt(mean)
    assert abs(pull.mean()) <= 5 / np.sqrt(pull.size)
    neighbours = (pull[:, :, 1:] * pull[:, :, :-1]).mean()
    assert abs(neighbours) <= 5 / np.sqrt(pull.size)


def test_signal_to_noise_of_the_brightest_pixel():
    def peak_snr(recipe):
        p = draw.draw(recipe, "no", 0, "train", range(40))
        rate = render.render(p, recipe).numpy()
        return (rate.max((1, 2)) - rate.min((1, 2))) / np.sqrt(rate.max((1, 2))), p

    model_f, _ = peak_snr(F)
    assert 24 < np.median(model_f) < 30
    model_j, p = peak_snr(J)
    assert inside(p.peak_snr, (10, 30)) and model_j == pytest.approx(p.peak_snr, rel=0.15)


def test_bright_images_do_not_wrap():
    bright = dataclasses.replace(F, source_counts=94.5 * 1000)
    image = render.simulate(bright, "no", [0])
    assert image.dtype == np.uint16 and image.max() == 65535
    rate = render.render(draw.draw(bright, "no", 0, "train", [0]), bright)[0].numpy()
    assert (image[0][rate > 70000] == 65535).all()
    assert render.simulate(F, "no", range(20)).max() < 5000


# ---------------------------------------------------------------------------------------- random streams
@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_images_do_not_depend_on_their_company(recipe, class_name):
    together = render.simulate(recipe, class_name, range(6), seed=4)
    assert np.array_equal(render.simulate(recipe, class_name, [5, 2], seed=4), together[[5, 2]])
    alone = [render.simulate(recipe, class_name, [i], seed=4)[0] for i in range(6)]
    assert np.array_equal(together, alone)


def test_images_do_not_depend_on_torch_threads():
    before = torch.get_num_threads()
    images = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        images.append(render.render(draw.draw(F, "vort", 0, "train", range(2)), F))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(*images)


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
    shears = [draw.draw(**{**base, **other}).shear[0] for other in [{}, *others]]
    assert len(set(shears)) == len(shears)
    assert (
        draw.stream(F, "no", 0, "train", 3, 0).generate_state(2).tolist()
        != draw.stream(F, "no", 0, "train", 3, 1).generate_state(2).tolist()
    )


@pytest.mark.parametrize("bad", [{"class_name": "axion"}, {"split": "dev"}, {"seed": -1}, {"indices": [-1]}])
def test_unknown_names_and_negative_numbers_are_refused(bad):
    with pytest.raises(ValueError):
        draw.draw(**{"recipe": F, "class_name": "no", "seed": 0, "split": "train", "indices": [0], **bad})


@pytest.mark.parametrize("class_name", recipes.CLASSES)
def test_the_batched_path_agrees(class_name):
    p = draw.draw(J, class_name, 0, "train", range(5))
    one_by_one = render.render(p, J)
    assert torch.allclose(render.render_batch(p, J), one_by_one, rtol=1e-5)
    exact = render.render(p, J, dtype=torch.float64)
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


# ------------------------------------------------------------------------------------------------ writing
def run(folder, *flags):
    """The command line in this process, quietly; its exit code."""
    return simulate.main(["--model", "f", "--out", str(folder), "--quiet", "--device", "cpu", *map(str, flags)])


def contents(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A data set of 4 training and 2 validation images a class; tests copy it or leave it as it is."""
    folder = tmp_path_factory.mktemp("small") / "images_f"
    assert run(folder, "--train", 4, "--val", 2) == 0
    return folder


def test_files_of_a_data_set(small):
    manifest = json.loads((small / "manifest.json").read_text())
    files = {name: data for name, data in contents(small).items() if name.endswith(".npy")}
    assert manifest["complete"] and manifest["seed"] == 0
    assert manifest["recipe"]["subhalo_slope"] == -0.9 and manifest["recipe"]["random_shear_axis"] is False
    assert manifest["images"]["train"] == {"no": 4, "sphere": 4, "vort": 4}
    assert manifest["images"]["val"] == {"no": 2, "sphere": 2, "vort": 2}
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert "train/vort/000003.npy" in files and len(files) == 18
    assert {len(data) for data in files.values()} == {45128}
    assert not (small / "journal.jsonl").exists()
    image = np.load(small / "val" / "sphere" / "000001.npy", allow_pickle=False)
    assert image.dtype == np.uint16 and image.shape == (150, 150)
    assert np.array_equal(image, render.simulate(F, "sphere", [1], 0, "val")[0])


def test_parameters_are_kept(small):
    with np.load(small / "parameters" / "train_sphere.npz") as kept:
        drawn = draw.draw(F, "sphere", 0, "train", range(4))
        assert np.array_equal(kept["index"], range(4))
        for name, values in vars(drawn).items():
            assert np.array_equal(kept[name], values, equal_nan=True), name


def test_same_request_changes_nothing_and_more_images_extend(small, tmp_path):
    folder = copy(small, tmp_path)
    before = contents(folder)
    assert run(folder, "--train", 4, "--val", 2) == 0 and run(folder, "--train", 1, "--val", 0) == 0
    assert contents(folder) == before
    assert run(folder, "--train", 6, "--val", 2, "--test", 1) == 0
    images = {k: v for k, v in contents(folder).items() if k.endswith(".npy")}
    assert len(images) == 27 and all(images[k] == v for k, v in before.items() if k.endswith(".npy"))
    assert run(tmp_path / "anew", "--train", 6, "--val", 2, "--test", 1) == 0
    assert contents(tmp_path / "anew") == contents(folder)


def copy(source, target):
    import shutil

    return Path(shutil.copytree(source, target / "copy"))


def test_a_lost_image_comes_back(small, tmp_path):
    folder = copy(small, tmp_path)
    (folder / "train/no/000002.npy").unlink()
    (folder / "train/no/.000002.npy.1.2.tmp").write_bytes(b"half")
    assert run(folder, "--train", 4, "--val", 2) == 0
    assert contents(folder) == contents(small)


def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    flags = ["--model", "j", "--train", "70", "--val", "3", "--seed", "5", "--quiet", "--device", "cpu"]
    assert simulate.main([*flags, "--out", str(tmp_path / "whole"), "--workers", "1"]) == 0
    broken = tmp_path / "broken"
    command = [sys.executable, str(SCRIPT), *flags, "--out", str(broken), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(broken.glob("*/*/*.npy"))) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.5)  # its workers see that it's gone
    count = len(list(broken.glob("*/*/*.npy")))
    assert 5 <= count < 219 and not lenses_manifest.read_manifest(broken)["complete"]
    assert subprocess.run(command).returncode == 0
    assert contents(broken) == contents(tmp_path / "whole")


def test_torn_journal_is_resumed(small, tmp_path):
    folder = copy(small, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    line = json.dumps({"train/no/000000.npy": manifest["files"]["train/no/000000.npy"]})
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {}, "complete": False}))
    (folder / "journal.jsonl").write_text(line + '\n{"train/no/0000')
    assert run(folder, "--train", 4, "--val", 2) == 0
    assert contents(folder) == contents(small)


def refusal(capsys):
    """The last line of what was printed; argparse's usage may stand above it."""
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "flags, difference",
    [
        (["--seed", 1], "seed is 0, not 1"),
        (["--random_shear_axis"], "random_shear_axis is False, not True"),
        (["--subhalo_slope", "-1.9"], "subhalo_slope is -0.9, not -1.9"),
        (["--distances", "angular"], "distances is luminosity, not angular"),
        (["--no-conserve_mass"], "conserve_mass is True, not False"),
    ],
)
def test_another_data_set_is_refused(small, capsys, flags, difference):
    before = contents(small)
    assert run(small, "--train", 4, "--val", 2, *flags) == 2
    assert difference in refusal(capsys) and contents(small) == before


def test_images_without_a_manifest_are_refused(tmp_path, capsys):
    (tmp_path / "train" / "no").mkdir(parents=True)
    np.save(tmp_path / "train" / "no" / "1.npy", np.ones((150, 150)))
    assert run(tmp_path, "--train", 1) == 2
    assert "train/no/1.npy" in (line := refusal(capsys)) and "manifest.json" in line
    assert [*contents(tmp_path)] == ["train/no/1.npy"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": {}}', '{"recipe": {}, "files": []}'])
def test_a_damaged_manifest_is_refused(small, tmp_path, capsys, text):
    folder = copy(small, tmp_path)
    (folder / "manifest.json").write_text(text)
    assert run(folder, "--train", 4) == 2
    assert "manifest.json is damaged" in refusal(capsys)


def test_foreign_and_damaged_images_are_refused(small, tmp_path, capsys):
    folder = copy(small, tmp_path)
    np.save(folder / "train" / "no" / "000009.npy", np.ones((150, 150), np.uint16))
    assert run(folder, "--train", 10, "--val", 2) == 2
    assert "000009.npy is not the image" in refusal(capsys)
    (folder / "train" / "no" / "000009.npy").write_bytes(b"")
    assert run(folder, "--train", 10) == 2
    assert "000009.npy is damaged (0 bytes, expected 45128)" in refusal(capsys)
    (folder / "train" / "no" / "000009.npy").rename(folder / "train" / "no" / "mine.npy")
    assert run(folder, "--train", 10) == 2
    assert "mine.npy is not of this data set" in refusal(capsys)


# ------------------------------------------------------------------------------------------- command line
@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--train", "-1"], "--train"),
        (["--train", "1.5"], "--train"),
        (["--train", "0", "--val", "0"], "nothing to simulate"),
        (["--seed", "x"], "--seed"),
        (["--model", "k"], "--model"),
        (["--subhalo_slope", "nan"], "subhalo_slope"),
        (["--typo"], "--typo"),
        (["--distances", "parallax"], "--distances"),
    ],
)
def test_bad_flags_exit_2_with_the_reason(tmp_path, capsys, flags, reason):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", *flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("usage: simulate.py") and reason in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_exits_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "file" / "out", "--train", 1)
    assert stop.value.code == 2 and "cannot write to" in refusal(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_exits_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "out", "--device", "cuda")
    assert stop.value.code == 2 and "no CUDA device" in refusal(capsys)


def test_a_write_that_fails_exits_1_and_leaves_no_half_file(tmp_path, capsys):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # an image has 45 kB
    try:
        code = run(tmp_path / "out", "--train", 1, "--val", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "cannot write" in refusal(capsys)
    assert not [name for name in contents(tmp_path) if "npy" in name]
    assert run(tmp_path / "out", "--train", 1, "--val", 0) == 0


def test_a_full_disk_is_seen_beforehand(tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert run(tmp_path, "--train", 1, "--val", 1) == 2
    assert "6 images need" in refusal(capsys)


def test_sheet(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    assert simulate.main(["--model", "f", "--sheet", str(tmp_path / "sheet.png"), "--device", "cpu"]) == 0
    picture = matplotlib_image.imread(tmp_path / "sheet.png")
    assert picture.shape[:2] == (900, 900) and picture[..., :3].std() > 0.2
    assert [*contents(tmp_path)] == ["sheet.png"]
