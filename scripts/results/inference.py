"""What an inference leaves behind: scores, maps, masks, pictures and a manifest."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image
from torch import Tensor

from scripts.data.scans import is_scan, save_like
from scripts.figures import luminance, overlay
from scripts.model.calibration import Calibration
from scripts.model.provenance import Provenance, current_config, device_name, git_commit, versions
from scripts.montage import montage
from scripts.networks.detector import Detector
from scripts.transforms.reading import ToPlaned
from scripts.transforms.summary import NOTICE

logger = logging.getLogger(__name__)

# Where no range is given, colours begin at this percentile of all anomaly values of the run and end at the other.
_DISPLAY_PERCENTILES = (75.0, 99.9)


class Exporter(Protocol):
    """Writes the results of items that came from something else than the file that was scored, as a DICOM series."""

    def takes(self, image: str) -> bool: ...

    def write(self, image: str, name: str, folder: Path, outcome: Mapping[str, Any]) -> dict[str, str]: ...


class InferenceResults:
    """Writes into ``output_dir``:

    - ``scores.csv``, a line an item, and ``slices.csv``, a line a slice of a scan, where calibrated with p-values;
    - ``maps/NAME`` (float32) and, where there is a threshold, ``masks/NAME`` (0 and 1, or 0 and 255 as PNG): NIfTI on
      the grid of a scan, TIFF and PNG in the pixels of an image;
    - ``overlays/NAME.png``: an image, or the slices of a scan with the highest scores;
    - what ``exporter`` adds for the items it takes;
    - ``manifest.json`` with all that the results depend on.

    Takes decollated outputs with ``name``, ``anomaly_map`` (1, i, j, k) and ``pred`` (1, i, j, k) or None, the mask, on
    the grid of the file, and ``result``, see ``scripts.transforms.ResultSummaryd``.

    Args:
        output_dir: made if missing.
        network, provenance: described in the manifest.
        reading: the first part of the preprocessing, which makes of {"image": file} what a picture shows: (C, rows,
            columns, slices) in [0, 1].
        plane: of the slices.
        threshold: of the masks, if there are any.
        calibration: described in the manifest.
        unreadable: name to reason, for inputs that could not be used.
        left_out: the same for those that were not meant to be.
        display_range: anomaly values at which the colours of the overlays begin and end; None takes percentiles of
            the run, so that overlays of one run can be compared with each other, but not with those of another.
        exporter: see above.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: Detector,
        provenance: Provenance,
        reading: Callable[[dict[str, Any]], dict[str, Any]],
        plane: str,
        threshold: float | None,
        calibration: Calibration,
        unreadable: Mapping[str, str] | None = None,
        left_out: Mapping[str, str] | None = None,
        display_range: Sequence[float] | None = None,
        exporter: Exporter | None = None,
    ) -> None:
        self.output_dir, self.network, self.provenance = Path(output_dir), network, provenance
        self.reading, self.plane = reading, plane
        self.threshold, self.calibration = threshold, calibration
        self.failed, self.left_out = dict(unreadable or {}), dict(left_out or {})
        self.display_range, self.exporter = display_range, exporter
        self.config = current_config()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def exit_if_incomplete(self) -> None:
        """Ends the process with exit code 3, after naming them, if some inputs have no results."""
        if self.failed:
            logger.error("%d inputs have no results:\n%s", len(self.failed), "\n".join(self.failed.values()))
            raise SystemExit(3)

    def _start(self) -> None:
        for folder in ("maps", "overlays"):
            (self.output_dir / folder).mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._slices: list[pd.DataFrame] = []
        self._percentiles: list[np.ndarray] = []
        self._pictures: list[Callable[[float, float], None]] = []
        self._started = time.time()

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item in ({**before, **after} for before, after in zip(batch, output, strict=True)):
            try:
                self._write_item(item)
            except (FileNotFoundError, ValueError) as error:  # as a series whose headers no writer accepts
                logger.error("%s: %s", item["name"], error)
                self.failed[item["name"]] = f"{item['name']}: {error}"

    def _write_item(self, item: dict[str, Any]) -> None:
        image, name = item["image"].meta["filename_or_obj"], item["name"]
        exported = self.exporter is not None and self.exporter.takes(image)
        anomaly_map = _array(item["anomaly_map"])
        mask = _array(item["pred"]) if item["pred"] is not None else None
        result = item["result"]
        row = {"image": name if exported else image, "score": result["anomaly_score"]}
        if result["p_value"] is not None:
            row["p_value"] = result["p_value"]
        if is_scan(image):
            row |= {"top_slice": result["top_slice"], "slices": len(result["slice_scores"])}
            self._slices.append(_slice_table(result, row["image"]))
        if exported:
            outcome = {
                "anomaly_map": anomaly_map,
                "mask": mask,
                **{key: result[key] for key in ("slice_scores", "top_slices", "threshold", "plane")},
                "score": result["anomaly_score"],
            }
            row |= self.exporter.write(image, name, self.output_dir, outcome)  # type: ignore[union-attr]
        else:
            row |= self._write_arrays(image, name, anomaly_map, mask)
        row["overlay"] = f"overlays/{name}.png"
        inside = anomaly_map[anomaly_map != 0]  # it is 0 outside the foreground
        self._percentiles.append(np.percentile(inside if inside.size else anomaly_map, _DISPLAY_PERCENTILES))
        self._rows.append(row)
        self._picture(item, image, row)

    def _write_arrays(self, image: str, name: str, anomaly_map: np.ndarray, mask: np.ndarray | None) -> dict[str, str]:
        scan = is_scan(image)
        suffixes = {"map": ".nii.gz" if scan else ".tiff", "mask": ".nii.gz" if scan else ".png"}
        arrays = {"map": anomaly_map} | ({} if mask is None else {"mask": mask})
        paths = {kind: f"{kind}s/{name}{suffixes[kind]}" for kind in arrays}
        for kind, array in arrays.items():
            target = self.output_dir / paths[kind]
            target.parent.mkdir(exist_ok=True)
            if scan:
                save_like(image, array, target)
            elif kind == "mask":
                Image.fromarray(array[..., 0] * np.uint8(255)).save(target)
            else:
                Image.fromarray(array[..., 0]).save(target, compression="tiff_deflate")
        return paths

    def _picture(self, item: dict[str, Any], image: str, row: dict[str, Any]) -> None:
        """Draws the overlay as soon as its colours are known: at once, or at the end of the run."""
        scan, name = is_scan(image), item["name"]
        shown = item["result"]["top_slices"] if scan else [0]
        maps = _array(self._turn(item["anomaly_map"])[..., shown])
        masks = _array(self._turn(item["pred"])[..., shown]) if item["pred"] is not None else None
        scores = [item["result"]["slice_scores"][number] for number in shown]

        def draw(low: float, high: float) -> None:
            picture = self.reading({"image": image})["image"]
            grey = _grey(torch.as_tensor(picture[..., shown]).numpy())
            if scan:
                rows, columns = (float(millimetres) for millimetres in picture.pixdim[:2])
                figure = montage(grey, maps, masks, shown, scores, (low, high), rows / columns, name, self.plane)
                figure.savefig(self.output_dir / row["overlay"])
            else:
                Image.fromarray(overlay(grey[..., 0], maps[..., 0], low, high)).save(self.output_dir / row["overlay"])

        if self.display_range is not None:
            draw(*self.display_range)
        else:
            self._pictures.append(draw)

    def _turn(self, array: MetaTensor) -> Tensor:
        return ToPlaned("array", self.plane)({"array": array})["array"]

    def _finish(self, engine: Engine) -> None:
        if not self._rows:
            raise ValueError(f"No input could be scored; the first reason: {next(iter(self.failed.values()))}")
        low, high = self.display_range or self._run_range()
        for draw in self._pictures:
            draw(low, high)
        rows = sorted(self._rows, key=lambda row: -row["score"])
        pd.DataFrame(rows).to_csv(self.output_dir / "scores.csv", index=False)
        if self._slices:
            pd.concat(self._slices).to_csv(self.output_dir / "slices.csv", index=False)
        manifest = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._started, 2),
            "device": device_name(),
            "versions": versions(),
            "git_commit": git_commit(),
            "teachers": self.network.identities(),
            "model": self.provenance.facts,
            "threshold": self.threshold,
            "calibration": self.calibration.facts,
            "plane": self.plane,
            "display_range": [low, high],
            "files": rows,
            "unreadable": self.failed,
            "left_out": self.left_out,
            "config": self.config,
            "notice": NOTICE,
        }
        (self.output_dir / "manifest.json").write_text(json.dumps(manifest, indent=4, default=str) + "\n")
        logger.info("Scores, maps and overlays of %d inputs are in %s", len(rows), self.output_dir.resolve())

    def _run_range(self) -> tuple[float, float]:
        """From the median item's low end, so that one odd image does not move it, to the highest of all."""
        percentiles = np.stack(self._percentiles)
        low, high = float(np.median(percentiles[:, 0])), float(percentiles[:, 1].max())
        return low, max(high, low + 1e-6)


def _slice_table(result: Mapping[str, Any], image: str) -> pd.DataFrame:
    """A line a slice, with a p-value where there is one."""
    scores = result["slice_scores"]
    table = pd.DataFrame({"image": image, "slice": range(len(scores)), "score": scores})
    if result["p_value"] is not None:
        table["p_value"] = np.array(result["slice_p_values"], dtype=float)
    return table


def _array(tensor: Tensor | MetaTensor) -> np.ndarray:
    """(1, ...) -> (...), on the CPU, float32 or uint8."""
    array = torch.as_tensor(tensor[0]).detach().cpu().numpy()
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _grey(picture: np.ndarray) -> np.ndarray:
    """(C, ...) -> (...) in [0, 1]: grey as it is, three windows or colours by their luminance."""
    return np.clip(picture[0] if picture.shape[0] == 1 else luminance(np.moveaxis(picture, 0, -1)), 0, 1)
