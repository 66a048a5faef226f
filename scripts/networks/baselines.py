"""A baseline without training, in the place of a detector: what every method has to beat."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MeanImage(nn.Module):
    """Absolute difference from the mean normal image, averaged over channels: (B, 3, H, W) -> (B, 1, H, W).

    >>> baseline = MeanImage()
    >>> baseline.fit([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    >>> baseline(torch.ones(1, 3, 2, 2)).tolist()
    [[[[0.5, 0.5], [0.5, 0.5]]]]
    """

    def fit(self, training: Iterable[Tensor]) -> None:
        """Learns the mean of normal images (3, H, W)."""
        self.mean = torch.stack([image.double() for image in training]).mean(0).float()

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean.to(images.device)).abs().mean(1, keepdim=True)

    def identities(self) -> list[dict[str, str]]:
        """Identities of the teachers, of which there are none; see ``Detector.identities``."""
        return []

    def untrained_teachers(self) -> list[str]:
        """Names of the teachers with random weights, of which there are none."""
        return []
