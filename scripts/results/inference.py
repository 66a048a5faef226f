"""Files of an inference: scores, verdicts, maps, masks, pictures and a manifest."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from scripts.data.scans import is_scan, save_like
from scripts.figures import luminance, overlay
from scripts.model.algorithm import algorithm_of
from scripts.model.calibration import Calibration
from scripts.model.modality import trained_modalities
from scripts.model.provenance import Provenance, device_name, git_commit, versions
from scripts.montage import montage
from scripts.networks.detector import Detector
from scripts.results.result import NOTICE, Result
from scripts.transforms.preprocessing import Preprocessing
from scripts.transforms.reading import ToPlaned

if TYPE_CHECKING:
    from scripts.dicom.exporter import DicomExporter
    from scripts.inputs import Inputs

logger = logging.getLogger(__name__)

# Where no range is given, colours begin at this percentile of all anomaly values of the run and end at the other.
_DISPLAY_PERCENTILES = (75.0, 99.9)


class InferenceResults:
    """Writes into ``output_dir``:

    - ``scores.csv``, a line an item with score, thresholds, p-value and verdict, and ``slices.csv``, a line a slice of
      a scan;
    - ``maps/NAME`` (float32) and, where there is a threshold, ``masks/NAME`` (0 and 1, or 0 and 255 as PNG): NIfTI on
      the grid of a scan, TIFF and PNG in the pixels of an image;
    - ``overlays/NAME.png``: an image, or the slices of a scan with the highest scores, with the verdict as text;
    - ``dicom/NAME/`` for DICOM series;
    - ``manifest.json`` with all that the results depend on.

    Takes decollated batches with ``image`` and ``name``, and outputs with ``found``, a ``Result``.

    Args:
        output_dir: Folder, made if missing.
        network: Detector, described in the manifest.
        provenance: Facts of the model, for the manifest.
        preprocessing: Way of the images to the network, whose first part makes what a picture shows.
        calibration: Thresholds, described in the manifest.
        checkpoint: Checkpoint whose hash identifies the weights.
        inputs: What was found to score, what could not be used, and what was not meant to be.
        display_range: Anomaly values at which the colours of the overlays begin and end; None takes percentiles of
            the run, so that overlays of one run can be compared with each other, but not with those of another.
        secondary_capture: Whether DICOM results have colour overlays as ordinary pictures too.

    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> from scripts.inputs import Inputs
    >>> from scripts.transforms import ScaleToUnitd
    >>> preprocessing = Preprocessing(ScaleToUnitd("image"), image_size=64)
    >>> InferenceResults("out", network, Provenance(), preprocessing, Calibration(), "model.pt", Inputs()).plane
    'axial'
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: Detector,
        provenance: Provenance,
        preprocessing: Preprocessing,
        calibration: Calibration,
        checkpoint: str | Path,
        inputs: Inputs,
        display_range: Sequence[float] | None = None,
        secondary_capture: bool = False,
    ) -> None:
        self.output_dir, self.network, self.provenance = Path(output_dir), network, provenance
        self.reading, self.plane = preprocessing.reading, preprocessing.plane
        self.calibration, self.checkpoint, self.inputs = calibration, Path(checkpoint), inputs
        self.failed, self.left_out = dict(inputs.unreadable), dict(inputs.left_out)
        self.display_range, self.secondary_capture = display_range, secondary_capture
        self.exporter: DicomExporter | None = None

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
        self.other_modality = self._of_another_modality()
        for reason in self.other_modality.values():
            logger.warning("%s", reason)

    def _of_another_modality(self) -> dict[str, str]:
        """Reasons not to rely on the DICOM series of a modality that the model was not trained on, by name."""
        named = self.provenance.facts.get("modality")
        known, found = trained_modalities(named), {}
        for item in self.inputs.items:
            series = self.inputs.series.get(item["image"])
            if series is not None and known is not None and series.modality not in known:
                found[item["name"]] = (
                    f"{item['name']}: its modality is {series.modality or 'unknown'}, but the model was trained on "
                    f"{named}. Do not rely on its score and verdict."
                )
        return found

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item in ({**before, **after} for before, after in zip(batch, output, strict=True)):
            try:
                self._write_item(item)
            except (FileNotFoundError, ValueError) as error:  # as a series whose headers no writer accepts
                logger.error("%s: %s", item["name"], error)
                self.failed[item["name"]] = f"{item['name']}: {error}"
            except OSError as error:
                raise OSError(
                    f"Cannot write to {self.output_dir}: {error}. Make room there, or name another folder."
                ) from error

    def _write_item(self, item: dict[str, Any]) -> None:
        image, name = item["image"].meta["filename_or_obj"], item["name"]
        exporter = self._exporter() if image in self.inputs.series else None
        found: Result = item["found"]
        found = replace(
            found, anomaly_map=_array(found.anomaly_map), mask=None if found.mask is None else _array(found.mask)
        )
        row = {"image": image if exporter is None else name, **found.verdict()}
        if is_scan(image):
            row |= {"top_slice": found.top_slices[0], "slices": len(found.slice_scores)}
            self._slices.append(_slice_table(found, row["image"]))
        if exporter is None:
            row |= self._write_arrays(image, name, found)
        else:
            row |= exporter.write(image, name, self.output_dir, item["found"])
        row["overlay"] = f"overlays/{name}.png"
        anomaly_map = np.asarray(found.anomaly_map)
        inside = anomaly_map[anomaly_map != 0]  # it is 0 outside the foreground
        self._percentiles.append(np.percentile(inside if inside.size else anomaly_map, _DISPLAY_PERCENTILES))
        self._rows.append(row)
        self._picture(item["found"], image, row, name)

    def _exporter(self) -> DicomExporter:
        if self.exporter is None:  # here, as highdicom takes a second to import
            from scripts.dicom.exporter import DicomExporter

            algorithm = algorithm_of(self.network, self.provenance.facts, self.checkpoint)
            self.exporter = DicomExporter(self.inputs.series, algorithm, secondary_capture=self.secondary_capture)
        return self.exporter

    def _write_arrays(self, image: str, name: str, found: Result) -> dict[str, str]:
        scan = is_scan(image)
        suffixes = {"map": ".nii.gz" if scan else ".tiff", "mask": ".nii.gz" if scan else ".png"}
        arrays = {"map": found.anomaly_map} | ({} if found.mask is None else {"mask": found.mask})
        paths = {kind: f"{kind}s/{name}{suffixes[kind]}" for kind in arrays}
        for kind, given in arrays.items():
            target, array = self.output_dir / paths[kind], np.asarray(given)
            target.parent.mkdir(exist_ok=True)
            if scan:
                save_like(image, array, target)
            elif kind == "mask":
                Image.fromarray(array[..., 0] * np.uint8(255)).save(target)
            else:
                Image.fromarray(array[..., 0]).save(target, compression="tiff_deflate")
        return paths

    def _picture(self, found: Result, image: str, row: dict[str, Any], name: str) -> None:
        """Draws the overlay as soon as its colours are known: at once, or at the end of the run."""
        scan = is_scan(image)
        shown = found.top_slices if scan else [0]
        maps = _array(self._turn(found.anomaly_map)[..., shown])
        masks = _array(self._turn(found.mask)[..., shown]) if found.mask is not None else None
        scores = [found.slice_scores[number] for number in shown]
        title = f"{name}\n{found.sentence()}"
        said = {"Description": f"{found.sentence()}. {NOTICE}", "Comment": json.dumps(found.verdict())}

        def draw(low: float, high: float) -> None:
            picture = self.reading({"image": image})["image"]
            grey = _grey(torch.as_tensor(picture[..., shown]).numpy())
            if scan:
                rows, columns = (float(millimetres) for millimetres in picture.pixdim[:2])
                figure = montage(grey, maps, masks, shown, scores, (low, high), rows / columns, title, self.plane)
                figure.savefig(self.output_dir / row["overlay"], metadata=said)
            else:
                texts = PngInfo()  # as there is no room for a title in the pixels of the image
                for keyword, text in said.items():
                    texts.add_text(keyword, text)
                painted = Image.fromarray(overlay(grey[..., 0], maps[..., 0], low, high))
                painted.save(self.output_dir / row["overlay"], pnginfo=texts)

        if self.display_range is not None:
            draw(*self.display_range)
        else:
            self._pictures.append(draw)

    def _turn(self, array: Any) -> Tensor:
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
            "input": self.inputs.path,
            **self.calibration.thresholds,
            "calibration": self.calibration.facts,
            "scorer": self.calibration.scorer,
            "plane": self.plane,
            "display_range": [low, high],
            "files": rows,
            "unreadable": self.failed,
            "left_out": self.left_out,
            "other_modality": self.other_modality,
            "notice": NOTICE,
        }
        (self.output_dir / "manifest.json").write_text(json.dumps(manifest, indent=4, default=str) + "\n")
        logger.info("%s Scores, maps and overlays are in %s", _verdicts(rows), self.output_dir.resolve())

    def _run_range(self) -> tuple[float, float]:
        """From the median item's low end, so that one odd image does not move it, to the highest of all."""
        percentiles = np.stack(self._percentiles)
        low, high = float(np.median(percentiles[:, 0])), float(percentiles[:, 1].max())
        return low, max(high, low + 1e-6)


