import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from scripts.metrics.comparison import delong, paired_bootstrap
from scripts.metrics.curves import DetectionCurve
from scripts.metrics.intervals import GroupCurves


def two_detectors(rng, number=90, better=0.0, decimals=1):
    labels = (np.arange(number) % 3 == 0).astype(int)
    common = rng.normal(size=number)
    a, b = (np.round(common + rng.normal(size=number) + s * labels, decimals) for s in (1 + better, 1.0))
    return a, b, labels


def structural_components(scores, labels):
    """By the definition, every pair of a positive and a negative: 1, one half where equal, or 0."""
    pairs = np.array([[(p > n) + (p == n) / 2 for n in scores[labels == 0]] for p in scores[labels == 1]])
    return pairs.mean(axis=1), pairs.mean(axis=0)


@pytest.mark.parametrize("decimals", [0, 1, 8], ids=["heavy ties", "ties", "no ties"])
def test_delong_equals_its_structural_components(decimals):
    a, b, labels = two_detectors(np.random.default_rng(0), better=0.7, decimals=decimals)
    (a10, a01), (b10, b01) = structural_components(a, labels), structural_components(b, labels)
    covariance = np.cov(a10, b10) / len(a10) + np.cov(a01, b01) / len(a01)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = roc_auc_score(labels, a) - roc_auc_score(labels, b)
    result = delong(a, b, labels)

    assert (result.auroc_a, result.auroc_b) == pytest.approx((roc_auc_score(labels, a), roc_auc_score(labels, b)))
    assert result.difference == pytest.approx(difference, rel=1e-9)
    assert result.standard_error == pytest.approx(error, rel=1e-9)
    assert result.z == pytest.approx(difference / error, rel=1e-9)
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(difference / error)), rel=1e-9)
    assert (result.low, result.high) == pytest.approx(stats.norm.interval(0.95, difference, error), rel=1e-9)


def test_delong_is_calibrated_where_both_are_equally_good():
    rng = np.random.default_rng(1)
    p = [delong(*two_detectors(rng, decimals=6)).p for _ in range(600)]

    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert stats.binomtest(sum(value < 0.05 for value in p), 600, 0.05).pvalue > 0.01


def test_delong_agrees_with_a_permutation_test():
    a, b, labels = two_detectors(np.random.default_rng(5), number=150, better=0.5)
    anomalous, pairs = labels == 1, labels.sum() * (len(labels) - labels.sum())
    # Under the null, which of the two gave a score is exchangeable once both are ranks.
    ranks = [stats.rankdata(scores) for scores in (a, b)]
    exchanged = stats.permutation_test(
        ranks, lambda x, y, axis: (stats.rankdata(x, axis=axis) - stats.rankdata(y, axis=axis))[..., anomalous].sum(axis)
        / pairs, permutation_type="samples", n_resamples=2000, vectorized=True, rng=0,
    )  # fmt: skip

    assert 0.005 < exchanged.pvalue < 0.3
    assert delong(a, b, labels).p == pytest.approx(exchanged.pvalue, rel=0.35)


def test_a_paired_bootstrap_of_single_images_agrees_with_delong():
    a, b, labels = two_detectors(np.random.default_rng(3), number=300, better=0.3)
    groups = np.arange(300)
    ours = paired_bootstrap(
        *(GroupCurves.of_images(scores, labels, groups) for scores in (a, b)), DetectionCurve.auroc, replicates=4000
    )
    theirs = delong(a, b, labels)

    assert ours.difference == pytest.approx(theirs.difference, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.3 * theirs.standard_error)
    assert ours.p == pytest.approx(theirs.p, rel=0.3, abs=0.02)
    assert (ours.replicates, ours.dropped) == (4000, 0)


def test_a_paired_bootstrap_of_one_detector_and_itself_finds_no_difference():
    a, _, labels = two_detectors(np.random.default_rng(4))
    curves = GroupCurves.of_images(a, labels, np.arange(90) // 3)

    assert paired_bootstrap(curves, curves, DetectionCurve.average_precision, replicates=1000)[:4] == (0, 0, 0, 1)


def test_without_variance_nothing_is_tested():
    a, _, labels = two_detectors(np.random.default_rng(4))
    result = delong(a, 2 * a + 1, labels)

    assert (result.difference, result.standard_error) == (0, 0)
    assert np.isnan([result.z, result.p, result.low, result.high]).all()


def test_bad_input_says_what_is_wrong():
    with pytest.raises(ValueError, match="two items of each class, but 1 are anomalous and 3 normal"):
        delong([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"scores \(3,\) and labels \(4,\)"):
        delong([1, 2, 3, 4], [1, 2, 3], [0, 0, 1, 1])
    a, b = (GroupCurves.of_images([1, 2, 3, 4], [0, 0, 1, 1], names) for names in (list("abcd"), list("abce")))
    with pytest.raises(ValueError, match="of 4 and 4 groups 2 are not in both"):
        paired_bootstrap(a, b, DetectionCurve.auroc)
