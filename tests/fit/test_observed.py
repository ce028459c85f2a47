"""The fit of telescope images, on lenses drawn by lenstronomy whose galaxies are no single Sersic."""

import dataclasses
import functools
import math

import galaxy_lenses
import numpy as np
import pytest

import darklens
from darklens.errors import UsageError
from darklens.fit.assumptions import smooth_model
from darklens.fit.blur import psf_kernel
from darklens.fit.observed import flags, linear, mge, search
from darklens.fit.observed.cutout import Psf, cut_out
from darklens.fit.observed.joint import JointFit
from darklens.fit.observed.light import fit_light
from darklens.fit.observed.parameters import NAMES, PARAMETERS
from darklens.fit.observed.rays import Rays
from darklens.fit.observed.run import fit_observed
from darklens.simulation.recipes import RECIPES

pytest.importorskip("sep")
CASES = {
    "twisted": {"seed": 1, "twist": 0.5},
    "boxy": {"seed": 2, "boxy": 0.03},
    "clumpy source": {"seed": 4, "clumps": 3},
    "correlated noise": {"seed": 6, "correlation": 0.5},
}


@functools.cache
def case(name):
    truth = galaxy_lenses.draw(**CASES[name])
    return truth, fit_observed(truth.image, truth.noise, truth.psf, 0.05)


@pytest.mark.parametrize("name", CASES)
def test_the_einstein_radius_is_within_two_percent(name):
    truth, fit = case(name)
    assert abs(fit.einstein_radius / truth.einstein_radius - 1) < 0.02
    assert fit.chi_square < 1.3
    assert not fit.flag


def test_the_arcs_are_those_that_were_drawn():
    truth, fit = case("twisted")
    bright = truth.arcs > 3
    assert np.abs(fit.arcs - truth.arcs)[bright].mean() < 0.1 * truth.arcs[bright].mean()


def test_turned_and_mirrored_images_give_turned_and_mirrored_fits():
    truth, fit = case("twisted")
    turned = fit_observed(np.rot90(truth.image), np.rot90(truth.noise), np.rot90(truth.psf), 0.05)
    mirrored = fit_observed(truth.image[:, ::-1], truth.noise[:, ::-1], truth.psf[:, ::-1], 0.05)
    x, y = fit["source_x"], fit["source_y"]
    for other, place, sign in ((turned, (-y, x), (-1, -1)), (mirrored, (-x, y), (1, -1))):
        assert other.einstein_radius == pytest.approx(fit.einstein_radius, rel=1e-3)
        assert (other["source_x"], other["source_y"]) == pytest.approx(place, abs=2e-3)
        for name in ("halo", "shear"):
            expected = [s * fit[f"{name}_{i}"] for s, i in zip(sign, (1, 2), strict=True)]
            assert [other[f"{name}_{i}"] for i in (1, 2)] == pytest.approx(expected, abs=5e-3)


def test_the_same_image_gives_the_same_bits():
    truth, fit = case("boxy")
    again = fit_observed(truth.image, truth.noise, truth.psf, 0.05)
    assert (again.q == fit.q).all() and (again.model == fit.model).all()


def test_the_scale_of_a_noise_map_is_measured():
    truth = galaxy_lenses.draw(7)
    fit = fit_observed(truth.image, 2 * truth.noise, truth.psf, 0.05)
    assert fit.noise.scale == pytest.approx(0.5, rel=0.05)
    assert abs(fit.einstein_radius / truth.einstein_radius - 1) < 0.02
    assert "noise map" in fit.note


def test_the_correlation_of_noise_is_measured():
    _, fit = case("correlated noise")
    expected = math.exp(-1 / (4 * 0.5**2))  # of white noise smoothed by a Gaussian of 0.5 pixels, sampled finely
    assert fit.noise.correlation == pytest.approx(0.27, abs=0.06) and expected > 0.2
    _, white = case("boxy")
    assert abs(white.noise.correlation) < 0.05


def test_neighbours_are_masked_and_said():
    truth = galaxy_lenses.draw(8, radius=1.0, pixels=161)
    image, steps = truth.image.copy(), np.arange(161) - 80
    for row, column in ((-60, 30), (25, 62)):
        image += 60 * np.exp(-0.5 * ((steps - column) ** 2 + (steps[:, None] - row) ** 2) / 3.0**2)
    fit = fit_observed(image, truth.noise, truth.psf, 0.05)
    assert abs(fit.einstein_radius / truth.einstein_radius - 1) < 0.02
    assert "2 other objects masked" in fit.note
    middle = (fit.cutout.size - 1) // 2
    assert not fit.cutout.good[middle - 60, middle + 30] and not fit.cutout.good[middle + 25, middle + 62]


