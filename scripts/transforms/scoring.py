"""Transforms from the network's anomaly maps to scores, and back to the grid of the file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SpatialResample, Transform
from monai.utils import convert_to_tensor
from scipy.ndimage import binary_fill_holes, label
from torch import Tensor

from scripts.anomaly_map import anomaly_score, scan_score
from scripts.data.template import Template
from scripts.reference import MapReference
from scripts.transforms.places import slice_places
from scripts.transforms.reading import SHIFT, LoadScand, ToPlaned


class AnomalyScored(Transform):
    """Adds to ``pred`` (1, H, W, D), at the resolution of the network: ``slice_scores`` (D,), ``score`` of the whole,
    ``top_slices``, the indices of the slices from the highest score on, and ``empty_slices`` (D,), whether a slice is
    without foreground.

    Args:
        pooling: Score of a slice or image: ``max`` or ``mean`` of its anomaly map, or ``top_P%``, the mean of the
            highest P % of it.
        scan_pooling: Score of a scan: ``max`` or ``mean`` of its slices, ``top_N`` (mean of the N highest), ``top_P%``
            (mean of the highest P % of the slices) or ``percentile_P`` of the anomaly map inside the foreground.
        foreground_only: Whether the anomaly map becomes 0 outside the foreground, for scans whose background was never
            trained on. The foreground is the largest connected part of where ``image`` (3, H, W, D) is above 0, with
            the holes of each slice filled.
        top: Largest number of slices that results list.
        reference: Maps of normal patients that the maps are standardised by; None takes them as they are.
        template: Template that the scans were brought to; their maps become 0 outside its region. Where an item has
            the ``scan`` beside its ``image``, both go back to the grid of the scan.

    >>> maps = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2)
    >>> scored = AnomalyScored()({"pred": maps, "image": torch.ones(3, 1, 1, 2)})
    >>> round(scored["score"].item(), 2), scored["top_slices"].tolist()
    (0.9, [1, 0])
    """

    def __init__(
        self,
        pooling: str = "max",
        scan_pooling: str = "max",
        foreground_only: bool = False,
        top: int = 6,
        reference: MapReference | None = None,
        template: Template | None = None,
    ) -> None:
        self.template = template
        self.pooling, self.scan_pooling, self.top = pooling, scan_pooling, top
        self.foreground_only, self.reference = foreground_only, reference

    @property
    def settings(self) -> dict[str, Any]:
        """All that changes a score, as JSON values."""
        return {
            "pooling": self.pooling,
            "scan_pooling": self.scan_pooling,
            "foreground_only": self.foreground_only,
            "reference": self.reference and self.reference.settings,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = self._standardised(data)
        maps = convert_to_tensor(data["pred"], track_meta=False).permute(3, 0, 1, 2)  # (D, 1, H, W)
        foreground = body_of(data["image"]).to(maps.device)
        if self.foreground_only:
            maps = maps * foreground[:, None]
        scores = anomaly_score(maps, self.pooling)
        return {
            **data,
            "pred": maps.permute(1, 2, 3, 0),
            "slice_scores": scores,
            "empty_slices": ~foreground.flatten(1).any(1),
            "score": scan_score(maps[:, 0], scores, foreground, self.scan_pooling),
            "top_slices": torch.argsort(scores, descending=True, stable=True)[: self.top],
        }

    def _standardised(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Standardises ``pred``, and brings it and ``image`` to the grid of the scan."""
        maps, images = (convert_to_tensor(data[key], track_meta=False).permute(3, 0, 1, 2) for key in ("pred", "image"))
        if self.reference is not None:
            maps = self.reference(maps, images, slice_places(data["image"]))
        if self.template is not None and SHIFT in data["image"].meta:
            inside = self.template.inside(slice_places(data["image"]), maps.shape[-2:])
            maps = maps * inside.to(maps.device)
        if "scan" not in data:
            return {**data, "pred": maps.permute(1, 2, 3, 0)}
        aligned = MetaTensor(maps.permute(1, 2, 3, 0), affine=data["image"].affine)
        scan = data["scan"]
        back = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
        pred = back(aligned, dst_affine=scan.affine, spatial_size=scan.shape[1:])
        others = {key: value for key, value in data.items() if key != "scan"}
        return {**others, "image": scan, "pred": convert_to_tensor(pred, track_meta=False)}


