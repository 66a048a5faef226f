"""What is written and told of a series, by results that no model has to make."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import torch

from bundle.deploy.messages import Scored
from bundle.deploy.results import Results
from bundle.deploy.writing import WriteResults
from bundle.phantom.dicom import write_series
from scripts.dicom.series import find_series, read_series
from scripts.model.algorithm import Algorithm
from scripts.results import Result

FACTS = {"method": "PDD", "version": "1.2.3", "checkpoint_sha256": "0123456789abcdef" * 4, "untrained": []}
VOXEL_MM3 = 2 * 2 * 5


@pytest.fixture
def scored(tmp_path: Path) -> Scored:
    """A normal scan whose score lies between the mask's threshold and its own."""
    array = np.random.default_rng(0).integers(0, 100, (8, 8, 6)).astype(np.int16)
    write_series(tmp_path / "study", array, np.diag([-2.0, -2.0, 5.0, 1.0]))
    (series,) = find_series(tmp_path / "study", progress=False).series
    anomaly_map = torch.zeros(1, 8, 8, 6)
    anomaly_map[0, 2, 3, 4] = 0.99
    result = Result(
        score=0.99,
        scan_threshold=1.2,
        slice_threshold=1.1,
        mask_threshold=0.87,
        p_value=0.4,
        false_positive_rate=0.05,
        slice_scores=[0.0, 0.0, 0.0, 0.0, 0.99, 0.0],
        slice_p_values=[1.0, 1.0, 1.0, 1.0, 0.4, 1.0],
        top_slices=[4],
        plane="axial",
        anomaly_map=anomaly_map,
        mask=(anomaly_map > 0.87).to(torch.uint8),
    )
    return Scored("series-1", read_series(series), result)


def write(scored: Scored, folder: Path) -> tuple[Results, dict[str, Any]]:
    """What the operator tells, and what results.json says."""
    from holoscan.core import Fragment

    results = Results(FACTS)
    algorithm = Algorithm("PDD", "1.2.3", "0123456789abcdef")
    operator = WriteResults(Fragment(), name="write", folder=folder, algorithm=algorithm, results=results)
    operator.compute(SimpleNamespace(receive=lambda port: scored), None, None)
    return results, json.loads(results.write(folder).read_text())


def test_a_score_between_the_thresholds_of_mask_and_scan_is_not_abnormal(scored: Scored, tmp_path: Path) -> None:
    results, content = write(scored, tmp_path)
    assert content["series"] == [
        {
            "series": "series-1",
            "score": 0.99,
            "scan_threshold": 1.2,
            "slice_threshold": 1.1,
            "mask_threshold": 0.87,
            "p_value": 0.4,
            "abnormal": False,
            "volume_mm3": VOXEL_MM3,
            "volume_ml": VOXEL_MM3 / 1000,
            "files": [f"series-1/{name}.dcm" for name in ("segmentation", "anomaly_map", "report")],
        }
    ]
    assert results.summary().splitlines() == [
        "series-1: not abnormal: score 0.99, scan threshold 1.2, p 0.4, mask 0.02 ml",
        "For research. Not for clinical use.",
    ]
    (scan,) = hd.sr.srread(tmp_path / "series-1" / "report.dcm").content.get_image_measurement_groups()
    said = {one.name.meaning: one.value.meaning for one in scan.get_qualitative_evaluations()}
    assert said["Verdict on the scan"] == "Not abnormal"


def test_without_calibration_there_is_no_verdict(scored: Scored, tmp_path: Path) -> None:
    unknown = dict.fromkeys(
        ("scan_threshold", "slice_threshold", "mask_threshold", "p_value", "false_positive_rate", "mask")
    )
    results, content = write(replace(scored, result=replace(scored.result, **unknown)), tmp_path)
    (one,) = content["series"]
    assert (one["score"], one["abnormal"], one["scan_threshold"], one["volume_ml"]) == (0.99, None, None, None)
    assert results.summary().splitlines()[0] == "series-1: score 0.99, not calibrated"


def test_a_result_that_is_not_finite_costs_its_own_series_alone(scored: Scored, tmp_path: Path) -> None:
    results, content = write(replace(scored, result=replace(scored.result, score=float("nan"))), tmp_path)
    assert results.exit_code == 3
    assert content["series"] == []
    assert content["unreadable"] == {"series-1": "cannot be used: the log says why"}
    assert not (tmp_path / "series-1").exists()
