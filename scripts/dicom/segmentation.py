"""The mask as a DICOM Segmentation."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom import Dataset

from scripts.dicom import codes
from scripts.dicom.derived import (
    CREATOR,
    anatomic_region,
    description,
    frames_of,
    identity,
    is_placed,
    name_frames,
    patient_orientation,
)
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result

SERIES_NUMBER = 9001


def segmentation(volume: Volume, images: list[Dataset], result: Result, algorithm: Algorithm) -> hd.seg.Segmentation:
    """Makes a binary segmentation of one segment, "Anomaly", with a frame for every slice.

    Slices without anomaly are kept, so that a reader gets the scan's grid back, and a normal scan has a segmentation.

    Args:
        volume: The scan.
        images: Its `reference_images`.
        result: What was found, with a mask (i, j, k).
        algorithm: Name of the model.

    Raises:
        ValueError: If the mask has other values than 0 and 1, or another shape than the scan.
    """
    mask = np.asarray(result.mask)
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("The mask has values other than 0 and 1. Apply the threshold first.")
    name = "Anomaly mask"
    parameters = {"model": algorithm.model_hash, "untrained": "yes" if algorithm.untrained else "no"}
    if result.mask_threshold is not None:
        parameters["mask_threshold"] = f"{result.mask_threshold:.9g}"
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Anomaly",
        segmented_property_category=codes.ABNORMALITY,
        segmented_property_type=codes.ABNORMALITY,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=codes.LEARNED,
            version=algorithm.version,
            parameters=parameters,
        ),
        tracking_uid=hd.UID(),
        tracking_id="Anomaly",
        anatomic_regions=[anatomic_region(volume)],
        display_color=hd.color.CIELabColor.from_rgb(255, 0, 0),
    )
    made = hd.seg.Segmentation(
        source_images=images,
        pixel_array=frames_of(volume, mask.astype(np.uint8)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        instance_number=1,
        content_label="ANOMALY_MASK",
        content_description=description(name, algorithm),
        content_creator_name=CREATOR,
        omit_empty_frames=False,
        **identity(name, SERIES_NUMBER, algorithm),
    )
    if not is_placed(volume):
        made.PatientOrientation = patient_orientation(volume)
    name_frames(made, volume)
    return made
