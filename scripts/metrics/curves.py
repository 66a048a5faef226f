"""Detection curves: exact metrics of a detector from one sort of its scores.

An item counts as anomalous when its score is at least the threshold. Every formula below works on the weight of the
positives, the negatives and the regions at each distinct score, so it holds for single scores and for bins alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_FPR = 0.3  # AUPRO integrates up to this false-positive rate (Bergmann et al., 2021)
ROUNDING = 1e-12  # tolerance of rates: 1 of 20 must count as 1 - 0.95


class DetectionCurve(NamedTuple):
    """Weights at each of T distinct scores, the highest first.

    Attributes:
        score: Distinct scores (T,), descending; each is a threshold. Floats, or integers that sort like the scores.
        positive: Number of positives with each score, float64 (T,).
        negative: Number of negatives with each score, float64 (T,).
        region: Weight of the positives with each score, float64 (T,); a positive weighs 1 / (size of its region).
    """

    score: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    region: np.ndarray

    @classmethod
    def from_items(
        cls, score: np.ndarray, positive: np.ndarray, negative: np.ndarray, region: np.ndarray
    ) -> DetectionCurve:
        """Sorts N items by score and adds up those of equal score.

        Args:
            score: Scores (N,).
            positive: Weight of each item as a positive, float64 (N,).
            negative: Weight of each item as a negative, float64 (N,).
            region: Weight of each item in its region, float64 (N,).
        """
        order = np.argsort(score)[::-1]
        score = score[order]
        first = np.flatnonzero(np.append(True, score[1:] != score[:-1])[: score.size])
        return cls(score[first], *(np.add.reduceat(w[order], first) for w in (positive, negative, region)))

    @property
    def true_positives(self) -> np.ndarray:
        """Number of positives found at each threshold (T,)."""
        return np.cumsum(self.positive)

    @property
    def false_positives(self) -> np.ndarray:
        """Number of negatives found at each threshold (T,)."""
        return np.cumsum(self.negative)

    @property
    def tpr(self) -> np.ndarray:
        """True-positive rate (sensitivity, recall), (T + 1,), from 0 where nothing is found to 1."""
        return _from_zero_to_one(self.true_positives)

    @property
    def fpr(self) -> np.ndarray:
        """False-positive rate (1 - specificity), (T + 1,), from 0 to 1."""
        return _from_zero_to_one(self.false_positives)

    @property
    def per_region_overlap(self) -> np.ndarray:
        """Fraction of a region that is found, averaged over all regions, (T + 1,), from 0 to 1."""
        return _from_zero_to_one(np.cumsum(self.region))

    @property
    def precision(self) -> np.ndarray:
        """Precision at each threshold (T,)."""
        found = self.true_positives
        return found / (found + self.false_positives)

    @property
    def f1(self) -> np.ndarray:
        """F1 at each threshold (T,): 2 P R / (P + R) = 2 TP / (TP + FP + positives)."""
        found = self.true_positives
        return 2 * found / (found + self.false_positives + found[-1])

    @property
    def prevalence(self) -> float:
        """Fraction of the items that are positive, which is the precision of chance."""
        return float(self.precision[-1])

    def auroc(self) -> float:
        """Area under the ROC curve by trapezoids, in which ties count one half."""
        return _area(self.tpr, self.fpr)

    def average_precision(self) -> float:
        """Sum of (R_n - R_{n-1}) P_n: the area under precision and recall by steps, not by trapezoids."""
        return float(np.sum(self.positive * self.precision) / np.sum(self.positive))

    def f1max(self) -> float:
        """Highest F1 of any threshold, an oracle, since it is chosen with the labels."""
        return float(self.f1.max())

    def f1max_floor(self) -> float:
        """F1 of calling every item anomalous, 2p / (1 + p) at prevalence p."""
        return 2 * self.prevalence / (1 + self.prevalence)

    def aupro(self) -> float:
        """Area under per-region overlap against FPR in [0, 0.3], divided by 0.3; linear interpolation at 0.3."""
        fpr, overlap = self.fpr, self.per_region_overlap
        inside = np.searchsorted(fpr, MAX_FPR, side="right")
        cut = np.interp(MAX_FPR, fpr, overlap)
        return _area(np.append(overlap[:inside], cut), np.append(fpr[:inside], MAX_FPR)) / MAX_FPR


def detection_curve(scores: np.ndarray, labels: np.ndarray) -> DetectionCurve:
    """Builds the curve of N single items, of which each positive is a region of its own.

    Args:
        scores: Unbounded scores (N,); higher is more anomalous.
        labels: Labels (N,), 0 (normal) or 1 (anomalous).

    Raises:
        ValueError: If `checked` refuses them, or all items are of one class.
    """
    scores, labels = checked(scores, labels)
    if labels.min() == labels.max():
        raise ValueError(
            f"AUROC is not defined: all {labels.size} labels are {labels[0]:g}; AUROC, AP and F1 need both classes"
        )
    return DetectionCurve.from_items(scores, labels, 1 - labels, labels)


def sensitivity_at_specificity(curve: DetectionCurve, specificity: float = 0.95) -> float:
    """Highest sensitivity of any threshold with at least this specificity, without interpolation.

    It is 0 where every score as a threshold has a lower specificity, because finding nothing has specificity 1.
    """
    return float(curve.tpr[curve.fpr <= 1 - specificity + ROUNDING].max())


def specificity_at_sensitivity(curve: DetectionCurve, sensitivity: float = 0.95) -> float:
    """Highest specificity of any threshold with at least this sensitivity, without interpolation."""
    return float(1 - curve.fpr[curve.tpr >= sensitivity - ROUNDING].min())


def checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and labels as float64 (N,).

    Raises:
        ValueError: If there are none, their shapes differ, a score is not finite, or a label is neither 0 nor 1.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both have shape (N,)")
    if not scores.size:
        raise ValueError("scores are empty: at least one item of each class is needed")
    if wrong := np.count_nonzero(~np.isfinite(scores)):
        raise ValueError(f"scores hold {wrong} NaN or infinite values of {scores.size}; look at the model's output")
    if wrong := np.count_nonzero((labels != 0) & (labels != 1)):
        raise ValueError(f"labels must be 0 (normal) or 1 (anomalous), {wrong} of {labels.size} are not")
    return scores, labels


def _from_zero_to_one(cumulated: np.ndarray) -> np.ndarray:
    return np.concatenate(([0.0], cumulated / cumulated[-1]))


def _area(y: np.ndarray, x: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
