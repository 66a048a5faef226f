"""Converts DICOM series to NIfTI scans whose names reveal nothing about the patient."""

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
    """Name of a series in results: its modality and a hash of its UID."""
    key = hashlib.sha256(f"{series.uid} {series.part}".encode()).hexdigest()[:12]
    return f"{series.modality.lower() or 'dicom'}-{key}"


def converted(series: Series, folder: str, plane: str = "axial") -> str:
    """Writes a series as an uncompressed NIfTI file.

    Args:
        series: Series to convert.
        folder: Folder of the file.
        plane: Plane whose slices will be read: axial, coronal or sagittal.

    Returns:
        Path of the file.

    Raises:
        UnreadableSeriesError: If the series cannot be read as one volume.
        ValueError: If its slices are uneven and ``plane`` is not the plane of acquisition.
    """
    return converted_volume(read_series(series), series, folder, plane)


def converted_volume(volume: Volume, series: Series, folder: str, plane: str = "axial") -> str:
    """Writes a series that was already read; otherwise the same as ``converted``."""
    for warning in volume.warnings:
        logger.warning("%s: %s", series_name(series), warning)
    if volume.uneven and plane_axis(volume.affine, volume.array.shape, plane)[0] != 2:
        raise ValueError(
            f"its slices are unevenly spaced, so there are no {plane} slices: use the {series.orientation} plane, with "
            "a model trained on it (--plane in training and inference)."
        )
    path = Path(folder) / f"{series_name(series)}.nii"
    write_nifti(volume.array, volume.affine, path)
    return str(path)
