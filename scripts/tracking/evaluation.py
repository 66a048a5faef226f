"""The MLflow run of an evaluation."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine

from scripts.tracking.run import ResultsRun


class EvaluationRun(ResultsRun):
    """Logs the metrics, also at the training run as ``test_...`` and in its name, and the files of the results.

    Args:
        others: Arguments of ``ResultsRun``.

    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> from scripts.model.calibration import Calibration
    >>> from scripts.model.provenance import Provenance
    >>> from scripts.tracking.run import Tracking
    >>> tracking, trained = Tracking("sqlite:///eval/mlruns.db", "headct"), Provenance(mlflow_run_name="RD4AD headct")
    >>> EvaluationRun(tracking, trained, network, results_dir="eval", calibration=Calibration()).default_name()
    'evaluation of RD4AD headct'
    """

    kind = "evaluation"

    def finish(self, engine: Engine) -> None:
        metrics = {name: value for name, value in engine.state.metrics.items() if math.isfinite(value)}
        self.log_metrics(metrics)
        summary = json.loads((self.results_dir / "metrics.json").read_text(encoding="utf-8"))
        scores = f"Test set: {_scores(metrics)}. {_verdicts(summary['calibration'])}"
        self.describe(scores)
        trained_by = self.provenance.facts.get("mlflow_run_id")
        if trained_by is not None and self.exists(trained_by):  # where people compare models
            self.log_metrics({f"test_{name}": value for name, value in metrics.items()}, run_id=trained_by)
            trained = self.client.get_run(trained_by).data.tags.get("mlflow.note.content", "").split("\n")[0]
            self.describe(f"{trained}\n\n{scores} Pictures: Artifacts, test.", run_id=trained_by)
            # MLflow's list of runs shows no metric by itself, so the name tells which run is best.
            name = f"{self.provenance.facts['mlflow_run_name']}, image AUROC {metrics['image_auroc']:.3f}"
            self.client.update_run(trained_by, name=name)
            for picture in self.results_dir.glob("*.png"):
                self.client.log_artifact(trained_by, str(picture), "test")
        self.client.log_artifacts(self.run_id, str(self.results_dir))
        super().finish(engine)


def _scores(metrics: Mapping[str, float]) -> str:
    """Names the areas under curves, which are few; MLflow lists all metrics by itself."""
    areas = {kind: metrics.get(f"{kind}_auroc") for kind in ("patient", "image", "pixel")}
    return ", ".join(f"{kind} AUROC **{value:.3f}**" for kind, value in areas.items() if value is not None)


def _verdicts(calibration: Mapping[str, Any] | None) -> str:
    """Says how many patients are called abnormal, and how many of the normal ones may be."""
    found = calibration and calibration["observed"].get("scan")
    if not calibration or not found:
        return "No verdicts, as there is no scan threshold."
    parts = []
    for name, kind in (("sensitivity", "anomalous"), ("false_positive_rate", "normal")):
        if found[name] is not None:
            parts.append(f"**{100 * found[name]:.3g} %** of {kind} patients")
    rate = calibration["levels"]["scan"]["rate"]
    return f"Called abnormal: {' and '.join(parts)} (promised of normal ones: at most {100 * rate:.3g} %)."
