"""Calibration of a model on normal patients whom its training did not see."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from scripts.data.datalist import datalist_hash, datalist_name
from scripts.data.scans import is_scan
from scripts.files import replacing
from scripts.model.calibration import (
    LEVELS,
    MASK_RATES,
    METHOD,
    VoxelTail,
    patients_needed,
    risk_controlling_threshold,
)
from scripts.model.provenance import Provenance, git_commit

logger = logging.getLogger(__name__)

_PROMISES = {
    "scan": "of new normal patients, at most {:.4g} % have a scan that scores above {}",
    "slice": "of a new normal patient's slices, at most {:.4g} % on average score above {}",
    "mask": "of a new normal patient's foreground voxels, at most {:.4g} % on average lie above {}",
}


class Calibrating:
    """Collects the scores of normal patients, and writes the calibration when all are scored.

    Takes decollated batches with ``group``, the patient, and outputs with ``image``, ``score``, ``slice_scores``,
    ``empty_slices``, and ``anomaly_map`` and ``foreground`` (1, i, j, k); the scans of a patient follow one another.

    Args:
        path: Calibration file, replaced as a whole.
        datalist: Datalist whose normal validation patients are scored.
        provenance: Facts of the training, which tell what weakens the promise.
        scorer: What the scores are made by, see ``scripts.model.calibration.scorer``.
        rates: Promised false-positive rate in (0, 1) of each level: scan, slice and mask.

    Raises:
        ValueError: If a rate is not between 0 and 1; at the end, if no level has a threshold.

    >>> rates = {"scan": 0.05, "slice": 0.05, "mask": 0.005}
    >>> Calibrating("calibration.json", "datalist.json", Provenance(), {}, rates).scans
    0
    """

    def __init__(
        self,
        path: str | Path,
        datalist: str | Path,
        provenance: Provenance,
        scorer: Mapping[str, Any],
        rates: Mapping[str, float],
    ) -> None:
        for rate in rates.values():
            patients_needed(rate)  # refuses a wrong one before the work
        self.path, self.datalist, self.provenance = Path(path), Path(datalist), provenance
        self.scorer, self.rates = dict(scorer), {level: rates[level] for level in LEVELS}
        self.scans = 0
        self.highest: dict[str, float] = {}
        self.slices: dict[str, list[float]] = {}
        self.voxels = VoxelTail()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def level(self, level: str, rate: float) -> dict[str, Any]:
        """Rate and threshold of a level, or None and the reason, and what it rests on."""
        scores = {"scan": [[value] for value in self.highest.values()], "slice": list(self.slices.values())}
        try:
            if level == "mask":
                threshold, reason = self.voxels.threshold(rate), None
            else:
                threshold = risk_controlling_threshold([np.array(values) for values in scores[level]], rate)
                reason = None
        except ValueError as error:
            threshold, reason = None, str(error)
        counts = {"scans": self.scans, "slices": sum(map(len, self.slices.values())), "voxels": self.voxels.voxels}
        found: dict[str, Any] = {"rate": rate, "threshold": threshold} | ({"reason": reason} if reason else {})
        if level == "mask":
            found["thresholds"] = self._mask_thresholds({*MASK_RATES, rate})
        return found | {"patients": len(self.highest)} | counts

    def nameless(self) -> list[dict[str, Any]]:
        """Highest scan score and slice scores of each patient, in an order that tells no name."""
        patients = [{"score": self.highest[name], "slices": sorted(self.slices[name])} for name in self.highest]
        return sorted(patients, key=lambda patient: patient["score"])

    def _mask_thresholds(self, rates: set[float]) -> list[dict[str, float]]:
        """Thresholds of those of the rates that so many patients allow, the highest rate first."""
        allowed = [rate for rate in sorted(rates, reverse=True) if patients_needed(rate) <= self.voxels.patients]
        if not self.voxels.voxels:
            return []
        return [{"rate": rate, "threshold": self.voxels.threshold(rate)} for rate in allowed]

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for before, item in zip(batch, output, strict=True):
            patient, scores = before["group"], item["slice_scores"].cpu()
            if is_scan(item["image"].meta["filename_or_obj"]):
                scores = scores[~item["empty_slices"].cpu()]
            self.scans += 1
            self.highest[patient] = max(self.highest.get(patient, -np.inf), float(item["score"]))
            self.slices.setdefault(patient, []).extend(scores.tolist())
            inside = item["foreground"].as_tensor().cpu() > 0.5
            self.voxels.add(patient, item["anomaly_map"].as_tensor().cpu()[inside].numpy())

    def _write(self, engine: Engine) -> None:
        content: dict[str, Any] = {
            "method": METHOD,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "scorer": self.scorer,
            "datalist": datalist_name(self.datalist),
            "datalist_sha256": datalist_hash(self.datalist),
            "levels": {level: self.level(level, rate) for level, rate in self.rates.items()},
            "scores": self.nameless(),
        }
        with replacing(self.path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for warning in self._weaknesses():
            logger.warning(warning)
        logger.info(self._report(content))
        levels = content["levels"].values()
        if all(level["threshold"] is None for level in levels):
            reasons = dict.fromkeys(level["reason"] for level in levels)
            raise ValueError(f"No level has a threshold: {'; '.join(reasons)}.")

    def _weaknesses(self) -> list[str]:
        """Says why the promise may not hold, by what the checkpoint tells of its training."""
        facts = self.provenance.facts
        warnings = []
        if facts.get("early_stop_patience"):
            warnings.append(
                "The training was stopped by the loss on its validation split (early_stop_patience), so these patients "
                "are not as new ones: false alarms may be more than promised. Calibrate on others, or train without."
            )
        if facts.get("datalist_sha256") != datalist_hash(self.datalist):
            warnings.append(
                f"The model was not trained on {self.datalist}: make sure that none of its validation patients was "
                "trained on, else false alarms will be more than promised."
            )
        return warnings

    def _report(self, content: dict[str, Any]) -> str:
        counts = content["levels"]["scan"]
        lines = [
            f"Calibrated on {counts['patients']} normal patients of {content['datalist']} ({counts['scans']} scans, "
            f"{counts['slices']} slices, {counts['voxels']} foreground voxels)."
        ]
        for level, found in content["levels"].items():
            threshold = found["threshold"]
            promise = _PROMISES[level].format(100 * found["rate"], "" if threshold is None else f"{threshold:.4g}")
            lines.append(f"{level:6}{promise if threshold is not None else 'no threshold: ' + found['reason']}")
        lines.append(
            "On average over calibrations, and for patients like these: other scanners, protocols or populations need "
            f"their own. Written: {self.path}"
        )
        return "\n".join(lines)
