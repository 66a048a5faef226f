"""Page of a report, from its content and the files of the runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from scripts.files import replacing
from scripts.metrics.lesions import froc_points

from .content import content, long_table, tables
from .figures import Curve, curves, froc, histograms, picture
from .operating_point import slice_threshold
from .reading import Evaluation

_CURVES = 12  # curves in one picture at most; of more runs, only the first seed of each method is drawn


def write_report(evaluations: Sequence[Evaluation], out: Path, title: str) -> Path:
    """Writes ``report.html``, ``report.json`` and ``report.csv``, and returns the path of the first."""
    report = content(evaluations, title)
    page = _render(report, evaluations)
    for name, text in {
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
        "report.csv": long_table(report).to_csv(index=False),
        "report.html": page,
    }.items():
        with replacing(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return out / "report.html"


def _render(report: dict[str, Any], evaluations: Sequence[Evaluation]) -> str:
    environment = Environment(
        loader=PackageLoader("bundle.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "p": p_value}
    return environment.get_template("report.html").render(
        report=report,
        datasets=[_dataset(data, report, evaluations) for data in dict.fromkeys(one.data for one in evaluations)],
        classes=[_classes(run) for run in report["runs"] if run["classes"]],
    )


def number(value: float | None) -> str:
    """Formats a value with three decimals, which is more than test sets of this size support."""
    return "n/a" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Formats a rate in percent."""
    return "n/a" if value is None else f"{100 * value:.1f} %"


def p_value(value: float | None) -> str:
    """Formats a p-value."""
    return "n/a" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _dataset(data: str, report: dict[str, Any], evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Collects what the template shows of one data set."""
    members = [one for one in evaluations if one.data == data]
    # Every run has a curve; panels and pictures show the first seed of each method only.
    ordered = sorted(members, key=lambda one: (one.seed is None, one.seed))
    firsts = list({one.method: one for one in reversed(ordered)}.values())[::-1]
    runs = [run for run in report["runs"] if run["data"] == data]
    summary = [row for row in report["summary"] if row["data"] == data]
    metrics = dict.fromkeys(name for run in runs for name in run["metrics"])
    pictures, notes = _pictures(members, firsts)
    return {
        "name": data,
        "runs": runs,
        "origins": _origins(runs),
        "summary": summary,
        "tables": tables(metrics),
        "several_seeds": any(len(row["seeds"]) > 1 for row in summary),
        "comparisons": [test for test in report["comparisons"] if test["data"] == data],
        "not_compared": [sentence for where, sentence in report["not_compared"] if where == data],
        "unit": runs[0]["test"]["unit"],
        "cases": _cases(firsts),
        "firsts_only": len(firsts) < len(members),
        "pictures": pictures,
        "notes": notes,
    }


def _origins(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merges the runs that differ in nothing but the seed into one row."""
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        facts = {name: run[name] for name in ("method", "teachers", "training", "test")}
        rows.setdefault(json.dumps(facts, sort_keys=True), {**facts, "seeds": []})["seeds"].append(run["seed"])
    return list(rows.values())


def _classes(run: dict[str, Any]) -> dict[str, Any]:
    """Collects the tables of one run by class, with the means in the last row."""
    rows = []
    for name, metrics in run["classes"].items():
        images = metrics["images"]
        values = {metric: value for metric, value in metrics.items() if metric != "images"}
        rows.append({"name": name, "normal": images["normal"], "anomalous": images["anomalous"], "metrics": values})
    names = dict.fromkeys(metric for row in rows for metric in row["metrics"])
    if run["class_means"]:
        rows.append({"name": "Mean of classes", "normal": "", "anomalous": "", "metrics": run["class_means"]})
    return {
        "name": f"{run['data']}, {run['name']}",
        "unit": run["test"]["unit"],
        "tables": tables(names),
        "rows": rows,
    }


def _pictures(members: Sequence[Evaluation], firsts: Sequence[Evaluation]) -> tuple[list[tuple[str, str]], list[str]]:
    """Draws curves and scores, each with its description, and notes why a picture is missing."""
    pictures, notes = [], []
    drawn, which = (members, "") if len(members) <= _CURVES else (firsts, ", one seed of each method")
    both = [one for one in drawn if one.images["label"].nunique() == 2]
    if both:
        title = f"ROC and precision-recall curves of the images{which}; dashed lines show chance"
        pictures.append((curves([_curve(one) for one in both]), title))
    else:
        notes.append("There are no ROC and precision-recall curves: all images are of one class.")
    detected = [one for one in drawn if one.detections is not None and "lesions" in one.items]
    lesions = [one for one in detected if one.items["lesions"].sum() > 0]
    if lesions:
        points = [(one.method, *_froc(one)) for one in lesions]
        pictures.append((froc(points), f"FROC curves of the lesions{which}"))
    else:
        lacking = "no scan has a lesion" if detected else "no run has a table of detections (detections.csv)"
        notes.append(f"There is no FROC curve: {lacking}.")
    panels = [
        (one.method, one.images["score"].to_numpy(), one.images["label"].to_numpy(), slice_threshold(one))
        for one in firsts
    ]
    which = ", one seed of each method" if len(firsts) < len(members) else ""
    pictures.append((histograms(panels), f"Scores of normal and of anomalous images{which}"))
    return pictures, notes


def _curve(one: Evaluation) -> Curve:
    scores, labels = one.images["score"].to_numpy(), one.images["label"].to_numpy()
    threshold, point = slice_threshold(one), None
    if threshold is not None:
        above = scores > threshold
        point = float(np.mean(above[labels == 0])), float(np.mean(above[labels == 1]))
    return Curve(one.method, scores, labels, point)


def _froc(one: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    assert one.detections is not None
    scores, found = one.detections["score"].to_numpy(), one.detections["found"].to_numpy()
    return froc_points(scores, found, int(one.items["lesions"].sum()), len(one.items))


def _cases(firsts: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Collects pictures of the best and worst cases, or if there are none, of the highest and lowest scores."""
    cases = []
    for one in firsts:
        kinds = {"best_cases.png": "best cases", "worst_cases.png": "worst cases"}
        if not any(one.file(name) for name in kinds):
            kinds = {"heat_maps.png": "the most and the least anomalous images"}
        found = [(picture(path), kind) for name, kind in kinds.items() if (path := one.file(name)) is not None]
        cases.append({"name": one.name, "pictures": found})
    return cases
