"""Mass and light profiles against lenstronomy, in float64."""

import numpy as np
import pytest
import torch
from simulated import sersic_light, sie, tnfw

from darklens.simulation import physics, profiles, stamps

RNG = np.random.default_rng(0)
X, Y = RNG.uniform(-4, 4, (2, 400))


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def points():
    return torch.from_numpy(X)[None], torch.from_numpy(Y)[None]  # (1, 400): one row of points


def lenstronomy(names, kwargs):
    pytest.importorskip("lenstronomy")
    from lenstronomy.LensModel.lens_model import LensModel

    return LensModel(names).alpha(X, Y, kwargs)


def worst(ours, theirs):
    return max(np.abs(a.numpy()[0] - b).max() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("q", [0.3, 0.8, 0.999])
@pytest.mark.parametrize("degrees", [0, 33, 140])
def test_sie_equals_lenstronomy(q, degrees):
    phi, e = np.radians(degrees), (1 - q) / (1 + q)
    ours = sie(*points(), tensor(1.3), tensor(q), tensor(phi))
    e1, e2 = e * np.cos(2 * phi), e * np.sin(2 * phi)
    kwargs = {"theta_E": 1.3, "e1": e1, "e2": e2, "center_x": 0, "center_y": 0}
    assert worst(ours, lenstronomy(["SIE"], [kwargs])) <= 1e-10


def test_round_sie_is_the_sis_and_its_limit():
    one, near = tensor(1.0), tensor(1 - 1e-9)
    ours = sie(*points(), tensor(1.3), one, tensor(0.4))
    exact = physics.sis(*points(), tensor(1.3))
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))
    limit = sie(*points(), tensor(1.3), near, tensor(0.4))
    assert max((a - b).abs().max() for a, b in zip(limit, exact, strict=True)) < 1e-8


def test_sie_is_finite_at_its_centre_in_float32():
    zero = torch.zeros(1, 1)
    assert all(v.isfinite().all() for v in sie(zero, zero, torch.tensor(1.0), torch.tensor(0.7), zero))


@pytest.mark.parametrize(("rs", "r_trunc"), [(0.1, 0.5), (1.0, 0.7), (2.0, 20.0)])
def test_truncated_nfw_equals_lenstronomy(rs, r_trunc):
    kwargs = {"Rs": rs, "alpha_Rs": 0.02, "r_trunc": r_trunc, "center_x": 0, "center_y": 0}
    ours = tnfw(*points(), tensor(rs), tensor(0.02), tensor(r_trunc))
    assert worst(ours, lenstronomy(["TNFW"], [kwargs])) <= 1e-10


def test_truncated_nfw_is_smooth_across_its_scale_radius():
    r = torch.linspace(0.999, 1.001, 2001, dtype=torch.float64)
    alpha, _ = tnfw(r, torch.zeros_like(r), tensor(1.0), tensor(1.0), tensor(3.0))
    assert alpha.diff().diff().abs().max() < 1e-11


def test_truncated_nfw_in_float32_is_near():
    r = torch.logspace(-3, 1, 400, dtype=torch.float64)[None]
    one = [tensor(v) for v in (0.1, 0.01, 0.5)]
    exact, _ = tnfw(r, torch.zeros_like(r), *one)
    single, _ = tnfw(r.float(), torch.zeros_like(r).float(), *[v.float() for v in one])
    assert (single - exact).abs().max() < 1e-4  # 1e-2 alpha_rs
    assert (single - exact).abs()[r > 0.05].max() < 1e-6


def test_subhalos_add_up_as_in_lenstronomy():
    px, py, size = RNG.uniform(-2, 2, (3, 5))
    to = [torch.from_numpy(v)[:, None, None] for v in (px, py, np.abs(size) / 50, np.abs(size))]
    kwargs = [{"theta_E": abs(s) / 50, "center_x": a, "center_y": b} for a, b, s in zip(px, py, size, strict=True)]
    assert worst(profiles.sis_subhalos(*points(), *to[:3]), lenstronomy(["SIS"] * 5, kwargs)) <= 1e-10
    kwargs = [
        {"Rs": abs(s), "alpha_Rs": abs(s) / 50, "r_trunc": 0.5, "center_x": a, "center_y": b}
        for a, b, s in zip(px, py, size, strict=True)
    ]
    halos = to[0], to[1], *profiles.tnfw_terms(to[3], to[2], torch.full_like(to[0], 0.5))
    assert worst(profiles.tnfw_subhalos(*points(), *halos), lenstronomy(["TNFW"] * 5, kwargs)) <= 1e-10


