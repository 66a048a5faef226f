"""Writes what was found in a DICOM series as DICOM objects of the same study."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.config import disable_value_validation

from scripts.dicom.derived import is_placed, reference_images, save
from scripts.dicom.finding import Finding
from scripts.dicom.parametric_map import parametric_map
from scripts.dicom.report import report
from scripts.dicom.secondary_capture import secondary_captures
from scripts.dicom.segmentation import segmentation
from scripts.dicom.volume import Volume


def write_dicom(
    volume: Volume,
    anomaly_map: np.ndarray,
    mask: np.ndarray | None,
    finding: Finding,
    folder: Path,
    *,
    secondary_capture: bool = False,
) -> list[Path]:
    """Writes ``segmentation.dcm`` (where there is a mask), ``anomaly_map.dcm`` and ``report.dcm``.

    Each is a new series of the source's patient and study, in its frame of reference, every frame where the source has
    it; see `reference_images` for what is mended in an incomplete source. All are made before the first is written.
    A radiograph has no ``anomaly_map.dcm``: highdicom writes none without a place in the patient.

    Args:
        volume: The series.
        anomaly_map: (i, j, k) float32, finite, unbounded.
        mask: (i, j, k), 0 or 1, all 0 for a normal scan; None where no threshold was chosen.
        finding: The scores and the algorithm.
        folder: Made where it is missing; files of the same names are replaced.
        secondary_capture: Whether to write ``overlay_NNN.dcm`` of every top slice NNN, counted from 0, as well.

    Returns:
        The files.

    Raises:
        ValueError: If map, mask or scores do not fit the scan, the map is not finite, the sources lack a UID, or
            their headers are such as highdicom stumbles over.
        OSError: naming the file that cannot be written.
    """
    # pydicom and highdicom warn with names and birth dates, and validation logs UIDs.
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            files = _objects(volume, anomaly_map, mask, finding, secondary_capture)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"Its headers make no DICOM results ({type(error).__name__}). Export it again.") from error
        return [save(dataset, Path(folder, name)) for name, dataset in files.items()]


def _objects(
    volume: Volume, anomaly_map: np.ndarray, mask: np.ndarray | None, finding: Finding, secondary_capture: bool
) -> dict[str, Dataset]:
    """Makes the objects, by the names of their files."""
    images = reference_images(volume)
    files: dict[str, Dataset] = {}
    if mask is not None:
        files["segmentation.dcm"] = segmentation(volume, images, mask, finding)
    if is_placed(volume):
        files["anomaly_map.dcm"] = parametric_map(volume, images, anomaly_map, finding)
    segment = files.get("segmentation.dcm")
    files["report.dcm"] = report(volume, images, list(files.values()), segment, finding)
    if secondary_capture:
        captures = secondary_captures(volume, images, anomaly_map, mask, finding)
        files |= {f"overlay_{k:03d}.dcm": each for k, each in zip(finding.top_slices, captures, strict=True)}
    return files
