"""Two baselines without training, in the place of a detector: what every method has to beat."""

from collections.abc import Iterable

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from scripts.networks.blocks import resize_like
from scripts.networks.detector import Detector

_BANK = 20_000  # features of the training images to keep


class Baseline(nn.Module):
    """Computes anomaly maps, (B, 3, H, W) -> (B, 1, H, W), once ``fit`` has seen the normal images."""

    def fit(self, training: Iterable[Tensor]) -> None:
        """Learns from normal images (3, H, W)."""

    def identities(self) -> list[dict[str, str]]:
        """Identities of the teachers; see ``Detector.identities``."""
        return []

    def untrained_teachers(self) -> list[str]:
        """Names of the teachers with random weights."""
        return []


class MeanImage(Baseline):
    """Absolute difference from the mean normal image, averaged over channels.

    >>> baseline = MeanImage()
    >>> baseline.fit([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    >>> baseline(torch.ones(1, 3, 2, 2)).tolist()
    [[[[0.5, 0.5], [0.5, 0.5]]]]
    """

    def fit(self, training: Iterable[Tensor]) -> None:
        self.mean = torch.stack([image.double() for image in training]).mean(0).float()

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean.to(images.device)).abs().mean(1, keepdim=True)


class NearestNeighbours(Baseline):
    """Distance of each feature to its nearest neighbour in normal images (core of PatchCore, Roth et al., CVPR 2022).

    A feature combines all levels of all teachers of ``detector`` at one place of the second level's grid. Each level is
    divided by its mean norm, so that none outweighs the others. The bank is a random sample of the normal features.

    Args:
        detector: Detector whose teachers compute the features, and whose Gaussian smooths the map.
        seed: Seed of the sample.
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
        """Concatenates all levels at the size of the second: (B, C, h, w)."""
        scaled = [resize_like(level / norm, levels[1]) for level, norm in zip(levels, self.norms, strict=True)]
        return torch.cat(scaled, dim=1)
