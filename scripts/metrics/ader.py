"""Pixel metrics as the ADer benchmark computes them, on a few thresholds: to compare with its tables, and only then.

All published Uni-Medical tables are made so. On long-tailed maps they are off by 1 to 10 points of the exact metrics,
so the two are never mixed.
"""

from __future__ import annotations

import numpy as np

from .curves import MAX_FPR, DetectionCurve

BINS = 50
F1_STEP = 0.05


def ader_metrics(curve: DetectionCurve, scores: np.ndarray) -> dict[str, float]:
    """Metrics of a curve with both classes, NaN when all its scores are equal.

    - `auroc`, `ap`, `aupro`: areas by trapezoids through the 51 edges of 50 uniform bins from the lowest to the highest
      score, a pixel being anomalous from the edge on. Nothing is added for "nothing found", and the area under
      precision and recall is that of trapezoids too, both unlike the exact forms.
    - `f1max`: the highest F1 where scores, scaled to 0..1, are above 0, 0.05, ... 1.

    Args:
        curve: of all pixels.
        scores: of the curve's thresholds (T,), descending.
    """
    low, high = scores[-1], scores[0]
    if low == high:
        return dict.fromkeys(("auroc", "ap", "f1max", "aupro"), float("nan"))
    cumulated = [np.append(0, np.cumsum(part)) for part in (curve.positive, curve.negative, curve.region)]
    edges = np.linspace(high, low, BINS + 1)
    reached = np.searchsorted(-scores, -edges, side="right")
    found, false, overlap = (part[reached] for part in cumulated)
    tpr, fpr, overlap = found / found[-1], false / false[-1], overlap / overlap[-1]
    inside = np.searchsorted(fpr, MAX_FPR, side="right")
    cut = np.interp(MAX_FPR, fpr, overlap)

    thresholds = np.arange(0, 1 + F1_STEP / 2, F1_STEP)
    above = np.searchsorted(-(scores - low) / (high - low), -thresholds, side="left")
    true_above, false_above = cumulated[0][above], cumulated[1][above]
    return {
        "auroc": float(np.trapezoid(tpr, fpr)),
        "ap": float(np.trapezoid(found / (found + false), tpr)),
        "f1max": float(np.max(2 * true_above / (true_above + false_above + found[-1]))),
        "aupro": float(np.trapezoid(np.append(overlap[:inside], cut), np.append(fpr[:inside], MAX_FPR)) / MAX_FPR),
    }
