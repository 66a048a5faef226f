"""Ranking of models and poolings by the AUROC of synthetic anomalies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bundle.select.scoring import NORMAL, Scores
from scripts.files import replacing
from scripts.metrics.curves import DetectionCurve, detection_curve
from scripts.metrics.intervals import GroupCurves, bootstrap_intervals


class Ranking:
    """Table of models and poolings, the best first.

    Args:
        scores: Scores of the same slices by each model.

    Attributes:
        table: A row for each model and pooling: ``rank``, ``model``, ``pooling``, the AUROC of each kind of anomaly,
            their ``mean``, and ``low`` and ``high``, the ends of its interval over patients, NaN with fewer than two.

    >>> scores = {"max": {"normal": np.array([0.1, 0.2]), "lesion": np.array([0.3, 0.15])}}
    >>> Ranking({"models/brain": Scores(scores, np.array(["anna", "ben"]))}).table["mean"].tolist()
    [0.75]
    """

    def __init__(self, scores: Mapping[str, Scores]) -> None:
        some = next(iter(scores.values()))
        self.slices, self.patients = len(some.patients), len(set(some.patients.tolist()))
        rows = [
            {"model": model, "pooling": pooling, **_measured(of_pooling, one.patients)}
            for model, one in scores.items()
            for pooling, of_pooling in one.scores.items()
        ]
        table = pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
        table.insert(0, "rank", table["mean"].rank(ascending=False, method="min").astype(int))
        self.table = table

    def text(self) -> str:
        """The table as it is printed, and what it rests on."""
        shown = self.table.drop(columns=["low", "high"])
        ends = zip(self.table["low"], self.table["high"], strict=True)
        shown["95 % interval"] = ["-" if np.isnan(low) else f"{low:.3f} to {high:.3f}" for low, high in ends]
        basis = f"AUROC of synthetic anomalies in {self.slices} normal slices or images of {self.patients} patients"
        return f"{basis}\n\n{shown.to_string(index=False, float_format='{:.3f}'.format)}\n"

    def advice(self, poolings: Mapping[str, str]) -> str:
        """One line: which model and pooling to take, and how.

        Args:
            poolings: Pooling that each model is set to.
        """
        model, pooling = (str(self.table[name].iloc[0]) for name in ("model", "pooling"))
        if poolings[model] == pooling:
            return f"Take {model} as it is: it pools by {pooling}."
        return f"Take {model} with {pooling}: add --set scoring#pooling {pooling} to calibrate, evaluate and infer."

    def write(self, path: Path, **facts: Any) -> None:
        """Writes the table as CSV or, with facts, as JSON; the name of the file decides."""
        with replacing(path) as part:
            if path.suffix == ".csv":
                self.table.to_csv(part, index=False)
                return
            rows = [{name: None if value != value else value for name, value in row.items()} for row in self._rows()]
            content = {"slices": self.slices, "patients": self.patients, **facts, "ranking": rows}
            part.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")

    def _rows(self) -> list[dict[str, Any]]:
        return self.table.to_dict("records")  # type: ignore[return-value]


def _measured(scores: Mapping[str, np.ndarray], patients: np.ndarray) -> dict[str, float]:
    """AUROC of each kind against the normals, their mean and its interval."""
    normal = scores[NORMAL]
    anomalous = {kind: one for kind, one in scores.items() if kind != NORMAL}
    labels = np.repeat([0, 1], len(normal))
    values = {kind: detection_curve(np.append(normal, one), labels).auroc() for kind, one in anomalous.items()}
    # As many anomalies of each kind, so the AUROC of all together is the mean of theirs, in each replicate too.
    together = np.concatenate([normal, *anomalous.values()])
    of_all = np.repeat([0, 1], [len(normal), len(together) - len(normal)])
    curves = GroupCurves.of_images(together, of_all, np.tile(patients, 1 + len(anomalous)))
    interval = bootstrap_intervals(curves, {"mean": DetectionCurve.auroc})["mean"]
    low, high = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
    return {**values, "mean": float(np.mean(list(values.values()))), "low": low, "high": high}
