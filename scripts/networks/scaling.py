"""Scaling of the teachers' features by their statistics over the normal training images."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

SCALINGS = ("off", "divide", "standardise", "whiten")


class FeatureScaling(nn.Module):
    """Scales every level of every teacher as fitted on normal images; passes features unchanged until then.

    With the mean m and the covariance C of a level's c channels over all places of all images, ``"whiten"`` computes
    ``W (f - m)`` with ``W = (C + shrinkage * trace(C) / c * I)^(-1/2)``, and ``"standardise"`` takes the diagonal of C
    alone. The result is divided by its root mean square, so that no level outweighs another; ``"divide"`` does nothing
    else.

    Args:
        channels: Channels of each level of each teacher.
        mode: ``"off"``, ``"divide"``, ``"standardise"`` or ``"whiten"``; of all levels, or a list of them for each
            teacher.
        shrinkage: Share of the mean variance that is added to each channel's own; more keeps noise down.

    Raises:
        ValueError: If there is no such mode, or ``shrinkage`` is negative.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...
    >>> scaling = FeatureScaling([[2]], "whiten", shrinkage=0.0)
    >>> features = torch.randn(50, 2, 8, 8) * torch.tensor([1.0, 9.0]).view(1, 2, 1, 1) + 5
    >>> scaling.observe([[features]])
    >>> scaling.settle()
    >>> [round(value, 3) for value in scaling([[features]])[0][0].var((0, 2, 3)).tolist()]
    [1.0, 1.0]
    """

    def __init__(self, channels: list[list[int]], mode: str | list[list[str]] = "off", shrinkage: float = 0.3) -> None:
        super().__init__()
        modes = [[mode] * len(levels) for levels in channels] if isinstance(mode, str) else mode
        for one in {one for levels in modes for one in levels}:
            if one not in SCALINGS:
                raise ValueError(f"scaling must be {', '.join(SCALINGS)}, got '{one}'.")
        if shrinkage < 0:
            raise ValueError(f"shrinkage must not be negative, got {shrinkage}.")
        self.shrinkage = shrinkage
        self.levels = nn.ModuleList(
            nn.Identity() if one == "off" else _Level(count, one)
            for counts, levels in zip(channels, modes, strict=True)
            for count, one in zip(counts, levels, strict=True)
        )

    @property
    def scales_any_level(self) -> bool:
        """Whether any level is scaled, so that there is something to fit."""
        return any(isinstance(scale, _Level) for scale in self.levels)

    def forward(self, features: list[list[Tensor]]) -> list[list[Tensor]]:
        """Scales features (B, C_i, H_i, W_i) of each teacher's levels."""
        if not self.scales_any_level:
            return features
        scales = iter(self.levels)
        return [[next(scales)(level) for level in levels] for levels in features]

    def observe(self, features: list[list[Tensor]]) -> None:
        """Adds the features of a batch of normal images to the statistics."""
        flat = [level for levels in features for level in levels]
        for scale, level in zip(self.levels, flat, strict=True):
            if isinstance(scale, _Level):
                scale.observe(level)

    def settle(self) -> None:
        """Fits the scaling to what was observed, in all processes, and forgets the statistics.

        Raises:
            ValueError: If nothing was observed.
        """
        for scale in self.levels:
            if isinstance(scale, _Level):
                scale.settle(self.shrinkage)


class _Level(nn.Module):
    """Affine map of one level's channels, the same at all places."""

    weight: Tensor
    bias: Tensor
    count: int
    total: Tensor
    products: Tensor

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("weight", torch.eye(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self._forget()

    def forward(self, level: Tensor) -> Tensor:
        return F.conv2d(level, self.weight[:, :, None, None].to(level.dtype), self.bias.to(level.dtype))

    def observe(self, level: Tensor) -> None:
        places = level.detach().movedim(1, -1).flatten(0, -2).cpu().double()
        self.count += len(places)
        self.total = self.total + places.sum(0)
        self.products = self.products + places.T @ places

    def settle(self, shrinkage: float) -> None:
        total, products = self.total, self.products
        count = torch.tensor(float(self.count), dtype=torch.float64)
        if dist.is_initialized():
            for part in (count, total, products):
                dist.all_reduce(part)
        if not count:
            raise ValueError("No normal image was seen, so features cannot be scaled.")
        mean = total / count if self.mode != "divide" else torch.zeros_like(total)
        covariance = products / count - torch.outer(mean, mean)
        variance = covariance.diagonal().clamp(min=0)
        ridge = max(shrinkage * float(variance.mean()), torch.finfo(torch.float32).tiny)
        if self.mode == "divide":
            weight = torch.eye(len(mean), dtype=torch.float64)
        elif self.mode == "standardise":
            weight = torch.diag((variance + ridge).rsqrt())
        else:
            values, vectors = torch.linalg.eigh(covariance)
            weight = (vectors * (values.clamp(min=0) + ridge).rsqrt()) @ vectors.T
        square = torch.einsum("ij,jk,ik->", weight, covariance, weight) / len(mean)  # of W (f - m), on average
        weight = weight / square.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        self.weight.copy_(weight)
        self.bias.copy_(-weight @ mean)
        self._forget()

    def _forget(self) -> None:
        channels = len(self.bias)
        self.count, self.total = 0, torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)
