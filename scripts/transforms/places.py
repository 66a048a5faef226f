"""Where in the body a slice lies."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor


def foreground_corners(image: MetaTensor) -> np.ndarray:
    """Opposite corners of the foreground of the whole scan, in voxels of (C, rows, columns, slices): (2, 3)."""
    to_voxels = np.linalg.inv(np.asarray(image.affine, dtype=float))
    return np.asarray(image.meta["foreground_box"]) @ to_voxels[:3, :3].T + to_voxels[:3, 3]


def slice_places(image: MetaTensor) -> Tensor:
    """Places of the slices of (C, rows, columns, slices) in the foreground of their whole scan: (slices,) in [0, 1].

    From the first slice of the plane with foreground (0) to the last (1); an image file lies at 0.5.

    >>> box = [[-0.5, -0.5, 1.5], [3.5, 4.5, 5.5]]
    >>> slice_places(MetaTensor(torch.zeros(1, 4, 5, 8), affine=torch.eye(4), meta={"foreground_box": box}))
    tensor([0.0000, 0.0000, 0.1250, 0.3750, 0.6250, 0.8750, 1.0000, 1.0000])
    """
    corners = foreground_corners(image)
    low, high = corners[:, 2].min(), corners[:, 2].max()
    places = (torch.arange(image.shape[3]) - low) / max(high - low, 1e-6)
    return places.clamp(0, 1).float()


class SlicePlaced(MapTransform):
    """Adds ``place``, that of a volume of one slice; see ``slice_places``.

    >>> box = [[-0.5, -0.5, -0.5], [3.5, 4.5, 0.5]]
    >>> SlicePlaced("image")({"image": MetaTensor(torch.zeros(1, 4, 5, 1), meta={"foreground_box": box})})["place"]
    tensor(0.5000)
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        (place,) = slice_places(data[self.keys[0]])
        return {**data, "place": place}
