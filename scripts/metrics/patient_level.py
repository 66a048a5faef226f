"""Metrics of patients: does any scan or image of a patient hold an anomaly or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import ignite.distributed as idist
import pandas as pd
from ignite.engine import Engine
from ignite.metrics import Metric

from .curves import checked, detection_metrics

logger = logging.getLogger(__name__)


class PatientMetrics(Metric):
    """`patient_auroc` and `patient_ap`, exact, over the patients of all ranks.

    A patient's score is the highest of his scans', and he is anomalous if any of them is. Where all patients are of one
    class both are NaN, and it is logged.

    Args:
        output_transform: gives (scores, labels, groups) from the engine's output: B numbers or one-element tensors
            each, unbounded and 0 or 1, and B names of patients.
    """

    def __init__(self, output_transform: Callable = lambda x: x) -> None:
        # Unrolled by ignite, Python floats would be rounded to float32.
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forgets all scans."""
        self._scans: list[tuple[float, float, str]] = []

    def update(self, output: Sequence[Any]) -> None:
        """Adds a batch (scores, labels, groups).

        Raises:
            ValueError: when there is not one label and one group a score.
        """
        scores, labels, groups = output
        if not len(scores) == len(labels) == len(groups):
            raise ValueError(
                f"{len(scores)} scores, {len(labels)} labels and {len(groups)} groups: there must be one of each a scan"
            )
        self._scans += [
            (float(score), float(label), str(group)) for score, label, group in zip(scores, labels, groups, strict=True)
        ]

    def compute(self) -> dict[str, float]:
        """Metrics over the patients of all ranks.

        Raises:
            ValueError: when there is no scan, a score is not finite, or a label neither 0 nor 1.
        """
        scans = pd.DataFrame(
            chain.from_iterable(cast(list, idist.all_gather(self._scans))), columns=["score", "label", "group"]
        )
        try:
            checked(scans["score"].to_numpy(), scans["label"].to_numpy())
        except ValueError as error:
            raise ValueError(f"patient metrics: {error}") from None
        patients = scans.groupby("group").max()
        if patients["label"].nunique() == 1:
            label = patients["label"].iloc[0]
            logger.warning("Not defined, as all %d patients have label %g: patient AUROC and AP.", len(patients), label)
            return {"patient_auroc": float("nan"), "patient_ap": float("nan")}
        metrics = detection_metrics(patients["score"].to_numpy(), patients["label"].to_numpy())
        return {"patient_auroc": metrics["auroc"], "patient_ap": metrics["ap"]}

    def completed(self, engine: Engine, name: str) -> None:
        """Writes the scalars, and no nested dict, to `engine.state.metrics`; `name` is not used."""
        engine.state.metrics.update(self.compute())
