"""Base of the MLflow runs: where they are, how they start and end, what they all log."""

import getpass
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from ignite.engine import Engine, Events
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient

from scripts.model.calibration import Calibration
from scripts.model.provenance import Provenance, device_name, git_commit, versions
from scripts.networks.detector import Detector
from scripts.termination import Terminated, Termination

logger = logging.getLogger(__name__)

_MAX_VALUE = 5000  # characters of a parameter or tag; MLflow takes 6000 or more
_PARAMS_A_CALL = 100
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Tracking:
    """Place of the MLflow runs.

    Attributes:
        uri: MLflow's store; the folder of a SQLite file is made.
        experiment: Name of the experiment, which is made if it does not exist.
        run_name: Name of the run; None takes one that tells what it is a run of.
        parent_run_id: MLflow run below which a run is shown, as a suite's; None takes the training's, if any.
        registered_model: Name in MLflow's registry of the model that a training logs; an empty one registers nothing.

    >>> Tracking("sqlite:///eval/mlruns.db", "headct").run_name is None
    True
    """

    uri: str
    experiment: str
    run_name: str | None = None
    parent_run_id: str | None = None
    registered_model: str = ""


def store(trained: str, bundle_root: str | Path) -> str:
    """Chooses the store of a model's later runs: its training's where that is still there, else one in its folder.

    Args:
        trained: Store of the training.
        bundle_root: Model folder.
    """
    if not trained.startswith(_SQLITE) or Path(trained.removeprefix(_SQLITE)).is_file():
        return trained
    return f"{_SQLITE}{Path(bundle_root).resolve()}/eval/mlruns.db"


class Run:
    """One MLflow run, from the start of an engine to its end: FINISHED, FAILED with the error, or KILLED by the
    user or SIGTERM.

    Attach it after the handlers whose results it logs, and before MONAI's ``StatsHandler``, which ends the handling of
    an exception.

    Args:
        tracking: Place of the run.
        provenance: Facts of the model; a training fills in its run, the others refer to it.
        network: Detector whose teachers are described in the parameters.
    """

    kind: str

    def __init__(self, tracking: Tracking, provenance: Provenance, network: Detector) -> None:
        self.tracking, self.provenance, self.network = tracking, provenance, network
        self.run_name, self.run_id = tracking.run_name, ""
        self._termination = Termination()

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking.uri)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._termination.begin)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.COMPLETED, self._termination.end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        if self.tracking.uri.startswith(_SQLITE):
            Path(self.tracking.uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(self.tracking.uri)
        with _alone(self.tracking.uri):
            experiment = experiment_id(self.client, self.tracking.uri, self.tracking.experiment)
        tags = {
            "kind": self.kind,
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "python -m monai.bundle run",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": git_commit(),
            **self.tags(),
            **({} if self.tracking.parent_run_id is None else {"mlflow.parentRunId": self.tracking.parent_run_id}),
        }
        self.run_name = self.run_name or self.default_name()
        self.run_id = self.client.create_run(experiment, run_name=self.run_name, tags=tags).info.run_id
        self._log_params()
        logger.info("MLflow run '%s', id %s, in %s", self.run_name, self.run_id, self.tracking.uri)

    def default_name(self) -> str:
        return f"{self.kind} of {self.provenance.facts.get('mlflow_run_name', 'an untracked training')}"

    def describe(self, text: str, run_id: str | None = None) -> None:
        """Sets the description that MLflow shows with a run, in Markdown."""
        self.client.set_tag(run_id or self.run_id, "mlflow.note.content", text)

    def tags(self) -> dict[str, str]:
        """By default those that lead to the training run of the model."""
        trained_by = self.provenance.facts.get("mlflow_run_id")
        if trained_by is None:
            return {}
        tags = {"training_run_id": trained_by, "training_run": str(self.provenance.facts.get("mlflow_run_name"))}
        return tags | {"mlflow.parentRunId": trained_by} if self.exists(trained_by) else tags

    def params(self) -> dict[str, Any]:
        """Parameters of this kind of run, by name."""
        return {}

    def finish(self, engine: Engine) -> None:
        self.client.set_terminated(self.run_id, RunStatus.to_string(RunStatus.FINISHED))

    def fail(self, engine: Engine, error: BaseException) -> None:
        self._termination.ignore()
        try:
            if self.run_id:
                status = RunStatus.KILLED if isinstance(error, KeyboardInterrupt | Terminated) else RunStatus.FAILED
                self.client.set_tag(self.run_id, "error", f"{type(error).__name__}: {error}"[:_MAX_VALUE])
                self.client.set_terminated(self.run_id, RunStatus.to_string(status))
        finally:
            self._termination.end()
        raise error

    def exists(self, run_id: str) -> bool:
        """Whether the store has this run, which a checkpoint from elsewhere may name in vain."""
        try:
            self.client.get_run(run_id)
        except mlflow.MlflowException:
            return False
        return True

    def log_metrics(self, values: dict[str, float], step: int = 0, run_id: str | None = None) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.client.log_batch(run_id or self.run_id, metrics)

    def _log_params(self) -> None:
        facts = {**self.params(), **versions(), "git_commit": git_commit(), "device": device_name()}
        for index, identity in enumerate(self.network.identities(), start=1):
            facts |= {f"teacher{index}_{name}": value for name, value in identity.items()}
        params = [Param(name.replace("#", "/"), str(value)[:_MAX_VALUE]) for name, value in facts.items()]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS_A_CALL])
        untrained = self.network.untrained_teachers()
        if untrained:
            self.client.log_batch(self.run_id, tags=[RunTag("untrained_teachers", ", ".join(untrained))])


class ResultsRun(Run):
    """Run of a trained model whose results lie in a folder.

    Args:
        others: Arguments of ``Run``.
        results_dir: Folder of the results, which are written before this handler's turn.
        calibration: Thresholds, which become parameters.
    """

    def __init__(self, *others: Any, results_dir: str | Path, calibration: Calibration, **more: Any) -> None:
        super().__init__(*others, **more)
        self.results_dir, self.calibration = Path(results_dir), calibration

    def params(self) -> dict[str, Any]:
        return {**self.calibration.thresholds, **self.calibration.scorer}


def _alone(tracking_uri: str) -> AbstractContextManager[Any]:
    """Keeps other runs waiting: of two that make a SQLite file or an experiment at once, MLflow lets one fail."""
    if not tracking_uri.startswith(_SQLITE):
        return nullcontext()
    path = Path(tracking_uri.removeprefix(_SQLITE))
    return FileLock(path.with_name(f".{path.name}.lock"))


def experiment_id(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """The id of an experiment, which is made if it does not exist."""
    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    location = None
    if tracking_uri.startswith(_SQLITE):  # artifacts beside the database, not in the working directory
        location = (Path(tracking_uri.removeprefix(_SQLITE)).parent / "mlruns").resolve().as_uri()
    tags = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow opens it as one of language models
    return str(client.create_experiment(name, artifact_location=location, tags=tags))
