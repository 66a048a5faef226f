"""The structured report, read by dcmqi and with highdicom."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes

from scripts.dicom import codes as own
from scripts.dicom.derived import reference_images, save
from scripts.dicom.report import report
from scripts.dicom.segmentation import segmentation


@pytest.fixture
def write(acquire, finding, tmp_path: Path) -> Callable[..., Path]:
    """``write(masked=True, enhanced=False, **changes of the finding)``: the report's file."""

    def make(masked: bool = True, enhanced: bool = False, **changes) -> Path:
        volume = acquire(enhanced=enhanced)
        images, found = reference_images(volume), finding(volume, **changes)
        segment = segmentation(volume, images, np.zeros(volume.array.shape, np.uint8), found) if masked else None
        return save(report(volume, images, [segment] if segment else [], segment, found), tmp_path / "report.dcm")

    return make


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_dcmqi_reads_the_score(write, errors, program, tmp_path: Path, masked: bool, enhanced: bool) -> None:
    path = write(masked, enhanced, untrained=True, anomaly_score=1 / 3)
    assert errors(path) == []
    out = tmp_path / "report.json"
    words = ["--inputDICOM", path, "--outputMetadata", out]
    subprocess.run([program("tid1500reader"), *map(str, words)], check=True, capture_output=True)
    (group,) = json.loads(out.read_text())["Measurements"]
    values = [(item["quantity"]["CodeMeaning"], float(item["value"])) for item in group["measurementItems"]]
    assert values == [
        ("Anomaly score", pytest.approx(1 / 3, abs=1e-12)),
        ("Threshold of the anomaly score", 0.75),
        ("Anomaly score of a slice", 2.5),
        ("Anomaly score of a slice", 1.0),
    ]
    assert all(item["units"]["CodeValue"] == "1" for item in group["measurementItems"])
    assert group["measurementAlgorithmIdentification"]["AlgorithmName"] == "PDD"
    assert group["measurementAlgorithmIdentification"]["AlgorithmVersion"] == "1.2.3"
    assert group.get("ReferencedSegment") == (1 if masked else None)
    said = {item["conceptValue"]["CodeMeaning"] for item in group["qualitativeEvaluations"]}
    assert {"Not for clinical use", "Untrained teachers: scores mean nothing"} <= said


@pytest.mark.parametrize("enhanced", [False, True])
def test_score_refers_to_the_slices_that_carry_it(write, acquire, enhanced: bool) -> None:
    path = write(enhanced=enhanced, threshold=None)
    dataset = dcmread(path)
    content: Any = hd.sr.srread(path).content
    (group,) = content.get_volumetric_roi_measurement_groups()
    score, last, first = group.get_measurements()
    sources = acquire(enhanced=enhanced).sources
    instances = [sources[0], sources[0]] if enhanced else [sources[5], sources[0]]
    frames = [6, 1] if enhanced else [None, None]
    places = [(image.referenced_sop_instance_uid, image.referenced_frame_numbers) for image in score.referenced_images]
    assert places == [(s.SOPInstanceUID, n if n is None else [n]) for s, n in zip(instances, frames, strict=True)]
    assert last.referenced_images[0].referenced_sop_instance_uid == instances[0].SOPInstanceUID
    assert first.referenced_images[0].referenced_sop_instance_uid == instances[1].SOPInstanceUID
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in dataset.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert {source.SOPInstanceUID for source in sources} < evidence


def test_says_what_it_is_for_and_what_made_it(write) -> None:
    path = write()
    dataset = dcmread(path)
    assert dataset.SeriesDescription == "Anomaly report, not for clinical use"
    assert (dataset.CompletionFlag, dataset.VerificationFlag, dataset.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    content: Any = hd.sr.srread(path).content
    (context,) = content.get_observer_contexts(observer_type=codes.cid270.Device)
    attributes = context.observer_identifying_attributes
    assert (attributes.name, attributes.serial_number) == ("PDD", "0123456789abcdef")
    (group,) = content.get_volumetric_roi_measurement_groups()
    said = {evaluation.name: evaluation.value for evaluation in group.get_qualitative_evaluations()}
    assert said[own.INTENDED_USE] == own.RESEARCH
    assert own.MODEL_STATE not in said


def test_refuses_scores_of_another_scan(write) -> None:
    with pytest.raises(ValueError, match="5 slice scores"):
        write(slice_scores=[1.0] * 5, top_slices=[1])
