"""Training in several processes."""

import logging
import os

import torch
import torch.distributed as dist
from monai.data import DistributedSampler
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from scripts.networks.detector import Detector


def join() -> None:
    """Joins the processes that ``torchrun`` has started, if it has; only the first of them logs."""
    if not dist.is_torchelastic_launched():
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if rank() > 0:
        logging.disable(logging.INFO)


def leave() -> None:
    """Leaves the processes again."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def sampler(dataset: Dataset, shuffle: bool = False, seed: int = 0) -> DistributedSampler | None:
    """Makes a sampler that shares a data set out among the processes; None for an empty one.

    Args:
        dataset: Data set with a length.
        shuffle: Whether the order is drawn anew in each epoch; then every process gets the same number of items.
        seed: Seed of the order.
    """
    items = len(dataset)  # type: ignore[arg-type]
    if not items:
        return None
    world = dist.get_world_size() if dist.is_initialized() else 1
    even = shuffle or items < world
    return DistributedSampler(dataset, num_replicas=world, rank=rank(), shuffle=shuffle, seed=seed, even_divisible=even)


def data_parallel(network: Detector, device: torch.device) -> Detector | DistributedDataParallel:
    """Moves a detector to its device, and wraps it for training where several processes have joined.

    The distiller's batch statistics span all processes, so that n processes with batches of b train like one process
    with batches of n x b.
    """
    network = network.to(device)
    if not dist.is_initialized() or not any(parameter.requires_grad for parameter in network.parameters()):
        return network
    convert = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else _convert_for_cpu
    network.distiller = convert(network.distiller)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over all processes on CPUs, as torch's needs accelerators; has the same state dict."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(self.weight.dtype)
        count = x.new_tensor(x.numel() / x.shape[1])
        dist.all_reduce(count)
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * count / (count - 1), momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(dtype)


def _convert_for_cpu(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = CPUSyncBatchNorm2d  # with the same parameters and buffers; only forward differs
    return module
