"""Labels of single slices, of scans whose anomalies no mask shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bundle.prepare.layouts import Sample
from bundle.prepare.survey import Facts


def label_slices(table: Path, column: str, samples: Sequence[Sample], facts: Mapping[Path, Facts]) -> list[Sample]:
    """Gives scans the labels that a table has of their axial slices.

    Args:
        table: CSV with the columns ``patient``, ``slice`` (from 0 on, inferior first) and labels, 0 or 1.
        column: Name of the column of labels.
        samples: Scans; the patient is their group.
        facts: What was read of them.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If it lacks a column, has other labels, or its slices are not all of a scan's.
    """
    if not table.is_file():
        raise FileNotFoundError(f"--slice-labels {table}: no such file.")
    rows = pd.read_csv(table, dtype={"patient": str})
    if missing := [name for name in ("patient", "slice", column) if name not in rows]:
        raise ValueError(
            f"{table}: has no column {', '.join(missing)}, only {', '.join(map(str, rows))}. It needs patient, slice "
            "and the labels, whose column --slice-label-column names."
        )
    if not rows[column].isin((0, 1)).all():
        raise ValueError(f"{table}: {column} is 0 (normal) or 1, not {sorted(set(rows[column]) - {0, 1})}.")
    of_patient = {patient: part.sort_values("slice") for patient, part in rows.groupby("patient")}
    labelled = []
    for sample in samples:
        part = of_patient.get(sample.group)
        if part is None or sample.mask is not None:
            labelled.append(sample)
            continue
        count = facts[sample.image].shape[2]
        if part["slice"].tolist() != list(range(count)):
            raise ValueError(
                f"{table}: {sample.group} has {len(part)} lines, from slice {part['slice'].min()} to "
                f"{part['slice'].max()}, but {sample.image} has {count} axial slices. Give each its line, from 0 on."
            )
        if bool(part[column].any()) != bool(sample.label):
            raise ValueError(
                f"{table}: of {sample.group}, {int(part[column].sum())} slices have label 1, but {sample.image} counts "
                f"as {'anomalous' if sample.label else 'normal'}. Correct one of both."
            )
        labelled.append(replace(sample, slice_labels="".join(map(str, part[column]))))
    return labelled
