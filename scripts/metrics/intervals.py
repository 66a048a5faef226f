"""Intervals of metrics by resampling patients: images of one patient are no independent evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .curves import DetectionCurve, checked
from .item_curves import ItemCurves

REPLICATES_AT_ONCE = 64  # of which the curves are held at a time

CurveMetric = Callable[[DetectionCurve], float]


class Interval(NamedTuple):
    """A metric of the data and where it lies when patients are drawn anew.

    Attributes:
        value: of the data themselves.
        low, high: percentiles over the replicates.
        replicates: that count.
        dropped: replicates without positives or without negatives, in which no metric is defined.
    """

    value: float
    low: float
    high: float
    replicates: int
    dropped: int


class GroupCurves(NamedTuple):
    """What lies at each of T thresholds, for each of G groups (patients); the weights dense or sparse, (G, T).

    Attributes:
        group: names of the groups (G,), sorted.
        score: the thresholds (T,), descending.
        positive, negative, region: as of `DetectionCurve`.
    """

    group: np.ndarray
    score: np.ndarray
    positive: Any
    negative: Any
    region: Any

    @classmethod
    def of_images(cls, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GroupCurves:
        """Of N images, each positive being a region of its own.

        Args:
            scores: (N,), unbounded, higher is more anomalous.
            labels: (N,), 0 or 1.
            groups: (N,), names; of ungrouped images, one name each.

        Raises:
            ValueError: as `curves.checked`, or when there is not one group an image.
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
        """Of the pixels of N items, `groups` (N,) being their names.

        Raises:
            ValueError: when there is not one group an item.
        """
        names, row = _groups(groups, len(items.image))
        member = sparse.coo_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(names), len(row))).tocsr()
        parts = (member @ part.astype(np.float64) for part in (items.positive, items.negative, items.region))
        return cls(names, items.score, *parts)

    def curves(self, weights: np.ndarray) -> Iterator[DetectionCurve | None]:
        """For each of R rows of weights (R, G), the curve in which each group counts so often; None without both
        classes.
        """
        for start in range(0, len(weights), REPLICATES_AT_ONCE):
            some = weights[start : start + REPLICATES_AT_ONCE].astype(np.float64)
            for parts in zip(some @ self.positive, some @ self.negative, some @ self.region, strict=True):
                used = parts[0] + parts[1] > 0  # where nothing lies there is no precision
                both = parts[0].any() and parts[1].any()
                yield DetectionCurve(self.score[used], *(part[used] for part in parts)) if both else None

    def curve(self) -> DetectionCurve | None:
        """The curve in which each group counts once; None without both classes."""
        return next(self.curves(np.ones((1, len(self.group)))))

    def can_be_resampled(self) -> bool:
        """Whether two groups or more hold positives, and two or more negatives: else resampling tells nothing."""
        return all(np.count_nonzero(part.sum(axis=1)) >= 2 for part in (self.positive, self.negative))


def bootstrap_intervals(
    groups: GroupCurves,
    metrics: Mapping[str, CurveMetric],
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Percentile intervals of metrics over replicates, each of as many groups as there are, drawn with replacement.

    Args:
        groups: what is resampled.
        metrics: functions of a curve, such as `DetectionCurve.auroc`, by name; all see the same replicates.
        replicates: drawn, at least 1000.
        confidence: part of the replicates that lies within, in (0, 1).
        seed: of the draws.

    Returns:
        By name; None where fewer than two groups hold positives, or negatives, as nothing is known of their spread.

    Raises:
        ValueError: when `replicates` or `confidence` is out of range.
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


def bootstrap_interval(groups: GroupCurves, metric: CurveMetric, **options: Any) -> Interval | None:
    """The interval of one metric; see `bootstrap_intervals`."""
    return bootstrap_intervals(groups, {"": metric}, **options)[""]


def draws(groups: int, replicates: int, seed: int) -> np.ndarray:
    """How often each group is drawn in each replicate, (replicates, groups)."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=replicates)


def percentiles(values: list[float], confidence: float) -> tuple[float, float]:
    """Between which the middle part `confidence` of the values lies."""
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def check_draws(replicates: int, confidence: float) -> None:
    """
    Raises:
        ValueError: when there are fewer than 1000 replicates, or `confidence` is not in (0, 1).
    """
    if replicates < 1000:
        raise ValueError(f"replicates must be at least 1000 for the ends of an interval to settle, got {replicates}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")


def _groups(groups: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted names, and of each image or item the index of its group."""
    groups = np.asarray(groups)
    if groups.shape != (number,):
        raise ValueError(f"groups {groups.shape} must have shape ({number},): one name for each image or item")
    return np.unique(groups, return_inverse=True)
