"""What an evaluation leaves behind: metrics, scores and pictures."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from torch import Tensor

from scripts.figures import Case, heat_map_grid, roc_and_pr, score_histogram
from scripts.networks.detector import Detector
from scripts.provenance import Provenance

logger = logging.getLogger(__name__)


class EvaluationResults:
    """Writes into ``output_dir``: ``metrics.json`` (with what was evaluated), ``scores.csv`` (a line an image),
    ``roc_pr.png``, ``scores.png`` and ``heat_maps.png`` (the most and the least anomalous images).

    Takes decollated outputs with ``image``, ``pred``, ``score``, ``label`` and maybe ``ground_truth``.

    Args:
        output_dir: made if missing.
        network, provenance: described in ``metrics.json``.
        cases: images shown at either end.
    """

    def __init__(self, output_dir: str | Path, network: Detector, provenance: Provenance, cases: int = 6) -> None:
        self.output_dir, self.network, self.provenance, self.cases = Path(output_dir), network, provenance, cases

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._highest: list[Case] = []
        self._lowest: list[Case] = []

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        cases = [_case(item) for item in output]
        files = [item["image"].meta["filename_or_obj"] for item in output]
        self._rows += [
            {"image": file, "label": case.label, "score": case.score} for file, case in zip(files, cases, strict=True)
        ]
        # Sorting what is kept with what is new holds a few images in memory, never all.
        self._highest = sorted(self._highest + cases, key=lambda case: -case.score)[: self.cases]
        self._lowest = sorted(self._lowest + cases, key=lambda case: case.score)[: self.cases]

    def _write(self, engine: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(self._rows).sort_values("score", ascending=False)
        table.to_csv(self.output_dir / "scores.csv", index=False)
        scores, labels = table["score"].to_numpy(), table["label"].to_numpy()
        shown = {case.name: case for case in [*self._highest, *reversed(self._lowest)]}.values()
        for name, figure in {
            "roc_pr.png": roc_and_pr(scores, labels),
            "scores.png": score_histogram(scores, labels),
            "heat_maps.png": heat_map_grid(list(shown), "The most and the least anomalous images"),
        }.items():
            figure.savefig(self.output_dir / name)
        summary = {
            "metrics": {name: float(value) for name, value in engine.state.metrics.items()},
            "images": {"normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())},
            "teachers": self.network.identities(),
            "model": self.provenance.facts,
        }
        (self.output_dir / "metrics.json").write_text(json.dumps(summary, indent=4) + "\n")
        logger.info("Metrics, scores and pictures are in %s", self.output_dir.resolve())


def _case(item: dict[str, Any]) -> Case:
    file = item["image"].meta["filename_or_obj"]
    return Case(
        image=np.moveaxis(_array(item["image"]), 0, -1).clip(0, 1),
        mask=_array(item["ground_truth"])[0] if "ground_truth" in item else None,
        anomaly_map=_array(item["pred"])[0],
        score=float(item["score"]),
        label=int(item["label"]),
        name="/".join(Path(file).parts[-2:]),
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()
