"""The shape that ImageNet teachers take: three channels, rows and columns."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Crop, MapTransform


class ToThreeChannelsd(MapTransform):
    """Brings (1, H, W, D) to (3, H, W, D) by repetition, or with ``neighbours`` (2.5D) by the slices below and above.

    Three channels pass: colours, or three windows. Beyond the first and the last slice these are repeated. Of a thin
    volume, a slice read with its neighbours, only the middle one is left.

    Args:
        keys: images.
        neighbours: whether the channels are the slice before, the slice and the slice after.
    """

    def __init__(self, keys: Any, neighbours: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.neighbours = neighbours
        self.middle = Crop()  # as indexing would leave the affine behind

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            meta = getattr(image, "meta", {})
            if image.shape[0] not in (1, 3) or (self.neighbours and image.shape[0] == 3):
                raise ValueError(
                    f"{meta.get('filename_or_obj', 'An image')} has {image.shape[0]} channels: only grey or RGB "
                    "images, one window or three can be used, and neighbours only with one."
                )
            if self.neighbours:
                before = torch.cat([image[..., :1], image[..., :-1]], -1)
                after = torch.cat([image[..., 1:], image[..., -1:]], -1)
                image = torch.cat([before, image, after])
                if "slice" in meta:
                    image = self.middle(image, (slice(None), slice(None), slice(1, 2)))
            elif image.shape[0] == 1:
                image = image.repeat(3, *[1] * (image.ndim - 1))
            result[key] = image
        return result


class SliceToImaged(MapTransform):
    """Brings a thin volume (C, H, W, 1) to an image (C, H, W). MONAI's SqueezeDim warns of any plane but the axial."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            ValueError: if there is more than one slice.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            if result[key].shape[-1] != 1:
                raise ValueError(f"One slice is needed, not an image of shape {tuple(result[key].shape)}.")
            result[key] = result[key][..., 0]
        return result
