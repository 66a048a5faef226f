"""What a calibrated threshold promised, and what became of it on the test set."""

from __future__ import annotations

from typing import Any

from scipy.stats import binomtest

from .reading import Evaluation

LEVELS = ("volume", "image")


def operating_points(one: Evaluation) -> list[dict[str, Any]]:
    """Of the calibrated levels promise and outcome, as the evaluation counted them; empty without a calibration.

    The rate observed is over patients without any anomaly; its interval (95 %, Clopper and Pearson) needs units that
    count as one each: patients, or images if each is of another patient. Else ``low`` and ``high`` are None. A level
    that could not be calibrated has a ``reason`` in place of a threshold.
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
        if patients and rate is not None and (level == "volume" or one.images["group"].is_unique):
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


def image_threshold(one: Evaluation) -> float | None:
    """The calibrated threshold of image scores, if the test set's images were held against it."""
    for point in operating_points(one):
        if point["level"] == "image" and point["threshold"] is not None and point["sensitivity"] is not None:
            return float(point["threshold"])
    return None
