"""The MLflow run of a training."""

import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from mlflow.entities import Dataset, DatasetInput, RunStatus

from scripts.tracking.registry import register_model
from scripts.tracking.run import Run


class TrainingRun(Run):
    """Logs every epoch the loss, its parts, the learning rate, the validation loss and the images a second; at the end
    the checkpoint, and the model for MLflow's registry. A resumed training goes on in its run.

    Args:
        optimizer: whose learning rate is logged.
        checkpoint: written before this handler's turn at the end of the training.
        validator: whose metrics are logged, if it ran.
        registered_model_name: name in MLflow's registry; an empty one registers nothing.
        others: as of ``Run``.
    """

    kind = "training"

    def __init__(
        self,
        *others: Any,
        optimizer: torch.optim.Optimizer,
        checkpoint: str | Path,
        validator: Engine | None = None,
        registered_model_name: str = "",
        **more: Any,
    ) -> None:
        super().__init__(*others, **more)
        self.optimizer, self.checkpoint, self.validator = optimizer, Path(checkpoint), validator
        self.registered_model_name = registered_model_name
        self._images, self._seconds, self._epoch_started = 0, 0.0, 0.0

    def attach(self, engine: Engine) -> None:
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
        dataset = Dataset(str(self._facts["data"]), str(self._facts["datalist_sha256"])[:8], "local", "{}")
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [])])
        self.describe(self._summary())
        self.provenance.facts |= {"mlflow_run_id": self.run_id, "mlflow_run_name": self.run_name}

    def default_name(self) -> str:
        return "{method} {data} seed {seed}".format(**self._facts)

    def tags(self) -> dict[str, str]:
        return {}

    @property
    def _facts(self) -> dict[str, Any]:
        return {
            "method": "a method",
            "data": "unknown data",
            "seed": "?",
            "datalist_sha256": "",
        } | self.provenance.facts

    def _summary(self) -> str:
        teachers = [f"{teacher['name']} ({teacher['weights']})" for teacher in self.network.identities()]
        return f"{self.default_name()}. Teachers: {', '.join(teachers)}."

    def finish(self, engine: Engine) -> None:
        self.client.log_artifact(self.run_id, str(self.checkpoint), "checkpoint")
        if self.registered_model_name:
            register_model(self.network, self.config, self.run_id, self.registered_model_name)
        super().finish(engine)

    def _count(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._images += output["batch_size"]
        self._seconds = time.perf_counter() - self._epoch_started

    def _start_epoch(self) -> None:
        self._images, self._seconds, self._epoch_started = 0, 0.0, time.perf_counter()
        self._learning_rate = self.optimizer.param_groups[0]["lr"]  # at the end the schedule has already moved on

    def _log_epoch(self, engine: Engine) -> None:
        values = {**engine.state.metrics, "learning_rate": self._learning_rate}
        values["images_per_second"] = self._images / self._seconds
        if self.validator is not None and self.validator.state.epoch == engine.state.epoch:
            values |= self.validator.state.metrics
        self.log_metrics(values, step=engine.state.epoch)
