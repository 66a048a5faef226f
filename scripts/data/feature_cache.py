"""Cache of teacher features: teachers are frozen, so the features of an image are computed only once."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from scripts.data.feature_store import FeatureStore, FolderStore, MemoryStore
from scripts.networks.detector import Detector
from scripts.networks.teachers import Teacher

Features = list[list[Tensor]]  # one list of levels a teacher


class FeatureCache:
    """Keeps the teachers' features of images until it is full; features that do not fit are computed each time.

    The key of an entry is the content of the pre-processed image, the teacher's weights and the precision of the
    computation. So a random transform before the cache makes it useless but never wrong, and all methods, seeds and
    runs with the same teacher and the same images share entries.

    Features are kept in the type in which they were computed, so the cache changes no results. With ``amp`` they are
    bfloat16, which takes half the space of float32.

    Args:
        gibibytes: Size limit in GiB; 0 turns the cache off.
        folder: Folder for the features, where later runs find them too; None keeps them in main memory.
        batch_size: Number of images that the teachers process at once. Smaller batches are padded to it, since some
            kernels round differently for other batch sizes, and features must not depend on the batch that they were
            computed in.

    >>> from scripts.networks import RD4AD
    >>> network = RD4AD(Teacher("test_resnet", "untrained"), decoder_blocks=1, embedding_blocks=1)
    >>> cache, image = FeatureCache(gibibytes=0.1), torch.rand(1, 3, 64, 64)
    >>> first, second = cache(network, image), cache(network, image)
    >>> [torch.equal(a, b) for a, b in zip(first[0], second[0])]
    [True, True, True, True]
    """

    def __init__(self, gibibytes: float = 4.0, folder: str | Path | None = None, batch_size: int = 1) -> None:
        limit = int(gibibytes * 2**30)
        self.store: FeatureStore | None = None
        if limit:
            self.store = MemoryStore(limit) if folder is None else FolderStore(folder, limit)
        self.batch_size = batch_size

    def __call__(self, network: Detector, images: Tensor) -> Features:
        """Features of a batch (B, 3, H, W), on the device of the batch."""
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
    """Folder name that tells features of different teachers, image sizes and precisions apart."""
    device = images.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    size = "x".join(map(str, images.shape[-2:]))
    return f"{teacher.name}-{size}-{str(precision).removeprefix('torch.')}"


def _kept(level: Tensor) -> Tensor:
    """Copies features to the CPU in the order in which convolutions are fastest: (C, H, W) -> (H, W, C)."""
    return level.detach().permute(1, 2, 0).to("cpu", copy=True, memory_format=torch.contiguous_format)


def _batch(levels: list[Tensor], device: torch.device) -> Tensor:
    """Stacks features (H, W, C) into a channels-last batch (B, C, H, W)."""
    return torch.stack(levels).to(device, non_blocking=True).permute(0, 3, 1, 2)
