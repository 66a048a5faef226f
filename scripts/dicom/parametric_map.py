"""The anomaly map as a DICOM Parametric Map."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.spatial import get_normal_vector
from pydicom import Dataset

from scripts.dicom import codes
from scripts.dicom.derived import CREATOR, anatomic_region, description, identity, map_frames, name_frames
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result

SERIES_NUMBER = 9002


def parametric_map(volume: Volume, images: list[Dataset], result: Result, algorithm: Algorithm) -> hd.pm.ParametricMap:
    """Makes a float32 map of the very values of the anomaly map, shown from the lowest to the highest.

    Args:
        volume: The scan.
        images: Its `reference_images`.
        result: What was found, with a map (i, j, k).
        algorithm: Name of the model.

    Raises:
        ValueError: If the map holds NaN or infinities, or has another shape than the scan.
    """
    values = map_frames(result, volume)
    low, high = float(values.min()), float(values.max())
    name = "Anomaly map"
    made = hd.pm.ParametricMap(
        source_images=images,
        pixel_array=values,
        instance_number=1,
        contains_recognizable_visual_features=volume.sources[0].get("RecognizableVisualFeatures") == "YES",
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label="ANOMALY",
                lut_explanation=description("Anomaly map", algorithm),
                unit=codes.NO_UNIT,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=codes.MAP_VALUE,
            )
        ],
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=(low + high) / 2,
                window_width=high - low or 1.0,
                window_explanation="Lowest to highest",
                voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT,  # LINEAR knows no width below 1
            )
        ],
        content_label="ANOMALY_MAP",
        content_description=description(name, algorithm),
        content_creator_name=CREATOR,
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        coding_schemes=[codes.coding_scheme()],
        **identity(name, SERIES_NUMBER, algorithm),
    )
    # dciodvfy asks for a laterality, and dcmqi's reader crashes without this functional group.
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept.from_code(anatomic_region(volume))]
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    name_frames(made, volume)
    _sort_frames(made)
    return made


def _sort_frames(made: Dataset) -> None:
    """Puts frames into the order of their normal, as dcmqi's reader goes by it and not by their positions."""
    groups = made.PerFrameFunctionalGroupsSequence
    normal = get_normal_vector(
        made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    )
    order = np.argsort([normal @ group.PlanePositionSequence[0].ImagePositionPatient for group in groups])
    frames = np.frombuffer(made.FloatPixelData, "<f4").reshape(len(groups), -1)
    made.FloatPixelData = frames[order].tobytes()
    made.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = number
