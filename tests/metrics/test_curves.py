import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from scripts.metrics.curves import (
    DetectionCurve,
    detection_curve,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)

RNG = np.random.default_rng(0)


def metrics_of(scores, labels):
    curve = detection_curve(scores, labels)
    return {
        "auroc": curve.auroc(),
        "ap": curve.average_precision(),
        "f1max": curve.f1max(),
        "f1max_floor": curve.f1max_floor(),
    }


def sklearn_metrics(scores, labels):
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1]
    p = np.mean(labels)
    return {
        "auroc": roc_auc_score(labels, scores),
        "ap": average_precision_score(labels, scores),
        "f1max": f1.max(),
        "f1max_floor": 2 * p / (1 + p),
    }


@pytest.mark.parametrize(
    "scores",
    [
        RNG.normal(size=500),
        RNG.integers(0, 4, 500).astype(float),
        np.zeros(500),
        (60 + 0.01 * RNG.normal(size=500)).astype(np.float32),
        -np.exp(3 * RNG.normal(size=500)).astype(np.float32),
        1e-30 * RNG.random(500),
        RNG.integers(-3, 3, 500),
    ],
    ids=["normal", "heavy ties", "constant", "float32 near 60", "negative long tail", "tiny", "integers"],
)
@pytest.mark.parametrize("prevalence", [0.02, 0.4, 0.95])
def test_equals_scikit_learn(scores, prevalence):
    labels = (np.random.default_rng(1).random(500) < prevalence).astype(int)

    assert metrics_of(scores, labels) == pytest.approx(sklearn_metrics(scores, labels), rel=1e-12)


def test_scores_are_not_squashed_by_a_sigmoid():
    labels = (RNG.random(2000) < 0.5).astype(int)
    scores = 60 + RNG.normal(size=2000) + labels

    assert metrics_of(scores, labels)["auroc"] == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    assert metrics_of(scores, labels)["auroc"] > 0.7


def test_perfect_and_reversed_ranking():
    perfect = metrics_of([1, 2, 3, 4], [0, 0, 1, 1])
    assert perfect == pytest.approx({"auroc": 1, "ap": 1, "f1max": 1, "f1max_floor": 2 / 3}, rel=1e-12)
    reverse = metrics_of([4, 3, 2, 1], [0, 0, 1, 1])
    assert reverse["auroc"] == 0
    assert reverse["f1max"] == pytest.approx(reverse["f1max_floor"])


def test_distinct_scores_descend_and_keep_all_weight():
    curve = detection_curve(np.array([1.0, 3, 1, 2, 3]), np.array([1, 0, 0, 1, 1]))

    np.testing.assert_array_equal(curve.score, [3, 2, 1])
    np.testing.assert_array_equal(curve.positive, [1, 1, 1])
    np.testing.assert_array_equal(curve.negative, [1, 0, 1])
    assert curve.prevalence == 0.6


def test_bins_as_thresholds_give_the_metrics_of_binned_scores():
    labels = (RNG.random(400) < 0.3).astype(float)
    scores = RNG.normal(size=400) + labels
    edges = np.linspace(-4, 5, 20)
    bins = np.digitize(scores, edges)
    positive, negative = (np.bincount(bins, weights=w, minlength=21)[::-1] for w in (labels, 1 - labels))
    curve = DetectionCurve(np.arange(21)[::-1], positive, negative, positive)

    # Bins that nothing found falls into have no precision: they stay out, as they do in the pixel metrics.
    used = positive + negative > 0
    curve = DetectionCurve(*(part[used] for part in curve))
    assert curve.auroc() == pytest.approx(roc_auc_score(labels, bins), rel=1e-12)
    assert curve.average_precision() == pytest.approx(average_precision_score(labels, bins), rel=1e-12)


@pytest.mark.parametrize(
    ("negative", "region", "expected"),
    [
        ([0, 100], [1, 0], 1.0),  # all regions found before the first false positive
        ([100], [1], 0.15),  # one threshold: the diagonal, 0.3^2 / 2 / 0.3
        ([30, 70], [0.5, 0.5], 0.25),  # a threshold at FPR 0.3 itself
        ([30, 0, 70], [0.5, 0.5, 0], 0.25),  # then a rise at FPR 0.3, which adds no area
        ([15, 85], [0.5, 0.5], 0.25 / 2 + (0.5 + 0.5 + 0.5 * 0.15 / 0.85) / 2 / 2),
    ],
)
def test_aupro_in_closed_form(negative, region, expected):
    curve = DetectionCurve(-np.arange(len(region)), np.ones(len(region)), np.array(negative), np.array(region))

    assert curve.aupro() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "scores are empty"),
        ([1, 2, 3], [0, 0, 0], "AUROC is not defined: all 3 labels are 0"),
        ([1, 2], [1, 1], "AUROC is not defined: all 2 labels are 1"),
        ([1, np.nan, np.inf, -np.inf], [0, 1, 0, 1], "3 NaN or infinite values of 4"),
        ([1, 2, 3], [0, 1], r"scores \(3,\) and labels \(2,\)"),
        ([[1, 2]], [[0, 1]], r"must both have shape \(N,\)"),
        ([1, 2, 3], [0, 2, 0.5], "labels must be 0 .* 2 of 3 are not"),
        ([1, 2, 3], [0, 1, np.nan], "1 of 3 are not"),
    ],
)
def test_bad_input_says_what_is_wrong(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        detection_curve(scores, labels)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no ties"])
def test_sensitivity_and_specificity_at_each_other_equal_scikit_learns_curve(rate, decimals):
    labels = (np.random.default_rng(2).random(200) < 0.3).astype(int)
    scores = np.round(np.random.default_rng(3).normal(size=200) + 1.5 * labels, decimals)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    curve = detection_curve(scores, labels)

    assert sensitivity_at_specificity(curve, rate) == pytest.approx(tpr[1 - fpr >= rate].max())
    assert specificity_at_sensitivity(curve, rate) == pytest.approx((1 - fpr)[tpr >= rate].max())


def test_a_rate_that_is_just_reached_counts():
    # One of 20 normal images lies above both anomalous ones: specificity 0.95, though 1 - 1 / 20 may round below it.
    curve = detection_curve(np.array([9, 8, 10, *range(-19, 0)]), np.array([1, 1, *[0] * 20]))

    assert sensitivity_at_specificity(curve) == 1
    assert sensitivity_at_specificity(curve, 0.951) == 0
    assert specificity_at_sensitivity(curve) == pytest.approx(0.95)
