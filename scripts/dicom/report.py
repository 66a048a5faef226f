"""The scores as a DICOM structured report."""

from __future__ import annotations

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.uid import generate_uid

from scripts.dicom import codes
from scripts.dicom.derived import MANUFACTURER, anatomic_region, identity, reference
from scripts.dicom.finding import Finding
from scripts.dicom.volume import Volume

SERIES_NUMBER = 9003


def report(
    volume: Volume, images: list[Dataset], objects: list[Dataset], segment: Dataset | None, finding: Finding
) -> sr.Comprehensive3DSR:
    """Makes a measurement report (TID 1500): the scan's score, the slices that carry it, and what they come from.

    Args:
        volume: The scan.
        images: Its `reference_images`.
        objects: Other results, which are named as evidence.
        segment: The segmentation the score belongs to, one of ``objects``; None where there is no mask.
        finding: The scores and the algorithm.

    Raises:
        ValueError: If the slice scores are not one a slice.
    """
    if len(finding.slice_scores) != volume.array.shape[2]:
        raise ValueError(
            f"{len(finding.slice_scores)} slice scores are not one for each of {volume.array.shape[2]} slices."
        )
    state = "untrained" if finding.untrained else "trained"
    group = {
        "tracking_identifier": sr.TrackingIdentifier(hd.UID(), "Anomaly"),
        "finding_category": codes.ABNORMALITY,
        "finding_type": codes.ABNORMALITY,
        "finding_sites": [sr.FindingSite(anatomic_region(volume, finding))],
        "algorithm_id": sr.AlgorithmIdentification(
            name=finding.algorithm_name,
            version=finding.algorithm_version,
            parameters=[f"model={finding.model_hash}", f"teachers={state}"],
            family=codes.LEARNED,
        ),
        "measurements": _measurements(volume, finding),
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(codes.INTENDED_USE, codes.RESEARCH),
            *([sr.QualitativeEvaluation(codes.MODEL_STATE, codes.UNTRAINED)] if finding.untrained else []),
        ],
    }
    measured: sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations
    if segment is None:
        sources = [sr.SourceImageForMeasurementGroup(*reference(volume, k)) for k in range(len(volume.positions))]
        measured = sr.MeasurementsAndQualitativeEvaluations(source_images=sources, **group)
    else:
        # ReferencedSegment.from_segmentation looks for the segment in the frames, where a single one is not.
        referenced = sr.ReferencedSegment(
            segment.SOPClassUID,
            segment.SOPInstanceUID,
            segment_number=1,
            source_series=sr.SourceSeriesForSegmentation(images[0].SeriesInstanceUID),
        )
        measured = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=referenced, **group)
    names = identity("Anomaly report", SERIES_NUMBER, finding)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[finding.algorithm_name, finding.algorithm_version, finding.model_hash]),
        name=finding.algorithm_name,
        manufacturer_name=MANUFACTURER,
        model_name=finding.algorithm_name,
        serial_number=finding.model_hash,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(sr.ObserverContext(standard.DCM.Device, device)),
        procedure_reported=codes.procedure_of(images[0].get("Modality", "")),
        imaging_measurements=[measured],
        title=standard.DCM.ImagingMeasurementReport,
    )
    return sr.Comprehensive3DSR(
        evidence=[*images, *objects],
        content=content,
        instance_number=1,
        is_complete=True,
        coding_schemes=[codes.coding_scheme()],
        **names,
    )


def _measurements(volume: Volume, finding: Finding) -> list[sr.Measurement]:
    """The scan's score with the slices it rests on, the threshold, and the scores of those slices."""
    top = [sr.SourceImageForMeasurement(*reference(volume, k)) for k in finding.top_slices]
    made = [sr.Measurement(codes.SCORE, finding.anomaly_score, codes.NO_UNIT, referenced_images=top)]
    if finding.threshold is not None:
        made.append(sr.Measurement(codes.THRESHOLD, finding.threshold, codes.NO_UNIT))
    for k, image in zip(finding.top_slices, top, strict=True):
        made.append(
            sr.Measurement(codes.SLICE_SCORE, finding.slice_scores[k], codes.NO_UNIT, referenced_images=[image])
        )
    return made
