"""Ignite handlers for the configs, in addition to MONAI's."""

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.handlers.tqdm_logger import ProgressBar as IgniteProgressBar


class ProgressBar:
    """Shows a progress bar over the iterations of each epoch.

    Args:
        description: Text before the bar.
        show_loss: Whether to show ``engine.state.output["loss"]``.

    >>> engine = Engine(lambda engine, batch: {"loss": 0.5})
    >>> ProgressBar("Training", show_loss=True).attach(engine)
    >>> engine.run([1, 2], max_epochs=1).iteration
    2
    """

    def __init__(self, description: str, show_loss: bool = False) -> None:
        self.description, self.show_loss = description, show_loss

    def attach(self, engine: Engine) -> None:
        transform = (lambda output: {"loss": output["loss"]}) if self.show_loss else None
        bar = IgniteProgressBar(desc=self.description, dynamic_ncols=True, mininterval=0.5)
        bar.attach(engine, output_transform=transform)


class EarlyStop:
    """Stops a training once its validation no longer improves; a resumed training continues the count.

    Args:
        validator: Engine that validates the training.
        metric: Name of the validator's metric, of which lower is better.
        patience: Number of validations in a row without improvement after which to stop; 0 never stops.

    >>> validator = Engine(lambda engine, batch: None)
    >>> stop = EarlyStop(validator, "loss", patience=3)
    >>> validator.state.epoch_length = 1
    >>> stop.attach(Engine(lambda engine, batch: None))
    >>> stop.state_dict()["counter"]
    0
    """

    def __init__(self, validator: Engine, metric: str, patience: int = 0) -> None:
        self.validator, self.metric, self.patience = validator, metric, patience
        self._handler: EarlyStopping | None = None

    def attach(self, engine: Engine) -> None:
        """Watches the validator for the training ``engine``.

        Raises:
            ValueError: If there is nothing to validate on.
        """
        if not self.patience:
            return
        if not self.validator.state.epoch_length:
            raise ValueError(
                "early_stop_patience needs validation images, and the datalist has none: prepare it with "
                "--validation-fraction, or leave out early_stop_patience."
            )
        self._handler = EarlyStopping(
            self.patience, lambda validator: validator.state.metrics[self.metric], trainer=engine, mode="min"
        )
        self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._handler)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._handler.state_dict()) if self._handler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._handler and state:
            self._handler.load_state_dict(state)
