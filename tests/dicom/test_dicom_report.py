"""The structured report, read by dcmqi, dsrdump and with highdicom."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes

from scripts.dicom import codes as own
from scripts.dicom.derived import reference_images, save
from scripts.dicom.report import report
from scripts.dicom.segmentation import segmentation

UNCALIBRATED = dict.fromkeys(
    ("scan_threshold", "slice_threshold", "mask_threshold", "p_value", "false_positive_rate", "mask")
)
SCORE, SLICE_SCORE = "Anomaly score of the scan", "Anomaly score of a slice"
SCAN_THRESHOLD, SLICE_THRESHOLD = "Score above which the scan is abnormal", "Score above which a slice is abnormal"
RATE = "Promised share of normal patients above the scan threshold"
P_VALUE = "Share of normal patients expected to score at least as high"
MASK_THRESHOLD = "Threshold of the mask, a value of the anomaly map"


@pytest.fixture
def write(acquire, result, algorithm, tmp_path: Path) -> Callable[..., Path]:
    """``write(enhanced=False, **changes of the result)``: the report's file."""

    def make(enhanced: bool = False, algorithm=algorithm, **changes) -> Path:
        volume = acquire(enhanced=enhanced)
        images, found = reference_images(volume), result(volume, **changes)
        segment = None if found.mask is None else segmentation(volume, images, found, algorithm)
        objects = [] if segment is None else [segment]
        return save(report(volume, images, objects, segment, found, algorithm), tmp_path / "report.dcm")

    return make


def numbers(group: Any) -> list[tuple[str, float]]:
    return [(one.name.meaning, one.value) for one in group.get_measurements()]


def evaluations(group: Any) -> dict[str, str]:
    return {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}


@pytest.mark.parametrize(("score", "verdict"), [(0.99, "Not abnormal"), (1.2, "Not abnormal"), (1.3, "Abnormal")])
def test_the_verdict_is_by_the_scans_threshold_and_not_by_the_masks(write, errors, score: float, verdict: str) -> None:
    path = write(score=score)
    assert errors(path) == []
    content: Any = hd.sr.srread(path).content
    (scan,) = content.get_image_measurement_groups()
    (mask,) = content.get_volumetric_roi_measurement_groups()
    assert evaluations(scan)["Verdict on the scan"] == verdict
    assert numbers(scan) == [
        (SCORE, score),
        (SCAN_THRESHOLD, 1.2),
        (RATE, 0.05),
        (P_VALUE, 0.4),
        (SLICE_SCORE, 0.99),
        (SLICE_SCORE, 0.5),
        (SLICE_THRESHOLD, 1.1),
    ]
    assert numbers(mask) == [(MASK_THRESHOLD, 0.87)]
    assert "Verdict on the scan" not in evaluations(mask)


def test_scores_have_a_normal_range_up_to_their_own_threshold(write) -> None:
    (scan,) = hd.sr.srread(write()).content.get_image_measurement_groups()
    limits = {}
    for one in scan.get_measurements():
        for item in one[0].get("ContentSequence") or ():
            if item.name == codes.SCT.NormalRangeUpperLimit:
                limits.setdefault(one.name.meaning, []).append(item.value)
    assert limits == {SCORE: [1.2], SLICE_SCORE: [1.1, 1.1]}


def test_without_calibration_there_is_the_score_and_no_verdict(write, errors) -> None:
    path = write(**UNCALIBRATED)
    assert errors(path) == []
    content: Any = hd.sr.srread(path).content
    (scan,) = content.get_image_measurement_groups()
    assert content.get_volumetric_roi_measurement_groups() == []
    assert evaluations(scan) == {
        "Verdict on the scan": "Not calibrated",
        "Intended use": "Not for clinical use",
        "Algorithm Family": "Artificial Intelligence",
    }
    assert numbers(scan) == [(SCORE, 0.99), (SLICE_SCORE, 0.99), (SLICE_SCORE, 0.5)]
    assert b"Normal Range" not in path.read_bytes()


def test_dsrdump_shows_verdict_and_thresholds(write, program) -> None:
    done = subprocess.run([program("dsrdump"), str(write())], capture_output=True, text=True, check=True)
    assert "E: " not in done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any('"Verdict on the scan")=(not-abnormal,99PDD,"Not abnormal")' in line for line in lines)
    assert any(f'"{SCORE}")="0.99"' in line for line in lines)
    assert any('"Normal Range Upper Limit")="1.2"' in line for line in lines)
    assert [line for line in lines if '"0.87"' in line] == [
        f'<contains NUM:(,,"{MASK_THRESHOLD}")="0.87" (1,UCUM,"no units")>'
    ]


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_dcmqi_reads_the_score(write, untrained, errors, program, tmp_path: Path, masked: bool, enhanced: bool) -> None:
    path = write(enhanced, untrained, score=1 / 3, **({} if masked else {"mask": None}))
    assert errors(path) == []
    out = tmp_path / "report.json"
    words = ["--inputDICOM", path, "--outputMetadata", out]
    subprocess.run([program("tid1500reader"), *map(str, words)], check=True, capture_output=True)
    groups = json.loads(out.read_text())["Measurements"]
    assert [group.get("ReferencedSegment") for group in groups] == ([None, 1] if masked else [None])
    values = [(item["quantity"]["CodeMeaning"], float(item["value"])) for item in groups[0]["measurementItems"]]
    assert values[:3] == [(SCORE, pytest.approx(1 / 3, abs=1e-12)), (SCAN_THRESHOLD, 1.2), (RATE, 0.05)]
    for group in groups:
        assert all(item["units"]["CodeValue"] == "1" for item in group["measurementItems"])
        assert group["measurementAlgorithmIdentification"]["AlgorithmName"] == "PDD"
        assert group["measurementAlgorithmIdentification"]["AlgorithmVersion"] == "1.2.3"
        said = {item["conceptValue"]["CodeMeaning"] for item in group["qualitativeEvaluations"]}
        assert {"Not for clinical use", "Untrained teachers: scores mean nothing"} <= said


@pytest.mark.parametrize("enhanced", [False, True])
def test_score_refers_to_the_slices_that_carry_it(write, acquire, enhanced: bool) -> None:
    path = write(enhanced=enhanced, **UNCALIBRATED)
    dataset = dcmread(path)
    content: Any = hd.sr.srread(path).content
    (group,) = content.get_image_measurement_groups()
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
    assert {source.SOPInstanceUID for source in sources} <= evidence


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
