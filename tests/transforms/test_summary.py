"""The result of a scan: scores, verdict, p-values and mask."""

import json
from pathlib import Path

import pytest
import torch

from scripts.model.calibration import Calibration
from scripts.transforms import Resultd

SCORED = {
    "score": torch.tensor(3.0),
    "slice_scores": torch.tensor([1.0, 3.0, 0.0]),
    "empty_slices": torch.tensor([False, False, True]),
    "top_slices": torch.tensor([1, 0, 2]),
    "anomaly_map": torch.tensor([[[[1.0, 2.0, 3.0]]]]),
}


def calibration(tmp_path: Path, scan_threshold: float = 2.0) -> Calibration:
    levels = {
        name: {"rate": 0.5, "threshold": threshold, "thresholds": []}
        for name, threshold in {"scan": scan_threshold, "slice": 2.5, "mask": 2.0}.items()
    }
    patients = [{"score": 2.0, "slices": [1.0, 2.0]}, {"score": 4.0, "slices": [3.0, 4.0]}]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"scorer": {}, "levels": levels, "scores": patients}))
    return Calibration(path)


def test_scores_and_p_values_are_json_values(tmp_path: Path) -> None:
    result = Resultd(calibration(tmp_path), "coronal")(SCORED)["result"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["score"] == 3.0
    assert result["p_value"] == pytest.approx(2 / 3)  # one of two patients scores as high
    assert result["slice_scores"] == [1.0, 3.0, 0.0]
    # All slices of both score 1 or more, those of the second 3 or more; empty slices were not calibrated on.
    assert result["slice_p_values"] == [pytest.approx(1.0), pytest.approx(2 / 3), None]
    assert result["top_slices"] == [1, 0, 2]
    assert (result["scan_threshold"], result["slice_threshold"], result["mask_threshold"]) == (2.0, 2.5, 2.0)
    assert (result["plane"], result["abnormal"], result["false_positive_rate"]) == ("coronal", True, 0.5)
    assert "Not for clinical use" in result["notice"]


def test_a_score_between_the_masks_and_the_scans_threshold_is_not_abnormal(tmp_path: Path) -> None:
    found = Resultd(calibration(tmp_path, scan_threshold=3.5))(SCORED)["found"]
    assert found.mask_threshold < found.score < found.scan_threshold
    assert found.abnormal is False
    assert found.mask.sum() == 1
    assert found.sentence() == "not abnormal: score 3, scan threshold 3.5, p 0.667"


@pytest.mark.parametrize(("given", "expected"), [(None, [0, 0, 1]), (1.5, [0, 1, 1])], ids=["calibrated", "given"])
def test_the_mask_is_what_lies_above_its_threshold(tmp_path: Path, given: float | None, expected: list[int]) -> None:
    data = Resultd(calibration(tmp_path), mask_threshold=given)(SCORED)
    assert data["pred"].dtype == torch.uint8
    assert data["pred"].tolist() == [[[expected]]]
    assert data["found"].mask_threshold == (given or 2.0)


def test_without_calibration_there_is_neither_mask_nor_verdict_nor_nan(tmp_path: Path) -> None:
    data = Resultd(Calibration(tmp_path / "calibration.json"))(SCORED)
    result = data["result"]
    assert data["pred"] is None
    names = ("p_value", "scan_threshold", "slice_threshold", "mask_threshold", "abnormal", "false_positive_rate")
    assert [result[name] for name in names] == [None] * 6
    assert result["slice_p_values"] == [None, None, None]
    json.dumps(result, allow_nan=False)
