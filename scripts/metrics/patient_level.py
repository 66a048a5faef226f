"""Metrics of patients: does any scan of a patient hold an anomaly or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import ignite.distributed as idist
import pandas as pd

from .curves import checked, detection_curve
from .registry import Table, functions, measure
from .scalars import ScalarMetrics

logger = logging.getLogger(__name__)


class PatientMetrics(ScalarMetrics):
    """AUROC and AP, as the registry lists them, exact, over the patients of all ranks.

    A patient's score is the highest of their scans' scores, and a patient is anomalous if any of their scans is. If all
    patients are of one class, every metric is NaN, and a warning is logged.

    Args:
        output_transform: Function from the engine's output to (scores, labels, groups): B numbers or one-element
            tensors each, unbounded and 0 or 1, and B names of patients.

    Example:
        >>> metric = PatientMetrics()
        >>> metric.update(([0.9, 0.2, 0.4, 0.1], [1, 0, 0, 0], ["A", "A", "B", "C"]))
        >>> metric.compute()
        {'patient_auroc': 1.0, 'patient_ap': 1.0}
    """

    def reset(self) -> None:
        """Forgets all scans."""
        self._scans: list[tuple[float, float, str]] = []

    def update(self, output: Sequence[Any]) -> None:
        """Adds a batch (scores, labels, groups).

        Raises:
            ValueError: If the numbers of scores, labels and groups differ.
        """
        scores, labels, groups = output
        if not len(scores) == len(labels) == len(groups):
            raise ValueError(
                f"{len(scores)} scores, {len(labels)} labels and {len(groups)} groups: each scan needs one of each"
            )
        self._scans += [
            (float(score), float(label), str(group)) for score, label, group in zip(scores, labels, groups, strict=True)
        ]

    def compute(self) -> dict[str, float]:
        """Computes the metrics over the patients of all ranks.

        Raises:
            ValueError: If there is no scan, a score is not finite, or a label is neither 0 nor 1.
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
            undefined, label = functions(Table.PATIENT), patients["label"].iloc[0]
            logger.warning(
                "Not defined, as all %d patients have label %g: %s.", len(patients), label, ", ".join(undefined)
            )
            return dict.fromkeys(undefined, float("nan"))
        return measure(Table.PATIENT, detection_curve(patients["score"].to_numpy(), patients["label"].to_numpy()))
