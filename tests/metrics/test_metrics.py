"""metrics.py against scikit-learn, against direct sums, and at its edges."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from darklens.metrics import auc as metrics_auc
from darklens.metrics import probabilities as metrics_probabilities
from darklens.metrics import significance, summary

CLASSES = ["no", "sphere", "vort"]
QUIET = pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")  # undefined means, 0/0


def drawn(n=300, classes=3, seed=0, separation=1.5):
    """Logits (n, K) of a fair classifier, and labels (n,) in which every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += separation
    return logits, labels


def names(count):
    return [f"class {k}" for k in range(count)]


# ---- one report, against scikit-learn ----


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_report_agrees_with_scikit_learn(classes):
    logits, labels = drawn(classes=classes)
    report = summary.evaluate(logits, labels, names(classes), bootstrap=0)
    probabilities, predicted, numbers = metrics_probabilities.softmax(logits), logits.argmax(axis=1), np.arange(classes)
    onehot = np.eye(classes)[labels]
    assert report["accuracy"] == sk.accuracy_score(labels, predicted)
    assert report["accuracy_percent"] == pytest.approx(100 * report["accuracy"])
    assert report["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=numbers), rel=1e-12)
    halves = [sk.brier_score_loss(onehot[:, k], probabilities[:, k]) for k in numbers]
    assert report["brier_score"] == pytest.approx(sum(halves), rel=1e-12)
    assert report["confusion_matrix"] == sk.confusion_matrix(labels, predicted).tolist()
    for k, name in enumerate(names(classes)):
        assert report["purity"][name] == pytest.approx(sk.precision_score(labels, predicted, average=None)[k])
        assert report["completeness"][name] == pytest.approx(sk.recall_score(labels, predicted, average=None)[k])
    assert sum(map(sum, report["confusion_matrix"])) == report["images"] == len(labels)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_auc_agrees_with_scikit_learn(classes):
    logits, labels = drawn(classes=classes, seed=1)
    auc = summary.evaluate(logits, labels, names(classes), bootstrap=0)["auc"]
    probabilities, onehot = metrics_probabilities.softmax(logits), np.eye(classes)[labels]
    expected = sk.roc_auc_score(onehot, probabilities, average=None)
    assert [auc["per_class"][name]["value"] for name in names(classes)] == pytest.approx(expected, rel=1e-12)
    assert auc["macro"]["value"] == pytest.approx(expected.mean(), rel=1e-12)
    assert auc["micro"]["value"] == pytest.approx(sk.roc_auc_score(onehot, probabilities, average="micro"), rel=1e-12)
    assert auc["micro_logits"]["value"] == pytest.approx(sk.roc_auc_score(onehot, logits, average="micro"), rel=1e-12)
    assert auc["micro_logits"]["value"] != auc["micro"]["value"]


@pytest.mark.parametrize("name", ["no", "no_sub", "nosub"])
def test_substructure_against_none(name):
    logits, labels = drawn()
    report = summary.evaluate(logits, labels, ["axion", "cdm", name], bootstrap=20)
    scores, some = 1 - metrics_probabilities.softmax(logits)[:, 2], labels != 2
    entry = report["auc"]["substructure"]
    assert entry["value"] == pytest.approx(sk.roc_auc_score(some, scores), rel=1e-12)
    assert entry["interval"][0] < entry["value"] < entry["interval"][1]
    false, true, _ = sk.roc_curve(some, scores)
    expected = true[false <= 0.01].max()
    assert report["true_positive_rate"]["substructure"]["0.01"] == pytest.approx(expected)


def test_no_substructure_figure_without_such_a_class():
    report = summary.evaluate(*drawn(), names(3), bootstrap=0)
    assert report["auc"]["substructure"] == {"value": None, "interval": None}
    assert "substructure" not in report["true_positive_rate"]


def test_true_positive_rate_counts_by_hand():
    negatives, positives = np.arange(1000.0), np.array([999.5, 998.5, 989.5, 10.0])  # 0, 1, 10, 989 above
    scores = np.concatenate([positives, negatives])
    logits, labels = np.stack([scores, np.zeros(1004)], axis=1), (np.arange(1004) >= 4).astype(int)
    rates = summary.evaluate(logits, labels, ["a", "b"], bootstrap=0)["true_positive_rate"]["a"]
    assert rates == {"0.01": 0.75, "0.001": 0.5}


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)  # right 3 of 4 and 0 of 2
    labels = np.array([0, 0, 0, 1, 0, 0])
    expected = (4 * abs(0.75 - 0.9) + 2 * 0.6) / 6
    assert metrics_probabilities.expected_calibration_error(probabilities, labels) == pytest.approx(expected)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_bin_by_bin(bins):
    logits, labels = drawn(n=500, separation=1.0)
    probabilities = metrics_probabilities.softmax(logits)
    probabilities[:3] = np.eye(3)[[1, 1, 2]]  # certain, exactly 1
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges, expected = np.linspace(0, 1, bins + 1), 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (top > low) & (top <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert metrics_probabilities.expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected)


