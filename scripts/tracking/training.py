"""The MLflow run of a training."""

import time
from typing import Any

import torch
from ignite.engine import Engine, Events
from mlflow.entities import Dataset, DatasetInput, RunStatus

from scripts.distributed import rank
from scripts.model.new_folder import NewModelFolder
from scripts.model.provenance import flattened
from scripts.tracking.registry import register_model
from scripts.tracking.run import Run


class TrainingRun(Run):
    """Logs every epoch the loss, its parts, the learning rate, the validation loss and the images a second; at the end
    the checkpoint, and the model for MLflow's registry. A resumed training goes on in its run.

    Args:
        others: Arguments of ``Run``.
        folder: Model folder, written before this handler's turn.
        optimizer: Optimizer whose learning rate is logged; None of methods without.
        validator: Engine whose metrics are logged, if it ran.

    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")
    >>> from scripts.model.provenance import Provenance
    >>> from scripts.tracking.run import Tracking
    >>> provenance = Provenance(method="RD4AD", data="headct", seed=0)
    >>> folder = NewModelFolder(None, ".", None, False, provenance, {}, {})
    >>> optimizer = torch.optim.Adam(network.distiller.parameters())
    >>> tracking = Tracking("sqlite:///eval/mlruns.db", "headct")
    >>> TrainingRun(tracking, provenance, network, folder=folder, optimizer=optimizer).default_name()
    'RD4AD headct seed 0'
    """

    kind = "training"

    def __init__(
        self,
        *others: Any,
        folder: NewModelFolder,
        optimizer: torch.optim.Optimizer | None,
        validator: Engine | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*others, **more)
        self.folder, self.optimizer, self.validator = folder, optimizer, validator
        self._images, self._seconds, self._epoch_started = 0, 0.0, 0.0
        self._learning_rate: float | None = None

    def attach(self, engine: Engine) -> None:
        if rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        super().attach(engine)

    def start(self, engine: Engine) -> None:
        resumed = self.provenance.facts.get("mlflow_run_id")
        if resumed is not None and engine.state.epoch > 0 and self.exists(resumed):
            self.run_id = resumed
            self.client.update_run(resumed, status=RunStatus.to_string(RunStatus.RUNNING))
            if "error" in self.client.get_run(resumed).data.tags:  # of what broke it off
                self.client.delete_tag(resumed, "error")
            return
        super().start(engine)
        self.client.log_dict(self.run_id, self.folder.config, "config.json")
        facts = self.provenance.facts
        dataset = Dataset(
            str(facts.get("data", "unknown data")), str(facts.get("datalist_sha256", ""))[:8], "local", "{}"
        )
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [])])
        self.describe(self._summary())
        self.provenance.facts |= {"mlflow_run_id": self.run_id, "mlflow_run_name": self.run_name}

    def default_name(self) -> str:
        return self.provenance.run_name

    def params(self) -> dict[str, Any]:
        known = {"datalist_sha256": self.provenance.facts.get("datalist_sha256", "")}
        return known | flattened(self.folder.config)

    def tags(self) -> dict[str, str]:
        return {}

    def _summary(self) -> str:
        teachers = [f"{teacher['name']} ({teacher['weights']})" for teacher in self.network.identities()]
        return f"{self.default_name()}. Teachers: {', '.join(teachers)}."

    def finish(self, engine: Engine) -> None:
        self.client.log_artifact(self.run_id, str(self.folder.checkpoint), "checkpoint")
        if name := self.tracking.registered_model:
            register_model(self.folder.path, self.run_id, name)
        super().finish(engine)

    def _count(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._images += output["batch_size"]
        self._seconds = time.perf_counter() - self._epoch_started

    def _start_epoch(self) -> None:
        self._images, self._seconds, self._epoch_started = 0, 0.0, time.perf_counter()
        if self.optimizer is not None:  # at the end the schedule has already moved on
            self._learning_rate = self.optimizer.param_groups[0]["lr"]

    def _log_epoch(self, engine: Engine) -> None:
        values = {**engine.state.metrics}
        if self._learning_rate is not None:
            values["learning_rate"] = self._learning_rate
        values["images_per_second"] = self._images / self._seconds
        if self.validator is not None and self.validator.state.epoch == engine.state.epoch:
            values |= self.validator.state.metrics
        self.log_metrics(values, step=engine.state.epoch)
