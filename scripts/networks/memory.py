"""Memory: distance of an image's features to those of normal images (after PatchCore, Roth et al., CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.networks.detector import Detector, Distillation
from scripts.networks.teachers import Teacher

_COLLECTED = 2  # features collected for each that is kept, at most


class Memory(Detector):
    """Keeps features of normal images, and maps how unlike the most similar of them a place is.

    The levels of all teachers are averaged over 3 x 3 places, brought to one grid, scaled (see ``FeatureScaling``),
    joined and divided by their norm. The anomaly of a place with the vector q is the least ``1 - q . m`` over the
    vectors m of the memory.

    It learns without gradients: ``remember`` takes the features of each batch, and ``consolidate`` makes the memory.

    Args:
        teachers: Teachers whose features are compared.
        grid_stride: Stride of the grid in input pixels.
        size: Number of features that are kept, a random choice.
        scaling: ``"off"``, ``"standardise"`` or ``"whiten"``, see ``FeatureScaling``.
        shrinkage: Shrinkage of the whitening, see ``FeatureScaling``.
        sigma: Standard deviation of the anomaly map's Gaussian, in pixels.
        seed: Seed of the choice.

    >>> network = Memory([Teacher("test_resnet", "untrained", levels=[2, 3])])
    >>> images = torch.rand(2, 3, 64, 64)
    >>> network.remember(network.features(images), ["anna", "ben"], images=2)
    >>> network.consolidate()
    >>> maps = network.eval()(images)
    >>> maps.shape, bool(maps.abs().max() < 1e-3)
    (torch.Size([2, 1, 64, 64]), True)
    """

    bank: Tensor

    def __init__(
        self,
        teachers: list[Teacher],
        grid_stride: int = 16,
        size: int = 20_000,
        scaling: str = "whiten",
        shrinkage: float = 0.3,
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__(teachers, nn.Identity(), sigma, scaling=scaling, shrinkage=shrinkage)
        self.size, self.share = size, teachers[0].strides[-1] / grid_stride  # of the deepest level's side
        self.channels = [teacher.channels for teacher in teachers]
        self.register_buffer("bank", torch.zeros(1, sum(map(sum, self.channels))))
        self._patients = np.array([])  # of the bank's features; never saved
        self._generator = torch.Generator().manual_seed(seed)
        self._forget()

    def distill(self, features: list[list[Tensor]]) -> Distillation:
        """
        Raises:
            TypeError: Always, as there are no students.
        """
        raise TypeError("A memory has no students to train: build it by configs/methods/memory.json.")

    def remember(self, features: list[list[Tensor]], patients: Sequence[str], images: int) -> None:
        """Adds normal images, or of each a random share of its places where there are many images.

        Args:
            features: Teachers' features of a batch.
            patients: Patient of each image of the batch.
            images: Number of images of the whole training.
        """
        grid = self._grid(features).flatten(2).mT
        self.scaling.observe(features)
        places = grid.shape[1]
        count = min(places, max(1, math.ceil(_COLLECTED * self.size / images)))
        for image, patient in zip(grid, patients, strict=True):
            kept = torch.randperm(places, generator=self._generator)[:count].to(grid.device)
            self._vectors.append(image[kept].cpu())
            self._owners += [patient] * count

    def consolidate(self) -> None:
        """Makes the memory of what was remembered, in all processes.

        Raises:
            ValueError: If nothing was remembered.
        """
        self.scaling.settle()
        vectors, owners = _gathered((self._vectors, self._owners))
        kept = torch.randperm(len(owners), generator=self._generator)[: self.size]
        device = self.bank.device
        chosen = torch.cat(vectors)[kept].to(device)
        self.bank = self._embedded(chosen[:, :, None, None])[:, 0]
        self._patients = np.array(owners)[kept.numpy()]
        self._forget()

    def maps(self, features: list[list[Tensor]], size: Sequence[int], without: Sequence[str] | None = None) -> Tensor:
        """Anomaly maps (B, 1, *size), float32, in [0, 2].

        Args:
            features: Teachers' features of a batch.
            size: Height and width of the images.
            without: Patient of each image, whose features in the memory do not count; for maps of training images,
                as long as the memory knows whom its features are of.

        Raises:
            ValueError: If the memory holds features of no other patient.
        """
        grid = self._grid(features)
        queries = self._embedded(grid)
        if without is None:
            distance = self._distance(queries)
        else:
            parts = zip(queries, without, strict=True)
            distance = torch.stack([self._distance(image, self._of(patient)) for image, patient in parts])
        coarse = distance.unflatten(-1, grid.shape[2:]).unsqueeze(1)
        return self.anomaly_map.smooth(F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False))

    def _distance(self, queries: Tensor, own: Tensor | None = None) -> Tensor:
        """Distance of vectors (..., N, C) to the memory's but ``own`` ones: (..., N)."""
        similarity = queries @ self.bank.T
        if own is not None:
            similarity = similarity.masked_fill(own, -torch.inf)
        return 1 - similarity.amax(-1)

    def _of(self, patient: str) -> Tensor:
        """Which features of the memory are a patient's, (size,) bool."""
        own = torch.from_numpy(self._patients == patient).to(self.bank.device)
        if own.all():
            raise ValueError("The memory holds one patient alone, so nothing of others to compare them with.")
        return own

    def _grid(self, features: list[list[Tensor]]) -> Tensor:
        """Joins all levels, averaged over 3 x 3 places, on one grid: (B, C, h, w)."""
        size = [math.ceil(side * self.share) for side in features[0][-1].shape[-2:]]
        exact = [level.to(self.bank.dtype) for one in features for level in one]  # may be half in mixed precision
        smooth = [F.avg_pool2d(level, 3, 1, 1, count_include_pad=False) for level in exact]
        return torch.cat([F.interpolate(level, size=size, mode="bilinear") for level in smooth], 1)

    def _embedded(self, grid: Tensor) -> Tensor:
        """Scales joined levels (N, C, h, w) and divides them by their norm: (N, h w, C)."""
        parts = iter(grid.split([one for levels in self.channels for one in levels], dim=1))
        scaled = self.scaling([[next(parts) for _ in levels] for levels in self.channels])
        equal = [level / math.sqrt(level.shape[1]) for levels in scaled for level in levels]  # in weight, of any width
        return F.normalize(torch.cat(equal, 1).flatten(2), dim=1).mT

    def _forget(self) -> None:
        self._vectors: list[Tensor] = []
        self._owners: list[str] = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if (stored := state_dict.get(prefix + "bank")) is not None:  # as many features as were kept
            self.bank = self.bank.new_empty(len(stored), self.bank.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *others)


def _gathered(parts: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
    """Joins lists of all processes."""
    if dist.is_initialized():
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, parts)
        parts = tuple([item for one in column for item in one] for column in zip(*everyone, strict=True))
    return parts
