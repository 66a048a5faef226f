"""A finding refuses what DICOM cannot hold."""

from typing import Any

import pytest

from scripts.dicom.finding import Finding

GOOD: dict[str, Any] = {
    "anomaly_score": 1.0,
    "threshold": None,
    "slice_scores": [0.5, 1.0],
    "top_slices": [1],
    "algorithm_name": "PDD",
    "algorithm_version": "1",
    "model_hash": "ab",
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("anomaly_score", float("nan"), "NaN"),
        ("threshold", float("inf"), "infinite"),
        ("slice_scores", [0.5, float("nan")], "NaN"),
        ("top_slices", [2], "2 slices"),
        ("top_slices", [-1], "2 slices"),
        ("algorithm_name", "", "algorithm_name"),
        ("algorithm_version", "v" * 65, "64"),
        ("model_hash", "schlüssel", "ASCII"),
        ("algorithm_name", "a\\b", "backslash"),
        ("algorithm_name", "two\nlines", "ASCII"),
    ],
)
def test_refuses(name: str, value: Any, message: str) -> None:
    Finding(**GOOD)
    with pytest.raises(ValueError, match=message):
        Finding(**(GOOD | {name: value}))
