"""Result of one scan or image: the one type from post-processing to every output."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

NOTICE = "For research. Not for clinical use."


@dataclass(frozen=True, eq=False)
class Result:
    """Scores, verdict, map and mask of one scan; an image file is a scan of one slice.

    Three thresholds belong to three kinds of score, and none stands for another: a scan is judged by `scan_threshold`,
    one of its slices by `slice_threshold`, and the mask shows the voxels above `mask_threshold`. Each is None where the
    model is not calibrated.

    Attributes:
        score: Anomaly score of the scan; unbounded, higher is more anomalous.
        scan_threshold: Score above which a scan is abnormal.
        slice_threshold: Score above which a slice is abnormal.
        mask_threshold: Value of the anomaly map above which a voxel belongs to the mask.
        p_value: Share of normal patients expected to score at least as high, in (0, 1]; None where not calibrated.
        false_positive_rate: Promised share, in (0, 1), of normal patients with a scan above `scan_threshold`.
        slice_scores: One score a slice, in the order of the plane (from inferior, anterior or the patient's right).
        slice_p_values: One p-value a slice; None for a slice without foreground, and where not calibrated.
        top_slices: 0-based numbers of the slices with the highest scores, the highest first.
        plane: axial, coronal or sagittal, the plane of the slices.
        anomaly_map: Map on the grid of the file, (1, i, j, k) float32, with its affine in RAS millimetres.
        mask: Mask on the same grid, uint8, 1 above `mask_threshold`; None where there is no such threshold.

    >>> result = Result(0.99, 1.2, 1.1, 0.87, 0.4, 0.05, [0.5, 0.99], [0.7, 0.4], [1, 0], "axial")
    >>> result.abnormal, result.verdict()["scan_threshold"]
    (False, 1.2)
    """

    score: float
    scan_threshold: float | None
    slice_threshold: float | None
    mask_threshold: float | None
    p_value: float | None
    false_positive_rate: float | None
    slice_scores: list[float]
    slice_p_values: list[float | None]
    top_slices: list[int]
    plane: str
    anomaly_map: Tensor | np.ndarray | None = field(default=None, repr=False)
    mask: Tensor | np.ndarray | None = field(default=None, repr=False)

    @property
    def abnormal(self) -> bool | None:
        """Verdict on the scan: whether its score lies above `scan_threshold`; None where not calibrated."""
        return None if self.scan_threshold is None else self.score > self.scan_threshold

    @property
    def is_finite(self) -> bool:
        """Whether no score is NaN or infinite."""
        return all(map(math.isfinite, (self.score, *self.slice_scores)))

    def verdict(self) -> dict[str, Any]:
        """Score of the scan and what it means, as JSON values under the names that every output uses."""
        names = ("score", "scan_threshold", "slice_threshold", "mask_threshold", "p_value", "abnormal")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict[str, Any]:
        """Verdict, slices and notice as JSON values: all but map and mask."""
        names = ("false_positive_rate", "plane", "top_slices", "slice_scores", "slice_p_values")
        return {**self.verdict(), **{name: getattr(self, name) for name in names}, "notice": NOTICE}

    def sentence(self) -> str:
        """Says the verdict in one line, for pictures and logs."""
        if self.abnormal is None:
            return f"score {self.score:.4g}, not calibrated"
        verdict = "abnormal" if self.abnormal else "not abnormal"
        p_value = "" if self.p_value is None else f", p {self.p_value:.3g}"
        return f"{verdict}: score {self.score:.4g}, scan threshold {self.scan_threshold:.4g}{p_value}"
