"""Metrics with their intervals, and tests between methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.metrics.curves import detection_metrics

from .reading import Evaluation

Value = dict[str, float | None]


def metric_values(one: Evaluation) -> dict[str, Value]:
    """Every metric of an evaluation: ``value``, and ``low`` and ``high``, the ends of its 95 % interval, or None.

    What is over images or patients is computed from the tables of scores, the rest is as the evaluation wrote it.
    """
    values: dict[str, Value] = {name: _value(value) for name, value in one.metrics.items()}
    if one.images["label"].nunique() == 2:
        found = detection_metrics(one.images["score"].to_numpy(), one.images["label"].to_numpy())
        values |= {f"image_{name}": _value(found[name]) for name in ("auroc", "ap", "f1max", "f1max_floor")}
    return values


def comparisons(evaluations: Sequence[Evaluation]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    return [], []


def _value(value: float, low: float | None = None, high: float | None = None) -> Value:
    return {"value": value, "low": low, "high": high}
