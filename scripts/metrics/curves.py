"""Metrics of a detector, exact, from one sort of its scores.

An item is called anomalous when its score is at least the threshold. Every formula below works on the weight of the
positives, the negatives and the regions at each distinct score, so it holds for single scores and for bins alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_FPR = 0.3  # AUPRO integrates up to this false-positive rate (Bergmann et al., 2021)
ROUNDING = 1e-12  # of rates: 1 of 20 must count as 1 - 0.95


class DetectionCurve(NamedTuple):
    """What lies at each distinct score, highest first; T scores, all weights float64 of shape (T,).

    Attributes:
        score: the distinct scores, descending; each is a threshold. Floats, or integers that order like the scores.
        positive: number of positives with this score.
        negative: number of negatives with this score.
        region: weight of the positives with this score, where each one weighs 1 / (size of its region).
    """

    score: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    region: np.ndarray

    @classmethod
    def from_items(
        cls, score: np.ndarray, positive: np.ndarray, negative: np.ndarray, region: np.ndarray
    ) -> DetectionCurve:
        """Sorts N items by score and adds up those of equal score; all of shape (N,), weights in float64."""
        order = np.argsort(score)[::-1]
        score = score[order]
        first = np.flatnonzero(np.append(True, score[1:] != score[:-1])[: score.size])
        return cls(score[first], *(np.add.reduceat(w[order], first) for w in (positive, negative, region)))

    @property
    def true_positives(self) -> np.ndarray:
        """Positives found at each threshold (T,)."""
        return np.cumsum(self.positive)

    @property
    def false_positives(self) -> np.ndarray:
        """Negatives found at each threshold (T,)."""
        return np.cumsum(self.negative)

    @property
    def tpr(self) -> np.ndarray:
        """True-positive rate (sensitivity, recall), (T + 1,): from 0 for "nothing found" to 1."""
        return _from_zero_to_one(self.true_positives)

    @property
    def fpr(self) -> np.ndarray:
        """False-positive rate (1 - specificity), (T + 1,)."""
        return _from_zero_to_one(self.false_positives)

    @property
    def per_region_overlap(self) -> np.ndarray:
        """Part of a region found, averaged over all regions, (T + 1,)."""
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
        """Part of the items that are positive: the precision of chance."""
        return float(self.precision[-1])

    def auroc(self) -> float:
        """Area under the ROC curve, trapezoidal: ties count one half."""
        return _area(self.tpr, self.fpr)

    def average_precision(self) -> float:
        """AP = sum of (R_n - R_{n-1}) P_n, the step-wise area and not the trapezoid under the curve."""
        return float(np.sum(self.positive * self.precision) / np.sum(self.positive))

    def aupro(self) -> float:
        """Area under per-region overlap against FPR in [0, 0.3], cut at 0.3 by linear interpolation, over 0.3."""
        fpr, overlap = self.fpr, self.per_region_overlap
        inside = np.searchsorted(fpr, MAX_FPR, side="right")
        cut = np.interp(MAX_FPR, fpr, overlap)
        return _area(np.append(overlap[:inside], cut), np.append(fpr[:inside], MAX_FPR)) / MAX_FPR


def detection_curve(scores: np.ndarray, labels: np.ndarray) -> DetectionCurve:
    """The curve of single items; each positive is a region of its own.

    Args:
        scores: (N,), unbounded, higher is more anomalous.
        labels: (N,), 0 or 1.

    Raises:
        ValueError: as `checked`, and when only one class is there.
    """
    scores, labels = checked(scores, labels)
    if labels.min() == labels.max():
        raise ValueError(
            f"AUROC is not defined: all {labels.size} labels are {labels[0]:g}; AUROC, AP and F1 need both classes"
        )
    return DetectionCurve.from_items(scores, labels, 1 - labels, labels)


def detection_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of N single items, equal to scikit-learn's.

    Args:
        scores: (N,), unbounded, higher is more anomalous.
        labels: (N,), 0 or 1.

    Returns:
        `auroc`; `ap`; `f1max`, the best F1 over all thresholds, an oracle since it is chosen with the labels;
        `f1max_floor`, 2p / (1 + p), what calling every item anomalous reaches at prevalence p; `f1max_threshold`, the
        (oracle) threshold of `f1max`, the highest one where several reach it.

    Raises:
        ValueError: as `detection_curve`.
    """
    curve = detection_curve(scores, labels)
    f1 = curve.f1
    best = int(np.argmax(f1))
    return {
        "auroc": curve.auroc(),
        "ap": curve.average_precision(),
        "f1max": float(f1[best]),
        "f1max_floor": 2 * curve.prevalence / (1 + curve.prevalence),
        "f1max_threshold": float(curve.score[best]),
    }


def sensitivity_at_specificity(curve: DetectionCurve, specificity: float = 0.95) -> float:
    """The highest sensitivity of any threshold whose specificity is at least this, nothing interpolated.

    0 where every threshold of the data has a lower one, as calling nothing anomalous has specificity 1.
    """
    return float(curve.tpr[curve.fpr <= 1 - specificity + ROUNDING].max())


def specificity_at_sensitivity(curve: DetectionCurve, sensitivity: float = 0.95) -> float:
    """The highest specificity of any threshold whose sensitivity is at least this, nothing interpolated."""
    return float(1 - curve.fpr[curve.tpr >= sensitivity - ROUNDING].min())


def checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels as float64 (N,).

    Raises:
        ValueError: when there are none, they differ in shape, a score is not finite or a label is neither 0 nor 1.
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
