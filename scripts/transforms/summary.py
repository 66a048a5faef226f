"""What is said of a scan beside its map and mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from scripts.model.calibration import Calibration

NOTICE = "For research. Not for clinical use."


class ResultSummaryd(Transform):
    """Adds ``result``, JSON values that MONAI Label hands to its clients, from what ``AnomalyScored`` adds:

    ``anomaly_score``; ``p_value``, None where not calibrated; ``threshold`` of the mask or None; ``plane``;
    ``top_slice`` and ``top_slices``; ``slice_scores`` and ``slice_p_values``, one a slice of the plane, the latter None
    for slices without foreground, which were not calibrated on, and where not calibrated; ``notice``.

    Args:
        calibration: gives the p-values.
        threshold: of the mask.
        plane: of the slices.
    """

    def __init__(self, calibration: Calibration, threshold: float | None, plane: str) -> None:
        self.calibration, self.threshold, self.plane = calibration, threshold, plane

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        score, top = float(data["score"]), [int(number) for number in data["top_slices"]]
        scores = data["slice_scores"].cpu().double()
        empty = data["empty_slices"].tolist()
        known = self.calibration.patients > 0
        values = self.calibration.image_p_values(scores.numpy()).tolist()
        result = {
            "anomaly_score": score,
            "p_value": self.calibration.volume_p_value(score) if known else None,
            "threshold": self.threshold,
            "plane": self.plane,
            "top_slice": top[0],
            "top_slices": top,
            "slice_scores": scores.tolist(),
            "slice_p_values": [
                value if known and not nothing else None for value, nothing in zip(values, empty, strict=True)
            ],
            "notice": NOTICE,
        }
        return {**data, "result": result}
