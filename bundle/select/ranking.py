"""Ranking of models and poolings by the AUROC of synthetic anomalies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bundle.select.auroc import measured
from bundle.select.scoring import NORMAL, Scores
from scripts.files import replacing


class Ranking:
    """Table of models and poolings, the best first.

    Args:
        scores: Scores of the same slices by each model.

    Attributes:
        anomalies: Number of anomalies of each kind.
        patients: Number of patients.
        table: A row for each model and pooling: ``rank``, ``model``, ``pooling``, the AUROC of each kind of anomaly,
            their ``mean``, and ``low`` and ``high``, the ends of its interval, NaN where there is none; see
            ``measured``.

    >>> scores = {"max": {"normal": np.array([0.1, 0.2]), "lesion": np.array([0.3, 0.15])}}
    >>> Ranking({"models/brain": Scores(scores, np.array(["anna", "ben"]), np.arange(2))}).table["mean"].tolist()
    [1.0]
    """

    def __init__(self, scores: Mapping[str, Scores]) -> None:
        some = next(iter(scores.values()))
        self.anomalies, self.patients = len(some.patients), len(set(some.patients.tolist()))
        rows = [
            {"model": model, "pooling": pooling, **_measured(of_pooling, one)}
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
        basis = f"AUROC of {self.anomalies} synthetic anomalies of each kind in normals of {self.patients} patients"
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
            content = {"anomalies": self.anomalies, "patients": self.patients, **facts, "ranking": rows}
            part.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")

    def _rows(self) -> list[dict[str, Any]]:
        return self.table.to_dict("records")  # type: ignore[return-value]


def _measured(scores: Mapping[str, np.ndarray], of_model: Scores) -> dict[str, float]:
    anomalous = {kind: one for kind, one in scores.items() if kind != NORMAL}
    found = measured(scores[NORMAL], anomalous, of_model.patients, of_model.slices)
    return {**found.kinds, "mean": found.mean, "low": found.low, "high": found.high}
