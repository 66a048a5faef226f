"""Metrics with their intervals, and tests between methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.metrics.comparison import delong, paired_bootstrap
from scripts.metrics.curves import (
    DetectionCurve,
    detection_metrics,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from scripts.metrics.intervals import CurveMetric, GroupCurves, bootstrap_intervals
from scripts.metrics.item_curves import ItemCurves

from .reading import Evaluation

SIGNIFICANT = 0.05

Value = dict[str, float | None]


def _f1max(curve: DetectionCurve) -> float:
    return float(curve.f1.max())


_IMAGE: dict[str, CurveMetric] = {
    "image_auroc": DetectionCurve.auroc,
    "image_ap": DetectionCurve.average_precision,
    "image_f1max": _f1max,
    "sensitivity_at_95_specificity": sensitivity_at_specificity,
    "specificity_at_95_sensitivity": specificity_at_sensitivity,
}
_PATIENT: dict[str, CurveMetric] = {
    "patient_auroc": DetectionCurve.auroc,
    "patient_ap": DetectionCurve.average_precision,
}
_PIXEL: dict[str, CurveMetric] = {
    "pixel_auroc": DetectionCurve.auroc,
    "pixel_ap": DetectionCurve.average_precision,
    "pixel_f1max": _f1max,
    "pixel_aupro": DetectionCurve.aupro,
}


def metric_values(one: Evaluation) -> dict[str, Value]:
    """Every metric of an evaluation: ``value``, and ``low`` and ``high``, the ends of its 95 % interval, or None.

    What is over images or patients is computed from the tables of scores. The rest is as the evaluation wrote it, and
    the intervals of pixel metrics are from ``pixels.npz``, whose thresholds are a little coarser.
    """
    values: dict[str, Value] = {name: _value(value) for name, value in one.metrics.items()}
    images, patients = one.images, one.groups
    values |= _measured(images["score"], images["label"], images["group"], _IMAGE)
    if images["label"].nunique() == 2:
        floor = detection_metrics(images["score"].to_numpy(), images["label"].to_numpy())["f1max_floor"]
        values["image_f1max_floor"] = _value(floor)
    values |= _measured(patients["score"], patients["label"], patients.index, _PATIENT)
    pixels = one.picture("pixels.npz")
    if pixels is not None:
        items = ItemCurves.load(pixels)
        groups = one.items.set_index("image")["group"].loc[items.image]
        found = bootstrap_intervals(GroupCurves.of_items(items, groups.to_numpy()), _PIXEL)
        for name, interval in found.items():
            if interval is not None and name in values:
                values[name] = _value(values[name]["value"], interval.low, interval.high)
    return values


def comparisons(evaluations: Sequence[Evaluation]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Tests the image AUROC of each pair of methods on the same images, one seed of each, the same if both have it.

    DeLong's test where every group has one image, else a paired bootstrap over groups; p corrected by Holm within a
    data set.

    Returns:
        The tests, and (data set, sentence) for what could not be tested.
    """
    tests, untested = [], []
    for data in dict.fromkeys(one.data for one in evaluations):
        methods: dict[str, list[Evaluation]] = {}
        for one in evaluations:
            if one.data == data:
                methods.setdefault(one.method, []).append(one)
        if len(methods) == 1:
            untested.append((data, "Nothing is compared: there is one method."))
        found = []
        for first, second in itertools.combinations(methods.values(), 2):
            a, b = _pair(first, second)
            if a.test_set != b.test_set:
                reason = "they were tested on different images, labels or patients"
            elif (test := _test(a, b)) is None:
                reason = "there are too few patients of a class, or their scores show no variance"
            else:
                found.append({"data": data, "first": a.name, "second": b.name, **test})
                continue
            untested.append((data, f"{a.name} and {b.name} are not compared: {reason}."))
        for test, p in zip(found, holm([test["p"] for test in found]), strict=True):
            test["p_holm"] = p
            test["conclusion"] = _conclusion(test)
        tests += found
    return tests, untested


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests by Holm (1979): the chance of any false finding stays below the level."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p, dtype=float)[order] * factors), 1)
    return [float(adjusted[place]) for place in np.argsort(order)]


def _measured(scores: Any, labels: Any, groups: Any, metrics: dict[str, CurveMetric]) -> dict[str, Value]:
    """Metrics of single scores with intervals over groups; none where a class is missing."""
    curves = GroupCurves.of_images(np.asarray(scores), np.asarray(labels), np.asarray(groups, dtype=str))
    whole = curves.curve()
    if whole is None:
        return {}
    found = bootstrap_intervals(curves, metrics)
    return {
        name: _value(metric(whole)) if (interval := found[name]) is None else _value(*interval[:3])
        for name, metric in metrics.items()
    }


def _pair(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation]:
    """One run of each method: of the lowest seed that both have, else of the lowest of each."""
    common = {one.seed for one in first} & {one.seed for one in second} or {one.seed for one in [*first, *second]}

    def lowest(runs: Sequence[Evaluation]) -> Evaluation:
        return min((one for one in runs if one.seed in common), key=lambda one: (one.seed is None, one.seed))

    return lowest(first), lowest(second)


def _test(a: Evaluation, b: Evaluation) -> dict[str, Any] | None:
    """The test of two runs on one test set; None where it is not defined."""
    one, other = a.aligned(), b.aligned()
    labels = one["label"].to_numpy()
    if one["group"].is_unique:
        if min(np.bincount(labels, minlength=2)) < 2:
            return None
        result = delong(one["score"].to_numpy(), other["score"].to_numpy(), labels)
        if math.isnan(result.p):
            return None
        common = {"difference": result.difference, "low": result.low, "high": result.high, "p": result.p}
        return {"test": "DeLong", **common}
    curves = [
        GroupCurves.of_images(table["score"].to_numpy(), table["label"].to_numpy(), table["group"].to_numpy(dtype=str))
        for table in (one, other)
    ]
    paired = paired_bootstrap(curves[0], curves[1], DetectionCurve.auroc)
    if paired is None:
        return None
    return {
        "test": "paired bootstrap over patients",
        "difference": paired.difference,
        "low": paired.low,
        "high": paired.high,
        "p": paired.p,
    }


def _conclusion(test: dict[str, Any]) -> str:
    if test["p_holm"] >= SIGNIFICANT:
        return "no difference shown"
    return f"{test['first'] if test['difference'] > 0 else test['second']} is better"


def _value(value: float | None, low: float | None = None, high: float | None = None) -> Value:
    return {"value": value, "low": low, "high": high}
