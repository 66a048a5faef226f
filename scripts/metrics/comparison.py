"""Tests of whether one detector is better than another on the same data, or whether it is chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from .curves import checked
from .intervals import CurveMetric, GroupCurves, check_draws, draws, percentiles


class DeLong(NamedTuple):
    """Difference of two AUROCs on the same items, with the two-sided test that it is 0.

    `z`, `p`, `low` and `high` are NaN where no variance is seen: if both rankings are equal, or both perfect.

    Attributes:
        auroc_a: AUROC of the first detector.
        auroc_b: AUROC of the second detector.
        difference: First AUROC minus the second.
        standard_error: Standard error of the difference.
        z: Difference in standard errors.
        p: Two-sided p-value.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    standard_error: float
    z: float
    p: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Difference of a metric between two detectors on the same groups, with its percentile interval.

    Attributes:
        difference: First detector's metric minus the second's, of the data themselves.
        low: Lower end of the interval over the replicates.
        high: Upper end of the interval over the replicates.
        p: Two-sided p-value: twice the smaller fraction of the replicates on either side of 0, at least
            2 / (replicates + 1).
        replicates: Number of replicates that count.
        dropped: Number of replicates without positives or without negatives.
    """

    difference: float
    low: float
    high: float
    p: float
    replicates: int
    dropped: int


def delong(scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> DeLong:
    """Compares two AUROCs by DeLong et al. (1988), from midranks (Sun and Xu, 2014).

    The items must be independent of each other, one for each patient; otherwise see `paired_bootstrap`.

    Args:
        scores_a: Unbounded scores (N,) of the first detector; higher is more anomalous.
        scores_b: Scores (N,) of the second detector for the same items.
        labels: Labels (N,), 0 (normal) or 1 (anomalous).
        confidence: Confidence of the normal interval, in (0, 1).

    Raises:
        ValueError: If `confidence` is out of range, `curves.checked` refuses scores or labels, or there are fewer than
            two positives or negatives.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    scores = np.stack([checked(scores, labels)[0] for scores in (scores_a, scores_b)])
    anomalous = np.asarray(labels) == 1
    positive, negative = scores[:, anomalous], scores[:, ~anomalous]
    m, n = positive.shape[1], negative.shape[1]
    if m < 2 or n < 2:
        raise ValueError(f"DeLong's test needs two items of each class, but {m} are anomalous and {n} normal")
    ranks = stats.rankdata(scores, axis=1)
    # For each positive, the fraction of the negatives below it; for each negative, of the positives above it.
    below = (ranks[:, anomalous] - stats.rankdata(positive, axis=1)) / n
    above = 1 - (ranks[:, ~anomalous] - stats.rankdata(negative, axis=1)) / m
    a, b = below.mean(axis=1)
    variance = np.var(below[0] - below[1], ddof=1) / m + np.var(above[0] - above[1], ddof=1) / n
    error = float(np.sqrt(variance))
    if error < 1e-12:  # 0 but for rounding
        return DeLong(float(a), float(b), float(a - b), 0.0, *(float("nan"),) * 4)
    z = (a - b) / error
    reach = stats.norm.ppf((1 + confidence) / 2) * error
    values = (a, b, a - b, error, z, 2 * stats.norm.sf(abs(z)), a - b - reach, a - b + reach)
    return DeLong(*(float(value) for value in values))


def paired_bootstrap(
    a: GroupCurves,
    b: GroupCurves,
    metric: CurveMetric,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference | None:
    """Compares two detectors by a metric, in replicates that draw the same groups for both.

    Args:
        a: Curves of the first detector.
        b: Curves of the second detector for the same groups.
        metric: Function of a curve.
        replicates: Number of replicates to draw, at least 1000.
        confidence: Fraction of the replicates inside the interval, in (0, 1).
        seed: Seed of the draws.

    Returns:
        Difference of the metrics; None where fewer than two groups hold positives, or negatives.

    Raises:
        ValueError: If the groups differ, or an option is out of range.
    """
    check_draws(replicates, confidence)
    if not np.array_equal(a.group, b.group):
        raise ValueError(
            f"only detectors tested on the same groups can be compared, but of {len(a.group)} and {len(b.group)} "
            f"groups {len(np.setxor1d(a.group, b.group))} are not in both: evaluate both on the same datalist"
        )
    whole_a, whole_b = a.curve(), b.curve()
    if whole_a is None or whole_b is None or not (a.can_be_resampled() and b.can_be_resampled()):
        return None
    weights = draws(len(a.group), replicates, seed)
    differences = [
        metric(one) - metric(other)
        for one, other in zip(a.curves(weights), b.curves(weights), strict=True)
        if one is not None and other is not None
    ]
    low, high = percentiles(differences, confidence)
    values = np.array(differences)
    tail = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
    return PairedDifference(
        difference=float(metric(whole_a) - metric(whole_b)),
        low=low,
        high=high,
        p=min(1.0, 2 * (tail + 1) / (len(values) + 1)),
        replicates=len(values),
        dropped=replicates - len(values),
    )
