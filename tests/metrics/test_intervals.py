import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from scripts.metrics import ItemCurves, PixelMetrics
from scripts.metrics.curves import DetectionCurve, detection_curve
from scripts.metrics.intervals import GroupCurves, bootstrap_intervals

METRICS = {
    "auroc": DetectionCurve.auroc,
    "ap": DetectionCurve.average_precision,
    "f1max": DetectionCurve.f1max,
}


def bootstrap_interval(groups, metric, **options):
    return bootstrap_intervals(groups, {"": metric}, **options)[""]


def images(number=80, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(number) % 3 == 0).astype(int)
    return np.round(rng.normal(size=number) + 1.2 * labels, 2), labels, rng


def auroc_by_ranks(scores, labels):
    """The statistic of Mann and Whitney; scikit-learn's takes a hundred times as long."""
    anomalous = labels == 1
    m = anomalous.sum()
    return (stats.rankdata(scores)[anomalous].sum() - m * (m + 1) / 2) / (m * (len(labels) - m))


def test_weights_of_groups_repeat_their_images():
    scores, labels, rng = images()
    groups = rng.integers(0, 20, 80)
    curves = GroupCurves.of_images(scores, labels, groups)
    weights = rng.integers(0, 4, (70, len(curves.group)))
    for row, curve in zip(weights, curves.curves(weights), strict=True):
        times = row[np.searchsorted(curves.group, groups)]
        expected = detection_curve(np.repeat(scores, times), np.repeat(labels, times))
        for metric in METRICS.values():
            assert metric(curve) == pytest.approx(metric(expected), rel=1e-12)


def test_ungrouped_images_have_the_interval_of_scipy():
    scores, labels, _ = images()
    ours = bootstrap_interval(
        GroupCurves.of_images(scores, labels, np.arange(80)), DetectionCurve.auroc, replicates=4000
    )
    theirs = stats.bootstrap(
        (scores, labels), auroc_by_ranks, paired=True, vectorized=False, n_resamples=4000,
        method="percentile", rng=1,
    )  # fmt: skip
    # The standard error of a 2.5 % quantile of 4000 normal draws is 0.042 of their deviation: 4 of the difference.
    tolerance = 4 * np.sqrt(2) * 0.042 * theirs.standard_error

    assert ours.value == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)
    assert (ours.replicates, ours.dropped) == (4000, 0)


def test_the_interval_of_patients_covers_the_truth_as_often_as_it_says():
    # Five images of a patient share most of their noise, so that intervals that take them for independent fail.
    rng = np.random.default_rng(2)
    truth, runs = stats.norm.cdf(1 / np.sqrt(2)), 60
    patients, each = 60, 5
    covered = {"patients": 0, "images": 0}
    label = np.repeat(np.arange(patients) % 2, each)
    groups = {"patients": np.repeat(np.arange(patients), each), "images": np.arange(patients * each)}
    for _ in range(runs):
        shared = np.repeat(rng.normal(size=patients), each)
        scores = np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=patients * each) + label
        for name, group in groups.items():
            interval = bootstrap_interval(
                GroupCurves.of_images(scores, label, group), DetectionCurve.auroc, replicates=1000
            )
            covered[name] += interval.low <= truth <= interval.high
    lowest, highest = stats.binom.ppf((0.001, 0.999), runs, 0.95)

    assert lowest <= covered["patients"] <= highest
    assert covered["images"] < lowest


def test_pixels_are_resampled_by_patient():
    rng = np.random.default_rng(3)
    masks = torch.zeros(8, 1, 16, 16, dtype=torch.uint8)
    masks[:4, :, 2:8, 3:9] = 1
    maps = torch.from_numpy(rng.normal(size=masks.shape).round(1).astype(np.float32)) + masks
    metric = PixelMetrics(item_bins=4096)
    metric.update((maps, masks))
    items = metric.items.curves([str(i) for i in range(8)])
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])
    curves = GroupCurves.of_items(items, groups)
    chosen = next(curves.curves(np.array([[2, 1, 0, 1]])))
    index = [0, 0, 1, 1, 2, 3, 6, 7]
    repeated = PixelMetrics()
    repeated.update((maps[index], masks[index]))
    intervals = bootstrap_intervals(
        curves, {"pixel_auroc": DetectionCurve.auroc, "pixel_aupro": DetectionCurve.aupro}, replicates=1000
    )

    assert chosen.auroc() == pytest.approx(repeated.compute()["pixel_auroc"], rel=1e-12)
    assert chosen.aupro() == pytest.approx(repeated.compute()["pixel_aupro"], rel=1e-6)
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(metric.compute()[name], rel=1e-6)
        assert interval.low < interval.value < interval.high
        # No anomaly is drawn when all four patients are c or d.
        assert stats.binomtest(interval.dropped, 1000, 0.5**4).pvalue > 1e-3
        assert interval.replicates + interval.dropped == 1000


@pytest.mark.parametrize("groups", [[0, 0, 1, 2, 3], [0, 1, 2, 2, 2]], ids=["anomalous", "normal"])
def test_one_patient_of_a_class_gives_no_interval(groups):
    curves = GroupCurves.of_images([3, 2, 1, 0, 4], [1, 1, 0, 0, 0], groups)

    assert bootstrap_intervals(curves, METRICS) == dict.fromkeys(METRICS)
    assert curves.curve().auroc() == detection_curve(np.array([3, 2, 1, 0, 4]), np.array([1, 1, 0, 0, 0])).auroc()


def test_one_class_gives_no_interval():
    curves = GroupCurves.of_images([3.0, 2, 1], [0, 0, 0], ["a", "b", "c"])

    assert bootstrap_interval(curves, DetectionCurve.auroc) is None


def test_a_seed_gives_the_same_interval_again_and_another_one_a_like_one():
    scores, labels, _ = images()
    curves = GroupCurves.of_images(scores, labels, np.arange(80))
    first, again, other = (bootstrap_interval(curves, DetectionCurve.auroc, seed=seed) for seed in (0, 0, 1))

    assert first == again != other
    assert first.low == pytest.approx(other.low, abs=0.02)


def test_bad_input_says_what_is_wrong():
    curves = GroupCurves.of_images([3, 2, 1, 0], [1, 1, 0, 0], np.arange(4))
    items = ItemCurves(np.ones(1), *(np.ones((2, 1)),) * 3, np.array(["a", "b"]))

    with pytest.raises(ValueError, match="replicates must be at least 1000 .* got 999"):
        bootstrap_interval(curves, DetectionCurve.auroc, replicates=999)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        bootstrap_interval(curves, DetectionCurve.auroc, confidence=95)
    with pytest.raises(ValueError, match=r"groups \(3,\) must have shape \(2,\)"):
        GroupCurves.of_items(items, np.arange(3))
    with pytest.raises(ValueError, match="scores hold 1 NaN"):
        GroupCurves.of_images([np.nan, 1], [0, 1], [0, 1])
