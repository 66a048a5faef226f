"""What dcmqi, by which MONAI Label makes DICOM of a mask, has to be told, and what it cannot do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from pydicom import dcmread

from bundle.label.options import LABELS

MANUFACTURER = "medical-anomaly-pdd"  # of the files that the bundle itself writes
ALGORITHM = "medical_anomaly_pdd"
_ABNORMALITY = {  # category and type, as of scripts.dicom.codes
    "CodeValue": "49755003",
    "CodingSchemeDesignator": "SCT",
    "CodeMeaning": "Morphologically Abnormal Structure",
}
_TOLERANCE = 0.1  # mm
_REMEDY = "Run python -m monai.bundle run inferring on the files: it writes DICOM that fits."
_COLOURS = ([255, 200, 0], [255, 110, 0], [255, 0, 0])  # of labels 1 to 3


def labels_of(file: str | Path, scan: str | Path) -> list[int]:
    """Gives the labels, above 0, that a NIfTI or NRRD mask holds, in ascending order.

    Raises:
        ValueError: if it cannot be read, or is not of the size of its scan.
    """
    try:
        mask = SimpleITK.ReadImage(str(file))
    except RuntimeError:
        raise ValueError("The label is not a NIfTI or NRRD that can be read.") from None
    header = SimpleITK.ImageFileReader()
    header.SetFileName(str(scan))
    header.ReadImageInformation()
    if mask.GetSize() != (size := header.GetSize()):
        raise ValueError(f"The label has {mask.GetSize()} voxels, and its series {size}: draw it on the series itself.")
    return [int(value) for value in np.unique(SimpleITK.GetArrayFromImage(mask)) if value > 0]


def require_convertible(series: str | Path) -> None:
    """Makes sure that dcmqi can write a segmentation of a series: it takes a slice a file, and places the segmentation
    on the even grid for which MONAI Label's conversion takes the slices.

    Args:
        series: folder of its files.

    Raises:
        ValueError: if it has a multi-frame file, or its slices are tilted or unevenly spaced.
    """
    tags = ["NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"]
    headers = [dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in sorted(Path(series).iterdir())]
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise ValueError(f"This series is a multi-frame file, of which dcmqi writes no segmentation. {_REMEDY}")
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
    """Gives MONAI Label's ``label_info``, an entry a label in the order of ``labels``.

    Args:
        labels: that the mask holds, from 1.
        automatic: whether the mask is the model's own; one that a reader has saved is semi-automatic.
        given: by the client, the first of label 1; what it says is kept, codes are added where it has none.

    Raises:
        ValueError: if the client gives something else than a list of objects.
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
