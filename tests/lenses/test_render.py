"""Rendered lenses against lenstronomy and against lens theory; their noise."""

import dataclasses

import numpy as np
import pytest
import torch
from lenstronomy_reference import lenstronomy_image, lenstronomy_lens
from simulated import F, J, inside, rod_at

from darklens.lenses import draw, recipes, render

SHARP = dataclasses.replace(F, psf_sigma=1e-3)  # no PSF to speak of
ROUND = {"shear": 0.0, "source_x": 0.0, "source_y": 0.0}


def lens(class_name="no", recipe=F, index=0, **changes):
    """One drawn lens with some parameters set; a list makes an array of subhalos."""
    drawn = draw.draw(recipe, class_name, 0, "train", [index])
    return dataclasses.replace(drawn, **{k: np.array([v], dtype=float) for k, v in changes.items()})


def source_light(parameters, recipe, dtype=torch.float64):
    return render.render(parameters, recipe, dtype=dtype)[0].numpy() - recipe.sky


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
    pytest.importorskip("lenstronomy")
    p = lens(class_name, recipe, 1)
    p = between_rays(p) if class_name == "vort" else p
    expected = lenstronomy_image(p, recipe)
    ours = source_light(p, dataclasses.replace(recipe, peak_snr=None))
    assert np.abs(ours - expected).max() <= 1e-10 * expected.max()


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


def test_halo_gives_up_the_mass_of_its_substructure():
    p, far = lens("vort"), torch.full((1, 1, 1), 1e6, dtype=torch.float64)
    p = dataclasses.replace(p, shear=np.zeros(1))
    kept = render.deflection(p, F, far, 0 * far)[0].item()
    free = render.deflection(p, dataclasses.replace(F, conserve_mass=False), far, 0 * far)[0].item()
    share = 1 - p.vortex_mass[0] / F.total_mass
    assert kept / free == pytest.approx(np.sqrt(share), rel=1e-6)


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
