"""Memory: distance of an image's features to those of normal images (after PatchCore, Roth et al., CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.networks.detector import Detector, Distillation
from scripts.networks.teachers import Teacher

_COLLECTED = 8  # features collected for each that is kept, at most


class Memory(Detector):
    """Keeps features of normal images, and maps how unlike the most similar of them a place is.

    The levels of all teachers are averaged over 3 x 3 places, brought to one grid, scaled (see ``FeatureScaling``),
    joined and divided by their norm. The anomaly of a place p with the vector q is the least
    ``1 - q . m + position * |p - p_m|^2`` over the vectors m of the memory, p being in parts of the image's sides.

    It learns without gradients: ``remember`` takes the features of each batch, and ``consolidate`` makes the memory.

    Args:
        teachers: Teachers whose features are compared.
        grid_stride: Stride of the grid in input pixels.
        size: Number of features that are kept, a random choice.
        position: Weight of the squared distance in the image; 0 compares with all places alike.
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
    places: Tensor

    def __init__(
        self,
        teachers: list[Teacher],
        grid_stride: int = 16,
        size: int = 20_000,
        position: float = 0.0,
        scaling: str = "whiten",
        shrinkage: float = 0.3,
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__(teachers, nn.Identity(), sigma, scaling=scaling, shrinkage=shrinkage)
        self.grid_stride, self.size, self.position = grid_stride, size, position
        self.register_buffer("bank", torch.zeros(1, sum(sum(teacher.channels) for teacher in teachers)))
        self.register_buffer("places", torch.zeros(1, 2))
        self._patients: list[str] = []  # of the bank's features; never saved
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
        grid = self._grid(features)
        self.scaling.observe(features)
        places = _places(grid)
        count = min(len(places), max(1, math.ceil(_COLLECTED * self.size / images)))
        for image, patient in zip(grid.flatten(2).transpose(1, 2), patients, strict=True):
            kept = torch.randperm(len(places), generator=self._generator)[:count].to(grid.device)
            self._vectors.append(image[kept].float().cpu())
            self._places.append(places[kept].cpu())
            self._owners += [patient] * count

    def consolidate(self) -> None:
        """Makes the memory of what was remembered, in all processes.

        Raises:
            ValueError: If nothing was remembered.
        """
        self.scaling.settle()
        vectors, places, owners = _gathered((self._vectors, self._places, self._owners))
        kept = torch.randperm(len(owners), generator=self._generator)[: self.size]
        device = self.bank.device
        chosen = torch.cat(vectors)[kept].to(device)
        self.bank = self._embedded(chosen[:, :, None, None])[:, 0]
        self.places = torch.cat(places)[kept].to(device)
        self._patients = [owners[index] for index in kept.tolist()]
        self._forget()

    def maps(self, features: list[list[Tensor]], size: Sequence[int], without: Sequence[str] | None = None) -> Tensor:
        """Anomaly maps (B, 1, *size), float32, in [0, 2 + 2 * position].

        Args:
            features: Teachers' features of a batch.
            size: Height and width of the images.
            without: Patient of each image, whose features in the memory do not count; for maps of training images,
                as long as the memory knows whom its features are of.

        Raises:
            ValueError: If the memory holds features of no other patient.
        """
        grid = self._grid(features)
        places = _places(grid)
        queries = self._embedded(grid)
        if without is None:
            distance = self._distance(queries, places)
        else:
            pairs = zip(queries, without, strict=True)
            distance = torch.stack([self._distance(image, places, self._of(patient)) for image, patient in pairs])
        coarse = distance.unflatten(-1, grid.shape[2:]).unsqueeze(1)
        return self.anomaly_map.smooth(F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False))

    def _distance(self, queries: Tensor, places: Tensor, own: Tensor | None = None) -> Tensor:
        """Distance of vectors (..., N, C) at places (N, 2) to the memory's without those that are ``own``: (..., N)."""
        similarity = queries @ self.bank.T
        if self.position:
            similarity = similarity - self.position * torch.cdist(places, self.places).square()
        if own is not None:
            similarity = similarity.masked_fill(own, -torch.inf)
        return 1 - similarity.amax(-1)

    def _of(self, patient: str) -> Tensor:
        """Which features of the memory are a patient's, (size,) bool."""
        own = torch.tensor([one == patient for one in self._patients], device=self.bank.device)
        if own.all():
            raise ValueError("The memory holds one patient alone, so nothing of others to compare them with.")
        return own

    def _grid(self, features: list[list[Tensor]]) -> Tensor:
        """Joins all levels, averaged over 3 x 3 places, on one grid: (B, C, h, w)."""
        finest, (stride, *_) = features[0][0], self._of_teachers("strides")[0]
        size = (finest.shape[-2] * stride // self.grid_stride, finest.shape[-1] * stride // self.grid_stride)
        levels = [F.avg_pool2d(level.float(), 3, 1, 1, count_include_pad=False) for one in features for level in one]
        return torch.cat([F.interpolate(level, size=size, mode="bilinear") for level in levels], 1)

    def _embedded(self, grid: Tensor) -> Tensor:
        """Scales joined levels (N, C, h, w) and divides them by their norm: (N, h w, C)."""
        channels = self._of_teachers("channels")
        parts = iter(grid.split([one for levels in channels for one in levels], dim=1))
        scaled = self.scaling([[next(parts) for _ in levels] for levels in channels])
        return F.normalize(torch.cat([level for levels in scaled for level in levels], 1).flatten(2), dim=1).mT

    def _of_teachers(self, name: str) -> list[list[int]]:
        return [getattr(teacher, name) for teacher in self.teachers]

    def _forget(self) -> None:
        self._vectors: list[Tensor] = []
        self._places: list[Tensor] = []
        self._owners: list[str] = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("bank", "places"):  # as many features as were kept
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(len(stored), getattr(self, name).shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _places(grid: Tensor) -> Tensor:
    """Row and column of each place of (B, C, h, w), in parts of the sides: (h w, 2)."""
    rows, columns = (torch.arange(side, device=grid.device).add(0.5) / side for side in grid.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)


def _gathered(parts: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
    """Joins lists of all processes."""
    if dist.is_initialized():
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, parts)
        parts = tuple([item for one in column for item in one] for column in zip(*everyone, strict=True))
    return parts
