"""Ignite engines for distillation, on MONAI's."""

from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from scripts.data.augmented import AugmentedDataset
from scripts.data.feature_cache import FeatureCache
from scripts.networks.detector import Detector, Distillation

ANOMALOUS = "anomalous"  # key of a batch's images with an anomaly added


class MixedPrecisionInferer(SimpleInferer):
    """Runs the network on images (B, C, H, W), or slice by slice on volumes (B, C, H, W, D), in bfloat16 autocast where
    asked, on whatever device they are.

    MONAI's own ``amp`` knows CUDA only; bfloat16 has float32's range and so needs no gradient scaler. MONAI's metadata
    stays outside: every operation of the network would carry it along.

    Args:
        amp: whether to use bfloat16.
        slices_at_once: slices of volumes that make a batch.
    """

    def __init__(self, amp: bool = False, slices_at_once: int = 8) -> None:
        super().__init__()
        self.amp, self.slices_at_once = amp, slices_at_once

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        images = convert_to_tensor(inputs, track_meta=False)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.amp):
            if images.ndim == 4:
                return super().__call__(images, network, *args, **kwargs)
            slices = images.permute(0, 4, 1, 2, 3).flatten(0, 1).split(self.slices_at_once)
            run = super().__call__
            maps = torch.cat([run(part, network, *args, **kwargs) for part in slices])
            return maps.unflatten(0, (images.shape[0], images.shape[4])).permute(0, 2, 3, 4, 1)


class DistillationTrainer(SupervisedTrainer):
    """Trains a ``Detector`` by a loss that gives ``(total, {name: part})``.

    ``engine.state.output`` holds ``loss`` (a float), ``parts`` (floats) and ``batch_size``; a loss that is not finite
    stops the training with the batch's files named, before it can reach the weights.

    Args:
        detector: the network, without what wraps it for several processes.
        feature_cache: keeps the teachers' features of one epoch for the next.
        others: as of ``SupervisedTrainer``.

    Raises:
        ValueError: if there is nothing to train on.
        FloatingPointError: at a loss that is not finite.
    """

    def __init__(self, *others: Any, detector: Detector, feature_cache: FeatureCache, **more: Any) -> None:
        super().__init__(*others, **{"metric_cmp_fn": _lower, **more, "decollate": False})
        if not self.state.epoch_length:
            raise ValueError("There is no training image: check the datalist and --dataset_dir.")
        self.detector, self.feature_cache = detector, feature_cache
        dataset = getattr(self.data_loader, "dataset", None)
        if isinstance(dataset, AugmentedDataset):
            self.add_event_handler(Events.EPOCH_STARTED, lambda: dataset.set_epoch(self.state.epoch))

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, Any]:
        images = _images(engine, batchdata)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        distil = _Distil(engine.network, self.detector, self.feature_cache, _anomalous(engine, batchdata))
        distillation = engine.inferer(images, distil)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss, parts = engine.loss_function(distillation)
        if not torch.isfinite(loss):
            names = ", ".join(batchdata[Keys.IMAGE].meta["filename_or_obj"])
            raise FloatingPointError(
                f"The loss is {loss.item()} in epoch {engine.state.epoch}, iteration {engine.state.iteration} (parts: "
                f"{ {name: part.item() for name, part in parts.items()} }), on the batch of {names}. "
                "Look at these images, or lower the learning rate."
            )
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        loss.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return _output(loss, parts, images)


class DistillationEvaluator(SupervisedEvaluator):
    """Computes the loss of held-out normals; the network stays in evaluation mode, so no statistics move.

    ``engine.state.output`` is as of ``DistillationTrainer``.
    """

    def __init__(self, *others: Any, loss_function: nn.Module, feature_cache: FeatureCache, **more: Any) -> None:
        super().__init__(*others, **{"metric_cmp_fn": _lower, **more, "decollate": False})
        self.loss_function, self.feature_cache = loss_function, feature_cache

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        images = _images(engine, batchdata)
        engine.network.eval()
        with torch.no_grad():
            network: Any = engine.network
            distil = _Distil(network, network, self.feature_cache, _anomalous(engine, batchdata))
            loss, parts = self.loss_function(engine.inferer(images, distil))
        return _output(loss, parts, images)


def _lower(current: float, best: float) -> bool:
    """Whether a loss is the best so far, which MONAI begins with -1."""
    return best == -1 or current < best


class _Distil:
    """What an inferer calls in place of the network: images -> distillation, by way of the cached features.

    The targets of ``anomalous`` images, which are never the same twice, are computed each time.
    """

    def __init__(self, network: Any, detector: Detector, feature_cache: FeatureCache, anomalous: Tensor | None) -> None:
        self.network, self.detector, self.feature_cache = network, detector, feature_cache
        self.anomalous = anomalous

    def __call__(self, images: Tensor) -> Distillation:
        distillation = self.network(self.feature_cache(self.detector, images))
        if self.anomalous is None:
            return distillation
        return distillation._replace(anomalous=self.detector.anomalous_targets(self.anomalous))


def _images(engine: Any, batchdata: dict[str, Any]) -> Tensor:
    """The batch on its device."""
    return batchdata[Keys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)


def _anomalous(engine: Any, batchdata: dict[str, Any]) -> Tensor | None:
    """The batch's images with an anomaly added, on their device; None where there are none."""
    if ANOMALOUS not in batchdata:
        return None
    images = convert_to_tensor(batchdata[ANOMALOUS], track_meta=False)
    return images.to(engine.state.device, non_blocking=engine.non_blocking)


def _output(loss: Tensor, parts: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    floats = {name: part.item() for name, part in parts.items()}
    return {Keys.LOSS: loss.item(), "parts": floats, "batch_size": len(images)}
