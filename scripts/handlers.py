"""Ignite handlers for the configs, in addition to MONAI's."""

from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.handlers.tqdm_logger import ProgressBar as IgniteProgressBar
from monai.utils import convert_to_tensor
from tqdm import tqdm

from scripts.data.feature_cache import FeatureCache
from scripts.distributed import rank
from scripts.networks.detector import Detector
from scripts.reference import MapReference


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


class ReferenceFitting:
    """Fits the reference of maps at the end of a training, on normal slices that the maps were not learnt from.

    Args:
        reference: Reference to fit; None fits nothing.
        detector: Detector that makes the maps; of patients whom it was trained on only if it can leave them out.
        data_loader: Batches of ``image`` (B, 3, H, W), ``group``, the patients, and ``place`` (B,).
        feature_cache: Cache of the teachers' features.
        inferer: Runs the detector.
        device: Device of the detector.

    >>> ReferenceFitting(None, None, [], FeatureCache(0), None).attach(Engine(lambda engine, batch: None))
    """

    def __init__(
        self,
        reference: MapReference | None,
        detector: Detector,
        data_loader: Any,
        feature_cache: FeatureCache,
        inferer: Any,
        device: str | torch.device = "cpu",
    ) -> None:
        self.reference, self.detector, self.data_loader = reference, detector, data_loader
        self.feature_cache, self.inferer, self.device = feature_cache, inferer, device
        self._trained = False

    def attach(self, engine: Engine) -> None:
        if self.reference is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._notice)
            engine.add_event_handler(Events.COMPLETED, self)

    def _notice(self) -> None:
        self._trained = True

    @torch.no_grad()
    def __call__(self) -> None:
        if not self._trained or self.reference is None:
            return
        self.detector.eval()
        for batch in tqdm(self.data_loader, "maps of normal slices", disable=True if rank() else None):
            images = convert_to_tensor(batch["image"], track_meta=False).to(self.device)

            def mapped(part: torch.Tensor, patients: list[str] = batch["group"]) -> torch.Tensor:
                features = self.feature_cache(self.detector, part)
                return self.detector.maps(features, part.shape[-2:], without=patients)

            self.reference.add(self.inferer(images, mapped), images, batch["place"], batch["group"])
        self.reference.settle()