def test_bad_pixels_do_not_count():
    truth, fit = case("boxy")
    rng = np.random.default_rng(0)
    image, noise, mask = truth.image.copy(), truth.noise.copy(), np.zeros(truth.image.shape, bool)
    for marks, value in ((noise, 0.0), (noise, np.inf), (noise, 1e8), (noise, np.nan), (image, np.nan), (mask, True)):
        pixels = rng.integers(0, image.size, 40)
        image.ravel()[pixels] = 1e5
        marks.ravel()[pixels] = value
    spoiled = fit_observed(image, noise, truth.psf, 0.05, mask)
    assert spoiled.einstein_radius == pytest.approx(fit.einstein_radius, rel=0.01)


def test_without_the_search_starts_are_worse():
    """The search's first start lies within 10% of the truth, where the one start of a fixed radius doesn't."""
    near = []
    for seed in range(5):
        truth = galaxy_lenses.draw(seed)
        cutout = cut_out(truth.image, truth.noise, truth.psf, 0.05)
        light, _ = fit_light(cutout)
        found = search.search(cutout, light, cutout.sigma, light.shape.ellipticity.mean(0))
        near.append([abs(r / truth.einstein_radius - 1) for r in (found.starts[0][0], 1.0)])
    first, fixed = np.median(near, 0)
    assert first < 0.1 < fixed


@pytest.mark.parametrize("size", [24, 40, 41, 61])
def test_small_cutouts_are_fitted(size):
    truth = galaxy_lenses.draw(9, pixels=101, radius=0.9)
    cut = (101 - size) // 2
    part = slice(cut, cut + size)
    fit = fit_observed(truth.image[part, part], truth.noise[part, part], truth.psf, 0.05)
    assert np.isfinite(fit.q).all()
    if size > 60:
        assert abs(fit.einstein_radius / 0.9 - 1) < 0.03


@pytest.mark.parametrize("kind", ["blank", "constant", "nothing good", "no source", "no galaxy", "only noise", "spike"])
def test_odd_images_give_a_row(kind):
    truth = galaxy_lenses.draw(10, no_source=kind == "no source", no_galaxy=kind == "no galaxy", pixels=81)
    image, noise = truth.image, truth.noise
    if kind == "blank":
        image = np.zeros_like(image)
    elif kind == "constant":
        image = np.full_like(image, 3.0)
    elif kind == "nothing good":
        noise = np.zeros_like(noise)
    elif kind == "only noise":
        image = np.random.default_rng(0).normal(size=image.shape)
    elif kind == "spike":
        image = np.zeros_like(image)
        image[40, 40] = 1e6
    row = fit_observed(image, noise, truth.psf, 0.05).row()
    if kind in ("blank", "constant", "nothing good"):
        assert row["flag"] == "no_fit" and "nothing to fit" in row["note"]
    else:
        assert math.isfinite(row["einstein_radius"])
    if kind == "no source":
        assert "uncertain" in row["flag"]


def test_an_image_upside_down_in_brightness_is_a_poor_fit():
    truth = galaxy_lenses.draw(3, pixels=101, radius=1.0)
    assert "poor_fit" in fit_observed(-truth.image, truth.noise, truth.psf, 0.05).flag


def test_wrong_shapes_are_told():
    image = np.zeros((50, 50))
    for arguments, word in (
        ((image, image[:40], np.ones((3, 3)), 0.05), "same shape"),
        ((image, image + 1, np.zeros((3, 3)), 0.05), "PSF"),
        ((image, image + 1, np.ones((3, 3)), 0.0), "pixel scale"),
    ):
        with pytest.raises(ValueError, match=word):
            fit_observed(*arguments)


