"""The residual's significance and the noise's correlation: against brute force, Monte Carlo and simulated lenses."""

import fit_data
import numpy as np
import pytest
import torch
from scipy import stats

import darklens
from darklens.fit import SmoothModel, fit
from darklens.fit.correlation import OTHER, SURE, measure_correlation, side_by_side
from darklens.fit.significance import correlation_matrix, null_cumulants, smoothing, tail_sigma
from darklens.simulation.detector import correlate

SIZE = 16


def columns(count=4, size=SIZE, seed=0):
    """(2, count + 1, size, size) smooth images, the last two of them the same."""
    random = np.random.default_rng(seed).normal(size=(2, count, size, size))
    smooth = np.stack([[correlate(image, 1.0) for image in images] for images in random])
    return torch.as_tensor(np.concatenate((smooth, smooth[:, -1:]), 1))


def dense(g, c, basis):
    """M of one image as a matrix, by Kronecker products of everything."""
    smooth, noise = np.kron(g, g), np.kron(c, c)
    q = np.linalg.qr(basis.reshape(len(basis), -1).T[:, :-1])[0]
    keep = np.eye(len(q)) - q @ q.T
    return smooth @ keep @ noise @ keep @ smooth.T


@pytest.mark.parametrize("width", [0.0, 0.5, 0.8])
def test_cumulants_are_those_of_dense_matrices(width):
    g, c, basis = smoothing(SIZE), correlation_matrix(SIZE, width), columns()
    good = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    ours = null_cumulants(basis, good, torch.as_tensor(g), torch.as_tensor(c) if width else None)
    for k in range(2):
        m = dense(g, c, basis[k].numpy())
        powers = [m, m @ m, m @ m @ m]
        for order, (cumulant, power) in enumerate(zip(ours, powers, strict=True), 1):
            expected = 2 ** (order - 1) * (1, 1, 2)[order - 1] * np.trace(power)
            assert float(cumulant[k]) == pytest.approx(expected, rel=1e-6)


def test_the_tail_is_that_of_a_weighted_sum_of_chi_squares():
    weights = np.array([3.0, 2.0, 1.0, 1.0, 0.5, 0.25] * 3)
    mean, variance, third = weights.sum(), 2 * (weights**2).sum(), 8 * (weights**3).sum()
    draws = (np.random.default_rng(0).normal(size=(400_000, len(weights))) ** 2) @ weights
    for share in (0.5, 0.1, 0.01, 0.001):
        value = np.quantile(draws, 1 - share)
        sigma = tail_sigma(*(np.array([x]) for x in (value, mean, variance, third)))[0]
        assert stats.norm.sf(sigma) == pytest.approx(share, rel=0.1 if share >= 0.01 else 0.25)


def test_the_tail_goes_on_where_probabilities_underflow():
    values = np.array([200.0, 1e3, 1e4, 1e6])
    sigma = tail_sigma(values, *(np.full(4, x) for x in (20.0, 40.0, 160.0)))
    assert np.isfinite(sigma).all() and (np.diff(sigma) > 0).all() and sigma[0] > 10
    assert sigma[0] == pytest.approx(stats.norm.isf(stats.chi2.sf(200, 20)), rel=1e-6)


def test_correlation_is_that_of_smoothed_noise():
    for width in (0.4, 0.6):
        noise = np.stack([correlate(np.random.default_rng(k).normal(size=(300, 300)), width) for k in range(4)])
        lag = (noise[:, 1:] * noise[:, :-1]).mean() / (noise**2).mean()
        assert lag == pytest.approx(side_by_side(width), abs=0.01)
        matrix = correlation_matrix(300, width)
        assert matrix[3, 4] == pytest.approx(side_by_side(width)) and np.allclose(np.diag(matrix), 1)


@pytest.mark.parametrize("width", [0.0, 0.42, 0.6])
def test_correlation_is_measured_beside_a_smooth_residual(width):
    rng, good = np.random.default_rng(1), torch.ones(8, 106, 106, dtype=torch.bool)
    good[:, 40:50, 60:70] = False
    noise = np.stack([correlate(n, width) if width else n for n in rng.normal(size=(8, 106, 106))])
    traces = 2 * np.stack([correlate(n, 3.0) for n in rng.normal(size=(8, 106, 106))])
    for residual in (noise, 3 * noise, noise + traces):
        found = measure_correlation(torch.as_tensor(residual), good)
        assert np.abs(found.lag.numpy() - side_by_side(width)).max() < 0.05
        assert np.allclose(found.width.numpy(), width, atol=0.05)
        scale = residual.std() if residual is not noise + traces else 1
        assert np.allclose(found.scale.numpy(), 3 if scale > 2.5 else 1, rtol=0.05)