def _verdicts(rows: Sequence[dict[str, Any]]) -> str:
    """Says how many inputs were scored, and how many of them are called abnormal."""
    abnormal = [row["abnormal"] for row in rows]
    counted = "no verdicts, as there is no scan threshold" if None in abnormal else f"{sum(abnormal)} abnormal"
    return f"{len(rows)} scored, {counted}."


def _slice_table(found: Result, image: str) -> pd.DataFrame:
    """A line a slice, with p-value and verdict where the model is calibrated."""
    scores = np.array(found.slice_scores)
    table = pd.DataFrame({"image": image, "slice": range(len(scores)), "score": scores})
    if found.slice_threshold is not None:
        table["slice_threshold"] = found.slice_threshold
        table["abnormal"] = scores > found.slice_threshold
    if found.p_value is not None:
        table["p_value"] = np.array(found.slice_p_values, dtype=float)
    return table


def _array(tensor: Any) -> np.ndarray:
    """(1, ...) -> (...), on the CPU, float32 or uint8."""
    array = torch.as_tensor(tensor[0]).detach().cpu().numpy()
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _grey(picture: np.ndarray) -> np.ndarray:
    """(C, ...) -> (...) in [0, 1]: grey as it is, three windows or colours by their luminance."""
    return np.clip(picture[0] if picture.shape[0] == 1 else luminance(np.moveaxis(picture, 0, -1)), 0, 1)
