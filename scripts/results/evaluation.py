"""What an evaluation leaves behind: metrics, scores and pictures."""

from __future__ import annotations

import heapq
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events

from scripts.calibration import Calibration
from scripts.data.scans import is_scan
from scripts.figures import Case, heat_map_grid, roc_and_pr, score_histogram
from scripts.networks.detector import Detector
from scripts.provenance import Provenance
from scripts.results.false_alarms import FalseAlarms
from scripts.transforms.reading import slice_name

logger = logging.getLogger(__name__)


class _Shown(NamedTuple):
    """What is kept of a slice until the end; the picture itself is read again."""

    score: float
    label: int
    image: str
    number: int
    anomaly_map: np.ndarray  # (H, W)
    mask: np.ndarray | None


class EvaluationResults:
    """Writes into ``output_dir``: ``metrics.json`` (with what was evaluated), ``scores.csv`` (a line an item), for
    scans ``slices.csv`` (a line a slice), both with p-values where calibrated, ``roc_pr.png``, ``scores.png`` and
    ``heat_maps.png`` (the most and the least anomalous images; of a scan, slices).

    Takes decollated outputs with ``image``, ``score``, ``slice_scores``, ``label``, ``patient``, ``image_scores``,
    ``image_labels``, ``image_numbers``, and ``anomaly_map`` and maybe ``ground_truth`` (1, H, W, D), turned to the
    plane.

    Args:
        output_dir: made if missing.
        network, provenance: described in ``metrics.json``.
        calibration: gives the p-values and thresholds; in ``metrics.json`` with the false alarms that there were.
        reading: see ``InferenceResults``.
        plane: of the slices.
        cases: images shown at either end.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: Detector,
        provenance: Provenance,
        calibration: Calibration,
        reading: Callable[[dict[str, Any]], dict[str, Any]],
        plane: str,
        cases: int = 6,
    ) -> None:
        self.output_dir, self.network, self.provenance, self.cases = Path(output_dir), network, provenance, cases
        self.calibration, self.reading, self.plane = calibration, reading, plane

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self) -> None:
        self._items: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._false_alarms = FalseAlarms(self.calibration)
        self._highest: list[_Shown] = []
        self._lowest: list[_Shown] = []

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            file = item["image"].meta["filename_or_obj"]
            common = {"image": file, "group": item["patient"]}
            score = float(item["score"])
            p_value = {"p_value": self.calibration.volume_p_value(score)} if self.calibration.patients else {}
            self._items.append({**common, "label": int(item["label"]), "score": score, **p_value})
            scores, labels = item["image_scores"].tolist(), [int(label) for label in item["image_labels"]]
            numbers = item["image_numbers"].tolist()
            rows = [
                {**common, "slice": number, "label": label, "score": score}
                for number, label, score in zip(numbers, labels, scores, strict=True)
            ]
            self._false_alarms.add(item)
            if self.calibration.patients:
                # Without masks the one row stands for the whole scan, with its highest slice.
                sliced = "ground_truth" in item
                values = self.calibration.image_p_values(np.array(scores)).tolist() if sliced else [p_value["p_value"]]
                rows = [{**row, "p_value": value} for row, value in zip(rows, values, strict=True)]
            self._images += rows
            # Slices of few scans look alike, so each scan shows its own ends, and only a few are held in memory.
            for kept, ends in ((self._highest, heapq.nlargest), (self._lowest, heapq.nsmallest)):
                kept += [_shown(item, row) for row in ends(self.cases, rows, key=lambda row: row["score"])]
                kept[:] = ends(self.cases, kept, key=lambda shown: shown.score)

    def _write(self, engine: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        items, images = pd.DataFrame(self._items), pd.DataFrame(self._images)
        items.sort_values("score", ascending=False).to_csv(self.output_dir / "scores.csv", index=False)
        if any(is_scan(file) for file in items["image"]):
            images.to_csv(self.output_dir / "slices.csv", index=False)
        scores, labels = images["score"].to_numpy(), images["label"].to_numpy()
        shown = {(one.image, one.number): one for one in [*self._highest, *reversed(self._lowest)]}.values()
        for name, figure in {
            "roc_pr.png": roc_and_pr(scores, labels),
            "scores.png": score_histogram(scores, labels),
            "heat_maps.png": heat_map_grid(
                [self._case(one) for one in shown], "The most and the least anomalous images"
            ),
        }.items():
            figure.savefig(self.output_dir / name)
        summary = {
            "metrics": {name: value if math.isfinite(value) else None for name, value in engine.state.metrics.items()},
            "images": {"normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())},
            "items": len(items),
            "groups": int(items["group"].nunique()),
            "threshold": self.calibration.pixel_threshold,
            "calibration": self._false_alarms.summary(),
            "teachers": self.network.identities(),
            "model": self.provenance.facts,
        }
        (self.output_dir / "metrics.json").write_text(json.dumps(summary, indent=4) + "\n")
        logger.info("Metrics, scores and pictures are in %s", self.output_dir.resolve())

    def _case(self, shown: _Shown) -> Case:
        scan = is_scan(shown.image)
        item = {"image": shown.image} | ({"slice": shown.number} if scan else {})
        picture = self.reading(item)["image"]
        name = "/".join(Path(shown.image).parts[-2:])
        middle = picture.shape[-1] // 2  # of a slice that was read with its neighbours
        return Case(
            image=np.moveaxis(torch.as_tensor(picture[..., middle]).numpy(), 0, -1).clip(0, 1).squeeze(),
            mask=shown.mask,
            anomaly_map=shown.anomaly_map,
            score=shown.score,
            label=shown.label,
            name=slice_name(name, self.plane, shown.number) if scan else name,
            pixel_aspect=float(picture.pixdim[0] / picture.pixdim[1]),
        )


def _shown(item: dict[str, Any], row: dict[str, Any]) -> _Shown:
    planes = [
        None if key not in item else torch.as_tensor(item[key][0, ..., row["slice"]]).cpu().float().numpy()
        for key in ("anomaly_map", "ground_truth")
    ]
    return _Shown(row["score"], row["label"], row["image"], row["slice"], planes[0], planes[1])  # type: ignore[arg-type]
