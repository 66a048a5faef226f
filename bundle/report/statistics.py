"""Metrics with their intervals, and tests between methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.metrics.comparison import DeLong, PairedDifference, delong, paired_bootstrap
from scripts.metrics.curves import DetectionCurve
from scripts.metrics.intervals import GroupCurves, bootstrap_intervals
from scripts.metrics.item_curves import ItemCurves
from scripts.metrics.registry import Table, entries

from .reading import Evaluation

SIGNIFICANT = 0.05

Value = dict[str, float | None]


def metric_values(one: Evaluation) -> dict[str, Value]:
    """Computes every metric of an evaluation: its ``value``, and ``low`` and ``high`` of its 95 % interval, or None.

    The metrics of images and patients are computed from the tables of scores; the others are as the evaluation wrote
    them. The intervals of pixel metrics are computed from ``pixels.npz``, whose thresholds are slightly coarser.
    """
    values: dict[str, Value] = {name: _value(value) for name, value in one.metrics.items()}
    images, patients = one.images, one.groups
    values |= _measured(Table.IMAGE, images["score"], images["label"], images["group"])
    values |= _measured(Table.PATIENT, patients["score"], patients["label"], patients.index)
    pixels = one.file("pixels.npz")
    if pixels is not None:
        items = ItemCurves.load(pixels)
        curves = GroupCurves.of_items(items, one.items.set_index("image")["group"].loc[items.image].to_numpy())
        metrics = {entry.name: entry.function for entry in entries(Table.PIXEL)}
        for name, interval in bootstrap_intervals(curves, metrics).items():
            if interval is not None and name in values:
                values[name] = _value(values[name]["value"], interval.low, interval.high)
    return values


def comparisons(evaluations: Sequence[Evaluation]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Compares the image AUROC of each pair of methods on the same images, at one seed of each, shared if possible.

    The test is DeLong's if every group has one image, else a paired bootstrap over groups. p-values are corrected by
    Holm within a data set.

    Returns:
        Tests, and (data set, sentence) for each pair that could not be tested.
    """
    tests, untested = [], []
    for data in dict.fromkeys(one.data for one in evaluations):
        methods: dict[str, list[Evaluation]] = {}
        for one in evaluations:
            if one.data == data:
                methods.setdefault(one.method, []).append(one)
        if len(methods) == 1:
            untested.append((data, "Nothing is compared: there is only one method."))
        found = []
        for first, second in itertools.combinations(methods.values(), 2):
            a, b = _pair(first, second)
            if a.test_set != b.test_set:
                reason = "they were tested on different images, labels or patients"
            elif (test := _test(a, b)) is None:
                reason = "a class has too few patients, or the scores show no variance"
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
    """Adjusts the p-values of several tests by Holm (1979), which bounds the chance of any false finding."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p, dtype=float)[order] * factors), 1)
    return [float(adjusted[place]) for place in np.argsort(order)]


def _measured(table: Table, scores: Any, labels: Any, groups: Any) -> dict[str, Value]:
    """Computes the metrics of a table with intervals over groups, and their floors; nothing if a class is missing."""
    curves = GroupCurves.of_images(np.asarray(scores), np.asarray(labels), np.asarray(groups, dtype=str))
    whole = curves.curve()
    if whole is None:
        return {}
    measured = entries(table)
    found = bootstrap_intervals(curves, {entry.name: entry.function for entry in measured})
    values = {
        entry.name: _value(entry.function(whole)) if (interval := found[entry.name]) is None else _value(*interval[:3])
        for entry in measured
    }
    return values | {entry.floor_name: _value(entry.floor(whole)) for entry in measured if entry.floor is not None}


def _pair(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation]:
    """Chooses one run of each method, at the lowest seed that both have, else at the lowest of each."""
    common = {one.seed for one in first} & {one.seed for one in second} or {one.seed for one in [*first, *second]}

    def lowest(runs: Sequence[Evaluation]) -> Evaluation:
        return min((one for one in runs if one.seed in common), key=lambda one: (one.seed is None, one.seed))

    return lowest(first), lowest(second)


def _test(a: Evaluation, b: Evaluation) -> dict[str, Any] | None:
    """Tests two runs on one test set; None if the test is not defined."""
    one, other = a.aligned(), b.aligned()
    labels = one["label"].to_numpy()
    result: DeLong | PairedDifference | None
    if one["group"].is_unique:
        if min(np.bincount(labels, minlength=2)) < 2:
            return None
        name, result = "DeLong", delong(one["score"].to_numpy(), other["score"].to_numpy(), labels)
    else:
        first, second = (
            GroupCurves.of_images(table["score"].to_numpy(), labels, table["group"].to_numpy(dtype=str))
            for table in (one, other)
        )
        name, result = "paired bootstrap over patients", paired_bootstrap(first, second, DetectionCurve.auroc)
    if result is None or math.isnan(result.p):
        return None
    return {"test": name, **{key: getattr(result, key) for key in ("difference", "low", "high", "p")}}


def _conclusion(test: dict[str, Any]) -> str:
    if test["p_holm"] >= SIGNIFICANT:
        return "no difference shown"
    return f"{test['first'] if test['difference'] > 0 else test['second']} is better"


def _value(value: float | None, low: float | None = None, high: float | None = None) -> Value:
    return {"value": value, "low": low, "high": high}
