"""In-plane geometry: brings slices of any size and spacing to the square that the network takes, and back."""

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


class CropToForegroundd(MapTransform, InvertibleTransform):
    """Cuts rows and columns of (C, rows, columns, slices) that hold no foreground anywhere in the scan.

    Args:
        keys: volumes with ``foreground_box`` in their metadata, as ``LoadScand`` gives it.
        margin: kept around the foreground, in pixels.
    """

    def __init__(self, keys: KeysCollection, margin: int = 4, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.margin = margin
        self.cropper = Crop()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            to_voxels = np.linalg.inv(np.asarray(image.affine, dtype=float))
            corners = np.asarray(image.meta["foreground_box"]) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
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
    """Resizes rows and columns of (C, rows, columns, slices), linearly and without aliasing; slices stay as they are.

    The new size is, by the first that is given, ``pixel_spacing`` millimetres a pixel; with ``keep_aspect_ratio`` the
    largest that fits a square of ``size`` without distorting what the spacing says; else that square.

    Args:
        keys: volumes.
        size: of the square, in pixels.
        keep_aspect_ratio: see above.
        pixel_spacing: in millimetres; see above.
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
            # Not by calling the resizer, whose size is fixed and which threads share.
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
    """Removes what would alias in rows and columns that get fewer, with the sigma of MONAI's and scikit-image's resize.

    Theirs take what lies beyond the edges for 0, which darkens the rim of pictures that fill the frame.
    """
    sigmas = [max(0.0, (old / new - 1) / 2) for old, new in zip(image.shape[1:3], size, strict=True)]
    if not any(sigmas):
        return image
    smooth = gaussian_filter(image.cpu().numpy().astype(np.float32), (0, *sigmas, 0), mode="nearest")
    return convert_to_dst_type(smooth, image, dtype=torch.float32)[0]
