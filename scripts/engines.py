"""Ignite engines for distillation, built on MONAI's."""

from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from tqdm import tqdm

from scripts.data.augmented import AugmentedDataset
from scripts.data.feature_cache import FeatureCache
from scripts.distributed import rank
from scripts.networks.detector import Detector, Distillation

ANOMALOUS = "anomalous"  # key of the images with an anomaly added


class MixedPrecisionInferer(SimpleInferer):
    """Runs the network on images (B, C, H, W), or slice by slice on volumes (B, C, H, W, D), on any device.

    MONAI's own ``amp`` supports CUDA only. bfloat16 has the range of float32, so it needs no gradient scaler. MONAI's
    metadata is dropped first, as every operation of the network would carry it along.

    Args:
        amp: Whether to run in bfloat16 autocast.
        slices_at_once: Number of slices of a volume in a batch.

    >>> MixedPrecisionInferer(slices_at_once=2)(torch.ones(1, 3, 4, 4, 5), lambda images: images.sum(1, True)).shape
    torch.Size([1, 1, 4, 4, 5])
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


class DetectorTrainer(SupervisedTrainer):
    """Base of the trainings of a ``Detector``, on images whose features are cached.

    Args:
        others: Positional arguments of ``SupervisedTrainer``.
        detector: Detector to train, without the wrapper for several processes.
        feature_cache: Cache that keeps the teachers' features from one epoch to the next.
        more: Keyword arguments of ``SupervisedTrainer``.

    Raises:
        ValueError: If there is nothing to train on.
    """

    def __init__(self, *others: Any, detector: Detector, feature_cache: FeatureCache, **more: Any) -> None:
        super().__init__(*others, **{"metric_cmp_fn": _lower, **more, "decollate": False})
        if not self.state.epoch_length:
            raise ValueError("There are no training images: check the datalist and --dataset_dir.")
        self.detector, self.feature_cache = detector, feature_cache
        dataset = getattr(self.data_loader, "dataset", None)
        if isinstance(dataset, AugmentedDataset):
            self.add_event_handler(Events.EPOCH_STARTED, lambda: dataset.set_epoch(self.state.epoch))

    def _features(self, images: Tensor) -> Any:
        return self.feature_cache(self.detector, images)


class DistillationTrainer(DetectorTrainer):
    """Trains a ``Detector`` with a loss that returns ``(total, {name: part})``.

    ``engine.state.output`` holds ``loss`` (a float), ``parts`` (floats by name) and ``batch_size``. A loss that is not
    finite stops the training before it reaches the weights, and the error names the files of the batch.

    Args:
        others: Positional arguments of ``DetectorTrainer``.
        more: Keyword arguments of ``DetectorTrainer``.

    Raises:
        ValueError: If there is nothing to train on.
        FloatingPointError: If a loss is not finite.

    >>> from scripts.losses import RD4ADLoss
    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", "untrained"), decoder_blocks=1, embedding_blocks=1)
    >>> batches = [{"image": torch.rand(2, 3, 64, 64)}]
    >>> adam = torch.optim.Adam(network.distiller.parameters())
    >>> device, cache = torch.device("cpu"), FeatureCache(gibibytes=0)
    >>> trainer = DistillationTrainer(
    ...     device, 1, batches, network, adam, RD4ADLoss(), detector=network, feature_cache=cache
    ... )
    >>> trainer.run()
    >>> list(trainer.state.output["parts"])
    ['level1', 'level2', 'level3', 'level4']
    """

    def __init__(self, *others: Any, **more: Any) -> None:
        super().__init__(*others, **more)
        self.add_event_handler(Events.STARTED, self._fit_scaling)  # behind the handler that resumes

    def _fit_scaling(self) -> None:
        """Fits the scaling of the features, for detectors that have one, in a pass over the training images."""
        resumed = self.state.epoch > 0  # with the scaling of the checkpoint
        if resumed or not self.detector.scaling.scales_any_level:
            return
        for batch in tqdm(self.data_loader, "features", disable=True if rank() else None):
            self.detector.scaling.observe(self.inferer(_images(self, batch), self._features))
        self.detector.scaling.settle()

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


class MemoryTrainer(DetectorTrainer):
    """Builds a ``Memory`` in one epoch, without loss and optimiser; the memory fits its own scaling.

    >>> from scripts.networks import Memory, Teacher
    >>> network = Memory([Teacher("test_resnet", "untrained", levels=[2, 3])])
    >>> batches, cache = [{"image": torch.rand(2, 3, 64, 64), "group": ["anna", "ben"]}], FeatureCache(gibibytes=0)
    >>> device = torch.device("cpu")
    >>> trainer = MemoryTrainer(device, 1, batches, network, None, None, detector=network, feature_cache=cache)
    >>> trainer.run()
    >>> len(network.bank)
    32
    """

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, Any]:
        memory: Any = self.detector
        images = _images(engine, batchdata)
        length = engine.state.epoch_length or 1
        with torch.no_grad():
            features = engine.inferer(images, self._features)
            memory.remember(features, batchdata["group"], images=length * len(images))
            if engine.state.iteration % length == 0:
                memory.consolidate()
        return {"batch_size": len(images)}


class DistillationEvaluator(SupervisedEvaluator):
    """Computes the loss of held-out normal images; in evaluation mode, so that batch statistics stay as they are.

    ``engine.state.output`` has the entries of ``DistillationTrainer``.

    Args:
        others: Positional arguments of ``SupervisedEvaluator``.
        loss_function: Loss that returns ``(total, {name: part})``.
        feature_cache: Cache of the teachers' features.
        more: Keyword arguments of ``SupervisedEvaluator``.

    >>> from scripts.losses import RD4ADLoss
    >>> from scripts.networks import RD4AD, Teacher
    >>> network = RD4AD(Teacher("test_resnet", "untrained"), decoder_blocks=1, embedding_blocks=1)
    >>> batches, cache = [{"image": torch.rand(2, 3, 64, 64)}], FeatureCache(gibibytes=0)
    >>> evaluator = DistillationEvaluator(
    ...     torch.device("cpu"), batches, network, loss_function=RD4ADLoss(), feature_cache=cache
    ... )
    >>> evaluator.run()
    >>> evaluator.state.output["batch_size"]
    2
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
    """Stands in for the network in an inferer: computes the distillation of images from cached features.

    Targets of ``anomalous`` images are computed each time, as no two are the same.
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
    """Images of the batch, on the device of the engine."""
    return batchdata[Keys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)


def _anomalous(engine: Any, batchdata: dict[str, Any]) -> Tensor | None:
    """Images of the batch with an anomaly added, on the device of the engine; None where there are none."""
    if ANOMALOUS not in batchdata:
        return None
    images = convert_to_tensor(batchdata[ANOMALOUS], track_meta=False)
    return images.to(engine.state.device, non_blocking=engine.non_blocking)


def _output(loss: Tensor, parts: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    floats = {name: part.item() for name, part in parts.items()}
    return {Keys.LOSS: loss.item(), "parts": floats, "batch_size": len(images)}