def test_gaussians_are_blurred_as_lenstronomy_says():
    """A wide and a narrow elliptical Gaussian, against a fine grid blurred by brute force."""
    from scipy import ndimage

    cutout = cut_out(np.ones((61, 61)), np.ones((61, 61)), galaxy_lenses.psf_kernel(), 0.05)
    sigmas = np.array([0.05, 0.4])
    gaussians = mge.Gaussians(cutout, sigmas)
    centre, ellipticity = np.array([0.03, -0.02]), np.array([0.2, 0.3])
    columns = gaussians.blur(gaussians.sharp(centre, ellipticity).planes)
    fine, s = (np.arange(61 * 9) - (61 * 9 - 1) / 2) * 0.05 / 9, 9
    x, y = fine - centre[0], -fine[:, None] - centre[1]
    covariance, _ = mge.covariances(ellipticity, sigmas)
    for column, inverse, det in zip(columns, np.linalg.inv(covariance), np.linalg.det(covariance), strict=True):
        form = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
        sharp = np.exp(-form / 2) * 0.05**2 / (2 * np.pi * np.sqrt(det))
        expected = ndimage.convolve(sharp.reshape(61, s, 61, s).mean((1, 3)), galaxy_lenses.psf_kernel())
        assert np.abs(column - expected).max() < 5e-3 * expected.max()


def test_arcs_are_those_of_lenstronomy():
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    cutout = cut_out(np.ones((61, 61)), np.ones((61, 61)), np.ones((1, 1)), 0.05)
    q = np.array([1.1, 0.03, -0.02, 0.2, 0.1, 0.02, -0.03, 0.1, 0.05, math.log(0.3), 0.2, -0.1, math.log(1.2)])
    value = dict(zip(NAMES, q, strict=True))
    ours = Rays(cutout, cutout.half, 4).sersic(q, derivatives=False)[0]

    def lens_ellipticity(a, b):
        return phi_q2_ellipticity(math.atan2(b, a) / 2, math.exp(-math.hypot(a, b)))

    e1, e2 = lens_ellipticity(value["halo_1"], value["halo_2"])
    centre = value["centre_x"], value["centre_y"]
    steps = (np.arange(61 * 4) - (61 * 4 - 1) / 2) * 0.05 / 4
    x, y = (v.ravel() for v in np.meshgrid(steps - centre[0], -steps - centre[1]))
    halo = {"theta_E": 1.1, "e1": e1, "e2": e2, "center_x": 0, "center_y": 0}
    shear = {"gamma1": value["shear_1"], "gamma2": value["shear_2"]}
    u, v = LensModel(["SIE", "SHEAR"]).ray_shooting(x, y, [halo, shear])
    s1, s2 = lens_ellipticity(value["ellipticity_1"], value["ellipticity_2"])
    place = {"center_x": value["source_x"], "center_y": value["source_y"]}
    source = {"amp": 1.0, "R_sersic": 0.3, "n_sersic": 1.2, "e1": s1, "e2": s2, **place}
    light = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(u, v, [source])
    expected = light.reshape(61, 4, 61, 4).mean((1, 3))
    assert np.abs(ours - expected).max() < 2e-2 * expected.max()  # its b_n is an approximation


def test_derivatives_of_the_arcs():
    cutout = cut_out(np.ones((61, 61)), np.ones((61, 61)), galaxy_lenses.psf_kernel(), 0.05)
    q = np.array([1.1, 0.03, -0.02, 0.2, 0.1, 0.02, -0.03, 0.1, 0.05, math.log(0.3), 0.2, -0.1, math.log(0.6)])
    rays = Rays(cutout, cutout.half)
    planes = rays.sersic(q)[1:]
    for i, step in enumerate(np.eye(len(q)) * 2e-3):
        images = [rays.sersic(q + sign * step, derivatives=False)[0] for sign in (1, -1)]
        expected = (images[0] - images[1]) / 4e-3
        assert np.abs(planes[i] - expected).max() < 0.02 * np.abs(expected).max(), NAMES[i]


def test_non_negative_amplitudes_are_those_of_a_bounded_solver():
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(0)
    matrix, target = rng.normal(size=(60, 8)), rng.normal(size=60)
    positive = np.arange(8) < 6
    ours, passive = linear.amplitudes(matrix.T @ matrix, matrix.T @ target, positive)
    expected = lsq_linear(matrix, target, (np.where(positive, 0, -np.inf), np.inf), tol=1e-14).x
    assert ours == pytest.approx(expected, abs=1e-6)
    assert (passive == ((expected > 1e-7) | ~positive)).all()


