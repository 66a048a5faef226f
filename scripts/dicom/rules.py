"""Rules that select series."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.uid import UID

from scripts.data.planes import AXCODES
from scripts.dicom.headers import RADIOGRAPH_CLASSES, VOLUME_CLASSES
from scripts.dicom.localisers import is_localiser
from scripts.dicom.series import Series


@dataclass(frozen=True)
class Rules:
    """Conditions on a series; None means no condition.

    Localisers, secondary captures and objects without an image never pass. Radiographs pass only if ``modality`` names
    theirs; orientation and number of slices are not checked for them.

    Raises:
        ValueError: If the description is not a regular expression, or the orientation is unknown.
    """

    modality: tuple[str, ...] | None = None  # such as ("CT", "MR")
    description: str | None = None  # regular expression found anywhere in SeriesDescription, ignoring case
    orientation: str | None = None  # nearest plane: axial, coronal or sagittal
    min_slices: int = 5

    def __post_init__(self) -> None:
        if self.orientation not in (None, *AXCODES):
            raise ValueError(f"The orientation {self.orientation!r} is none of {', '.join(AXCODES)}.")
        try:
            re.compile(self.description or "")
        except re.error as error:
            raise ValueError(f"The description {self.description!r} is no regular expression: {error}.") from error

    def why_not(self, series: Series) -> str | None:
        """Reason to leave the series out, which reveals nothing about the patient; None if the series passes."""
        radiograph = series.sop_class in RADIOGRAPH_CLASSES
        if not radiograph and series.sop_class not in VOLUME_CLASSES:
            return f"neither scan nor radiograph: {UID(series.sop_class).name or 'unknown kind'}"
        if is_localiser(series.description, series.image_type):
            return "a localiser or screen save"
        if self.modality is not None and series.modality not in {name.upper() for name in self.modality}:
            return f"modality {series.modality or 'unknown'}"
        if radiograph and self.modality is None:
            return f"a radiograph, and no rule asks for modality {series.modality}"
        if self.description is not None and not re.search(self.description, series.description, re.IGNORECASE):
            return f"description does not match {self.description!r}"
        if radiograph:
            return None
        if self.orientation is not None and series.orientation != self.orientation:
            return f"orientation {series.orientation or 'unknown'}"
        if series.n_slices < self.min_slices:
            return f"{series.n_slices} slices, fewer than {self.min_slices}"
        return None
