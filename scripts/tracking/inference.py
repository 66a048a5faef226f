"""The MLflow run of an inference."""

from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine

from scripts.tracking.run import Run

_OVERLAYS = 20  # the run shows the highest scores; all of them stay where the inference wrote them


class InferenceRun(Run):
    """Logs the scores, the manifest and the overlays of the highest scores.

    Args:
        results_dir: of ``InferenceResults``, which has its turn before this handler.
        others: as of ``Run``.
    """

    kind = "inference"

    def __init__(self, *others: Any, results_dir: str | Path, **more: Any) -> None:
        super().__init__(*others, **more)
        self.results_dir = Path(results_dir)

    def finish(self, engine: Engine) -> None:
        for name in ("scores.csv", "manifest.json"):
            self.client.log_artifact(self.run_id, str(self.results_dir / name))
        scores = pd.read_csv(self.results_dir / "scores.csv")
        for overlay in scores["overlay"][:_OVERLAYS]:
            self.client.log_artifact(self.run_id, str(self.results_dir / overlay), "overlays")
        self.log_metrics(
            {"images": len(scores), "score_max": scores["score"].max(), "score_mean": scores["score"].mean()}
        )
        super().finish(engine)