def test_the_psf_may_have_an_even_side_and_any_sum():
    kernel = galaxy_lenses.psf_kernel()
    image = np.random.default_rng(0).normal(size=(1, 40, 40))
    even = np.pad(kernel, ((1, 0), (1, 0)))
    assert Psf(even * 7).blur(image) == pytest.approx(Psf(kernel).blur(image), abs=1e-12)


def test_every_prior_says_where_it_comes_from():
    for parameter in PARAMETERS:
        assert parameter.prior is None or (parameter.prior.source and parameter.prior.sigma > 0)
        assert parameter.low < parameter.high and parameter.largest_step > 0
    assert [p.name for p in PARAMETERS if p.prior is None] == ["einstein_radius"]
    assert dataclasses.is_dataclass(PARAMETERS[0])


def test_without_noise_map_and_psf_both_are_assumed_and_said():
    truth = galaxy_lenses.draw(11)
    fit = fit_observed(truth.image, None, None, 0.05)
    assert abs(fit.einstein_radius / truth.einstein_radius - 1) < 0.03
    assert "noise measured in the image" in fit.note and "no PSF" in fit.note
    sky = fit.cutout.radius(np.zeros(2)) > 3
    assert np.median(fit.cutout.sigma[sky]) == pytest.approx(np.median(truth.noise[sky]), rel=0.1)


def test_holes_are_no_data_and_oblong_images_have_noise():
    """A single exposure as it is drizzled: 2% of the pixels are 0, and nothing says so."""
    truth = galaxy_lenses.draw(1)
    image = np.where(np.random.default_rng(0).random(truth.image.shape) < 0.02, 0.0, truth.image)[:, 10:-10]
    fit = fit_observed(image, None, truth.psf, 0.05)
    assert fit.einstein_radius == pytest.approx(truth.einstein_radius, rel=0.02)
    assert 0.7 < fit.chi_square < 1.5 and 0.8 < fit.noise.scale < 1.25


def test_from_python_as_from_the_command_line():
    """`darklens.fit(images, lens_light="mge")`: masked arrays, one PSF, a table; wrong settings in one line."""
    truth, fit = case("twisted")
    images = np.ma.array(truth.image[None], mask=np.zeros_like(truth.image[None], dtype=bool))
    images.mask[0, 3:6, 3:6] = True
    fits = darklens.fit(images, noise=truth.noise, psf=truth.psf, pixel_scale=0.05, lens_light="mge")
    table = fits.table()
    assert len(fits) == 1 and table["einstein_radius"][0] == pytest.approx(fit.einstein_radius, rel=2e-3)
    assert table["shear_angle"][0] == pytest.approx(fit.row()["shear_angle"], abs=0.03) and table["flag"][0] == ""
    assert not np.isfinite(fits[0].residual).all() and fits[0].light.shape == fits[0].arcs.shape
    for settings, message in (({"free_halo": True}, "free_halo is no setting"), ({"noise": "poisson"}, "poisson")):
        with pytest.raises(UsageError, match=message):
            darklens.fit(truth.image, lens_light="mge", **settings)
    with pytest.raises(UsageError, match="lens_light"):
        darklens.fit(truth.image, lens_light="sersics")


def joint_fit(radius, penalised):
    q = np.zeros(len(PARAMETERS))
    q[0] = radius
    return JointFit(q, np.zeros(1), 0.0, penalised, np.eye(len(q)))


def test_rivals_are_nearly_as_good_and_elsewhere():
    best, near, far, poor = joint_fit(1.0, 100.0), joint_fit(1.01, 101.0), joint_fit(1.3, 110.0), joint_fit(1.3, 140.0)
    assert flags.rivals(best, [best, near, far, poor]) == [near, far]
    quality = {"chi_square": 1.0, "uncertainty": 0.01, "signal": 100.0}
    said = [flags.words(best, best, fits, **quality) for fits in ([near], [near, far])]
    assert ["rival_fit" in words for words in said] == [False, True]


def test_bright_arcs_have_no_rival():
    """The second fit counts chi-square at another temperature than the first, of which rivals are."""
    model, image = smooth_model(RECIPES["euclid_sky"]), darklens.simulate("euclid_sky", "sphere", [19], seed=78)[0]
    fit = fit_observed(image.astype(float), None, psf_kernel(model), model.pixel_scale)
    assert fit.chi_square < 3 and not fit.flag
