"""The MLflow run of an inference."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine

from scripts.tracking.run import Run

_NOT_LOGGED = "not logged, as it may tell who the patient is"
_OVERLAYS = 20  # the run shows the highest scores; all of them stay where the inference wrote them


class InferenceRun(Run):
    """Logs the scores, the manifest and the overlays of the highest scores.

    Args:
        results_dir: of ``InferenceResults``, which has its turn before this handler.
        private: whether names of files may tell who a patient is, and so are not logged, as for DICOM.
        others: as of ``Run``.
    """

    kind = "inference"

    def __init__(self, *others: Any, results_dir: str | Path, private: bool = False, **more: Any) -> None:
        super().__init__(*others, **more)
        self.results_dir, self.private = Path(results_dir), private
        if private:
            self.config = {**self.config, "input": _NOT_LOGGED}

    def finish(self, engine: Engine) -> None:
        for table in self.results_dir.glob("s*.csv"):  # scores and slices
            self.client.log_artifact(self.run_id, str(table))
        manifest = json.loads((self.results_dir / "manifest.json").read_text())
        if self.private:
            manifest["unreadable"] = dict.fromkeys(map(str, range(len(manifest["unreadable"]))), _NOT_LOGGED)
            manifest["config"]["input"] = _NOT_LOGGED
        self.client.log_dict(self.run_id, manifest, "manifest.json")
        scores = pd.read_csv(self.results_dir / "scores.csv")
        for overlay in scores["overlay"][:_OVERLAYS]:
            self.client.log_artifact(self.run_id, str(self.results_dir / overlay), "overlays")
        self.log_metrics(
            {"images": len(scores), "score_max": scores["score"].max(), "score_mean": scores["score"].mean()}
        )
        failed = len(manifest["unreadable"])
        self.describe(
            f"{len(scores)} scored, the highest **{scores['score'].max():.3f}**"
            + (f"; {failed} could not be read. " if failed else ". ")
            + "Pictures: Artifacts, overlays."
        )
        super().finish(engine)
