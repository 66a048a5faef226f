"""What a detector has to beat: two baselines that train nothing, in place of a detector."""

from collections.abc import Iterable

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from scripts.networks.blocks import resize_like
from scripts.networks.detector import Detector

_BANK = 20_000  # features that are kept of the training images


class Baseline(nn.Module):
    """Gives anomaly maps (B, 1, H, W) of images (B, 3, H, W) after ``fit`` has seen the normal ones."""

    def fit(self, training: Iterable[Tensor]) -> None:
        """Learns from normal images (3, H, W)."""

    def identities(self) -> list[dict[str, str]]:
        """See ``Detector``."""
        return []

    def untrained_teachers(self) -> list[str]:
        """See ``Detector``."""
        return []


class MeanImage(Baseline):
    """Absolute difference to the mean normal image, averaged over channels."""

    def fit(self, training: Iterable[Tensor]) -> None:
        self.mean = torch.stack([image.double() for image in training]).mean(0).float()

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean.to(images.device)).abs().mean(1, keepdim=True)


class NearestNeighbours(Baseline):
    """Distance of each feature to the nearest one of a normal image (the core of PatchCore, Roth et al., CVPR 2022).

    A feature is that of all levels and teachers of ``detector`` at one place of the second level's grid, every level
    divided by its mean norm, so that none outweighs the others. The bank is a random sample of the normal ones.

    Args:
        detector: whose teachers give the features and whose smoothing the map gets.
        seed: of the sample.
    """

    def __init__(self, detector: Detector, seed: int = 0) -> None:
        super().__init__()
        self.detector, self.seed = detector.eval(), seed

    def fit(self, training: Iterable[Tensor]) -> None:
        features = [self._levels(image[None]) for image in training]
        self.norms = [
            torch.stack([image[i].norm(dim=1).mean() for image in features]).mean() for i in range(len(features[0]))
        ]
        vectors = torch.cat([self._grid(levels).flatten(2)[0].T for levels in features]).cpu().numpy()
        kept = np.random.default_rng(self.seed).choice(len(vectors), min(_BANK, len(vectors)), replace=False)
        self.bank = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(vectors[kept])

    def forward(self, images: Tensor) -> Tensor:
        grid = self._grid(self._levels(images))
        distance, _ = self.bank.kneighbors(grid.permute(0, 2, 3, 1).flatten(0, 2).cpu().numpy())
        maps = torch.from_numpy(distance).to(grid).view(len(images), 1, *grid.shape[2:])
        return self.detector.anomaly_map.smooth(resize_like(maps, images))

    def identities(self) -> list[dict[str, str]]:
        return self.detector.identities()

    def untrained_teachers(self) -> list[str]:
        return self.detector.untrained_teachers()

    def _levels(self, images: Tensor) -> list[Tensor]:
        return [level for levels in self.detector.features(images) for level in levels]

    def _grid(self, levels: list[Tensor]) -> Tensor:
        """(B, C, h, w), all levels at the second one's size."""
        scaled = [resize_like(level / norm, levels[1]) for level, norm in zip(levels, self.norms, strict=True)]
        return torch.cat(scaled, dim=1)