def test_calibration_error_vanishes_for_honest_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, 3)) * 2
    labels = (metrics_probabilities.softmax(logits).cumsum(axis=1) > rng.random((40_000, 1))).argmax(axis=1)
    assert metrics_probabilities.expected_calibration_error(metrics_probabilities.softmax(logits), labels) < 0.01
    assert metrics_probabilities.expected_calibration_error(metrics_probabilities.softmax(3 * logits), labels) > 0.1


def test_confident_network_keeps_its_ranking():
    """Probabilities within 1e-17 of one are all 1.0 in float64; the AUC must still see their order."""
    scores = np.array([50.0, 60.0, 70.0, 80.0])
    logits, labels = np.stack([scores, np.zeros(4)], axis=1), np.array([1, 1, 0, 0])
    assert len(set(metrics_probabilities.softmax(logits)[:, 0])) == 1
    assert summary.evaluate(logits, labels, ["a", "b"], bootstrap=0)["auc"]["macro"]["value"] == 1.0


def test_softmax_and_log_odds_of_large_logits():
    logits = np.array([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    probabilities = metrics_probabilities.softmax(logits)
    assert probabilities.dtype == np.float64
    assert np.allclose(probabilities.sum(axis=1), 1) and probabilities[0, 0] == 1
    assert metrics_probabilities.log_odds(logits)[1] == pytest.approx(np.log(1 / 2))
    assert metrics_probabilities.log_odds(logits)[0] == pytest.approx([1000, -1000, -2000])


def test_log_odds_follow_their_definition():
    logits, _ = drawn(classes=5)
    probabilities = metrics_probabilities.softmax(logits)
    assert metrics_probabilities.log_odds(logits) == pytest.approx(np.log(probabilities / (1 - probabilities)))


# ---- the bootstrap ----


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_weighted_auc_is_that_of_scikit_learn(decimals):
    """With and without ties: each resample is `roc_auc_score` with the counts as sample weights."""
    logits, labels = drawn(n=120)
    scores, positive = logits[:, 0], labels == 0
    scores = scores if decimals is None else scores.round(decimals)
    counts = next(metrics_auc.resample(120, 30, seed=3))
    expected = [sk.roc_auc_score(positive, scores, sample_weight=column) for column in counts.T]
    assert metrics_auc.weighted_auc(metrics_auc.rank(scores, positive), counts) == pytest.approx(expected, rel=1e-12)


def test_weighted_micro_auc_is_that_of_scikit_learn():
    logits, labels = drawn(n=80)
    logits, onehot = logits.round(1), labels[:, None] == np.arange(3)
    counts = next(metrics_auc.resample(80, 20, seed=3))
    expected = [
        sk.roc_auc_score(onehot.ravel(), logits.ravel(), sample_weight=np.repeat(column, 3)) for column in counts.T
    ]
    assert metrics_auc.weighted_auc(metrics_auc.rank(logits, onehot), counts) == pytest.approx(expected, rel=1e-12)


def test_weighted_auc_is_not_defined_without_positives():
    ranking = metrics_auc.rank(np.array([1.0, 2.0, 3.0]), np.array([True, False, False]))
    auc = metrics_auc.weighted_auc(ranking, np.array([[0, 1], [1, 1], [2, 1]]))
    assert np.isnan(auc[0]) and auc[1] == 0.0


def test_resamples_draw_n_images_uniformly():
    counts = np.concatenate(list(metrics_auc.resample(50, 2000, seed=0)), axis=1)
    assert counts.shape == (50, 2000)
    assert (counts.sum(axis=0) == 50).all()
    assert stats.chisquare(counts.sum(axis=1)).pvalue > 1e-3
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # binomial(50, 1/50)


def test_resamples_do_not_depend_on_the_chunk(monkeypatch):
    logits, labels = drawn(n=60)
    whole = summary.evaluate(logits, labels, CLASSES, bootstrap=100)
    monkeypatch.setattr(metrics_auc, "CHUNK", 7 * 60 * 3)
    assert summary.evaluate(logits, labels, CLASSES, bootstrap=100) == whole


def test_seed_decides():
    logits, labels = drawn(n=100)
    one, same, other = (summary.evaluate(logits, labels, CLASSES, bootstrap=200, seed=s)["auc"] for s in (1, 1, 2))
    assert one == same
    assert one["macro"]["value"] == other["macro"]["value"]
    assert one["macro"]["interval"] != other["macro"]["interval"]


def test_intervals_are_those_of_a_plain_bootstrap():
    """The same resamples, one at a time, by scikit-learn."""
    logits, labels = drawn(n=60)
    report = summary.evaluate(logits, labels, CLASSES, bootstrap=80, seed=5)
    counts = np.concatenate(list(metrics_auc.resample(60, 80, seed=5)), axis=1)
    plain = [
        [sk.roc_auc_score(labels == k, metrics_probabilities.softmax(logits)[:, k], sample_weight=w) for k in range(3)]
        for w in counts.T
    ]
    correct = logits.argmax(axis=1) == labels
    expected = np.percentile(np.mean(plain, axis=1), [2.5, 97.5])
    assert report["auc"]["macro"]["interval"] == pytest.approx(expected, rel=1e-12)
    assert report["accuracy_interval"] == pytest.approx(np.percentile(correct @ counts / 60, [2.5, 97.5]))


def test_interval_covers_the_truth():
    """Normal populations 1.5 apart have AUC = Phi(1.5 / sqrt(2)): 95 of 100 intervals should hold it."""
    truth, covered = stats.norm.cdf(1.5 / np.sqrt(2)), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        positive = np.arange(200) < 80
        scores = rng.normal(size=200) + 1.5 * positive
        ranking = metrics_auc.rank(scores, positive)
        values = np.concatenate([metrics_auc.weighted_auc(ranking, w) for w in metrics_auc.resample(200, 320, seed)])
        low, high = np.percentile(values, [2.5, 97.5])
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


# ---- edges ----


@QUIET
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_images_make_a_report(classes, n):
    logits = np.random.default_rng(n).normal(size=(n, classes))
    labels = np.arange(n) % classes
    report = summary.evaluate(logits, labels, names(classes), bootstrap=50, temperature=2.0)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@QUIET
def test_absent_class_has_no_figures():
    logits, labels = drawn(n=90)
    labels[labels == 1] = 2
    report = summary.evaluate(logits, labels, CLASSES, bootstrap=50)
    auc = report["auc"]
    assert auc["per_class"]["sphere"] == {"value": None, "interval": None}
    assert report["completeness"]["sphere"] is None
    assert report["purity"]["sphere"] == 0.0
    assert report["true_positive_rate"]["sphere"] == {"0.01": None, "0.001": None}
    assert auc["macro"]["value"] == pytest.approx(
        (auc["per_class"]["no"]["value"] + auc["per_class"]["vort"]["value"]) / 2
    )
    assert report["confusion_matrix"][1] == [0, 0, 0]


@QUIET
def test_class_with_one_image():
    """In a third of the resamples the image is not drawn: those are left out of its interval."""
    logits, labels = drawn(n=60)
    labels[labels == 1] = 0
    labels[7] = 1
    auc = summary.evaluate(logits, labels, CLASSES, bootstrap=200)["auc"]
    low, high = auc["per_class"]["sphere"]["interval"]
    assert low <= auc["per_class"]["sphere"]["value"] <= high
    assert auc["macro"]["interval"][0] < auc["macro"]["interval"][1]


def test_perfect_classifier():
    report = summary.evaluate(20 * np.eye(3)[np.arange(30) % 3], np.arange(30) % 3, CLASSES, bootstrap=50)
    assert report["accuracy"] == 1 and report["accuracy_interval"] == [1, 1]
    assert report["auc"]["macro"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert report["expected_calibration_error"] < 1e-6


def test_a_confident_mistake_costs_what_training_says():
    report = summary.evaluate(np.array([[0.0, 500.0], [3.0, 0.0]]), np.array([0, 0]), ["a", "b"], bootstrap=0)
    assert report["log_loss"] == pytest.approx((500 + np.log1p(np.exp(-3))) / 2)


def test_temperature_changes_calibration_only():
    logits, labels = drawn()
    plain, scaled = (summary.evaluate(logits, labels, CLASSES, 20, temperature=t) for t in (None, 2.0))
    halved = summary.evaluate(logits / 2, labels, CLASSES, 0)
    assert plain["calibrated"] is None
    assert scaled["calibrated"] == {key: halved[key] for key in scaled["calibrated"]}
    assert {**scaled, "temperature": None, "calibrated": None} == plain


@pytest.mark.parametrize(
    "logits, labels, classes, message",
    [
        ([[0.0, np.nan], [0.0, 1.0]], [0, 1], ["a", "b"], "NaN or infinite logits for 1 of 2 images"),
        ([[0.0, np.inf], [0.0, 1.0]], [0, 1], ["a", "b"], "NaN or infinite"),
        ([[0.0, 1.0]], [2], ["a", "b"], "labels from 0 to 1"),
        ([[0.0, 1.0]], [-1], ["a", "b"], "labels from 0 to 1"),
        ([[0.0, 1.0]], [0.5], ["a", "b"], "integer labels"),
        ([[0.0, 1.0]], [0, 1], ["a", "b"], "expected logits"),
        ([[0.0]], [0], ["a"], "K >= 2"),
        (np.empty((0, 2)), np.empty(0, int), ["a", "b"], "expected logits"),
        ([[0.0, 1.0]], [0], ["a"], "one class name per logit"),
    ],
)
def test_bad_input_is_refused(logits, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        summary.evaluate(np.array(logits), np.array(labels), classes, bootstrap=0)


# ---- temperature ----


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(truth):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30_000, 3)) * 2
    labels = (metrics_probabilities.softmax(logits).cumsum(axis=1) > rng.random((30_000, 1))).argmax(axis=1)
    assert metrics_probabilities.fit_temperature(logits * truth, labels) == pytest.approx(truth, rel=0.03)


def test_temperature_is_the_minimum():
    logits, labels = drawn(separation=0.7)
    best = metrics_probabilities.fit_temperature(logits, labels)
    losses = [
        summary.evaluate(logits / t, labels, CLASSES, bootstrap=0)["log_loss"] for t in (best, 0.9 * best, 1.1 * best)
    ]
    assert losses[0] < min(losses[1:])


def test_temperature_of_separated_and_of_hopeless_data():
    separated = 30 * np.eye(3)[np.arange(30) % 3]
    labels = np.arange(30) % 3
    assert metrics_probabilities.fit_temperature(separated, labels) == 1.0
    low, high = metrics_probabilities.TEMPERATURES
    assert low <= metrics_probabilities.fit_temperature(separated * 1e4, (labels + 1) % 3) <= high
    assert metrics_probabilities.fit_temperature(separated, (labels + 1) % 3) == pytest.approx(high, rel=1e-3)
    with pytest.raises(ValueError, match="NaN"):
        metrics_probabilities.fit_temperature(np.full((2, 2), np.nan), np.array([0, 1]))


# ---- two networks ----


def pair(n=200, seed=0, gap=0.4):
    """Two correlated scores and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    shared = rng.normal(size=n)
    a = (1.2 + gap) * labels + shared + 0.6 * rng.normal(size=n)
    b = 1.2 * labels + shared + 0.6 * rng.normal(size=n)
    return a, b, labels


def direct_delong(a, b, labels):
    """DeLong 1988, eqs. 4-7, with the O(mn) kernel written out."""
    aucs, of_positives, of_negatives = [], [], []
    for scores in (a, b):
        x, y = scores[labels == 1], scores[labels == 0]
        kernel = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        aucs.append(kernel.mean())
        of_positives.append(kernel.mean(axis=1))
        of_negatives.append(kernel.mean(axis=0))
    covariance = np.cov(of_positives) / kernel.shape[0] + np.cov(of_negatives) / kernel.shape[1]
    contrast = np.array([1, -1])
    z = (aucs[0] - aucs[1]) / np.sqrt(contrast @ covariance @ contrast)
    return *aucs, z, 2 * stats.norm.sf(abs(z))


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_delong_is_the_direct_sum(decimals):
    a, b, labels = pair()
    if decimals is not None:
        a, b = a.round(decimals), b.round(decimals)
    result = significance.delong_test(a, b, labels)
    assert result == pytest.approx(direct_delong(a, b, labels), rel=1e-9)
    assert result[0] == pytest.approx(sk.roc_auc_score(labels, a), rel=1e-12)


# DeLong et al. 1988, as in the SAS/STAT manual (PROC LOGISTIC, "Comparing ROC curves"): 43 patients with ovarian
# cancer, their albumin, total protein, K-G score, and whether surgery helped.
PATIENTS = """
    3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
    3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
    4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
    4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
    2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1"""


@pytest.mark.parametrize(
    "column, auc, error, chi_square, p",
    [(0, 0.7366, 0.0953, 0.0127, 0.9102), (1, 0.6478, 0.1046, 0.5554, 0.4561)],
    ids=["albumin", "protein"],
)
def test_delong_reproduces_the_published_example(column, auc, error, chi_square, p):
    patients = np.array(PATIENTS.split(), dtype=float).reshape(43, 4)
    scores = patients[:, column], 10 - patients[:, 2], patients[:, 3]
    found = significance.delong_test(*scores)
    assert found == pytest.approx(direct_delong(*scores), rel=1e-9)
    assert found[:2] == pytest.approx((auc, 0.7258), abs=5e-5)
    assert (found[0] - found[1]) / found[2] == pytest.approx(error, abs=5e-5)
    assert found[2] ** 2 == pytest.approx(chi_square, abs=5e-5) and found[3] == pytest.approx(p, abs=5e-5)


def test_delong_agrees_with_the_bootstrap():
    a, b, labels = pair(n=800, gap=0.15)
    auc_a, auc_b, z, _ = significance.delong_test(a, b, labels)
    rankings = [metrics_auc.rank(scores, labels == 1) for scores in (a, b)]
    drawn = [[metrics_auc.weighted_auc(r, w) for r in rankings] for w in metrics_auc.resample(800, 2000, seed=0)]
    differences = np.concatenate([one - two for one, two in drawn])
    assert (auc_a - auc_b) / z == pytest.approx(differences.std(), rel=0.06)


def test_delong_is_honest_where_nothing_differs():
    """Under the null hypothesis p is uniform."""
    p = [significance.delong_test(*pair(n=150, seed=seed, gap=0))[3] for seed in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_delong_edges():
    a, b, labels = pair()
    assert significance.delong_test(a, a, labels)[2:] == (0.0, 1.0)
    auc_a, auc_b, z, p = significance.delong_test(labels, 1 - labels, labels)
    assert (auc_a, auc_b, z, p) == (1.0, 0.0, np.inf, 0.0)
    with pytest.raises(ValueError, match="two positives and two negatives, got 1 and 3"):
        significance.delong_test(a[:4], b[:4], np.array([1, 0, 0, 0]))


def test_mcnemar():
    a = np.array([True] * 10 + [False] * 2 + [True] * 50)
    b = np.array([False] * 10 + [True] * 2 + [True] * 50)
    by_hand = 2 * sum(stats.binom.pmf(k, 12, 0.5) for k in range(3))
    assert significance.mcnemar_test(a, b) == significance.mcnemar_test(b, a) == pytest.approx(by_hand)
    assert significance.mcnemar_test(a, a) == 1.0


def paired(a, b, labels, resamples, seed=0):
    """The difference in macro AUC of two networks, both bootstrapped with one seed."""
    draws = [significance.bootstrap(logits, labels, resamples, seed)["macro"] for logits in (a, b)]
    macro = [summary.evaluate(logits, labels, CLASSES, bootstrap=0)["auc"]["macro"]["value"] for logits in (a, b)]
    return significance.difference(macro[0] - macro[1], draws[0] - draws[1])


def test_paired_bootstrap():
    logits, labels = drawn(n=400, separation=1.0)
    better = logits + 1.0 * np.eye(3)[labels]
    result = paired(better, logits, labels, resamples=500)
    truth = [sk.roc_auc_score(labels, metrics_probabilities.softmax(z), multi_class="ovr") for z in (better, logits)]
    assert result["difference"] == pytest.approx(truth[0] - truth[1], rel=1e-9)
    assert 0 < result["interval"][0] < result["difference"] < result["interval"][1]
    assert result["p"] == pytest.approx(2 / 501)
    assert paired(logits, logits, labels, resamples=100) == {
        "difference": 0.0,
        "interval": [0.0, 0.0],
        "p": 1.0,
    }


def test_pairing_narrows_the_interval():
    """Two nearly equal networks are told apart better on the same images than their own intervals suggest."""
    logits, labels = drawn(n=400)
    other = logits + 0.1 * np.random.default_rng(1).normal(size=logits.shape)
    low, high = paired(logits, other, labels, resamples=300)["interval"]
    alone = summary.evaluate(logits, labels, CLASSES, bootstrap=300)["auc"]["macro"]["interval"]
    assert high - low < 0.3 * (alone[1] - alone[0])


def test_bootstraps_of_one_seed_are_paired():
    """Networks that are bootstrapped one by one see the same images: so are theirs of scikit-learn."""
    logits, labels = drawn(n=120)
    other, _ = drawn(n=120, seed=1)
    draws = [significance.bootstrap(one, labels, 150, seed=4) for one in (logits, other)]
    counts = np.concatenate(list(metrics_auc.resample(len(labels), 150, 4)), axis=1)  # (n, resamples)
    for number in range(0, 150, 10):
        weights = {"sample_weight": counts[:, number], "multi_class": "ovr"}
        a, b = (sk.roc_auc_score(labels, metrics_probabilities.softmax(z), **weights) for z in (logits, other))
        assert draws[0]["macro"][number] - draws[1]["macro"][number] == pytest.approx(a - b, abs=1e-9)
    report = summary.evaluate(logits, labels, CLASSES, bootstrap=150, seed=4)
    for key in ("macro", "micro"):
        assert metrics_auc.interval(draws[0][key]) == report["auc"][key]["interval"]
    assert metrics_auc.interval(draws[0]["accuracy"]) == report["accuracy_interval"]
    with pytest.raises(ValueError, match="NaN"):
        significance.bootstrap(logits * np.nan, labels, 10)


def test_paired_bootstrap_is_honest():
    """Two equally good networks: the interval of their difference holds zero in 95 of 100 worlds, and p says so."""
    covered, p = 0, []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels, shared = np.arange(150) % 3, rng.normal(size=(150, 3))
        shared[np.arange(150), labels] += 1.5
        one, other = (shared + 0.7 * rng.normal(size=(150, 3)) for _ in range(2))
        result = paired(one, other, labels, resamples=128, seed=seed)
        covered += result["interval"][0] <= 0 <= result["interval"][1]
        p.append(result["p"])
    assert 0.89 <= covered / 120 <= 0.99
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.11


def test_difference_that_is_not_defined():
    nothing = {"difference": None, "interval": None, "p": None}
    assert significance.difference(None, np.array([0.1, 0.2])) == nothing
    assert significance.difference(0.1, np.full(3, np.nan)) == {**nothing, "difference": 0.1}
    assert significance.difference(0.2, np.array([np.nan, 0.1, 0.3, 0.2]))["p"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_step_by_step(seed):
    """The corrected p falls below a level exactly where Holm's procedure, as published, rejects at this level."""
    p = np.random.default_rng(seed).beta(0.3, 3, size=8).round(3)
    corrected = np.array(significance.holm(p))
    for level in np.linspace(0.001, 0.999, 300):
        rejected = np.zeros(8, dtype=bool)
        for step, number in enumerate(np.argsort(p, kind="stable")):
            if p[number] > level / (8 - step):
                break
            rejected[number] = True
        assert np.array_equal(corrected <= level, rejected)


def test_holm_by_hand():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (
        significance.holm([0.6, 0.5]) == [1.0, 1.0]
        and significance.holm([0.2]) == [0.2]
        and significance.holm([]) == []
    )


def test_auc_of_one_score():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.4
    scores = rng.normal(size=300) + positive
    found = metrics_auc.bootstrapped_auc(scores, positive, resamples=400)
    assert found["value"] == pytest.approx(sk.roc_auc_score(positive, scores))
    deviation = np.std([sk.roc_auc_score(positive[i], scores[i]) for i in rng.integers(300, size=(200, 300))])
    low, high = found["interval"]
    assert low < found["value"] < high and high - low == pytest.approx(4 * deviation, rel=0.25)
    assert metrics_auc.bootstrapped_auc(scores, np.zeros(300, bool), 10) == {"value": None, "interval": None}
