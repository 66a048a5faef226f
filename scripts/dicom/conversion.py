"""DICOM series as NIfTI scans, under names that tell nothing of the patient."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from scripts.data.planes import plane_axis
from scripts.dicom.nifti import write_nifti
from scripts.dicom.series import Series, read_series
from scripts.dicom.volume import Volume

logger = logging.getLogger(__name__)


def series_name(series: Series) -> str:
    """What a series is called in results: its modality and a hash of its UID."""
    key = hashlib.sha256(f"{series.uid} {series.part}".encode()).hexdigest()[:12]
    return f"{series.modality.lower() or 'dicom'}-{key}"


def converted(series: Series, folder: str, plane: str = "axial") -> str:
    """Writes a series as an uncompressed NIfTI into a folder, and gives its path.

    Raises:
        UnreadableSeriesError: if it cannot be read as one volume.
        ValueError: if its slices are uneven, so that they can only be looked at as they were taken, and ``plane`` is
            another one.
    """
    return converted_volume(read_series(series), series, folder, plane)


def converted_volume(volume: Volume, series: Series, folder: str, plane: str = "axial") -> str:
    """As `converted`, of a series that was read already."""
    for warning in volume.warnings:
        logger.warning("%s: %s", series_name(series), warning)
    if volume.uneven and plane_axis(volume.affine, volume.array.shape, plane)[0] != 2:
        raise ValueError(
            f"its slices are unevenly spaced, so there is no {plane} plane: look at the {series.orientation} one, with "
            "a model of it (--plane in training and inference)."
        )
    path = Path(folder) / f"{series_name(series)}.nii"
    write_nifti(volume.array, volume.affine, path)
    return str(path)
