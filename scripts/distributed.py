"""Training in several processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from scripts.networks.detector import Detector


def data_parallel(network: Detector, device: torch.device) -> DistributedDataParallel:
    """Wraps a detector for training in the processes of the default group, each with one device.

    The distiller's batch statistics span all processes, so that n processes with batches of b train like one process
    with batches of n x b.
    """
    network = network.to(device)
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
