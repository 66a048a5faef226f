"""Teachers are frozen, so the features of an image never change: they are computed once and kept."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scripts.networks.detector import Detector

Features = list[list[Tensor]]  # of every teacher and level


class FeatureCache:
    """Keeps the teachers' features of images in main memory, until it is full; what does not fit is computed each time.

    Only for images that are the same every time they are asked for: no random transform may come before.

    Args:
        gibibytes: how much to keep at most; 0 keeps nothing.
    """

    def __init__(self, gibibytes: float = 4.0) -> None:
        self.free = int(gibibytes * 2**30)
        self._kept: dict[str, Features] = {}

    def __call__(self, network: Detector, images: Tensor, names: Sequence[str]) -> Features:
        """Features of a batch (B, 3, H, W) on its device; ``names`` tell its images apart."""
        # One image at a time: then a feature cannot depend on the batch in which it happened to be computed, and a
        # resumed training repeats the unbroken one to the bit.
        single = [self._features_of(network, image[None], name) for image, name in zip(images, names, strict=True)]
        return [
            [
                torch.cat([features[teacher][level].to(images.device) for features in single])
                for level in range(len(levels))
            ]
            for teacher, levels in enumerate(single[0])
        ]

    def _features_of(self, network: Detector, image: Tensor, name: str) -> Features:
        if name in self._kept:
            return self._kept[name]
        features = network.features(image)
        size = sum(level.numel() * level.element_size() for levels in features for level in levels)
        if size <= self.free:
            self.free -= size
            self._kept[name] = [[level.to("cpu", copy=True) for level in levels] for levels in features]
        return features
