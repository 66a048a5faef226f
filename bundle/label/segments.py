"""What the labels of a mask are called in DICOM, for dcmqi, which MONAI Label converts masks with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from bundle.label.options import BANDS

MANUFACTURER = "medical-anomaly-pdd"  # of the files that the bundle itself writes
ALGORITHM = "medical_anomaly_pdd"
_ABNORMALITY = {  # category and type, as of bundle.dicom.codes
    "CodeValue": "49755003",
    "CodingSchemeDesignator": "SCT",
    "CodeMeaning": "Morphologically Abnormal Structure",
}
_COLOURS = ([255, 200, 0], [255, 110, 0], [255, 0, 0])  # of labels 1 to 3


def labels_of(file: str | Path) -> list[int]:
    """Gives the labels, above 0, that a NIfTI or NRRD mask holds, in ascending order."""
    values = np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))))
    return [int(value) for value in values if value > 0]


def segment_info(
    labels: Sequence[int], automatic: bool, given: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Gives MONAI Label's ``label_info``, an entry a label in the order of ``labels``.

    Args:
        labels: that the mask holds, from 1.
        automatic: whether the mask is the model's own; one that a reader has saved is semi-automatic.
        given: by the client, the first of label 1; what it says is kept, codes are added where it has none.
    """
    names = list(BANDS)
    entries = []
    for label in labels:
        entry = copy.deepcopy(given[label - 1]) if given and label <= len(given) else {}
        entry.setdefault("name", names[label - 1] if label <= len(names) else f"label {label}")
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
