"""Scores and verdict as a DICOM structured report."""

from __future__ import annotations

from typing import Any

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from scripts.dicom import codes
from scripts.dicom.derived import MANUFACTURER, anatomic_region, identity, reference
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result

SERIES_NUMBER = 9003
_VERDICTS = {None: codes.NOT_CALIBRATED, False: codes.NOT_ABNORMAL, True: codes.ABNORMAL}


def report(
    volume: Volume,
    images: list[Dataset],
    objects: list[Dataset],
    segment: Dataset | None,
    result: Result,
    algorithm: Algorithm,
) -> sr.Comprehensive3DSR:
    """Makes a measurement report (TID 1500) of two groups: one of the scan, and one of the mask where there is one.

    The group of the scan has its score, what the score is judged by, the verdict, and the scores of the top slices. The
    threshold of the mask is in the other group alone, so that nobody holds it against the score.

    Args:
        volume: The scan.
        images: Its `reference_images`.
        objects: Other results, which are named as evidence.
        segment: Segmentation of the mask, one of ``objects``; None where there is no mask.
        result: What was found, with one slice score a slice of the scan.
        algorithm: Name of the model.
    """
    groups: list[Any] = [_of_scan(volume, result, algorithm)]
    if segment is not None:
        groups.append(_of_mask(volume, images, segment, result, algorithm))
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[algorithm.name, algorithm.version, algorithm.model_hash]),
        name=algorithm.name,
        manufacturer_name=MANUFACTURER,
        model_name=algorithm.name,
        serial_number=algorithm.model_hash,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(sr.ObserverContext(standard.DCM.Device, device)),
        procedure_reported=codes.procedure_of(images[0].get("Modality", "")),
        imaging_measurements=groups,
        title=standard.DCM.ImagingMeasurementReport,
    )
    return sr.Comprehensive3DSR(
        evidence=[*images, *objects],
        content=content,
        instance_number=1,
        is_complete=True,
        coding_schemes=[codes.coding_scheme()],
        **identity("Anomaly report", SERIES_NUMBER, algorithm),
    )


def _of_scan(volume: Volume, result: Result, algorithm: Algorithm) -> sr.MeasurementsAndQualitativeEvaluations:
    """Group of the scan, which names no finding, as the scan may be normal."""
    return sr.MeasurementsAndQualitativeEvaluations(
        source_images=[sr.SourceImageForMeasurementGroup(*reference(volume, k)) for k in range(len(volume.positions))],
        measurements=_measurements(volume, result),
        **_common("Scan", volume, algorithm, (codes.VERDICT, _VERDICTS[result.abnormal])),
    )


def _of_mask(
    volume: Volume, images: list[Dataset], segment: Dataset, result: Result, algorithm: Algorithm
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Group of the mask, by its segment."""
    # ReferencedSegment.from_segmentation looks for the segment in the frames, where a single one is not.
    referenced = sr.ReferencedSegment(
        segment.SOPClassUID,
        segment.SOPInstanceUID,
        segment_number=1,
        source_series=sr.SourceSeriesForSegmentation(images[0].SeriesInstanceUID),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=referenced,
        finding_category=codes.ABNORMALITY,
        finding_type=codes.ABNORMALITY,
        measurements=_numbers({codes.MASK_THRESHOLD: result.mask_threshold}),
        **_common("Anomaly mask", volume, algorithm),
    )


def _common(tracked: str, volume: Volume, algorithm: Algorithm, *evaluations: tuple[Code, Code]) -> dict[str, Any]:
    """Arguments that a group needs whatever it measures: where, by which model, and that it is for research."""
    said = [*evaluations, (codes.INTENDED_USE, codes.RESEARCH)]
    if algorithm.untrained:
        said.append((codes.MODEL_STATE, codes.UNTRAINED))
    state = "untrained" if algorithm.untrained else "trained"
    return {
        "tracking_identifier": sr.TrackingIdentifier(hd.UID(), tracked),
        "finding_sites": [sr.FindingSite(anatomic_region(volume))],
        "algorithm_id": sr.AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version,
            parameters=[f"model={algorithm.model_hash}", f"teachers={state}"],
            family=codes.LEARNED,
        ),
        "qualitative_evaluations": [sr.QualitativeEvaluation(name, value) for name, value in said],
    }


def _measurements(volume: Volume, result: Result) -> list[sr.Measurement]:
    """The scan's score with the slices it rests on and what judges it, and then the scores of those slices."""
    top = {k: sr.SourceImageForMeasurement(*reference(volume, k)) for k in result.top_slices}
    judged_by = {
        codes.SCAN_THRESHOLD: result.scan_threshold,
        codes.FALSE_POSITIVE_RATE: result.false_positive_rate,
        codes.P_VALUE: result.p_value,
    }
    return [
        _score(codes.SCORE, result.score, result.scan_threshold, list(top.values())),
        *_numbers(judged_by),
        *(_score(codes.SLICE_SCORE, result.slice_scores[k], result.slice_threshold, [top[k]]) for k in top),
        *_numbers({codes.SLICE_THRESHOLD: result.slice_threshold}),
    ]


def _score(
    concept: Code, score: float, threshold: float | None, images: list[sr.SourceImageForMeasurement]
) -> sr.Measurement:
    """A score with its normal range, which reaches up to the threshold."""
    properties = None
    if threshold is not None:
        limit = sr.NumContentItem(
            standard.SCT.NormalRangeUpperLimit,
            threshold,
            codes.NO_UNIT,
            relationship_type=sr.RelationshipTypeValues.HAS_PROPERTIES,
        )
        properties = sr.MeasurementProperties(normal_range_properties=sr.NormalRangeProperties([limit]))
    return sr.Measurement(concept, score, codes.NO_UNIT, properties=properties, referenced_images=images)


def _numbers(values: dict[Code, float | None]) -> list[sr.Measurement]:
    return [sr.Measurement(concept, value, codes.NO_UNIT) for concept, value in values.items() if value is not None]
