"""Memory: distance of an image's features to those of normal images (after PatchCore, Roth et al., CVPR 2022)."""

from __future__ import annotations

import hashlib
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


class Intensity(nn.Module):
    """Mean intensity of the pixels around each place, in the place of a teacher: (B, 3, H, W) -> [(B, 1, h, w)].

    Args:
        stride: Stride of the grid in pixels.
    """

    name = "intensity"

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.channels, self.strides = stride, [1], [stride]
        self.level_hashes = [hashlib.sha256(f"mean intensity at stride {stride}".encode()).hexdigest()]

    def forward(self, image: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(image.mean(1, keepdim=True), self.stride)]


class Memory(Detector):
    """Keeps features of normal images, and maps how unlike the most similar of them a place is.

    The levels of all teachers are averaged over 3 x 3 places, brought to one grid, scaled (see ``FeatureScaling``),
    joined and divided by their norm. The anomaly of a place p, in parts of the image's sides, with the vector q and the
    intensity v in [0, 1] is the least ``1 - q . m + position * |p - p_m|^2 + intensity * (v - v_m)^2`` over the vectors
    m of the memory.

    It learns without gradients: ``remember`` takes the features of each batch, and ``consolidate`` makes the memory.

    Args:
        teachers: Teachers whose features are compared.
        grid_stride: Stride of the grid in input pixels.
        size: Number of features that are kept, a random choice.
        position: Weight of the squared distance in the image; 0 compares with all places alike.
        intensity: Weight of the squared difference of the intensity; 0 compares features alone. Features say little of
            how bright a place is.
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
    coordinates: Tensor
    weights: Tensor

    def __init__(
        self,
        teachers: list[Teacher],
        grid_stride: int = 16,
        size: int = 10_000,
        position: float = 0.0,
        intensity: float = 0.0,
        scaling: str = "whiten",
        shrinkage: float = 0.3,
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__(teachers, nn.Identity(), sigma, scaling=scaling, shrinkage=shrinkage)
        self.teachers.append(Intensity(grid_stride))
        self.grid_stride, self.size = grid_stride, size
        self.channels = [teacher.channels for teacher in teachers]
        self.register_buffer("bank", torch.zeros(1, sum(map(sum, self.channels))))
        self.register_buffer("coordinates", torch.zeros(1, 3))
        self.compares_coordinates = position > 0 or intensity > 0
        weights = torch.tensor([position, position, intensity]).sqrt()
        self.register_buffer("weights", weights, persistent=False)
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
        grid, coordinates = self._grid(features)
        self.scaling.observe(features[:-1])
        places = coordinates.shape[1]
        count = min(places, max(1, math.ceil(_COLLECTED * self.size / images)))
        for image, where, patient in zip(grid.flatten(2).mT, coordinates, patients, strict=True):
            kept = torch.randperm(places, generator=self._generator)[:count].to(grid.device)
            self._vectors.append(image[kept].cpu())
            self._coordinates.append(where[kept].cpu())
            self._owners += [patient] * count

    def consolidate(self) -> None:
        """Makes the memory of what was remembered, in all processes.

        Raises:
            ValueError: If nothing was remembered.
        """
        self.scaling.settle()
        vectors, coordinates, owners = _gathered((self._vectors, self._coordinates, self._owners))
        kept = torch.randperm(len(owners), generator=self._generator)[: self.size]
        device = self.bank.device
        chosen = torch.cat(vectors)[kept].to(device)
        self.bank = self._embedded(chosen[:, :, None, None])[:, 0]
        self.coordinates = torch.cat(coordinates)[kept].to(device)
        self._patients = [owners[index] for index in kept.tolist()]
        self._forget()

    def maps(self, features: list[list[Tensor]], size: Sequence[int], without: Sequence[str] | None = None) -> Tensor:
        """Anomaly maps (B, 1, *size), float32, in [0, 2 + 2 * position + intensity].

        Args:
            features: Teachers' features of a batch.
            size: Height and width of the images.
            without: Patient of each image, whose features in the memory do not count; for maps of training images,
                as long as the memory knows whom its features are of.

        Raises:
            ValueError: If the memory holds features of no other patient.
        """
        grid, coordinates = self._grid(features)
        queries = self._embedded(grid)
        if without is None:
            distance = self._distance(queries, coordinates)
        else:
            parts = zip(queries, coordinates, without, strict=True)
            distance = torch.stack([self._distance(image, where, self._of(patient)) for image, where, patient in parts])
        coarse = distance.unflatten(-1, grid.shape[2:]).unsqueeze(1)
        return self.anomaly_map.smooth(F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False))

    def _distance(self, queries: Tensor, coordinates: Tensor, own: Tensor | None = None) -> Tensor:
        """Distance of vectors (..., N, C) at coordinates (..., N, 3) to the memory's but ``own`` ones: (..., N)."""
        similarity = queries @ self.bank.T
        if self.compares_coordinates:
            ours, theirs = coordinates * self.weights, self.coordinates * self.weights
            squares = ours.square().sum(-1, keepdim=True) + theirs.square().sum(-1)
            similarity = similarity - (squares - 2 * ours @ theirs.T)
        if own is not None:
            similarity = similarity.masked_fill(own, -torch.inf)
        return 1 - similarity.amax(-1)

    def _of(self, patient: str) -> Tensor:
        """Which features of the memory are a patient's, (size,) bool."""
        own = torch.tensor([one == patient for one in self._patients], device=self.bank.device)
        if own.all():
            raise ValueError("The memory holds one patient alone, so nothing of others to compare them with.")
        return own

    def _grid(self, features: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Joins all levels, averaged over 3 x 3 places, on one grid.

        Returns:
            Vectors (B, C, h, w), and row, column and intensity of each place (B, h w, 3).
        """
        *levels, (intensity,) = features
        size = intensity.shape[-2:]
        exact = [level.to(self.bank.dtype) for one in levels for level in one]  # may be half in mixed precision
        smooth = [F.avg_pool2d(level, 3, 1, 1, count_include_pad=False) for level in exact]
        joined = torch.cat([F.interpolate(level, size=size, mode="bilinear") for level in smooth], 1)
        rows, columns = (torch.arange(side, device=joined.device).add(0.5) / side for side in size)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        places = places.expand(joined.shape[0], -1, -1, -1)  # len() would fix the batch of exports
        return joined, torch.cat([places, intensity], 1).to(joined).flatten(2).mT

    def _embedded(self, grid: Tensor) -> Tensor:
        """Scales joined levels (N, C, h, w) and divides them by their norm: (N, h w, C)."""
        parts = iter(grid.split([one for levels in self.channels for one in levels], dim=1))
        scaled = self.scaling([[next(parts) for _ in levels] for levels in self.channels])
        equal = [level / math.sqrt(level.shape[1]) for levels in scaled for level in levels]  # in weight, of any width
        return F.normalize(torch.cat(equal, 1).flatten(2), dim=1).mT

    def _forget(self) -> None:
        self._vectors: list[Tensor] = []
        self._coordinates: list[Tensor] = []
        self._owners: list[str] = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("bank", "coordinates"):  # as many features as were kept
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(len(stored), getattr(self, name).shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _gathered(parts: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
    """Joins lists of all processes."""
    if dist.is_initialized():
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, parts)
        parts = tuple([item for one in column for item in one] for column in zip(*everyone, strict=True))
    return parts
