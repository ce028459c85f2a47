"""The detection map: does it foresee what a re-fit finds, and point at the subhalo that was put in?"""

import dataclasses
import functools

import fit_data
import numpy as np
import pytest
import torch
from matplotlib import image as pictures

import darklens
from darklens.fit import SmoothModel, detect, fit, highest_by_chance, peak
from darklens.fit.detect import MASSES, grid
from darklens.plots.detection import plot_detection
from darklens.simulation import render
from darklens.simulation.recipes import changed

F, J = fit_data.F, fit_data.J
COARSE = grid(106, 0.05, step=15)  # 7 x 7 places
TURNS = {
    "quarter turn": lambda a: np.rot90(a, 1, (-2, -1)),
    "mirror": lambda a: a[..., ::-1],
    "transpose": lambda a: a.swapaxes(-1, -2),
}


def places(count, seed=1, low=0.5, high=1.8):
    """(count, 2) arcsec, about where the rings are."""
    rng = np.random.default_rng(seed)
    radius, angle = rng.uniform(low, high, count), rng.uniform(0, 2 * np.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def at(found, masses, where):
    """Expected and observed (B, M), each lens at its own place."""
    maps = [detect(found[k : k + 1], masses, where[k : k + 1]) for k in range(len(found))]
    return (np.concatenate([getattr(m, name)[:, :, 0] for m in maps]) for name in ("expected", "observed"))


@functools.cache
def smooth(name, count):
    """Noise-free images of lenses without substructure."""
    return fit_data.clean(fit_data.RECIPES[name], "no", count)[0].numpy()


def refit(name, clean):
    """(B,) the chi-square that the best smooth lens leaves in noise-free images, in the noise of the smooth ones."""
    known = fit(clean, noise=np.sqrt(smooth(name, len(clean))))
    assert known.good.all()
    return known.chi_square * known.pixels


@functools.cache
def perturbed(name, mass, count):
    """Lenses with a subhalo: noisy images, places, and chi-square that the best smooth lens leaves without noise."""
    where = places(count)
    images, clean = fit_data.with_subhalo(fit_data.RECIPES[name], np.full(count, mass), where)
    return images, where, refit(name, clean)


@functools.cache
def plain():
    """One image of each class of J, its fit and its map."""
    images = np.concatenate([fit_data.images(J, name, 1)[0] for name in fit_data.CLASSES]).astype(float)
    found = fit(images)
    return images, found, detect(found, (1e9, 1e10), COARSE)


def test_grid_is_centred_and_reads_from_the_top():
    found = grid(106, 0.05)
    assert found.shape == (31**2, 2) and not found[31**2 // 2].any()
    assert np.allclose(found[0], (-2.25, 2.25)) and np.allclose(found[1] - found[0], (0.15, 0))
    assert np.allclose(found, -found[::-1])


@pytest.mark.parametrize("name", ["f", "j"])
def test_expected_is_what_a_refit_leaves(name):
    """20 lenses, each with a subhalo elsewhere, which the halo's own mass pays for."""
    clean, where = smooth(name, 20), places(20)
    expected, _ = at(fit(clean, noise=np.sqrt(clean)), MASSES, where)
    for column, mass, limit in zip(expected.T, MASSES, (0.02, 0.02, 0.1), strict=True):
        with_one = fit_data.with_subhalo(fit_data.RECIPES[name], np.full(20, mass), where)[1]
        assert np.abs(column / refit(name, with_one) - 1).max() < limit


def test_an_isothermal_subhalo_is_not_a_point():
    """Far from the light they differ little; the sphere's deflection doesn't fall off."""
    clean = smooth("j", 2)
    found = fit(clean, noise=np.sqrt(clean))
    point, sphere = (detect(found, (1e8,), COARSE, profile=name) for name in ("point", "sis"))
    drawn = fit_data.with_subhalo(J, np.full(2, 1e8), np.tile(COARSE[15], (2, 1)), profile="sis")[1]
    assert np.abs(sphere.expected[:, 0, 15] / refit("j", drawn) - 1).max() < 0.05
    assert (np.abs(sphere.expected / point.expected - 1) > 0.2).any()


@pytest.mark.parametrize("name", ["f", "j"])
def test_what_was_put_in_is_observed_with_the_expected_significance(name):
    images, where, chi_square = perturbed(name, 5e9, 12)
    expected, observed = (values[:, 0] for values in at(fit(images), (5e9,), where))
    pull = observed - np.sqrt(chi_square)
    assert abs(pull.mean()) < 4 / np.sqrt(12) and pull.std() < 1.8
    assert np.abs(expected / chi_square - 1).max() < 0.25  # the smooth parameters have moved, the noise is measured


def test_without_subhalo_the_significance_is_standard_normal():
    found = fit(fit_data.images(J, "no", 24)[0])
    observed = detect(found, (1e9,), places(4)).observed[:, 0]  # (24, 4): far from each other
    assert abs(observed.mean()) < 4 / np.sqrt(96) and abs(observed.std() - 1) < 4 / np.sqrt(192)


def test_the_highest_by_chance_is_that_of_images_without_subhalo():
    """Of two places far apart: the larger of two independent standard normal numbers."""
    found = fit(fit_data.images(J, "no", 1)[0])
    highest = highest_by_chance(found, (1e9,), np.array([[-1.5, 0], [1.5, 0.6]]), draws=4000)
    assert highest.shape == (1, 4000)
    assert abs(highest.mean() - 1 / np.sqrt(np.pi)) < 0.1 and abs((highest > 2.0).mean() - 0.045) < 0.015
    assert (highest_by_chance(found, (1e9,), COARSE, draws=50) > 0.5).all()  # the more places, the higher


def offsets(name, mass, count, step=3):
    """How far from the subhalo the peak lies, where the expected delta chi-square is above 50."""
    images, where, chi_square = perturbed(name, mass, count)
    rows = np.flatnonzero(chi_square > 50)
    found = fit(images)[rows]
    top = peak(found, detect(found, (mass / 2,), grid(106, 0.05, step)))
    assert (top.observed > 4).all()
    assert np.abs(np.log(top.mass / mass)).max() < np.log(2)
    return np.hypot(*(top.position - where[rows]).T)


def test_the_peak_lies_on_the_subhalo():
    distance = offsets("j", 1e10, 5, step=4)  # noise moves one in ten farther off (below)
    assert len(distance) >= 4 and (distance < 0.1).sum() >= len(distance) - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f", "j"])
def test_peaks_lie_on_the_subhalo(name):
    """Noise moves a peak as it moves any best fit: one in ten of those just above 50 may lie farther off."""
    distance = offsets(name, 5e9, 24)
    assert len(distance) >= 16 and (distance < 0.1).mean() >= 0.9 and np.median(distance) < 0.05


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_the_turned_image_has_the_turned_map(turn):
    images, _, seen = plain()
    side = round(len(COARSE) ** 0.5)
    again = detect(fit(turn(images)), seen.masses, COARSE)
    for name, tolerance in (("expected", 1e-2), ("observed", 2e-3)):
        one, two = (getattr(m, name).reshape(3, 2, side, side) for m in (seen, again))
        assert np.abs(two - turn(one)).max() <= tolerance * np.abs(one).max(), name


def test_units_and_precision_do_not_matter():
    images, found, seen = plain()
    for other, dtype in ((fit(images / 565 - 3), torch.float32), (found, torch.float64)):
        again = detect(other, seen.masses, COARSE, dtype=dtype)
        assert np.allclose(again.observed, seen.observed, atol=0.02 + 1e-3 * np.abs(seen.observed).max())
        assert np.allclose(again.expected, seen.expected, rtol=0.01, atol=1e-4)


def test_total_mass_is_the_unit_of_mass():
    _, found, seen = plain()
    double = detect(found, 2 * seen.masses, COARSE, total_mass=np.full(3, 2e12))
    assert np.allclose(double.expected, seen.expected, rtol=1e-4)
    assert np.allclose(double.fitted_mass, 2 * seen.fitted_mass, rtol=1e-4)


def test_more_free_parameters_hide_more():
    images, _, seen = plain()
    free = detect(darklens.fit(images[:1], free_index=True, free_centre=True, free_psf=True), seen.masses, COARSE)
    ratio = free.expected[0] / seen.expected[0]
    assert np.median(ratio) < 1 and free.expected.sum() < seen.expected[0].sum()


def test_lenses_that_were_fitted_again_are_seen_as_they_were_fitted():
    """Off the centre: with `refit_flagged` the map is that of the fit whose centre is free."""
    drawn = changed(J, {"robust.registration": 1})
    images = render.simulate(drawn, "no", range(2), 0, "test")
    again, free = (fit(images, SmoothModel(**{name: True})) for name in ("refit_flagged", "free_centre"))
    assert again.parameters[:, 9:11].any(1).all() and not again.model.free_centre
    one, two = (detect(found, (1e9,), COARSE) for found in (again, free))
    assert np.allclose(one.expected, two.expected, rtol=0.02, atol=1e-3)
    assert np.allclose(one.observed, two.observed, atol=0.05) and np.abs(one.observed).max() < 5


def test_masked_pixels_show_nothing():
    images, _, seen = plain()
    mask = np.zeros((150, 150), dtype=bool)
    mask[:, 75:] = True  # all that is right of the centre
    filled = np.where(mask, 1e4, images)
    half = detect(fit(filled, mask=mask), (1e9,), COARSE)
    right = COARSE[:, 0] > 0.6
    assert half.expected[:, 0, right].sum() < 0.05 * seen.expected[:, 0, right].sum()


@pytest.mark.parametrize("value", ["zeros", "not a number", "noise", "gradient"])
def test_what_is_no_lens_has_a_finite_map(value):
    image = {"zeros": np.zeros((90, 90)), "not a number": np.full((90, 90), np.nan)}
    image |= {"noise": np.random.default_rng(0).normal(size=(90, 90)), "gradient": np.arange(90.0) * np.ones((90, 1))}
    found = fit(image[value])
    seen = detect(found, positions=grid(90, 0.05, step=20))
    assert np.isfinite(seen.expected).all() and np.isfinite(seen.observed).all() and (seen.expected >= 0).all()
    top = peak(found, seen)
    assert np.isfinite(top.position).all() and np.isfinite(top.observed).all() and np.isfinite(top.mass).all()


def test_what_does_not_fit_is_refused():
    images, found, _ = plain()
    with pytest.raises(ValueError, match="pictures"):
        detect(fit(images[:1], pictures=False))
    with pytest.raises(ValueError, match="positions"):
        detect(found, positions=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="point, sis"):
        detect(found, profile="nfw")
    for mass in (0.0, -1e9, np.nan):
        with pytest.raises(ValueError, match="masses"):
            detect(found, (mass,))


def test_from_python():
    images, found, _ = plain()
    seen = darklens.detect(found[:1], (1e9,), COARSE[:3])
    assert seen.expected.shape == seen.observed.shape == (1, 1, 3)


def test_picture(tmp_path):
    images, found, seen = plain()
    found, seen = found[2:], dataclasses.replace(seen, expected=seen.expected[2:], observed=seen.observed[2:])
    pieces = [np.array([[0.5, 1, 0.5, 1], [0.0, 0, 1, 1]])]
    drawn = [pictures.imread(plot_detection(tmp_path, images[2:], found, seen, ["a"], p)) for p in (None, pieces)]
    assert (tmp_path / "detection.pdf").stat().st_size > 10_000
    assert drawn[0].shape == drawn[1].shape and (drawn[0] != drawn[1]).any()
