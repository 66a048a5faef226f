"""What the detector found in one scan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom.sr.coding import Code

LONGEST = 64  # characters of a DICOM long string (LO)


@dataclass(frozen=True)
class Finding:
    """The scores of a scan, and the algorithm they come from.

    Raises:
        ValueError: If a score is not finite, or a name is empty, too long for DICOM or not in ASCII.
    """

    anomaly_score: float  # of the scan; unbounded, higher is more abnormal
    threshold: float | None  # scan scores above it are abnormal; None where none was chosen
    slice_scores: list[float]  # in slice order, one a slice
    top_slices: list[int]  # 0-based slice numbers that carry the scan's score, the highest first
    algorithm_name: str
    algorithm_version: str
    model_hash: str  # identifies the weights
    untrained: bool = False  # whether the teachers have random weights, so that the scores mean nothing
    anatomic_region: Code | None = None  # None: what the scan's header says

    def __post_init__(self) -> None:
        numbers = [self.anomaly_score, *self.slice_scores, *([] if self.threshold is None else [self.threshold])]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("A score or the threshold is NaN or infinite: DICOM has no such numbers.")
        if not all(0 <= k < len(self.slice_scores) for k in self.top_slices):
            raise ValueError(f"Top slices {self.top_slices} are not all among the {len(self.slice_scores)} slices.")
        for name in ("algorithm_name", "algorithm_version", "model_hash"):
            text = getattr(self, name)
            if not (text.strip() and text.isascii() and text.isprintable() and len(text) <= LONGEST):
                raise ValueError(f"{name} {text!r} is not 1 to {LONGEST} ASCII characters.")
            if "\\" in text:
                raise ValueError(f"{name} {text!r} has a backslash, which divides values in DICOM.")
