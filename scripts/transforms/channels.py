"""Conversion to the shape that ImageNet teachers take: three channels, rows and columns."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Crop, MapTransform


class ToThreeChannelsd(MapTransform):
    """Turns volumes (1, H, W, D) into (3, H, W, D), by repetition or with the neighbouring slices (2.5D).

    Volumes of three channels (colours, or three windows) stay as they are. The first and the last slice are their own
    neighbours at the ends. A thin volume, one slice read with its neighbours, is reduced to its middle slice.

    Args:
        keys: Keys of the volumes.
        neighbours: Whether the channels are the slice before, the slice itself and the slice after.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: On a call, if an image has other than one or three channels, or three with ``neighbours``.

    >>> volume = torch.arange(3.0).view(1, 1, 1, 3)
    >>> ToThreeChannelsd("image", neighbours=True)({"image": volume})["image"].squeeze()
    tensor([[0., 0., 1.],
            [0., 1., 2.],
            [1., 2., 2.]])
    """

    def __init__(self, keys: Any, neighbours: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.neighbours = neighbours
        self.middle = Crop()  # indexing would leave the affine unchanged

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            meta = getattr(image, "meta", {})
            if image.shape[0] not in (1, 3) or (self.neighbours and image.shape[0] == 3):
                raise ValueError(
                    f"{meta.get('filename_or_obj', 'An image')} has {image.shape[0]} channels: use grey or RGB images, "
                    "one window or three, and neighbours only with one channel."
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
    """Turns a volume of one slice (C, H, W, 1) into an image (C, H, W).

    MONAI's SqueezeDim would do, but it warns of any plane but the axial.

    Raises:
        ValueError: On a call, if there is more than one slice.

    >>> SliceToImaged("image")({"image": torch.zeros(3, 8, 6, 1)})["image"].shape
    torch.Size([3, 8, 6])
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            if result[key].shape[-1] != 1:
                raise ValueError(f"A single slice is needed, not an image of shape {tuple(result[key].shape)}.")
            result[key] = result[key][..., 0]
        return result
