"""The MLflow run of an inference."""

import json
from typing import Any

import pandas as pd
from ignite.engine import Engine

from scripts.tracking.run import ResultsRun

_NOT_LOGGED = "not logged, as it may tell who the patient is"
_OVERLAYS = 20  # the run shows the highest scores; all of them stay where the inference wrote them


class InferenceRun(ResultsRun):
    """Logs the scores, the manifest, the number of abnormal scans, and the overlays of the highest scores.

    Args:
        others: Arguments of ``ResultsRun``, whose folder is that of ``InferenceResults``.
        private: Whether names of files may tell who a patient is, and so are not logged, as for DICOM.

    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> from scripts.model.calibration import Calibration
    >>> from scripts.model.provenance import Provenance
    >>> from scripts.tracking.run import Tracking
    >>> tracking, trained = Tracking("sqlite:///eval/mlruns.db", "headct"), Provenance(mlflow_run_name="RD4AD headct")
    >>> InferenceRun(tracking, trained, network, results_dir="eval", calibration=Calibration()).default_name()
    'inference of RD4AD headct'
    """

    kind = "inference"

    def __init__(self, *others: Any, private: bool = False, **more: Any) -> None:
        super().__init__(*others, **more)
        self.private = private

    def finish(self, engine: Engine) -> None:
        for table in self.results_dir.glob("s*.csv"):  # scores and slices
            self.client.log_artifact(self.run_id, str(table))
        manifest = json.loads((self.results_dir / "manifest.json").read_text())
        if self.private:
            manifest["unreadable"] = dict.fromkeys(map(str, range(len(manifest["unreadable"]))), _NOT_LOGGED)
            manifest["input"] = _NOT_LOGGED
        self.client.log_dict(self.run_id, manifest, "manifest.json")
        scores = pd.read_csv(self.results_dir / "scores.csv")
        for overlay in scores["overlay"][:_OVERLAYS]:
            self.client.log_artifact(self.run_id, str(self.results_dir / overlay), "overlays")
        values = {"images": len(scores), "score_max": scores["score"].max(), "score_mean": scores["score"].mean()}
        abnormal = [one["abnormal"] for one in manifest["files"]]
        verdict = ", not calibrated"
        if None not in abnormal:
            values["abnormal"] = sum(abnormal)
            verdict = f", **{sum(abnormal)} abnormal**"
        self.log_metrics(values)
        failed = len(manifest["unreadable"])
        self.describe(
            f"{len(scores)} scored{verdict}, the highest **{scores['score'].max():.3f}**"
            + (f"; {failed} could not be read. " if failed else ". ")
            + "Pictures: Artifacts, overlays."
        )
        super().finish(engine)
