"""How often normal patients of a test set were called anomalous, beside what the calibration promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scripts.data.scans import is_scan
from scripts.model.calibration import Calibration


class FalseAlarms:
    """Counts what lies above the thresholds of scans and of slices.

    Args:
        calibration: with the thresholds.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._units: dict[str, list[tuple[str, int, float]]] = {"scan": [], "slice": []}  # patient, label, score
        self._anomalous: set[str] = set()

    def add(self, item: dict[str, Any]) -> None:
        """Adds an item of ``EvaluationResults``; slices of a scan only count where masks or labels tell them apart."""
        patient, label = str(item["patient"]), int(item["label"])
        if label:
            self._anomalous.add(patient)
        self._units["scan"].append((patient, label, float(item["score"])))
        if "ground_truth" in item or "slice_labels" in item:
            labels, scores = item["image_labels"].tolist(), item["image_scores"].tolist()
        elif not is_scan(item["image"].meta["filename_or_obj"]):
            labels, scores = [label], item["slice_scores"].tolist()
        else:
            labels, scores = [], []
        self._units["slice"] += [(patient, int(one), score) for one, score in zip(labels, scores, strict=True)]

    def summary(self) -> dict[str, Any] | None:
        """The facts of the calibration, and at each level with a threshold the rates there were, in 0..1.

        ``false_positive_rate`` is the mean over patients without any anomaly of what the calibration bounds;
        ``sensitivity`` the part of the anomalous patients (scan) or slices above the threshold. None where
        there is nothing to count.
        """
        if self.calibration.facts is None:
            return None
        thresholds = {"scan": self.calibration.scan_threshold, "slice": self.calibration.slice_threshold}
        observed = {level: self._observed(level, value) for level, value in thresholds.items() if value is not None}
        return {**self.calibration.facts, "observed": observed}

    def _observed(self, level: str, threshold: float) -> dict[str, float | int | None]:
        units = pd.DataFrame(self._units[level], columns=["patient", "label", "score"])
        if level == "scan":
            units = units.groupby("patient", as_index=False).max()
        above = units["score"] > threshold
        normal = ~units["patient"].isin(self._anomalous)
        of_patients = above[normal].groupby(units["patient"]).mean()
        return {
            "normal_patients": len(of_patients),
            "false_positive_rate": _mean(of_patients),
            "sensitivity": _mean(above[units["label"] == 1]),
        }


def _mean(values: pd.Series) -> float | None:
    return float(np.mean(values)) if len(values) else None
