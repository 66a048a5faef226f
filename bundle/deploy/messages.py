"""Messages between the operators: one series at a time, so that only one volume is in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from scripts.dicom.series import Series
from scripts.dicom.volume import Volume
from scripts.results.result import Result


@dataclass(frozen=True, eq=False)
class Selected:
    """A series to be scored.

    Attributes:
        name: Name that tells nothing of the patient.
        series: Headers and files.
    """

    name: str
    series: Series


@dataclass(frozen=True, eq=False)
class Scored:
    """A series and what was found in it.

    Attributes:
        name: Name that tells nothing of the patient.
        volume: The series as it was scored.
        result: Result as the predictor gives it: map and mask (1, i, j, k), slices counted along its plane.
    """

    name: str
    volume: Volume = field(repr=False)
    result: Result = field(repr=False)
