"""Registry of metrics: the name, table, label, function and direction of each.

A new metric is one more entry: evaluations then compute it, and reports show it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from .curves import DetectionCurve, sensitivity_at_specificity, specificity_at_sensitivity
from .lesions import lesion_sensitivity, mean_dice, normal_scans_clean

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # per scan, where a FROC curve is read (LUNA16)


class Table(StrEnum):
    """Table of a report, which decides what the functions of its metrics take."""

    IMAGE = "Images"  # DetectionCurve of the images, or of the slices of scans
    PIXEL = "Pixels"  # DetectionCurve of the pixels
    PATIENT = "Patients"  # DetectionCurve of the patients
    LESION = "Scans and lesions"  # list of lesions.Scan
    ADER = "ADer"  # ader.AderMetrics


class Entry(NamedTuple):
    """One metric.

    Attributes:
        name: Name in files, logs and configs.
        table: Table in which the metric stands.
        label: Name for people, unique within the table.
        function: Function of what the table names; None where there is nothing to measure.
        floor: Function for the value that a detector without any skill reaches; shown below the metric.
        higher_is_better: Direction of the metric.
        report_only: Whether evaluations leave the metric out, so that a report computes it from their scores.
    """

    name: str
    table: Table
    label: str
    function: Callable[[Any], Any]
    floor: Callable[[Any], float] | None = None
    higher_is_better: bool = True
    report_only: bool = False

    @property
    def floor_name(self) -> str:
        """Name of the floor in files and logs."""
        return f"{self.name}_floor"


METRICS = {
    entry.name: entry
    for entry in (
        Entry("image_auroc", Table.IMAGE, "AUROC", DetectionCurve.auroc),
        Entry("image_ap", Table.IMAGE, "AP", DetectionCurve.average_precision),
        Entry("image_f1max", Table.IMAGE, "F1max (oracle)", DetectionCurve.f1max, DetectionCurve.f1max_floor),
        *(
            Entry(name, Table.IMAGE, label, function, report_only=True)
            for name, label, function in (
                ("sensitivity_at_95_specificity", "Sensitivity at 95 % specificity", sensitivity_at_specificity),
                ("specificity_at_95_sensitivity", "Specificity at 95 % sensitivity", specificity_at_sensitivity),
            )
        ),
        Entry("pixel_auroc", Table.PIXEL, "AUROC", DetectionCurve.auroc),
        Entry("pixel_ap", Table.PIXEL, "AP", DetectionCurve.average_precision),
        Entry("pixel_f1max", Table.PIXEL, "F1max (oracle)", DetectionCurve.f1max),
        Entry("pixel_aupro", Table.PIXEL, "AUPRO", DetectionCurve.aupro),
        Entry("patient_auroc", Table.PATIENT, "AUROC", DetectionCurve.auroc),
        Entry("patient_ap", Table.PATIENT, "AP", DetectionCurve.average_precision),
        Entry("dice", Table.LESION, "Dice", mean_dice),
        Entry("normal_scans_clean", Table.LESION, "Normal scans without a mark", normal_scans_clean),
        Entry("froc", Table.LESION, "FROC (mean)", partial(lesion_sensitivity, false_positives=FALSE_POSITIVES)),
        *(
            Entry(
                f"lesion_sensitivity_at_{rate:g}_fp",
                Table.LESION,
                f"Sensitivity at {rate:g} FP per scan",
                partial(lesion_sensitivity, false_positives=(rate,)),
            )
            for rate in FALSE_POSITIVES
        ),
        *(
            Entry(f"ader_pixel_{name}", Table.ADER, label, attrgetter(name))
            for name, label in {"auroc": "AUROC", "ap": "AP", "f1max": "F1max (oracle)", "aupro": "AUPRO"}.items()
        ),
    )
}


def entries(table: Table) -> list[Entry]:
    """Returns the metrics of a table."""
    return [entry for entry in METRICS.values() if entry.table == table]


def functions(table: Table) -> dict[str, Callable[[Any], float | None]]:
    """Returns what an evaluation computes for a table: the functions of metrics and floors by name."""
    evaluated = [entry for entry in entries(table) if not entry.report_only]
    both = [pair for one in evaluated for pair in ((one.name, one.function), (one.floor_name, one.floor))]
    return {name: function for name, function in both if function is not None}


def measure(table: Table, data: Any) -> dict[str, float]:
    """Computes the metrics of a table, and their floors, for an evaluation.

    Args:
        table: Table of the metrics.
        data: What the functions of this table take.
    """
    values = {name: function(data) for name, function in functions(table).items()}
    return {name: value for name, value in values.items() if value is not None}
