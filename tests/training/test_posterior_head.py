"""Posterior heads on features of which the right posterior is known."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from darklens.classifier.posterior import BINS, Inference, legendre
from darklens.metrics.coverage import calibration, sharpness
from darklens.metrics.posterior import Posterior, bins_of
from darklens.training.posterior import LEAST, _fit_tilt, fit_head

NOISE = 0.5


def drawn(count, seed):
    """Values from a standard normal; four features, two of them noisy measurements of the value."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(count)
    features = rng.standard_normal((count, 4)) * 3
    features[:, :2] = values[:, None] + NOISE * rng.standard_normal((count, 2))
    return torch.from_numpy(features).float(), values


@pytest.fixture(scope="module")
def head():
    return fit_head(*drawn(6000, 0), *drawn(1000, 1), seed=3)


def test_it_learns_the_posterior(head):
    features, values = drawn(4000, 2)
    posterior = head.posterior(features, "x")
    best = 0.5 * np.log(1 + 2 / NOISE**2)  # nats that two measurements tell of a standard normal
    assert best - 0.1 < sharpness(posterior, values)["information"] < best + 0.03
    for level, found in calibration(posterior.ranks(values))["coverage"].items():
        assert abs(found["share"] - float(level)) < 0.03
    assert np.abs(posterior.quantile(0.5) - features[:, :2].mean(1).numpy() / (1 + NOISE**2 / 2)).mean() < 0.1


def test_same_seed_same_bits_and_the_global_stream_is_left_alone(head):
    before = torch.get_rng_state()
    again, other = (fit_head(*drawn(6000, 0), *drawn(1000, 1), seed=seed) for seed in (3, 4))
    assert torch.equal(before, torch.get_rng_state())
    states = [one.state_dict() for one in (head, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["layers.0.weight"], states[2]["layers.0.weight"])


def test_features_that_are_far_off_give_a_posterior(head):
    posterior = head.posterior(torch.full((2, 4), 1e30), "x")
    assert np.isfinite(posterior.probabilities).all() and posterior.below(99) == pytest.approx(1)


def test_the_tilt_mends_the_shape_of_the_posteriors():
    """Posteriors with a third of the prior mixed in have too heavy tails: the temperature alone does not mend that."""
    rng, count = np.random.default_rng(5), 6000
    truth = rng.standard_normal(count)
    seen = truth + NOISE * rng.standard_normal(count)
    edges = norm.ppf(np.linspace(1e-6, 1 - 1e-6, BINS + 1))
    mean, deviation = seen / (1 + NOISE**2), NOISE / np.sqrt(1 + NOISE**2)
    shares = np.diff(norm.cdf(edges, mean[:, None], deviation), axis=1)
    logits = torch.from_numpy(np.log(shares * 2 / 3 + 1 / 3 / BINS))
    bins = torch.from_numpy(bins_of(edges, truth))
    tilt = _fit_tilt(logits[:3000], bins[:3000])
    mended = logits + legendre(logits) @ tilt
    wrong, right = (
        calibration(Posterior("x", edges, one[3000:].softmax(1).numpy()).ranks(truth[3000:]))
        for one in (logits, mended)
    )
    assert wrong["p_value"] < 1e-6 and right["p_value"] > 0.01


def test_a_head_of_before_has_no_tilt(head):
    stored = Inference({"vort": {"length": head}}, None).to_dict()
    del stored["heads"]["vort"]["length"]["tilt"]
    assert not Inference.from_dict(stored, ["no", "vort"], 4).heads["vort"]["length"].tilt.any()


def test_few_lenses_are_refused():
    with pytest.raises(ValueError, match=f"expected {LEAST} training lenses"):
        fit_head(*drawn(LEAST - 1, 0), *drawn(10, 1))


def test_it_is_read_back_and_damage_is_refused(head):
    stored = Inference({"vort": {"length": head}}, None).to_dict()
    again = Inference.from_dict(stored, ["no", "vort"], 4)
    features, _ = drawn(5, 9)
    assert torch.equal(again.heads["vort"]["length"](features), head(features))
    for wrong in (
        stored | {"limit": float("nan")},
        stored | {"more": 1},
        {"heads": {"other": stored["heads"]["vort"]}, "limit": None},
        {"heads": {"vort": {"colour": stored["heads"]["vort"]["length"]}}, "limit": None},
    ):
        with pytest.raises(ValueError, match="inference"):
            Inference.from_dict(wrong, ["no", "vort"], 4)
    with pytest.raises((ValueError, RuntimeError)):
        Inference.from_dict(stored, ["no", "vort"], 5)
    for key, value in (("scale", torch.zeros(4)), ("edges", torch.zeros(1))):
        state = stored["heads"]["vort"]["length"] | {key: value.to(stored["heads"]["vort"]["length"][key].dtype)}
        with pytest.raises((ValueError, RuntimeError)):
            Inference.from_dict({"heads": {"vort": {"length": state}}, "limit": None}, ["no", "vort"], 4)


def test_the_bins_are_equally_likely_in_the_training_data(head):
    _, values = drawn(6000, 0)
    counts = np.histogram(values, head.edges.numpy())[0].reshape(BINS, -1).sum(1)
    assert abs(counts - 6000 / BINS).max() <= 2
