"""Binned posteriors and their calibration, against normal distributions whose posterior is known."""

import numpy as np
import pytest
from scipy.stats import norm

from darklens.metrics.coverage import calibration, coverage_report, sharpness, table
from darklens.metrics.posterior import Posterior, bins_of
from darklens.plots.coverage import plot_coverage

BINS, NOISE = 200, 0.5
EDGES = norm.ppf(np.linspace(1e-6, 1 - 1e-6, BINS + 1))


def known(count=2000, seed=0, width=1.0):
    """Truths from a standard normal prior, and their posteriors after a noisy measurement, `width` times as wide."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(count)
    seen = truth + NOISE * rng.standard_normal(count)
    mean, deviation = seen / (1 + NOISE**2), NOISE / np.sqrt(1 + NOISE**2) * width
    shares = np.diff(norm.cdf(EDGES, mean[:, None], deviation), axis=1)
    return Posterior("x", EDGES, shares / shares.sum(1, keepdims=True)), truth, mean, deviation


def test_quantiles_and_probabilities_are_those_of_the_normal_posterior():
    posterior, _, mean, deviation = known(50)
    for level in (0.16, 0.5, 0.84):
        assert posterior.quantile(level) == pytest.approx(norm.ppf(level, mean, deviation), abs=0.02)
    assert posterior.above(0.3) == pytest.approx(norm.sf(0.3, mean, deviation), abs=0.01)
    assert posterior.width(0.68) == pytest.approx(2 * norm.ppf(0.84) * deviation * np.ones(50), abs=0.03)


def test_below_undoes_the_quantile_and_ends_at_the_edges():
    posterior = known(20)[0]
    for level in (0.1, 0.5, 0.97):
        assert posterior.below(posterior.quantile(level)) == pytest.approx(level, abs=1e-9)
    assert posterior.below(-99) == pytest.approx(0) and posterior.below(99) == pytest.approx(1)
    assert len(posterior[3:5]) == 2 and posterior.prior().below(0.0) == pytest.approx(0.5)


def test_half_of_an_atom_of_the_prior_counts():
    posterior = Posterior("x", np.array([0.0, 1.0, 1.0, 1.0, 2.0]), np.array([[0.1, 0.3, 0.4, 0.2]]))
    assert posterior.below(1.0) == pytest.approx(0.1 + 0.7 / 2)


def test_an_atom_of_the_prior_fills_its_bins_and_its_ranks_evenly():
    """A fifth of the values are 0: the bins hold as many each, and ranks of the prior itself are even."""
    values = np.where(np.arange(4000) % 5 == 0, 0.0, np.random.default_rng(1).random(4000))
    edges = np.quantile(values, np.linspace(0, 1, 321))
    assert abs(np.bincount(bins_of(edges, values) // 8, minlength=40) - 100).max() <= 10
    ranks = Posterior("x", edges, np.full((4000, 320), 1 / 320)).ranks(values)
    assert calibration(ranks)["p_value"] > 0.9
    assert bins_of(np.array([0.0, 1.0, 2.0]), np.array([-1, 0, 0.5, 1, 1.5, 2, 3])).tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_right_posteriors_pass_and_narrow_or_wide_ones_fail():
    posterior, truth, *_ = known()
    good = calibration(posterior.ranks(truth))
    assert good["p_value"] > 0.01 and sum(good["histogram"]) == good["images"] == 2000
    for level, found in good["coverage"].items():
        assert abs(found["share"] - float(level)) < 3.5 * found["deviation"]
    for width in (0.8, 1.25):
        wrong, truth, *_ = known(width=width)
        assert calibration(wrong.below(truth))["p_value"] < 1e-4


def test_information_and_width_are_those_of_the_measurement():
    posterior, truth, *_ = known(20_000)
    found = sharpness(posterior, truth)
    assert found["information"] == pytest.approx(0.5 * np.log(1 + 1 / NOISE**2), abs=0.02)
    assert found["relative_width"] == pytest.approx(NOISE / np.sqrt(1 + NOISE**2), abs=0.01)


def test_slices_have_all_lenses_once():
    posterior, truth, *_ = known(301)
    report = coverage_report(posterior, truth, {"size": truth**2})
    assert set(report["slices"]) == {"size", "posterior median"}
    for parts in report["slices"].values():
        assert sum(part["images"] for part in parts) == 301
        assert all(one["high"] <= two["low"] for one, two in zip(parts, parts[1:], strict=False))
    assert "nats" in table({"sphere": {"x": report}})


def test_the_plot_takes_reports_with_and_without_slices(tmp_path):
    posterior, truth, *_ = known(200)
    reports = [coverage_report(posterior, truth, slices) for slices in ({}, {"size": truth**2, "more": truth})]
    assert plot_coverage(tmp_path, {"sphere": dict(zip("ab", reports, strict=True))}).stat().st_size > 10_000
