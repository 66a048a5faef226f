"""From scores and a map to the result of a scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform

from scripts.model.calibration import Calibration
from scripts.results.result import Result


class Resultd(Transform):
    """Adds ``found``, the ``Result`` of what ``AnomalyScored`` and ``MapInverted`` add, and replaces ``pred`` by its
    mask: uint8, 1 above the mask's threshold; None where there is no threshold.

    ``result`` is the same in JSON values, without map and mask, as MONAI Label hands it to its clients.

    Args:
        calibration: Thresholds and p-values.
        plane: axial, coronal or sagittal.
        mask_threshold: Value of the map above which a voxel belongs to the mask; None takes the calibrated one.

    >>> from scripts.model.calibration import Calibration
    >>> data = {"score": torch.tensor(0.5), "slice_scores": torch.tensor([0.5]), "top_slices": torch.tensor([0])}
    >>> data |= {"empty_slices": torch.tensor([False]), "anomaly_map": torch.tensor([[[[0.2, 0.9]]]])}
    >>> Resultd(Calibration(), mask_threshold=0.4)(data)["pred"].tolist()
    [[[[0, 1]]]]
    """

    def __init__(self, calibration: Calibration, plane: str = "axial", mask_threshold: float | None = None) -> None:
        self.calibration, self.plane = calibration, plane
        self.mask_threshold = calibration.mask_threshold if mask_threshold is None else mask_threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        score, scores = float(data["score"]), data["slice_scores"].cpu().double()
        calibrated = self.calibration.patients > 0
        p_values = self.calibration.slice_p_values(scores.numpy()).tolist()
        empty = data["empty_slices"].tolist()  # which were not calibrated on
        threshold, anomaly_map = self.mask_threshold, data["anomaly_map"]
        # None, as an engine does not notice that a key is gone.
        mask = None if threshold is None else (anomaly_map > threshold).to(torch.uint8)
        found = Result(
            score=score,
            scan_threshold=self.calibration.scan_threshold,
            slice_threshold=self.calibration.slice_threshold,
            mask_threshold=threshold,
            p_value=self.calibration.scan_p_value(score) if calibrated else None,
            false_positive_rate=self.calibration.rates.get("scan") if calibrated else None,
            slice_scores=scores.tolist(),
            slice_p_values=[
                p if calibrated and not nothing else None for p, nothing in zip(p_values, empty, strict=True)
            ],
            top_slices=[int(number) for number in data["top_slices"]],
            plane=self.plane,
            anomaly_map=anomaly_map,
            mask=mask,
        )
        return {**data, "pred": mask, "found": found, "result": found.summary()}
