"""What an inference leaves behind: scores, maps, overlays and a manifest."""

import json
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from PIL import Image

from scripts.data.images import read_image
from scripts.figures import overlay
from scripts.networks.detector import Detector
from scripts.provenance import Provenance, current_config, device_name, git_commit, versions

logger = logging.getLogger(__name__)

# Where no range is given, colours begin at this percentile of all anomaly values of the run and end at the other.
_DISPLAY_PERCENTILES = (75.0, 99.9)


class InferenceResults:
    """Writes into ``output_dir``: ``scores.csv``, ``maps/NAME.tiff`` (float32, in the pixels of the image), overlays
    ``overlays/NAME.png`` on one colour scale, and ``manifest.json`` with all that the results depend on.

    Takes decollated outputs with ``score`` and ``anomaly_map`` (1, H, W), the latter in the image's own pixels.

    Args:
        output_dir: made if missing.
        network, provenance: described in the manifest.
        unreadable: file name to reason, for inputs that were left out.
        display_range: anomaly values at which the colours of the overlays begin and end; None takes percentiles of
            the run, so that overlays of one run can be compared with each other, but not with those of another.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: Detector,
        provenance: Provenance,
        unreadable: dict[str, str] | None = None,
        display_range: Sequence[float] | None = None,
    ) -> None:
        self.output_dir, self.network, self.provenance = Path(output_dir), network, provenance
        self.unreadable, self.display_range = unreadable or {}, display_range
        self.config = current_config()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        (self.output_dir / "maps").mkdir(parents=True, exist_ok=True)
        (self.output_dir / "overlays").mkdir(exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._percentiles: list[np.ndarray] = []
        self._started = time.time()

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            anomaly_map = item["anomaly_map"][0].cpu().float().numpy()
            file = Path(item["image"].meta["filename_or_obj"])
            name = self._unique_name(file)
            Image.fromarray(anomaly_map).save(self.output_dir / "maps" / f"{name}.tiff", compression="tiff_deflate")
            self._percentiles.append(np.percentile(anomaly_map, _DISPLAY_PERCENTILES))
            self._rows.append({"image": str(file), "score": float(item["score"]), "name": name})

    def _unique_name(self, file: Path) -> str:
        taken = {row["name"] for row in self._rows}
        name, number = file.stem, 2
        while name in taken:
            name, number = f"{file.stem}_{number}", number + 1
        return name

    def _finish(self, engine: Engine) -> None:
        low, high = self.display_range or self._run_range()
        for row in self._rows:
            with Image.open(self.output_dir / "maps" / f"{row['name']}.tiff") as anomaly_map:
                picture = overlay(_displayed(read_image(row["image"])), np.asarray(anomaly_map), low, high)
            Image.fromarray(picture).save(self.output_dir / "overlays" / f"{row['name']}.png")
        table = pd.DataFrame(self._rows).assign(
            map=[f"maps/{row['name']}.tiff" for row in self._rows],
            overlay=[f"overlays/{row['name']}.png" for row in self._rows],
        )
        table = table.drop(columns="name").sort_values("score", ascending=False)
        table.to_csv(self.output_dir / "scores.csv", index=False)
        manifest = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._started, 2),
            "device": device_name(),
            "versions": versions(),
            "git_commit": git_commit(),
            "teachers": self.network.identities(),
            "model": self.provenance.facts,
            "display_range": [low, high],
            "files": table.to_dict("records"),
            "unreadable": self.unreadable,
            "config": self.config,
            "notice": "For research. Not for clinical use.",
        }
        (self.output_dir / "manifest.json").write_text(json.dumps(manifest, indent=4, default=str) + "\n")
        logger.info("Scores, maps and overlays of %d images are in %s", len(table), self.output_dir.resolve())

    def _run_range(self) -> tuple[float, float]:
        """From the median image's low end, so that one odd image does not move it, to the highest of all."""
        percentiles = np.stack(self._percentiles)
        low, high = float(np.median(percentiles[:, 0])), float(percentiles[:, 1].max())
        return low, max(high, low + 1e-6)


def _displayed(image: np.ndarray) -> np.ndarray:
    """Any depth to [0, 1]: by the range of its type if it has 8 bits, else by its own range."""
    low, high = (0, 255) if image.dtype == np.uint8 else (float(image.min()), float(image.max()))
    return (image.astype(np.float32) - low) / max(high - low, 1e-6)
