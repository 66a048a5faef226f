"""Base classes of synthetic anomalies, which alter one region of an image and leave the rest exactly as it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor


class Synthesisd(MapTransform):
    """Applies ``altered`` to images (C, H, W).

    Args:
        keys: Keys of the images.
        foreground_only: Whether to alter the foreground only, which is above 0 in any channel.
        allow_missing_keys: Whether keys may be missing.
    """

    def __init__(self, keys: KeysCollection, foreground_only: bool, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.foreground_only = foreground_only

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Alters the images of an item.

        Raises:
            ValueError: If an image is not (C, H, W), or too small for the parameters.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            check_shape(image)
            plain = convert_to_tensor(image, track_meta=False)
            altered = self.altered(plain)
            if self.foreground_only:
                altered = torch.where(foreground_of(plain), altered, plain)
            result[key] = convert_to_dst_type(altered, image)[0]
        return result

    @abstractmethod
    def altered(self, image: Tensor) -> Tensor:
        """Altered copy of an image (C, H, W), equal to the original outside the altered region."""


class RandSynthesisd(RandomizableTransform, MapTransform):
    """Draws a ``Synthesisd`` for the first image of an item and applies it to all its images.

    Args:
        keys: Keys of images (C, H, W), of the same size within an item.
        prob: Probability that an item is altered, in [0, 1].
        foreground_only: Whether the anomaly is centred in the foreground, which is above 0 in any channel, and alters
            nothing else. An image without room for it stays as it is.
        allow_missing_keys: Whether keys may be missing.

    Attributes:
        drawn: Transform that was applied to the last item; None if the item stayed as it was.
    """

    def __init__(self, keys: KeysCollection, prob: float, foreground_only: bool, allow_missing_keys: bool) -> None:
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.foreground_only = foreground_only
        self.drawn: Synthesisd | None = None

    def randomize(self, data: Tensor) -> None:
        """Draws ``drawn`` for an image (C, H, W)."""
        super().randomize(None)
        self.drawn = None
        if self._do_transform:
            check_shape(data)
            foreground = np.ones(data.shape[1:], dtype=bool)
            if self.foreground_only:
                foreground = foreground_of(convert_to_tensor(data, track_meta=False)).cpu().numpy()
            self.drawn = self.draw(foreground)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        first = next(iter(self.key_iterator(result)), None)
        if first is None:
            return result
        self.randomize(result[first])
        return result if self.drawn is None else self.drawn(result)

    @abstractmethod
    def draw(self, foreground: NDArray[np.bool_]) -> Synthesisd | None:
        """Draws an anomaly centred in ``foreground`` (H, W), which is all true if any place will do.

        Returns:
            Transform of the anomaly; None if there is no room for it.
        """


def foreground_of(image: Tensor) -> Tensor:
    """Foreground of an image, above 0 in any channel: (C, H, W) -> (H, W), bool."""
    return image.amax(0) > 0


def check_shape(image: Tensor) -> None:
    """Checks the shape of an image.

    Raises:
        ValueError: If it is not (C, H, W).
    """
    if image.ndim != 3:
        name = getattr(image, "meta", {}).get("filename_or_obj", "An image")
        raise ValueError(
            f"{name} has the shape {tuple(image.shape)}, but (C, H, W) is needed: put SliceToImaged before synthesis."
        )


def check_range(name: str, bounds: tuple[float, float], low: float, high: float = np.inf) -> None:
    """Checks the bounds of the parameter ``name``.

    Raises:
        ValueError: If they do not ascend, or lie outside [low, high].
    """
    if len(bounds) != 2 or not low <= bounds[0] <= bounds[1] <= high:
        raise ValueError(f"{name} must be [from, to], ascending within [{low:g}, {high:g}], got {list(bounds)}.")
