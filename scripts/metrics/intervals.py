"""Intervals of metrics by resampling patients, since images of one patient are no independent evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .curves import DetectionCurve, checked
from .item_curves import ItemCurves

REPLICATES_AT_ONCE = 64  # whose curves are held at a time

CurveMetric = Callable[[DetectionCurve], float]


class Interval(NamedTuple):
    """Metric with its percentile interval over replicates, in which patients are drawn anew.

    Attributes:
        value: Metric of the data themselves.
        low: Lower end of the interval.
        high: Upper end of the interval.
        replicates: Number of replicates that count.
        dropped: Number of replicates without positives or without negatives, in which no metric is defined.
    """

    value: float
    low: float
    high: float
    replicates: int
    dropped: int


class GroupCurves(NamedTuple):
    """Weights at each of T thresholds, for each of G groups (patients).

    Attributes:
        group: Names of the groups (G,), sorted.
        score: Thresholds (T,), descending.
        positive: Number of positives (G, T), dense or sparse.
        negative: Number of negatives (G, T), dense or sparse.
        region: Weight of the positives in their regions (G, T), dense or sparse, as of `DetectionCurve`.
    """

    group: np.ndarray
    score: np.ndarray
    positive: Any
    negative: Any
    region: Any

    @classmethod
    def of_images(cls, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GroupCurves:
        """Builds the curves of N images, of which each positive is a region of its own.

        Args:
            scores: Unbounded scores (N,); higher is more anomalous.
            labels: Labels (N,), 0 (normal) or 1 (anomalous).
            groups: Names of the groups (N,); ungrouped images have one name each.

        Raises:
            ValueError: If `curves.checked` refuses them, or there is not one group for each image.
        """
        scores, labels = checked(scores, labels)
        names, row = _groups(groups, len(scores))
        ascending, index = np.unique(scores, return_inverse=True)
        column = len(ascending) - 1 - index
        shape = len(names), len(ascending)
        positive, negative = (
            sparse.coo_array((weight, (row, column)), shape=shape).tocsr() for weight in (labels, 1 - labels)
        )
        return cls(names, ascending[::-1], positive, negative, positive)

    @classmethod
    def of_items(cls, items: ItemCurves, groups: np.ndarray) -> GroupCurves:
        """Builds the curves of the pixels of N items, where `groups` (N,) holds the names of their groups.

        Raises:
            ValueError: If there is not one group for each item.
        """
        names, row = _groups(groups, len(items.image))
        member = sparse.coo_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(names), len(row))).tocsr()
        parts = (member @ part.astype(np.float64) for part in (items.positive, items.negative, items.region))
        return cls(names, items.score, *parts)

    def curves(self, weights: np.ndarray) -> Iterator[DetectionCurve | None]:
        """Yields a curve for each row of `weights` (R, G), which count the groups; None without both classes."""
        for start in range(0, len(weights), REPLICATES_AT_ONCE):
            some = weights[start : start + REPLICATES_AT_ONCE].astype(np.float64)
            for parts in zip(some @ self.positive, some @ self.negative, some @ self.region, strict=True):
                used = parts[0] + parts[1] > 0  # a threshold without items has no precision
                both = parts[0].any() and parts[1].any()
                yield DetectionCurve(self.score[used], *(part[used] for part in parts)) if both else None

    def curve(self) -> DetectionCurve | None:
        """Returns the curve in which each group counts once; None without both classes."""
        return next(self.curves(np.ones((1, len(self.group)))))

    def can_be_resampled(self) -> bool:
        """Whether at least two groups hold positives, and at least two negatives; else resampling tells nothing."""
        return all(np.count_nonzero(part.sum(axis=1)) >= 2 for part in (self.positive, self.negative))


def bootstrap_intervals(
    groups: GroupCurves,
    metrics: Mapping[str, CurveMetric],
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Computes percentile intervals of metrics over replicates, each of as many groups, drawn with replacement.

    Args:
        groups: Groups to resample.
        metrics: Functions of a curve by name, such as `DetectionCurve.auroc`; all see the same replicates.
        replicates: Number of replicates to draw, at least 1000.
        confidence: Fraction of the replicates inside the interval, in (0, 1).
        seed: Seed of the draws.

    Returns:
        Intervals by name; None where fewer than two groups hold positives, or negatives, because nothing is then known
        of their spread.

    Raises:
        ValueError: If `replicates` or `confidence` is out of range.
    """
    check_draws(replicates, confidence)
    whole = groups.curve()
    if whole is None or not groups.can_be_resampled():
        return dict.fromkeys(metrics)
    drawn = [curve for curve in groups.curves(draws(len(groups.group), replicates, seed)) if curve is not None]
    intervals: dict[str, Interval | None] = {}
    for name, metric in metrics.items():
        low, high = percentiles([metric(curve) for curve in drawn], confidence)
        intervals[name] = Interval(float(metric(whole)), low, high, len(drawn), replicates - len(drawn))
    return intervals


def draws(groups: int, replicates: int, seed: int) -> np.ndarray:
    """Draws how often each group counts in each replicate, (replicates, groups)."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=replicates)


def percentiles(values: list[float], confidence: float) -> tuple[float, float]:
    """Computes the two values between which the middle fraction `confidence` of all lies."""
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def check_draws(replicates: int, confidence: float) -> None:
    """Checks the options of a bootstrap.

    Raises:
        ValueError: If there are fewer than 1000 replicates, or `confidence` is not in (0, 1).
    """
    if replicates < 1000:
        raise ValueError(f"replicates must be at least 1000 for the ends of an interval to settle, got {replicates}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")


def _groups(groups: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted names, and the index of each image's or item's group."""
    groups = np.asarray(groups)
    if groups.shape != (number,):
        raise ValueError(f"groups {groups.shape} must have shape ({number},): one name for each image or item")
    return np.unique(groups, return_inverse=True)
