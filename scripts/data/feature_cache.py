"""Teachers are frozen, so the features of an image never change: they are computed once and kept."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from scripts.data.feature_store import FeatureStore, FolderStore, MemoryStore
from scripts.networks.detector import Detector
from scripts.networks.teachers import Teacher

Features = list[list[Tensor]]  # of every teacher and level


class FeatureCache:
    """Keeps the teachers' features of images, until it is full; what does not fit is computed each time.

    They are known by the content of the pre-processed image, the teacher's weights and the precision they were computed
    in. So a random transform before the cache cannot make it wrong, only useless; and methods, seeds and runs that use
    the same teacher on the same images share them.

    They are kept as they were computed, so that the cache changes no number: with ``amp`` in bfloat16, half as large as
    in float32.

    Args:
        gibibytes: how much to keep at most; 0 keeps nothing.
        folder: where to keep them, for later runs too; None takes main memory.
        batch_size: images that the teachers see at once. Fewer are filled up to it, as the arithmetic of some kernels
            depends on the number: features must not depend on the batch in which they happened to be computed.
    """

    def __init__(self, gibibytes: float = 4.0, folder: str | Path | None = None, batch_size: int = 1) -> None:
        limit = int(gibibytes * 2**30)
        self.store: FeatureStore | None = None
        if limit:
            self.store = MemoryStore(limit) if folder is None else FolderStore(folder, limit)
        self.batch_size = batch_size

    def __call__(self, network: Detector, images: Tensor) -> Features:
        """Features of a batch (B, 3, H, W), on its device."""
        if self.store is None:
            return network.features(images)
        store = self.store
        hashes = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images.detach().cpu().contiguous()]
        return network.features(images, lambda teacher, batch: self._levels(store, teacher, batch, hashes))

    def _levels(self, store: FeatureStore, teacher: Teacher, images: Tensor, hashes: list[str]) -> list[Tensor]:
        names = [level[:16] for level in teacher.level_hashes]
        keys = [f"{_origin(teacher, images)}/{image}" for image in hashes]
        entries = {key: store.get(key, names) for key in keys}
        missing = [index for index, key in enumerate(keys) if entries[key] is None]
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            filling = images.new_zeros(self.batch_size - len(part), *images.shape[1:])
            levels = teacher(torch.cat([images[part], filling]))
            for position, index in enumerate(part):
                entry = {name: _kept(level[position]) for name, level in zip(names, levels, strict=True)}
                entries[keys[index]] = entry
                store.put(keys[index], entry)
        return [_batch([entries[key][name] for key in keys], images.device) for name in names]  # type: ignore[index]


def _origin(teacher: Teacher, images: Tensor) -> str:
    """What features come from beside image and weights, fit for the name of a folder."""
    device = images.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    size = "x".join(map(str, images.shape[-2:]))
    return f"{teacher.name}-{size}-{str(precision).removeprefix('torch.')}"


def _kept(level: Tensor) -> Tensor:
    """(C, H, W) -> (H, W, C) on the CPU, the order in which convolutions are fastest."""
    return level.detach().permute(1, 2, 0).to("cpu", copy=True, memory_format=torch.contiguous_format)


def _batch(levels: list[Tensor], device: torch.device) -> Tensor:
    """(H, W, C) each -> (B, C, H, W), channels last."""
    return torch.stack(levels).to(device, non_blocking=True).permute(0, 3, 1, 2)
