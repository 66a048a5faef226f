"""Ignite handlers for the configs, in addition to MONAI's."""

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.handlers.tqdm_logger import ProgressBar as IgniteProgressBar
from torch import nn

from scripts.networks.detector import Detector


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


class Folding:
    """Folds a detector for inference when the engine starts; must come after the handler that loads its weights.

    Args:
        network: Network to fold; anything but a ``Detector`` stays as it is.
        amp: Whether the engine runs the network in bfloat16 autocast.

    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", "untrained"), decoder_blocks=1, embedding_blocks=1)
    >>> engine = Engine(lambda engine, batch: None)
    >>> Folding(network).attach(engine)
    >>> _ = engine.run([1])
    >>> any(isinstance(module, nn.BatchNorm2d) for module in network.distiller.student.levels[0][0].body)
    False
    """

    def __init__(self, network: nn.Module, amp: bool = False) -> None:
        self.network, self.amp = network, amp

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self) -> None:
        if isinstance(self.network, Detector):
            self.network.fold(self.amp)


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
