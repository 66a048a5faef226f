"""In-plane geometry: brings slices of any size and spacing to the size of the network's input, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform, Resize
from monai.transforms.spatial.functional import resize
from monai.utils import convert_to_dst_type
from scipy.ndimage import gaussian_filter
from torch import Tensor

from scripts.transforms.places import foreground_corners


class CropToForegroundd(MapTransform, InvertibleTransform):
    """Crops rows and columns of volumes (C, rows, columns, slices) to the foreground of the whole scan.

    Args:
        keys: Keys of volumes with ``foreground_box`` in their metadata, as from ``LoadScand``.
        margin: Margin around the foreground, in pixels.
        allow_missing_keys: Whether keys may be missing.

    >>> box = [[-0.5, -0.5, 0], [3.5, 4.5, 1]]
    >>> volume = MetaTensor(torch.zeros(1, 16, 16, 1), affine=torch.eye(4), meta={"foreground_box": box})
    >>> CropToForegroundd("image", margin=2)({"image": volume})["image"].shape
    torch.Size([1, 6, 7, 1])
    """

    def __init__(self, keys: KeysCollection, margin: int = 4, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.margin = margin
        self.cropper = Crop()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            corners = foreground_corners(image)
            low = np.maximum(np.round(corners.min(0) + 0.5).astype(int) - self.margin, 0)
            high = np.round(corners.max(0) + 0.5).astype(int) + self.margin
            window = [slice(low[axis], min(high[axis], image.shape[1 + axis])) for axis in range(2)]
            result[key] = self.cropper(image, (*window, slice(None)))
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.cropper.inverse(result[key])
        return result


class ResizeInPlaned(MapTransform, InvertibleTransform):
    """Resizes rows and columns of volumes (C, rows, columns, slices), linearly and without aliasing.

    The number of slices stays the same.

    Args:
        keys: Keys of the volumes.
        size: Side of the square to fill, in pixels.
        keep_aspect_ratio: Whether to keep the proportions in millimetres; the longer side then gets ``size`` pixels.
        pixel_spacing: Spacing of the new pixels in millimetres; it takes precedence over ``size``.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If ``pixel_spacing`` is not positive.

    >>> volume = MetaTensor(torch.rand(1, 40, 20, 5), affine=torch.eye(4))
    >>> [ResizeInPlaned("image", 16, keep)({"image": volume})["image"].shape[1:] for keep in (False, True)]
    [torch.Size([16, 16, 5]), torch.Size([16, 8, 5])]
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        keep_aspect_ratio: bool = False,
        pixel_spacing: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if pixel_spacing is not None and not pixel_spacing > 0:
            raise ValueError(f"pixel_spacing must be positive (millimetres), got {pixel_spacing}.")
        self.size, self.keep_aspect_ratio, self.pixel_spacing = size, keep_aspect_ratio, pixel_spacing
        self.resizer = Resize(spatial_size=(size, size, -1), mode="trilinear")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            rows, columns = self._rows_and_columns(image)
            # The resizer itself is not called: its size is fixed, and threads share it.
            result[key] = resize(
                _smoothed(image, (rows, columns)),
                out_size=(rows, columns, image.shape[3]),
                mode="trilinear",
                align_corners=None,
                dtype=torch.float32,
                input_ndim=3,
                anti_aliasing=False,
                anti_aliasing_sigma=None,
                lazy=False,
                transform_info=self.resizer.get_transform_info(),
            )
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.resizer.inverse(result[key])
        return result

    def _rows_and_columns(self, image: Tensor) -> tuple[int, int]:
        if self.pixel_spacing is None and not self.keep_aspect_ratio:
            return self.size, self.size
        spacing = np.array(image.pixdim[:2] if isinstance(image, MetaTensor) else (1.0, 1.0))
        extent = np.array(image.shape[1:3]) * spacing
        pixel = self.pixel_spacing or extent.max() / self.size
        rows, columns = (max(1, int(length)) for length in np.round(extent / pixel))
        return rows, columns


def _smoothed(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Smooths rows and columns before down-sampling, with the sigma of MONAI's and scikit-image's resize.

    Those take values beyond the edges as 0, which darkens the rim of images that fill the frame; here the edges repeat.
    """
    sigmas = [max(0.0, (old / new - 1) / 2) for old, new in zip(image.shape[1:3], size, strict=True)]
    if not any(sigmas):
        return image
    smooth = gaussian_filter(image.cpu().numpy().astype(np.float32), (0, *sigmas, 0), mode="nearest")
    return convert_to_dst_type(smooth, image, dtype=torch.float32)[0]
