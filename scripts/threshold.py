"""The threshold above which a pixel counts as anomalous: learnt from normal images, never from test data."""

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from scripts.networks.detector import Detector

logger = logging.getLogger(__name__)


class Threshold:
    """A threshold of anomaly maps, as part of a checkpoint; None where there were no images to take it from.

    Args:
        value: overrides what a checkpoint holds.
    """

    def __init__(self, value: float | None = None) -> None:
        self.given = self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"] if self.given is None else self.given


class FitThreshold:
    """At the end of a training, sets ``threshold`` so that of the foreground pixels of normal validation images at most
    the part ``false_positive_rate`` lies above it.

    Args:
        threshold: to be set.
        dataloader: batches with ``image`` (B, 3, H, W), foreground above 0; may be empty.
        network: in evaluation mode gives anomaly maps (B, 1, H, W).
        inferer: runs it.
        device: to run it on.
        false_positive_rate: in 0..1.
    """

    def __init__(
        self,
        threshold: Threshold,
        dataloader: Any,
        network: Detector,
        inferer: Any,
        device: torch.device,
        false_positive_rate: float = 0.005,
    ) -> None:
        if not 0 <= false_positive_rate < 1:
            raise ValueError(f"false_positive_rate must be in [0, 1), got {false_positive_rate}.")
        self.threshold, self.dataloader, self.network, self.inferer = threshold, dataloader, network, inferer
        self.device, self.false_positive_rate = device, false_positive_rate

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self) -> None:
        if not len(self.dataloader):
            logger.warning(
                "There are no validation images, so no threshold: inference will give maps without masks, evaluation "
                "no Dice. Prepare the datalist with --validation-fraction to have one."
            )
            return
        training = self.network.training
        self.network.eval()
        highest, pixels = torch.empty(0), 0
        with torch.no_grad():
            for batch in self.dataloader:
                images = convert_to_tensor(batch["image"], track_meta=False)
                maps = self.inferer(images.to(self.device), self.network).cpu()
                values = maps[:, 0][images.amax(1) > 0]
                pixels += len(values)
                # Only the upper tail decides, so that is all that is kept.
                kept = int(self.false_positive_rate * len(self.dataloader.dataset) * maps[0].numel()) + 1
                highest = torch.cat([highest, values]).topk(min(kept, len(highest) + len(values))).values
        self.network.train(training)
        if not pixels:
            logger.warning("No validation image has foreground (values above 0), so there is no threshold.")
        else:
            self.threshold.value = float(highest[int(self.false_positive_rate * pixels)])  # so many may exceed it
            logger.info("Threshold %.4g, from %d pixels of validation images", self.threshold.value, pixels)
