"""What is normal for a place: mean and spread of the anomaly maps of normal patients, there and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

_KNOTS = 33  # places along the axis, evenly spread over [0, 1]


class MapReference:
    """Standardises anomaly maps by those of normal patients at the same place of the body.

    A second map is how bright a place is: the image, averaged over the places around. Its deviations are added to those
    of the anomaly map, as a network trained on photographs says little of brightness, and blood is bright first of all.

    The place z of a slice is its position in the foreground of its scan, from 0 to 1 (see ``slice_places``). At each
    pixel the mean and the standard deviation of the normal maps are taken with weights
    ``exp(-(z - z_i)^2 / (2 bandwidth^2))``; deviations below ``floor`` times the mean over the slice are raised to it.
    A map m becomes ``log(1 + exp((m - mean) / deviation))``, which is positive and, well above normal, the number of
    deviations; 0.69 is the mean. A place darker than normal adds its deviations too, by a weight of their own.

    It takes many patients to know what is normal at a place. Of fewer than ``patients``, mean and deviation are those
    of all places together, which leaves the order of all values as it is.

    Args:
        bandwidth: Standard deviation of the kernel along the axis, in parts of the scan's foreground.
        floor: Least deviation, in parts of the mean over the slice.
        stride: Pixels of the maps, in each direction, that share their statistics.
        patients: Least number of normal patients to tell places apart.
        brightness: Weight of the deviations of the brightness; 0 leaves them out.
        darkness: Weight of the deviations of places darker than normal, relative to those brighter.
        path: Checkpoint to take the statistics from where nobody restores them, as in MONAI Label's own app.

    >>> reference = MapReference()
    >>> normal = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> patients = [str(number % 10) for number in range(200)]
    >>> images, places = torch.zeros(200, 3, 8, 8), torch.rand(200, generator=torch.Generator().manual_seed(1))
    >>> reference.add(normal, images, places, patients)
    >>> reference.settle()
    >>> reference(torch.full((1, 1, 8, 8), 5.0), images[:1], torch.tensor([0.5])).min() > 5
    tensor(True)
    """

    def __init__(
        self,
        bandwidth: float = 0.06,
        floor: float = 1.0,
        stride: int = 4,
        patients: int = 8,
        brightness: float = 0.0,
        darkness: float = 0.5,
        path: str = "",
    ) -> None:
        if not bandwidth > 0 or floor < 0 or stride < 1:
            raise ValueError(
                f"A reference needs bandwidth > 0, floor >= 0 and stride >= 1, got {bandwidth}, {floor} and {stride}."
            )
        self.bandwidth, self.floor, self.stride, self.patients = bandwidth, floor, stride, patients
        self.brightness, self.darkness, self.path = brightness, darkness, Path(path)
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None
        self._sums: list[Tensor] = []
        self._seen: set[str] = set()

    @property
    def settings(self) -> dict[str, Any]:
        """All that changes a map, as JSON values."""
        names = ("bandwidth", "floor", "stride", "patients", "brightness", "darkness")
        return {name: getattr(self, name) for name in names}

    def add(self, maps: Tensor, images: Tensor, places: Tensor, patients: Sequence[str]) -> None:
        """Adds maps (B, 1, H, W) of normal slices (B, C, H, W) of patients (B) at places (B,) in [0, 1]."""
        self._seen.update(patients)
        coarse = F.avg_pool2d(self._components(maps.detach().cpu(), images.detach().cpu()), self.stride).double()
        weights = self._weights(places.detach().cpu().double())  # (B, knots)
        parts = [
            weights.sum(0),
            *(torch.einsum("bk,bchw->kchw", weights, power) for power in (coarse, coarse.square())),
        ]
        self._sums = [old + new for old, new in zip(self._sums, parts, strict=True)] if self._sums else parts

    def settle(self) -> None:
        """Fits the statistics to all that was added, in all processes.

        Raises:
            ValueError: If nothing was added.
        """
        if not self._sums:
            raise ValueError("There is no normal map to refer to.")
        if dist.is_initialized():
            for part in self._sums:
                dist.all_reduce(part)
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, self._seen)
            self._seen = set().union(*everyone)
        total, maps, squares = self._sums
        if len(self._seen) < self.patients:
            logger.warning(
                "Maps of %d normal patients do not tell what is normal at which place, %d would: they are standardised "
                "all over alike.",
                len(self._seen),
                self.patients,
            )
            total = total.sum().expand_as(total)
            maps, squares = (part.sum(0).mean((1, 2), keepdim=True).expand_as(part) for part in (maps, squares))
        total = total.clamp(min=1e-12).view(-1, 1, 1, 1)
        mean = maps / total
        deviation = (squares / total - mean.square()).clamp(min=0).sqrt()
        self.mean = mean.float()
        least = (self.floor * deviation.mean((2, 3), keepdim=True)).clamp(min=1e-12)
        self.deviation = torch.maximum(deviation, least).float()
        self._sums, self._seen = [], set()

    def __call__(self, maps: Tensor, images: Tensor, places: Tensor) -> Tensor:
        """Standardises maps (D, 1, H, W) of slices (D, C, H, W) at places (D,) in [0, 1].

        Raises:
            ValueError: If nothing was fitted.
        """
        if self.mean is None and self.path.is_file():
            state = torch.load(self.path, map_location="cpu", weights_only=True).get("reference")
            self.load_state_dict(state or self.state_dict())
        if self.mean is None or self.deviation is None:
            raise ValueError(
                "The model does not know the maps of normal patients, as its training did not reach its end: go on "
                "with it by --resume True."
            )
        statistics = (self.mean.to(maps.device), self.deviation.to(maps.device))
        mean, deviation = (self._at(statistic, places, maps.shape[-2:]) for statistic in statistics)
        deviations = (self._components(maps, images) - mean) / deviation
        anomaly, grey = deviations[:, :1], deviations[:, 1:]
        of_grey = F.softplus(grey) + self.darkness * F.softplus(-grey)
        return F.softplus(anomaly) + self.brightness * of_grey.sum(1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: If the state is one of other settings.
        """
        if state["settings"] != self.settings:
            raise ValueError(f"its reference was fitted by other settings ({state['settings']}, now {self.settings}).")
        self.mean, self.deviation = state["mean"], state["deviation"]

    def _components(self, maps: Tensor, images: Tensor) -> Tensor:
        """Maps and, where it counts, brightness: (D, 1 or 2, H, W), float32."""
        if not self.brightness:
            return maps.float()
        grey = F.avg_pool2d(images.to(maps.device).float().mean(1, keepdim=True), self.stride)
        around = F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
        whole = F.interpolate(around, size=maps.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([maps.float(), whole], 1)

    def _weights(self, places: Tensor) -> Tensor:
        knots = torch.linspace(0, 1, _KNOTS, dtype=places.dtype)
        return torch.exp(-0.5 * ((places[:, None] - knots) / self.bandwidth) ** 2)

    def _at(self, statistic: Tensor, places: Tensor, size: torch.Size) -> Tensor:
        """Interpolates (knots, C, h, w) to places (D,) and the size of the maps: (D, C, H, W)."""
        position = places.to(statistic).clamp(0, 1) * (_KNOTS - 1)
        below = position.floor().long().clamp(max=_KNOTS - 2)
        share = (position - below).view(-1, 1, 1, 1)
        between = torch.lerp(statistic[below], statistic[below + 1], share)
        return F.interpolate(between, size=size, mode="bilinear", align_corners=False)