def test_an_assumed_correlation_holds_until_the_image_says_otherwise():
    rng, good = np.random.default_rng(2), torch.ones(20, 105, 105, dtype=torch.bool)
    for width in (0.3, 0.37):
        noise = torch.as_tensor(np.stack([correlate(n, width) for n in rng.normal(size=(20, 105, 105))]))
        measured = measure_correlation(noise, good, 0.3)
        assumed = measured.width == 0.3
        assert (assumed == (measured.certainty.abs() <= OTHER)).all() and (measured.certainty.abs() < SURE).sum() > 10
        assert assumed.sum() >= 17 if width == 0.3 else assumed.sum() <= 10
        lag = np.array([side_by_side(each) for each in measured.width.tolist()])
        assert np.abs(lag - side_by_side(width)).max() < 0.08


def test_noise_alone_is_not_significant_and_substructure_is():
    values = {}
    for name, recipe in fit_data.RECIPES.items():
        fits = fit(fit_data.images(recipe, "no", 40)[0])
        values[name] = fits.residual_significance
        assert abs(values[name].mean()) < 4 / np.sqrt(40) and 0.6 < values[name].std() < 1.5
        for class_name in ("sphere", "vort"):
            other = fit(fit_data.images(recipe, class_name, 6)[0]).residual_significance
            assert np.median(other) > 8
    assert np.isnan(fit(fit_data.images(fit_data.F, "no", 1)[0], score_test=False).residual_significance).all()


@pytest.mark.parametrize("width", [0.5, 0.8])
def test_the_covariance_of_level_and_width_is_that_of_many_images(width):
    """300 of nothing but correlated noise."""
    rng = np.random.default_rng(3)
    noise = np.stack([correlate(rng.normal(size=(80, 80)), width) for _ in range(300)])[:, 10:-10, 10:-10]
    measured = measure_correlation(torch.as_tensor(noise), torch.ones(noise.shape, dtype=torch.bool))
    scatter = np.cov(2 * np.log(measured.scale.numpy()), measured.width.numpy())
    expected = measured.covariance.mean(0).numpy()
    assert np.abs(np.sqrt(scatter.diagonal() / expected.diagonal()) - 1).max() < 0.25
    assert abs(scatter[0, 1] - expected[0, 1]) < 0.3 * np.prod(np.sqrt(expected.diagonal()))


def test_the_test_turns_with_the_image_and_its_unit():
    images = fit_data.images(fit_data.J, "sphere", 3)[0].astype(float)
    expected = fit(images).residual_significance
    for other in (np.rot90(images, 1, (1, 2)), images[:, :, ::-1], 7 * images - 100):
        assert np.allclose(fit(other).residual_significance, expected, atol=0.05)


def smoothed_noise(width, count=40):
    """Lenses of Model F whose noise, Gaussian of one variance, was smoothed; and their true parameters."""
    images, truth = fit_data.clean(fit_data.F, "no", count)
    rng = np.random.default_rng(5)
    noise = np.stack([correlate(rng.normal(size=(150, 150)), width) for _ in range(count)])
    return images.numpy() + 8 * noise, truth


def test_correlated_noise_is_no_substructure():
    images, truth = smoothed_noise(0.5)
    fits = fit(images)
    assert np.allclose(fits.noise_correlation, side_by_side(0.5), atol=0.05)
    assert np.abs(fits.chi_square - 1).max() < 0.08 and abs(fits.residual_significance.mean()) < 4 / np.sqrt(40)
    pulls = (fits.free - truth) / np.sqrt(fits.covariance.diagonal(axis1=1, axis2=2))
    assert np.abs(pulls.std(0) - 1).max() < 5 / np.sqrt(80) and (fits.flag == "").all()


def test_a_noise_maps_scale_is_measured():
    images, _ = fit_data.clean(fit_data.F, "no", 4)
    images = images.numpy() + np.random.default_rng(2).normal(size=images.shape) * 6
    fits = darklens.fit(images, noise=12.0)
    assert np.allclose(fits.noise_scale, 0.5, rtol=0.03) and np.allclose(fits.chi_square, 0.25, rtol=0.1)
    assert (darklens.fit(images).noise_scale == 1).all()


def test_the_table_has_them():
    columns = SmoothModel().columns
    assert {"residual_significance", "noise_correlation", "noise_scale"} <= set(columns) and columns[-1] == "flag"
