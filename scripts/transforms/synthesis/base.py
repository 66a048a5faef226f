"""What all synthetic anomalies have in common: a part of the image is altered, the rest stays equal to the bit."""

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
    """Replaces images (C, H, W) by what ``altered`` makes of them.

    Args:
        keys: images.
        foreground_only: whether only the foreground, what is above 0 in any channel, is altered.
    """

    def __init__(self, keys: KeysCollection, foreground_only: bool, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.foreground_only = foreground_only

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            ValueError: if an image is not (C, H, W), or too small for the parameters.
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
        """A new image (C, H, W), equal to the given one outside the altered region."""


class RandSynthesisd(RandomizableTransform, MapTransform):
    """Draws the parameters of a ``Synthesisd`` by the first image and applies it to all images of an item.

    ``drawn`` is the transform that the last item got; None if it stayed as it was.

    Args:
        keys: images (C, H, W), of one size within an item.
        prob: of an item to be altered, in [0, 1].
        foreground_only: whether the anomaly is centred in the foreground, what is above 0 in any channel, and alters
            nothing else. An image with no place for it stays as it is.
    """

    def __init__(self, keys: KeysCollection, prob: float, foreground_only: bool, allow_missing_keys: bool) -> None:
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.foreground_only = foreground_only
        self.drawn: Synthesisd | None = None

    def randomize(self, data: Tensor) -> None:
        """Sets ``drawn`` for an image (C, H, W)."""
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
        """An anomaly centred in ``foreground`` (H, W), which is all true where any place will do; None if none fits."""


def foreground_of(image: Tensor) -> Tensor:
    """(C, H, W) -> (H, W) bool: what is above 0 in any channel."""
    return image.amax(0) > 0


def check_shape(image: Tensor) -> None:
    """
    Raises:
        ValueError: if an image is not (C, H, W).
    """
    if image.ndim != 3:
        name = getattr(image, "meta", {}).get("filename_or_obj", "An image")
        raise ValueError(
            f"{name} has the shape {tuple(image.shape)} where (C, H, W) is needed: put SliceToImaged before synthesis."
        )


def check_range(name: str, bounds: tuple[float, float], low: float, high: float = np.inf) -> None:
    """
    Raises:
        ValueError: if bounds do not ascend or leave [low, high].
    """
    if len(bounds) != 2 or not low <= bounds[0] <= bounds[1] <= high:
        raise ValueError(f"{name} must be [from, to], ascending within [{low:g}, {high:g}], got {list(bounds)}.")
