"""What is said of a scan beside its map."""

import json
from pathlib import Path

import pytest
import torch

from scripts.model.calibration import Calibration
from scripts.transforms import ResultSummaryd

SCORED = {
    "score": torch.tensor(3.0),
    "slice_scores": torch.tensor([1.0, 3.0, 0.0]),
    "empty_slices": torch.tensor([False, False, True]),
    "top_slices": torch.tensor([1, 0, 2]),
}


def calibration(tmp_path: Path, patients: list[dict[str, object]]) -> Calibration:
    level = {"rate": 0.5, "threshold": 2.0, "thresholds": []}
    levels = dict.fromkeys(("volume", "image", "pixel"), level)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"checkpoint_sha256": "", "scoring": {}, "levels": levels, "scores": patients}))
    return Calibration(path, tmp_path / "model.pt")


def test_scores_and_p_values_are_json_values(tmp_path: Path) -> None:
    known = calibration(tmp_path, [{"score": 2.0, "images": [1.0, 2.0]}, {"score": 4.0, "images": [3.0, 4.0]}])
    result = ResultSummaryd(known, 2.0, "coronal")(SCORED)["result"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["anomaly_score"] == 3.0
    assert result["p_value"] == pytest.approx(2 / 3)  # one of two patients scores as high
    assert result["slice_scores"] == [1.0, 3.0, 0.0]
    # All images of both score 1 or more, those of the second 3 or more; empty slices were not calibrated on.
    assert result["slice_p_values"] == [pytest.approx(1.0), pytest.approx(2 / 3), None]
    assert (result["top_slice"], result["top_slices"]) == (1, [1, 0, 2])
    assert (result["threshold"], result["plane"]) == (2.0, "coronal")
    assert "Not for clinical use" in result["notice"]


def test_without_calibration_there_are_no_p_values_rather_than_nan(tmp_path: Path) -> None:
    unknown = Calibration(tmp_path / "calibration.json", tmp_path / "model.pt")
    result = ResultSummaryd(unknown, None, "axial")(SCORED)["result"]
    assert (result["p_value"], result["threshold"]) == (None, None)
    assert result["slice_p_values"] == [None, None, None]
    json.dumps(result, allow_nan=False)
