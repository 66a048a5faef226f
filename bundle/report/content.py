"""Content of a report, the same for page, JSON and table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scripts.metrics.registry import METRICS, Table, entries

from .cautions import cautions
from .operating_point import operating_points
from .reading import Evaluation
from .statistics import comparisons, metric_values


class Column(NamedTuple):
    """Column of a table.

    Attributes:
        name: Name of the metric.
        label: Name of the metric for people.
        arrow: ↑ if higher is better, ↓ if lower is better, empty if neither is known.
        floor: Name of the value that is shown below the metric.
    """

    name: str
    label: str
    arrow: str = ""
    floor: str = ""


def content(evaluations: Sequence[Evaluation], title: str) -> dict[str, Any]:
    """Collects everything but the pictures as JSON values, with None for what is not defined.

    Args:
        evaluations: Evaluations of different names (see ``labelled``), at least one.
        title: Title of the report.
    """
    runs = [_run(one) for one in evaluations]
    tests, not_compared = comparisons(evaluations)
    return {
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="minutes"),
        "cautions": cautions(evaluations),
        "runs": runs,
        "summary": _summary(runs),
        "comparisons": tests,
        "not_compared": not_compared,
    }


def long_table(report: dict[str, Any]) -> pd.DataFrame:
    """Builds a table with a row for each run and metric: run, data, method, seed, metric, value, low, high."""
    rows = []
    for run in report["runs"]:
        common = {"run": run["name"], "data": run["data"], "method": run["method"], "seed": run["seed"]}
        values = dict(run["metrics"])
        for name, metrics in run["classes"].items():
            values |= {f"{metric} of class {name}": {"value": value} for metric, value in metrics.items()}
        for point in (point for point in run["operating_points"] if point["threshold"] is not None):
            observed = {"value": point["observed_rate"], "low": point["low"], "high": point["high"]}
            values[f"{point['level']}_false_positive_rate"] = observed
            values[f"{point['level']}_sensitivity"] = {"value": point["sensitivity"]}
        rows += [{**common, "metric": metric, **value} for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["run", "data", "method", "seed", "metric", "value", "low", "high"])


def tables(names: Iterable[str]) -> dict[str, list[Column]]:
    """Sorts metrics into the tables of the registry; those that it does not know come last."""
    present = list(names)
    found = {
        str(table): [
            Column(entry.name, entry.label, "↑" if entry.higher_is_better else "↓", entry.floor_name)
            for entry in entries(table)
            if entry.name in present
        ]
        for table in Table
    }
    known = {name for entry in METRICS.values() for name in (entry.name, entry.floor_name)}
    found["Other"] = [Column(name, name.replace("_", " ")) for name in present if name not in known]
    return {table: columns for table, columns in found.items() if columns}


def _run(one: Evaluation) -> dict[str, Any]:
    summary, model = one.summary, one.model
    return {
        "name": one.name,
        "data": one.data,
        "method": one.method,
        "seed": one.seed,
        "source": one.source,
        "teachers": one.teachers,
        "training": model.get("training"),
        "datalist_sha256": model.get("datalist_sha256"),
        "commit": model.get("git_commit"),
        "mlflow_run_id": model.get("mlflow_run_id"),
        "test": {
            "items": len(one.items),
            "groups": int(one.items["group"].nunique()),
            "normal": int((one.images["label"] == 0).sum()),
            "anomalous": int((one.images["label"] == 1).sum()),
            "unit": "slices" if one.sliced else "images",
        },
        "metrics": {
            name: {key: _finite(part) for key, part in value.items()} for name, value in metric_values(one).items()
        },
        "classes": summary.get("classes") or {},
        "class_means": summary.get("class_means") or {},
        "operating_points": operating_points(one),
    }


def _summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Computes the mean of every metric by data set and method, and of several runs the standard deviation (n - 1)."""
    rows = []
    for data, method in dict.fromkeys((run["data"], run["method"]) for run in runs):
        members = [run for run in runs if (run["data"], run["method"]) == (data, method)]
        metrics = {}
        for name in dict.fromkeys(name for run in members for name in run["metrics"]):
            values = [run["metrics"][name]["value"] for run in members if name in run["metrics"]]
            known = np.array([value for value in values if value is not None])
            metrics[name] = {
                "mean": _finite(known.mean()) if len(known) else None,
                "sd": _finite(known.std(ddof=1)) if len(known) > 1 else None,
                "runs": len(known),
            }
        rows.append({"data": data, "method": method, "seeds": [run["seed"] for run in members], "metrics": metrics})
    return rows


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
