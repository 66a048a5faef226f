"""What the operators of the application hand on: one series at a time, so that only one volume is in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from scripts.dicom.series import Series
from scripts.dicom.volume import Volume
from scripts.model.predictor import Prediction


@dataclass(frozen=True, eq=False)
class Selected:
    """A series to be scored."""

    name: str  # tells nothing of the patient
    series: Series


@dataclass(frozen=True, eq=False)
class Scored:
    """A series and what was found in it."""

    name: str
    volume: Volume = field(repr=False)
    prediction: Prediction = field(repr=False)
    threshold: float | None  # of the mask