class MapInverted(Invertd):
    """Adds ``anomaly_map`` (1, i, j, k): ``pred`` (1, H, W, D) on the grid of the file, with all that
    ``preprocessing`` did to the geometry of ``image`` undone. What was cropped away becomes 0.

    Args:
        preprocessing: Transform that made ``image``.

    >>> import nibabel, tempfile
    >>> from scripts.transforms import Preprocessing, ScaleToUnitd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nibabel.save(nibabel.Nifti1Image(np.eye(6)[..., None].repeat(3, 2), np.eye(4)), f"{folder}/scan.nii")
    ...     preprocessing = Preprocessing(ScaleToUnitd("image", [0, 1]), image_size=32, cache_dir=folder)
    ...     item = preprocessing({"image": f"{folder}/scan.nii"})
    ...     MapInverted(preprocessing)({**item, "pred": torch.zeros(1, 32, 32, 3)})["anomaly_map"].shape
    torch.Size([1, 6, 6, 3])
    """

    def __init__(self, preprocessing: Any) -> None:
        super().__init__(keys="anomaly_map", transform=preprocessing, orig_keys="image", nearest_interp=False)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return super().__call__({**data, "anomaly_map": MetaTensor(data["pred"])})


class ForegroundInverted(Invertd):
    """Adds ``foreground`` (1, i, j, k), 0 or 1: that of ``image`` (3, H, W, D), see ``AnomalyScored``, on the grid of
    the file. What was cropped away becomes 0.

    Args:
        preprocessing: Transform that made ``image``.

    >>> import tempfile
    >>> from PIL import Image
    >>> from scripts.transforms import Preprocessing, ScaleToUnitd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.pad(np.full((4, 4), 200, np.uint8), 2)).save(f"{folder}/image.png")
    ...     preprocessing = Preprocessing(ScaleToUnitd("image"), image_size=8, cache_dir=folder)
    ...     item = preprocessing({"image": f"{folder}/image.png"})
    ...     int(ForegroundInverted(preprocessing)(item)["foreground"].sum())
    16
    """

    def __init__(self, preprocessing: Any) -> None:
        super().__init__(keys="foreground", transform=preprocessing, orig_keys="image", nearest_interp=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        foreground = body_of(data["image"]).permute(1, 2, 0)[None].float()
        return super().__call__({**data, "foreground": MetaTensor(foreground)})


class GroundTruthd(Transform):
    """Adds ``ground_truth``, uint8: the item's ``mask`` (a file name) as it lies in the file, turned to the plane; all
    zero like ``anomaly_map`` where ``mask`` is empty. An item without ``mask`` passes.

    Args:
        cache_dir: Folder for uncompressed copies of scans, see ``scripts.data.scans.open_scan``.
        plane: Plane that ``anomaly_map`` (1, H, W, D) is turned to as well.

    Raises:
        ValueError: If a mask is not on the grid of its image.

    >>> GroundTruthd("cache")({"anomaly_map": torch.rand(1, 4, 4, 2), "mask": ""})["ground_truth"].sum()
    tensor(0)
    """

    def __init__(self, cache_dir: str | Path, plane: str = "axial") -> None:
        load = LoadScand("ground_truth", cache_dir, plane, masks=True)
        self.read = Compose([load, ToPlaned("ground_truth", plane)])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if "mask" not in data:
            return dict(data)
        if not data["mask"]:
            return {**data, "ground_truth": torch.zeros_like(data["anomaly_map"], dtype=torch.uint8)}
        truth = self.read({"ground_truth": data["mask"]})["ground_truth"]
        grid = data["anomaly_map"]
        if truth.shape != grid.shape or not np.allclose(truth.affine, grid.affine, atol=1e-2):
            raise ValueError(
                f"{data['mask']} is not on the grid of its image (shapes {tuple(truth.shape[1:])} and "
                f"{tuple(grid.shape[1:])}, or another affine). Resample the mask to its image."
            )
        return {**data, "ground_truth": truth}


class SliceLabelsd(Transform):
    """Adds what metrics rank, as vectors of equal length: ``image_scores``, ``image_labels`` and ``image_numbers``; and
    ``patient``, the item's ``group``; and ``organ``, its ``class``, where it has one.

    With ``ground_truth`` (1, H, W, D) these are slices, each labelled by its mask, and with ``slice_labels``, a digit a
    slice, by these; an image file is one. Empty slices of a scan are left out, since anything tells them from an
    anomaly. Without either, they are the score and the label of the item, and the number of the slice with the highest
    score.

    Args:
        min_area: Smallest area of an anomalous slice's mask, in square millimetres; 0 takes any voxel.

    >>> item = {"score": torch.tensor(0.9), "label": 1, "group": "a", "top_slices": torch.tensor([4, 2])}
    >>> labelled = SliceLabelsd()(item)
    >>> labelled["image_labels"].tolist(), labelled["image_numbers"].tolist()
    ([True], [4])
    """

    def __init__(self, min_area: float = 0.0) -> None:
        self.min_area = min_area

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        scores, labels, numbers = data["score"].reshape(1), torch.tensor([bool(data["label"])]), data["top_slices"][:1]
        anomalous = self._of_slices(data)
        if anomalous is not None:
            counts = ~data["empty_slices"].to(anomalous.device) | anomalous
            numbers = torch.arange(len(counts)) if len(counts) == 1 else counts.nonzero()[:, 0].cpu()
            scores, labels = data["slice_scores"][numbers], anomalous[numbers]
        more: dict[Hashable, Any] = {
            "image_scores": scores,
            "image_labels": labels,
            "image_numbers": numbers,
            "patient": data["group"],
        }
        if "class" in data:
            # A name of its own, as MONAI leaves keys of the batch out of the engine's output.
            more["organ"] = data["class"]
        return {**data, **more}

    def _of_slices(self, data: Mapping[Hashable, Any]) -> Tensor | None:
        """Whether each slice is anomalous, (D,); None where that is not known."""
        if "ground_truth" in data:
            truth = data["ground_truth"]
            area = convert_to_tensor(truth, track_meta=False)[0].sum(dim=(0, 1)) * float(truth.pixdim[:2].prod())
            return (area > 0) & (area >= self.min_area)
        if "slice_labels" not in data:
            return None
        labels = torch.tensor([digit == "1" for digit in data["slice_labels"]])
        if len(labels) != len(data["slice_scores"]):
            raise ValueError(
                f"{data['image'].meta['filename_or_obj']} has {len(data['slice_scores'])} slices in this plane, and "
                f"the datalist has labels of {len(labels)} axial ones."
            )
        return labels


def body_of(image: Tensor, threshold: float = 0.0) -> Tensor:
    """(C, H, W, D) -> (D, H, W) bool: the largest body of what is above a threshold, so without a scanner's table.

    The holes of each slice are filled.

    >>> image = torch.tensor([0.1, 0.9, 0.8, 0.0, 0.7]).view(1, 1, 5, 1)
    >>> body_of(image).flatten().tolist(), body_of(image, 0.5).flatten().tolist()
    ([True, True, True, False, False], [False, True, True, False, False])
    """
    above = (convert_to_tensor(image, track_meta=False).amax(0) > threshold).permute(2, 0, 1).cpu().numpy()
    parts, count = label(above)
    if count > 1:
        above = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return torch.from_numpy(np.stack([binary_fill_holes(one) for one in above]))
