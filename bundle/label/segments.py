"""Segments for dcmqi, by which MONAI Label makes DICOM of a mask, and checks of what dcmqi can convert."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from pydicom import dcmread

from bundle.label.options import LABELS

MANUFACTURER = "medical-anomaly-pdd"  # in DICOM files that the bundle itself writes
ALGORITHM = "medical_anomaly_pdd"
_ABNORMALITY = {  # category and type, as in scripts.dicom.codes
    "CodeValue": "49755003",
    "CodingSchemeDesignator": "SCT",
    "CodeMeaning": "Morphologically Abnormal Structure",
}
_TOLERANCE = 0.1  # mm
_REMEDY = "Run python -m bundle infer or deploy on the files: they write DICOM that fits."
_COLOURS = ([255, 200, 0], [255, 110, 0], [255, 0, 0])  # RGB of labels 1 to 3


def labels_of(file: str | Path, scan: str | Path) -> list[int]:
    """Labels above 0 that a NIfTI or NRRD mask holds, in ascending order.

    Args:
        file: Mask.
        scan: Scan that the mask belongs to, as NIfTI.

    Raises:
        ValueError: If the mask cannot be read, or has another size than its scan.
    """
    try:
        mask = SimpleITK.ReadImage(str(file))
    except RuntimeError:
        raise ValueError("The label cannot be read: send a NIfTI or NRRD.") from None
    header = SimpleITK.ImageFileReader()
    header.SetFileName(str(scan))
    header.ReadImageInformation()
    if mask.GetSize() != (size := header.GetSize()):
        raise ValueError(f"The label has {mask.GetSize()} voxels, but its series {size}: draw it on the series itself.")
    return [int(value) for value in np.unique(SimpleITK.GetArrayFromImage(mask)) if value > 0]


def require_convertible(series: str | Path) -> None:
    """Checks that dcmqi can write a segmentation of a series.

    It needs one file for each slice, and places the segmentation on the even grid that MONAI Label's conversion takes.

    Args:
        series: Folder of the series' files.

    Raises:
        ValueError: If a file is multi-frame, or the slices are tilted or unevenly spaced.
    """
    tags = ["NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"]
    headers = [dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in sorted(Path(series).iterdir())]
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise ValueError(f"This series is a multi-frame file, which dcmqi cannot segment. {_REMEDY}")
    if len(headers) < 2:
        return
    rows, columns = np.reshape(np.array(headers[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(rows, columns)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    positions = positions[np.argsort(positions @ normal)]
    spacing = (positions[-1] - positions[0]) @ normal / (len(positions) - 1)
    expected = positions[0] + np.arange(len(positions))[:, None] * spacing * normal
    if np.abs(positions - expected).max() > _TOLERANCE:
        raise ValueError(
            "The slices of this series are tilted or unevenly spaced, so dcmqi would misplace a segmentation of them. "
            + _REMEDY
        )


def segment_info(
    labels: Sequence[int], automatic: bool, given: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """MONAI Label's ``label_info``: one entry for each of ``labels``, in their order.

    Args:
        labels: Labels that the mask holds, from 1.
        automatic: Whether the mask is the model's own; one that a reader has saved is semi-automatic.
        given: Entries of the client, the first for label 1; codes are added where they have none.

    Raises:
        ValueError: If ``given`` is not a list of objects.
    """
    if given is not None and not (isinstance(given, list) and all(isinstance(entry, dict) for entry in given)):
        raise ValueError("label_info is not a list of objects.")
    entries = []
    for label in labels:
        entry = copy.deepcopy(given[label - 1]) if given and label <= len(given) else {}
        entry.setdefault("name", LABELS[label - 1] if label <= len(LABELS) else f"label {label}")
        entry.setdefault("model_name", ALGORITHM)
        colour = entry.get("color") or _COLOURS[min(label, len(_COLOURS)) - 1]
        entry.setdefault("segmentAttribute", _attribute(label, entry["name"], automatic, colour))
        entries.append(entry)
    return entries


def _attribute(label: int, name: str, automatic: bool, colour: Sequence[float]) -> dict[str, Any]:
    return {
        "labelID": label,
        "SegmentLabel": name,
        "SegmentDescription": name,
        "SegmentAlgorithmType": "AUTOMATIC" if automatic else "SEMIAUTOMATIC",
        "SegmentAlgorithmName": ALGORITHM,
        "SegmentedPropertyCategoryCodeSequence": _ABNORMALITY,
        "SegmentedPropertyTypeCodeSequence": _ABNORMALITY,
        "recommendedDisplayRGBValue": [int(part) for part in colour[:3]],
    }
