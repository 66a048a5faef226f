"""Calibrated thresholds: the rates of false alarms that they promised, and those on the test set."""

from __future__ import annotations

from typing import Any

from scipy.stats import binomtest

from .reading import Evaluation

LEVELS = ("scan", "slice")


def operating_points(one: Evaluation) -> list[dict[str, Any]]:
    """Returns promise and outcome of each calibrated level; empty without a calibration.

    The outcome is as the evaluation counted it: the observed rate is over patients without any anomaly. Its interval
    (95 %, Clopper and Pearson) needs independent units: patients at the level of scans, or slices if each is of another
    patient. Otherwise ``low`` and ``high`` are None. A level that could not be calibrated has a ``reason`` instead of a
    threshold.
    """
    calibration = one.summary.get("calibration") or {}
    observed = calibration.get("observed") or {}
    points = []
    for level in LEVELS:
        promise = (calibration.get("levels") or {}).get(level)
        if promise is None:
            continue
        outcome = observed.get(level) or {}
        patients, rate = outcome.get("normal_patients", 0), outcome.get("false_positive_rate")
        low, high = None, None
        if patients and rate is not None and (level == "scan" or one.images["group"].is_unique):
            interval = binomtest(round(rate * patients), patients).proportion_ci(method="exact")
            low, high = float(interval.low), float(interval.high)
        points.append(
            {
                "level": level,
                "threshold": promise.get("threshold"),
                "reason": promise.get("reason"),
                "promised_rate": promise.get("rate"),
                "calibration_patients": promise.get("patients"),
                "normal_patients": patients,
                "observed_rate": rate,
                "low": low,
                "high": high,
                "sensitivity": outcome.get("sensitivity"),
            }
        )
    return points


def slice_threshold(one: Evaluation) -> float | None:
    """Returns the calibrated threshold of images or slices, if those of the test set were compared with it."""
    for point in operating_points(one):
        if point["level"] == "slice" and point["threshold"] is not None and point["sensitivity"] is not None:
            return float(point["threshold"])
    return None
