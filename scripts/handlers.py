"""Ignite handlers for the configs, beside those MONAI has."""

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.handlers.tqdm_logger import ProgressBar as IgniteProgressBar
from torch import nn

from scripts.networks.detector import Detector


class ProgressBar:
    """A progress bar over the iterations of each epoch, with the current loss where there is one.

    Args:
        description: shown before the bar.
        show_loss: shows ``engine.state.output["loss"]``.
    """

    def __init__(self, description: str, show_loss: bool = False) -> None:
        self.description, self.show_loss = description, show_loss

    def attach(self, engine: Engine) -> None:
        transform = (lambda output: {"loss": output["loss"]}) if self.show_loss else None
        bar = IgniteProgressBar(desc=self.description, dynamic_ncols=True, mininterval=0.5)
        bar.attach(engine, output_transform=transform)


class Folding:
    """Makes a detector ready for inference when the engine starts: behind the handler that loads its weights.

    Args:
        network: other networks than a ``Detector`` stay as they are.
        amp: whether the engine runs it in bfloat16 autocast.
    """

    def __init__(self, network: nn.Module, amp: bool = False) -> None:
        self.network, self.amp = network, amp

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self) -> None:
        if isinstance(self.network, Detector):
            self.network.fold(self.amp)


class EarlyStop:
    """Ends a training whose validation no longer improves; a resumed one goes on counting where it was.

    Args:
        validator: engine that the training runs every now and then.
        metric: name of its metric that should fall.
        patience: as many validations in a row may bring no improvement; 0 never stops.

    Raises:
        ValueError: on attaching, if there is nothing to validate on.
    """

    def __init__(self, validator: Engine, metric: str, patience: int = 0) -> None:
        self.validator, self.metric, self.patience = validator, metric, patience
        self._handler: EarlyStopping | None = None

    def attach(self, engine: Engine) -> None:
        if not self.patience:
            return
        if not self.validator.state.epoch_length:
            raise ValueError(
                "early_stop_patience needs validation images, and the datalist has none: prepare it with "
                "--validation-fraction, or leave early_stop_patience out."
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
