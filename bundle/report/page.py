"""The report's page, from its content and the files of the runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from scripts.files import replacing
from scripts.metrics.volume_level import froc_points

from .content import FLOOR, content, long_table, tables
from .figures import Curve, curves, froc, histograms, picture
from .operating_point import image_threshold
from .reading import Evaluation

NAMES = {
    "image_auroc": "AUROC",
    "image_ap": "AP",
    "image_f1max": "F1max (oracle)",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "specificity_at_95_sensitivity": "Specificity at 95 % sensitivity",
    "pixel_auroc": "AUROC",
    "pixel_ap": "AP",
    "pixel_f1max": "F1max (oracle)",
    "pixel_aupro": "AUPRO",
    "patient_auroc": "Patient AUROC",
    "patient_ap": "Patient AP",
    "dice": "Dice",
    "normal_scans_clean": "Normal scans without a mark",
    "froc": "FROC (mean)",
}
_LESIONS = "lesion_sensitivity_at_"
_CURVES = 12  # in one picture; of more runs only the first seed of each method is drawn


def write_report(evaluations: Sequence[Evaluation], out: Path, title: str) -> Path:
    """Writes ``report.html``, ``report.json`` and ``report.csv``; gives the first."""
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
    environment.filters |= {"metric": metric_name, "number": number, "percent": percent, "p": p_value}
    return environment.get_template("report.html").render(
        report=report,
        datasets=[_dataset(data, report, evaluations) for data in dict.fromkeys(one.data for one in evaluations)],
        classes=[_classes(run) for run in report["runs"] if run["classes"]],
        floor=FLOOR,
    )


def metric_name(name: str) -> str:
    """What people call a metric."""
    if name.startswith(_LESIONS):
        return f"Sensitivity at {name.removeprefix(_LESIONS).removesuffix('_fp')} FP a scan"
    return NAMES.get(name, name.replace("_", " "))


def number(value: float | None) -> str:
    """Three decimals, which is more than test sets of this size support."""
    return "n/a" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"


def p_value(value: float | None) -> str:
    return "n/a" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _dataset(data: str, report: dict[str, Any], evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """What the template shows of one data set."""
    members = [one for one in evaluations if one.data == data]
    # Curves are of every run; what takes a panel or a picture a run, of the first seed of each method.
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
    """A row for all runs that differ in nothing but the seed."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        facts = {name: run[name] for name in ("method", "teachers", "training", "test")}
        for row in rows:
            if {name: row[name] for name in facts} == facts:
                row["seeds"].append(run["seed"])
                break
        else:
            rows.append({**facts, "seeds": [run["seed"]]})
    return rows


def _classes(run: dict[str, Any]) -> dict[str, Any]:
    """The tables of one run by class, with the means below."""
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
    """Pictures of curves and scores with their descriptions, and why one of them is not there."""
    pictures, notes = [], []
    drawn, which = (members, "") if len(members) <= _CURVES else (firsts, ", one seed of each method")
    both = [one for one in drawn if one.images["label"].nunique() == 2]
    if both:
        title = f"ROC and precision-recall curves of the images{which}; the dashed lines are chance"
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
        (one.method, one.images["score"].to_numpy(), one.images["label"].to_numpy(), image_threshold(one))
        for one in firsts
    ]
    which = ", one seed of each method" if len(firsts) < len(members) else ""
    pictures.append((histograms(panels), f"Scores of normal and of anomalous images{which}"))
    return pictures, notes


def _curve(one: Evaluation) -> Curve:
    scores, labels = one.images["score"].to_numpy(), one.images["label"].to_numpy()
    threshold, point = image_threshold(one), None
    if threshold is not None:
        above = scores > threshold
        point = float(np.mean(above[labels == 0])), float(np.mean(above[labels == 1]))
    return Curve(one.method, scores, labels, point)


def _froc(one: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    assert one.detections is not None
    scores, found = one.detections["score"].to_numpy(), one.detections["found"].to_numpy()
    return froc_points(scores, found, int(one.items["lesions"].sum()), len(one.items))


def _cases(firsts: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Pictures of cases; where there are no best and worst ones, those of the highest and lowest scores."""
    cases = []
    for one in firsts:
        kinds = {"best_cases.png": "best cases", "worst_cases.png": "worst cases"}
        if not any(one.picture(name) for name in kinds):
            kinds = {"heat_maps.png": "the most and the least anomalous images"}
        found = [(picture(path), kind) for name, kind in kinds.items() if (path := one.picture(name)) is not None]
        cases.append({"name": one.name, "pictures": found})
    return cases
