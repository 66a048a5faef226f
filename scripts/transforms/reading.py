"""Reading of files as volumes: a scan, a thin part of a scan, or an image as a volume of one slice."""

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
from scripts.data.template import Template

# An image file has no position in the patient; it is treated as an axial slice with pixels of 1 mm.
IMAGE_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


SHIFT = "shift"  # in the metadata of scans that were brought to a template, see ``Template.aligned``


class LoadScand(MapTransform):
    """Reads files as volumes (C, i, j, k) in their native type, with affines to RAS millimetres.

    A NIfTI is read whole, unless the item has a ``slice``: then only that slice of the plane is read (counted from
    inferior, anterior or the patient's right), with its ``neighbours``; the outermost slices repeat beyond the ends. An
    image file becomes a volume of one slice. Values that are not file names stay as they are. Unsigned types of more
    than 8 bits become int64, since torch lacks most operations for them.

    The metadata is MONAI's plus ``foreground_quantiles`` and ``foreground_box`` of the whole scan; the box is two
    opposite corners in RAS millimetres, (2, 3).

    Args:
        keys: Keys of the file names.
        cache_dir: Folder for uncompressed copies; see ``open_scan``.
        plane: axial, coronal or sagittal.
        neighbours: Number of slices to read on either side of the item's slice.
        bias_correction: Whether N4 corrects scans (not masks); see ``open_scan``.
        masks: Whether the files are masks, which become uint8, 1 where they are not zero.
        template: Template that scans are brought to once it is known; their metadata then have ``shift`` too. None
            reads them as they are.
        allow_missing_keys: Whether keys may be missing.

    Raises:
        ValueError: If there is no such plane.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), f"{folder}/scan.nii")
    ...     load = LoadScand("image", cache_dir=f"{folder}/cache")
    ...     load({"image": f"{folder}/scan.nii", "slice": 2})["image"].shape
    torch.Size([1, 3, 4, 1])
    """

    def __init__(
        self,
        keys: KeysCollection,
        cache_dir: str | Path,
        plane: str = "axial",
        neighbours: int = 0,
        bias_correction: bool = False,
        masks: bool = False,
        template: Template | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_plane(plane)
        self.template = template
        self.cache_dir, self.plane, self.neighbours, self.masks = cache_dir, plane, neighbours, masks
        self.bias_correction = bias_correction and not masks

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the files of an item.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreadableScanError: If a scan cannot be read; a ValueError.
            UnreadableImageError: If an image cannot be read; a ValueError.
            ValueError: If the plane of an image is not axial, or the scan has no such slice.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            if isinstance(result[key], str | Path):
                read = self._scan if is_scan(result[key]) else self._image
                result[key] = read(str(result[key]), result.get("slice"))
        return result

    def _scan(self, path: str, index: int | None) -> MetaTensor:
        scan, more = open_scan(path, self.cache_dir, self.masks, self.bias_correction), {}
        if self.template is not None and self.template.known:
            scan, more[SHIFT] = self.template.aligned(scan, self.cache_dir)
        corners = np.array(scan.box, dtype=float).T - 0.5  # outer faces of the first and last voxels
        about: dict[str, Any] = {
            "foreground_quantiles": scan.quantiles,
            "foreground_box": nib.affines.apply_affine(scan.affine, corners),
            **more,
        }
        if index is None:
            return self._tensor(scan.array()[None], scan.affine, path, about)
        axis, count, reverse = plane_axis(scan.affine, scan.shape, self.plane)
        if not 0 <= index < count:
            raise ValueError(f"{slice_name(path, self.plane, index)}: it has {count} slices, numbered from 0.")
        wanted = np.clip(np.arange(index - self.neighbours, index + self.neighbours + 1), 0, count - 1)
        stored = sorted(int(count - 1 - one if reverse else one) for one in wanted)
        from_first = np.eye(4)
        from_first[axis, 3] = (count - 1 - index if reverse else index) - self.neighbours
        about["slice"] = index
        return self._tensor(
            scan.slices(axis, stored)[None], scan.affine @ from_first, slice_name(path, self.plane, index), about
        )

    def _image(self, path: str, _index: int | None) -> MetaTensor:
        if self.plane != "axial":
            raise ValueError(f"{path} is an image, which has no {self.plane} plane. Leave out --plane for images.")
        array = read_mask(path) if self.masks else read_image(path)
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        if self.masks:  # a mask needs no foreground
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
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has no minimum or flip for these
            array = array.astype(np.int64)
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        about |= {"filename_or_obj": name, "space": SpaceKeys.RAS, "original_affine": affine}
        return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=about)


class ToPlaned(Orientationd):
    """Reorients volumes (C, i, j, k) to (C, rows, columns, slices) of a plane, as displayed in radiology.

    Oblique scans keep their own grid and are viewed along the axis nearest to that of the plane.

    Args:
        keys: Keys of the volumes.
        plane: axial, coronal or sagittal; see ``AXCODES``.
        allow_missing_keys: Whether keys may be missing.

    >>> volume = MetaTensor(torch.zeros(1, 3, 4, 5), affine=torch.eye(4), meta={"space": SpaceKeys.RAS})
    >>> ToPlaned("image", "coronal")({"image": volume})["image"].shape
    torch.Size([1, 5, 3, 4])
    """

    def __init__(self, keys: KeysCollection, plane: str = "axial", allow_missing_keys: bool = False) -> None:
        check_plane(plane)
        super().__init__(keys, axcodes=AXCODES[plane], labels=None, allow_missing_keys=allow_missing_keys)
