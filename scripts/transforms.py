"""Dictionary transforms between image files and the network, beside those MONAI has."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor

from scripts.anomaly_map import anomaly_score


class ScaleToUnitd(MapTransform):
    """Maps intensities to float32 [0, 1], linearly and without clipping, so that what is brighter than normal stays so.

    Args:
        keys: images (C, ...) in the type they were stored in.
        intensity_range: the values that become 0 and 1; None takes [0, 255] for 8-bit images and refuses others.
    """

    def __init__(
        self, keys: KeysCollection, intensity_range: Sequence[float] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if intensity_range is not None and not intensity_range[0] < intensity_range[1]:
            raise ValueError(f"intensity_range must be [low, high] with low < high, got {list(intensity_range)}.")
        self.intensity_range = intensity_range

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if self.intensity_range is None and image.dtype != torch.uint8:
                raise ValueError(
                    f"{_name(image)} is deeper than 8 bits (its values go from {image.min():g} to {image.max():g}), so "
                    'intensity_range must say which values become 0 and 1: add --intensity_range "[low, high]", as '
                    "`python -m bundle prepare` prints it, to training, evaluation and inference alike."
                )
            low, high = self.intensity_range or (0, 255)
            result[key] = (image.float() - low) / (high - low)
        return result


class ToThreeChannelsd(MapTransform):
    """Repeats a grey image (1, H, W) to the three channels that ImageNet teachers take; colour (3, H, W) passes."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.shape[0] not in (1, 3):
                raise ValueError(f"{_name(image)} has {image.shape[0]} channels; only grey and RGB images can be used.")
            result[key] = image.repeat(3, *[1] * (image.ndim - 1)) if image.shape[0] == 1 else image
        return result


class EmptyMaskd(Transform):
    """Gives an item without ``mask`` an empty one (1, H, W) like its ``image``; for the normals of a set with masks."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "mask": data["mask"] if "mask" in data else torch.zeros_like(data["image"][:1])}


class AnomalyScored(Transform):
    """Adds ``score``, the anomaly score of ``pred`` (1, H, W), at the resolution of the network.

    Args:
        pooling: see ``scripts.anomaly_map.anomaly_score``.
    """

    def __init__(self, pooling: str = "max") -> None:
        self.pooling = pooling

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "score": anomaly_score(data["pred"][None], self.pooling)[0]}


def _name(image: Tensor) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "An image"))
