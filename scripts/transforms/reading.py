"""From files to volumes: a scan or a thin part of one, or an image as a volume of one slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientationd
from monai.utils import SpaceKeys

from scripts.data.borders import borders
from scripts.data.foreground import foreground_quantiles
from scripts.data.images import read_image, read_mask
from scripts.data.planes import AXCODES, check_plane, plane_axis, slice_name
from scripts.data.scans import is_scan, open_scan

# An image file has no place in a patient: it is taken as if it were an axial slice with pixels of 1 mm.
IMAGE_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


class LoadScand(MapTransform):
    """Reads files as volumes (C, i, j, k) in their native type (int64 for wide unsigned ones), with their affine (RAS
    millimetres).

    A NIfTI is read whole, or, where the item has ``slice``, as that slice of the plane alone (counted from inferior,
    anterior or the patient's right) with its ``neighbours``, the outermost repeated beyond the ends. An image file
    becomes a volume of one slice. What is no file name passes.

    Metadata beside MONAI's: ``foreground_quantiles`` and ``foreground_box`` of the whole scan, the latter two opposite
    corners in RAS millimetres, (2, 3).

    Args:
        keys: file names.
        plane: axial, coronal or sagittal.
        cache_dir: see ``open_scan``.
        neighbours: slices read on either side of the item's.
        bias_correction: see ``open_scan``.
        masks: whether the files are masks: uint8, 1 where they are not zero.
    """

    def __init__(
        self,
        keys: KeysCollection,
        cache_dir: str | Path,
        plane: str = "axial",
        neighbours: int = 0,
        bias_correction: bool = False,
        masks: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_plane(plane)
        self.cache_dir, self.plane, self.neighbours, self.masks = cache_dir, plane, neighbours, masks
        self.bias_correction = bias_correction and not masks

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            FileNotFoundError: if there is no such file.
            UnreadableScanError, UnreadableImageError: if it cannot be read; both are ValueErrors.
            ValueError: for an image where the plane is not axial, or a slice that the scan does not have.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            if isinstance(result[key], str | Path):
                read = self._scan if is_scan(result[key]) else self._image
                result[key] = read(str(result[key]), result.get("slice"))
        return result

    def _scan(self, path: str, index: int | None) -> MetaTensor:
        scan = open_scan(path, self.cache_dir, self.masks, self.bias_correction)
        corners = np.array(scan.box, dtype=float).T - 0.5  # the outer faces of the first and last voxels
        about: dict[str, Any] = {
            "foreground_quantiles": scan.quantiles,
            "foreground_box": nib.affines.apply_affine(scan.affine, corners),
        }
        if index is None:
            return self._tensor(scan.array()[None], scan.affine, path, about)
        axis, count, reverse = plane_axis(scan.affine, scan.shape, self.plane)
        if not 0 <= index < count:
            raise ValueError(f"{slice_name(path, self.plane, index)}: it has {count} slices, numbered from 0.")
        wanted = np.clip(np.arange(index - self.neighbours, index + self.neighbours + 1), 0, count - 1)
        stored = sorted(int(count - 1 - one if reverse else one) for one in wanted)
        shift = np.eye(4)
        shift[axis, 3] = (count - 1 - index if reverse else index) - self.neighbours
        about["slice"] = index
        return self._tensor(
            scan.slices(axis, stored)[None], scan.affine @ shift, slice_name(path, self.plane, index), about
        )

    def _image(self, path: str, _index: int | None) -> MetaTensor:
        if self.plane != "axial":
            raise ValueError(f"{path} is an image, which has no {self.plane} plane. Leave out --plane for images.")
        array = read_mask(path) if self.masks else read_image(path)
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        if self.masks:  # of which nobody asks the foreground
            return self._tensor(array[..., None], IMAGE_AFFINE, path, {})
        top, bottom, left, right = borders(array[0])
        corners = np.array([[top, left, 0], [array.shape[1] - bottom, array.shape[2] - right, 1]]) - 0.5
        about = {
            "foreground_quantiles": foreground_quantiles(array[..., None]).tolist(),
            "foreground_box": nib.affines.apply_affine(IMAGE_AFFINE, corners),
        }
        return self._tensor(array[..., None], IMAGE_AFFINE, path, about)

    def _tensor(self, array: np.ndarray, affine: np.ndarray, name: str, about: dict[str, Any]) -> MetaTensor:
        array = (array != 0).astype(np.uint8) if self.masks else array
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has these in name, without minimum or flip
            array = array.astype(np.int64)
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        about |= {"filename_or_obj": name, "space": SpaceKeys.RAS, "original_affine": affine}
        return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=about)


class ToPlaned(Orientationd):
    """Turns volumes (C, i, j, k) to (C, rows, columns, slices) of a plane as radiologists look at it; see ``AXCODES``.

    Oblique scans are looked at in their own grid, along the axis nearest to the plane's.
    """

    def __init__(self, keys: KeysCollection, plane: str = "axial", allow_missing_keys: bool = False) -> None:
        check_plane(plane)
        super().__init__(keys, axcodes=AXCODES[plane], labels=None, allow_missing_keys=allow_missing_keys)