def test_mass_and_concentration_as_in_lenstronomy():
    pytest.importorskip("lenstronomy")
    from astropy.cosmology import FlatLambdaCDM
    from lenstronomy.Cosmo.lens_cosmo import LensCosmo
    from lenstronomy.Util import constants

    suns = constants.G * constants.M_sun / 1.32712440018e20  # their solar mass in ours
    cosmo = LensCosmo(0.5, 1.5, FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0))
    for mass, c in [(1e7, 20), (1e10, 12), (1e13, 6)]:
        (rs, alpha), (their_rs, their_alpha) = profiles.nfw_angles(mass, c, 0.5, 1.5), cosmo.nfw_physical2angle(mass, c)
        assert np.isclose(rs, their_rs, rtol=1e-7, atol=0) and np.isclose(alpha * suns, their_alpha, rtol=1e-7, atol=0)


def test_total_mass_of_a_truncated_halo():
    """Far out it deflects as a point mass of that total."""
    rs, alpha = profiles.nfw_angles(1e10, 15.0, 0.5, 1.5)
    total, far = profiles.tnfw_mass(1e10, 15.0, 4.0), 3000.0
    ours, _ = tnfw(tensor([[far]]), tensor([[0.0]]), *map(tensor, (float(rs), float(alpha), 4 * float(rs))))
    point = physics.einstein_radius(total, 0.5, 1.5, "angular") ** 2 / far
    assert abs(float(ours) / point - 1) < 2e-4


def test_sersic_area_is_its_integral():
    for n in (0.5, 1.0, 4.0):
        r = np.linspace(0, 60, 600001)[1:]
        light = sersic_light(*map(tensor, (r, 0 * r)), n, tensor(0.4), tensor(1.0), tensor(0.0)).numpy()
        assert abs(np.trapezoid(2 * np.pi * r * light, r) / profiles.sersic_area(n, 0.4) - 1) < 1e-3


def test_axion_sets_the_length_of_its_vortex():
    assert np.allclose(profiles.axion_vortex_length([1e-24, 1e-22]), [6.0, 0.06])


# ------------------------------------------------------------------------------------------------- stamps
def test_stamp_equals_lenstronomy():
    pytest.importorskip("lenstronomy")
    from lenstronomy.LightModel.light_model import LightModel

    image, scale, phi = RNG.random((12, 17)), 0.3, 0.7
    kwargs = {"image": image[::-1] / scale**2, "amp": 1, "center_x": 0, "center_y": 0, "phi_G": phi, "scale": scale}
    theirs = LightModel(["INTERPOL"]).surface_brightness(X, Y, [kwargs])
    x, y = (v[None] for v in points())  # (1, 1, 400)
    ours = stamps.stamp_light(x, y, torch.from_numpy(image), tensor(scale).view(1, 1, 1), tensor(phi).view(1, 1, 1))
    assert np.abs(ours[0, 0].numpy() - theirs).max() <= 1e-10


def test_stamp_keeps_its_flux_however_it_is_turned():
    steps = torch.linspace(-3, 3, 1201, dtype=torch.float64)
    x, y = steps.view(1, 1, -1).expand(1, 1201, 1201), steps.view(1, -1, 1).expand(1, 1201, 1201)
    stamp = torch.from_numpy(RNG.random((9, 14)))
    for angle in (0.0, 0.5, 2.0):
        light = stamps.stamp_light(x, y, stamp, tensor(0.2).view(1, 1, 1), tensor(angle).view(1, 1, 1))
        assert abs(float(light.sum()) * 0.005**2 / float(stamp.sum()) - 1) < 1e-3


def test_stamp_is_cleaned_of_its_background(tmp_path):
    y, x = np.indices((31, 31)) - 15
    galaxy = 100 * np.exp(-(x**2 + y**2) / 8)
    stamp = stamps.clean_stamp(galaxy + 7 + RNG.normal(0, 1, (31, 31)))
    assert stamp.min() == 0 and np.isclose(stamp.sum(), 1) and (stamp[0] > 0).sum() <= 3
    assert np.abs(stamp - galaxy / galaxy.sum()).max() < 0.003
    np.save(tmp_path / "a.npy", galaxy)
    assert len(stamps.load_stamps(tmp_path)) == 1
    with pytest.raises(ValueError, match="no light"):
        stamps.clean_stamp(np.zeros((8, 8)))
    with pytest.raises(ValueError, match="not one finite image"):
        stamps.clean_stamp(np.zeros((3, 8, 8)))
