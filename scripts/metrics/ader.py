"""Pixel metrics as the ADer benchmark computes them, on a few thresholds: for comparison with its tables alone.

All published Uni-Medical tables are computed in this way. On long-tailed maps they are off by 1 to 10 points from the
exact metrics, so the two must never be mixed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .curves import MAX_FPR, DetectionCurve

BINS = 50
F1_STEP = 0.05


class AderMetrics(NamedTuple):
    """Metrics of the pixels in [0, 1], or NaN if all scores are equal.

    The areas are computed by trapezoids through the 51 edges of 50 uniform bins from the lowest to the highest score;
    a pixel is anomalous from an edge on. Unlike the exact forms, they add no point where nothing is found, and the
    area under precision and recall is by trapezoids too.

    Attributes:
        auroc: Area under the ROC curve.
        ap: Area under precision and recall.
        f1max: Highest F1 where scores, scaled to [0, 1], are above 0, 0.05, ... 1.
        aupro: Area under per-region overlap up to a false-positive rate of 0.3, divided by 0.3.
    """

    auroc: float
    ap: float
    f1max: float
    aupro: float


def ader_metrics(curve: DetectionCurve) -> AderMetrics:
    """Computes the metrics of a curve of all pixels with both classes, whose scores are floats."""
    low, high = curve.score[-1], curve.score[0]
    if low == high:
        return AderMetrics(*(float("nan"),) * 4)
    cumulated = [np.append(0, np.cumsum(part)) for part in (curve.positive, curve.negative, curve.region)]
    edges = np.linspace(high, low, BINS + 1)
    reached = np.searchsorted(-curve.score, -edges, side="right")
    found, false, overlap = (part[reached] for part in cumulated)
    tpr, fpr, overlap = found / found[-1], false / false[-1], overlap / overlap[-1]
    inside = np.searchsorted(fpr, MAX_FPR, side="right")
    cut = np.interp(MAX_FPR, fpr, overlap)

    thresholds = np.arange(0, 1 + F1_STEP / 2, F1_STEP)
    above = np.searchsorted(-(curve.score - low) / (high - low), -thresholds, side="left")
    true_above, false_above = cumulated[0][above], cumulated[1][above]
    return AderMetrics(
        auroc=float(np.trapezoid(tpr, fpr)),
        ap=float(np.trapezoid(found / (found + false), tpr)),
        f1max=float(np.max(2 * true_above / (true_above + false_above + found[-1]))),
        aupro=float(np.trapezoid(np.append(overlap[:inside], cut), np.append(fpr[:inside], MAX_FPR)) / MAX_FPR),
    )
