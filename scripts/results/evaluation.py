"""Files of an evaluation: metrics, scores and pictures."""

from __future__ import annotations

import heapq
import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from scripts.data.planes import slice_name
from scripts.data.scans import is_scan
from scripts.figures import Case, heat_map_grid, roc_and_pr, score_histogram
from scripts.metrics import ClassMetrics, PixelMetrics, VolumeMetrics, class_means
from scripts.model.calibration import Calibration
from scripts.model.provenance import Provenance
from scripts.networks.detector import Detector
from scripts.results.false_alarms import FalseAlarms
from scripts.transforms.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

TOLD_APART = 3  # images of each label among the best and the worst cases


class _Shown(NamedTuple):
    """A slice that may be shown at the end; the picture itself is read again."""

    score: float
    label: int
    image: str
    number: int
    anomaly_map: np.ndarray  # (H, W)
    mask: np.ndarray | None


class _Kept:
    """Images of the highest or the lowest scores, the extreme one first.

    Args:
        highest: Whether the highest scores are kept; otherwise the lowest.
        number: Number of images kept at most.
        label: Label of the images that count; None counts all.
    """

    def __init__(self, highest: bool, number: int, label: int | None = None) -> None:
        self._ends = heapq.nlargest if highest else heapq.nsmallest
        self._number, self._label = number, label
        self.shown: list[_Shown] = []

    def add(self, item: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Slices of few scans look alike, so each scan adds its own ends, and only a few are held in memory."""
        counting = [row for row in rows if self._label in (None, row["label"])]
        ends = self._ends(self._number, counting, key=lambda row: row["score"])
        self.shown += [_shown(item, row) for row in ends]
        self.shown = self._ends(self._number, self.shown, key=lambda shown: shown.score)


class EvaluationResults:
    """Writes metrics, scores and pictures of an evaluation into ``output_dir``:

    - ``metrics.json``: metrics, thresholds, false alarms promised and observed, and what was evaluated;
    - ``scores.csv``, a line an item, and for scans ``slices.csv``, a line a slice, with p-values where calibrated;
    - ``roc_pr.png``, ``scores.png``, ``heat_maps.png`` (the most and the least anomalous images; of a scan, slices),
      ``best_cases.png`` and ``worst_cases.png`` (where score and label agree, and where they differ most);
    - where there are masks, ``pixels.npz`` (see ``scripts.metrics.ItemCurves``), ``detections.csv`` (a line a local
      maximum of a map: ``item``, ``score``, and whether it ``found`` a lesion) and the number of ``lesions`` in
      ``scores.csv``;
    - where items have a class (organ), a column ``class`` and, with two or more classes, the metrics of each.

    Takes decollated outputs with ``image``, ``score``, ``slice_scores``, ``label``, ``patient``, ``image_scores``,
    ``image_labels``, ``image_numbers`` and ``anomaly_map``, and optionally ``organ`` and ``ground_truth`` (1, H, W, D),
    turned to the plane.

    Args:
        output_dir: Folder, made if missing.
        network: Detector, described in ``metrics.json``.
        provenance: Facts of the training, for ``metrics.json``.
        calibration: Thresholds and p-values.
        preprocessing: Way of the images to the network, whose first part makes what a picture shows.
        cases: Number of images shown at either end.
        pixels: Pixel metrics of the same engine; None where there are no masks. Classes are measured by its settings.
        lesions: Lesion metrics of the same engine; None where there are no masks.

    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> from scripts.transforms import ScaleToUnitd
    >>> preprocessing = Preprocessing(ScaleToUnitd("image"), image_size=64)
    >>> EvaluationResults("eval/test", network, Provenance(), Calibration(), preprocessing).plane
    'axial'
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: Detector,
        provenance: Provenance,
        calibration: Calibration,
        preprocessing: Preprocessing,
        cases: int = 6,
        pixels: PixelMetrics | None = None,
        lesions: VolumeMetrics | None = None,
    ) -> None:
        self.output_dir, self.network, self.provenance, self.cases = Path(output_dir), network, provenance, cases
        self.calibration = calibration
        self.reading, self.plane = preprocessing.reading, preprocessing.plane
        self.pixels, self.lesions = pixels, lesions

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self) -> None:
        self._items: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._classes = ClassMetrics() if self.pixels is None else ClassMetrics(self.pixels.bins, self.pixels.ader)
        self._false_alarms = FalseAlarms(self.calibration)
        self._highest, self._lowest = _Kept(True, self.cases), _Kept(False, self.cases)
        self._of_label = {(label, top): _Kept(top, TOLD_APART, label) for label in (0, 1) for top in (False, True)}

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            file = item["image"].meta["filename_or_obj"]
            common = {"image": file, "group": item["patient"]}
            if "organ" in item:
                common["class"] = item["organ"]
            score = float(item["score"])
            p_value = {"p_value": self.calibration.scan_p_value(score)} if self.calibration.patients else {}
            threshold = self.calibration.scan_threshold
            verdict = {} if threshold is None else {"scan_threshold": threshold, "abnormal": score > threshold}
            self._items.append({**common, "label": int(item["label"]), "score": score, **p_value, **verdict})
            scores, labels = item["image_scores"].tolist(), [int(label) for label in item["image_labels"]]
            numbers = item["image_numbers"].tolist()
            rows = [
                {**common, "slice": number, "label": label, "score": score}
                for number, label, score in zip(numbers, labels, scores, strict=True)
            ]
            self._false_alarms.add(item)
            if self.calibration.patients:
                # Without masks or labels of slices the one row stands for the whole scan, with its highest slice.
                sliced = "ground_truth" in item or "slice_labels" in item
                values = self.calibration.slice_p_values(np.array(scores)).tolist() if sliced else [p_value["p_value"]]
                rows = [{**row, "p_value": value} for row, value in zip(rows, values, strict=True)]
            self._images += rows
            for kept in (self._highest, self._lowest, *self._of_label.values()):
                kept.add(item, rows)
            if "organ" in item:
                self._classes.add(item["organ"], scores, labels)
                if "ground_truth" in item:
                    self._classes.add_map(item["organ"], item["anomaly_map"], item["ground_truth"])

    def _write(self, engine: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        items, images = pd.DataFrame(self._items), pd.DataFrame(self._images)
        if self.lesions is not None:
            items["lesions"] = [scan.lesions for scan in self.lesions.scans]
            detections = [
                pd.DataFrame({"item": item, "score": scan.scores, "found": scan.found.astype(int)})
                for item, scan in zip(items["image"], self.lesions.scans, strict=True)
            ]
            pd.concat(detections).to_csv(self.output_dir / "detections.csv", index=False)
        if self.pixels is not None and self.pixels.items is not None:
            self.pixels.items.curves(items["image"].tolist()).save(self.output_dir / "pixels.npz")
        items.sort_values("score", ascending=False).to_csv(self.output_dir / "scores.csv", index=False)
        if any(is_scan(file) for file in items["image"]):
            images.to_csv(self.output_dir / "slices.csv", index=False)
        scores, labels = images["score"].to_numpy(), images["label"].to_numpy()
        shown = {(one.image, one.number): one for one in [*self._highest.shown, *reversed(self._lowest.shown)]}.values()
        best, worst = (
            [*self._of_label[1, agreeing].shown, *self._of_label[0, not agreeing].shown] for agreeing in (True, False)
        )
        for name, figure in {
            "roc_pr.png": roc_and_pr(scores, labels),
            "scores.png": score_histogram(scores, labels),
            "heat_maps.png": self._grid(shown, "The most and the least anomalous images"),
            "best_cases.png": self._grid(best, "Best: anomalous images of high and normal images of low score"),
            "worst_cases.png": self._grid(worst, "Worst: anomalous images of low and normal images of high score"),
        }.items():
            figure.savefig(self.output_dir / name)
        summary = {
            "metrics": {name: value if math.isfinite(value) else None for name, value in engine.state.metrics.items()},
            "images": {"normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())},
            "items": len(items),
            "groups": int(items["group"].nunique()),
            **self.calibration.thresholds,
            "scorer": self.calibration.scorer,
            "calibration": self._false_alarms.summary(),
            "teachers": self.network.identities(),
            "model": self.provenance.facts,
        }
        classes = self._classes.compute()
        if len(classes) > 1:
            summary |= {"classes": classes, "class_means": class_means(classes)}
        (self.output_dir / "metrics.json").write_text(json.dumps(summary, indent=4) + "\n")
        logger.info("Metrics, scores and pictures are in %s", self.output_dir.resolve())

    def _grid(self, shown: Iterable[_Shown], title: str) -> Figure:
        return heat_map_grid([self._case(one) for one in shown], title)

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
