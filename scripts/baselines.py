"""What a detector has to beat: maps of two baselines that train nothing, from the same images and features."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from scripts.networks.blocks import resize_like
from scripts.networks.detector import Detector

Scorer = Callable[[Tensor], Tensor]  # (3, H, W) image -> (H, W) anomaly map

_BANK = 20_000  # features that are kept of the training images


def mean_image(training: Iterable[Tensor]) -> Scorer:
    """Absolute difference to the mean normal image, averaged over channels.

    Args:
        training: normal images (3, H, W).
    """
    mean = torch.stack([image.double() for image in training]).mean(0).float()
    return lambda image: (image - mean).abs().mean(0)


def nearest_neighbours(training: Iterable[Tensor], detector: Detector, seed: int = 0) -> Scorer:
    """Distance of each feature to the nearest one of a normal image (the core of PatchCore, Roth et al., CVPR 2022).

    A feature is that of all levels and teachers of ``detector`` at one place of the second level's grid, every level
    divided by its mean norm, so that none outweighs the others. The bank is a random sample of the normal ones.

    Args:
        training: normal images (3, H, W).
        detector: whose teachers give the features and whose smoothing the map gets.
        seed: of the sample.
    """
    features = [[level for levels in detector.features(image[None]) for level in levels] for image in training]
    norms = [torch.stack([image[i].norm(dim=1).mean() for image in features]).mean() for i in range(len(features[0]))]

    def grid(levels: list[Tensor]) -> Tensor:
        resized = [resize_like(level / norm, levels[1]) for level, norm in zip(levels, norms, strict=True)]
        return torch.cat(resized, dim=1)[0]  # (C, h, w)

    vectors = torch.cat([grid(levels).flatten(1).T for levels in features]).numpy()
    kept = np.random.default_rng(seed).choice(len(vectors), min(_BANK, len(vectors)), replace=False)
    bank = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(vectors[kept])

    def score(image: Tensor) -> Tensor:
        place = grid([level for levels in detector.features(image[None]) for level in levels])
        distance, _ = bank.kneighbors(place.flatten(1).T.numpy())
        map_ = torch.from_numpy(distance).float().view(1, 1, *place.shape[1:])
        return detector.anomaly_map.smooth(resize_like(map_, image[None]))[0, 0]

    return score
