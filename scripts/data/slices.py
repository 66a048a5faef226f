"""Choice of the slices that are trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.data.planes import plane_axis
from scripts.data.reslicing import Grid, resliced_scan
from scripts.data.scans import Scan, is_scan, open_every, open_scan

if TYPE_CHECKING:
    from scripts.transforms.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

Item = dict[str, Any]


class NormalSlices:
    """Choice of each scan's slices without anomaly, which are trained on.

    Args:
        preprocessing: Transform that reads the slices. What it learns is learnt at once from ``training``, before the
            first image needs it.
        training: Items of the training split; none where a checkpoint restores what was learnt.
        slice_range: First and last of a scan's slices that are taken: numbers from 0 on if both are integers, else
            parts of its length in 0..1; None takes all.
        min_body_fraction: Share of a slice that must be foreground, in 0..1; a slice without any is never taken.
        abnormal_subjects: Whether slices without anomaly are taken from scans with anomalies (label 1, with a mask).
        held_out: Share of each training scan's slices, in 0..1, that validate instead, for data of too few patients to
            spare one: neighbours of such a slice are trained on, so no calibration rests on them.
        reference_fraction: Share of the training patients, in 0..1, whom nothing is trained on, as their maps tell what
            is normal where (see ``MapReference``); 0 takes the maps of all, for a method that can leave a patient out
            of what it has learnt.
        seed: Seed of the choice of these patients.

    >>> from scripts.transforms import Preprocessing, ScaleToUnitd
    >>> slices = NormalSlices(Preprocessing(ScaleToUnitd("image"), image_size=64))
    >>> slices.training([{"image": "image.png", "label": 0}])  # an image is its own only slice
    [{'image': 'image.png', 'label': 0}]
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        training: Sequence[Item] = (),
        slice_range: Sequence[float] | None = None,
        min_body_fraction: float = 0.0,
        abnormal_subjects: bool = False,
        held_out: float = 0.0,
        reference_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, share in (("held_out", held_out), ("reference_fraction", reference_fraction)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}.")
        self.reference_fraction, self.seed = reference_fraction, seed
        self.preprocessing, self.plane = preprocessing, preprocessing.plane
        self.slice_range, self.held_out = slice_range, held_out
        self.min_body_fraction, self.abnormal_subjects = min_body_fraction, abnormal_subjects
        if training:
            preprocessing.learn([item["image"] for item in training])

    def training(self, items: Sequence[Item]) -> list[Item]:
        """Slices of the training split, each an item with ``slice``, without those held out.

        Raises:
            ValueError: If a subject is abnormal and was not asked for or has no mask, a scan or mask cannot be read, or
                no slice is left.
        """
        trained, _ = self._split(items)
        return [item for slices in self._chosen(trained) for item in _parted(slices, self.held_out)[0]]

    def reference(self, items: Sequence[Item]) -> list[Item]:
        """Slices of the training split whose maps tell what is normal where; raises as ``training``."""
        _, apart = self._split(items)
        return [item for slices in self._chosen(apart) for item in slices]

    def validation(self, items: Sequence[Item], training: Sequence[Item]) -> list[Item]:
        """Slices of the validation split, and those held out of the training split; raises as ``training``.

        Anomalies of a labelled validation split do not count: the loss is of normals.
        """
        parted = self.abnormal_subjects  # then an anomalous scan has slices without anomaly
        normals = [item for item in items if item["label"] == 0 or (parted and is_scan(item["image"]))]
        apart = self._chosen(self._split(training)[0]) if self.held_out else []
        held_out = [item for slices in apart for item in _parted(slices, self.held_out)[1]]
        return [item for slices in self._chosen(normals) for item in slices] + held_out

    def _split(self, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
        """Items to train on, and items of the reference's patients; both are all of them where none are set apart."""
        if not self.reference_fraction:
            return list(items), list(items)
        patients = sorted({str(item["group"]) for item in items})
        count = max(1, round(self.reference_fraction * len(patients)))
        if count >= len(patients):
            raise ValueError(
                f"reference_fraction {self.reference_fraction} of {len(patients)} training patients leaves nobody to "
                "train on: add patients, or set slices#reference_fraction 0 and reference None."
            )
        chosen = set(np.random.default_rng(self.seed).permutation(patients)[:count].tolist())
        apart = [item for item in items if str(item["group"]) in chosen]
        return [item for item in items if str(item["group"]) not in chosen], apart

    def _chosen(self, items: Sequence[Item]) -> list[list[Item]]:
        """Slices of each item; an image file is its own only one."""
        self._check_abnormal([item for item in items if item["label"] == 1])
        scans = self._scans(items)
        chosen = [
            [{**item, "slice": number} for number in self._numbers(item, scans[item["image"]])]
            if item["image"] in scans
            else [item]
            for item in items
        ]
        if items and not any(chosen):
            raise ValueError("No slice is left to train on: loosen slice_range or min_body_fraction.")
        return chosen

    def _scans(self, items: Sequence[Item]) -> dict[str, Scan]:
        return open_every([item["image"] for item in items if is_scan(item["image"])], self.preprocessing.open)

    def _check_abnormal(self, items: Sequence[Item]) -> None:
        if items and not self.abnormal_subjects:
            raise ValueError(
                f"{len(items)} scans to train on have anomalies ({items[0]['image']}, …). Their slices without anomaly "
                "are taken only with --slices#abnormal_subjects True: an anomaly often changes more than its mask."
            )
        for item in items:
            if "mask" not in item or not is_scan(item["image"]):
                raise ValueError(f"{item['image']} has an anomaly, and no mask that parts its slices. Leave it out.")
        if items:
            logger.warning("Training takes the slices without anomaly of %d abnormal scans, as configured.", len(items))

    def _numbers(self, item: Item, scan: Scan) -> list[int]:
        axis, count, reverse = plane_axis(scan.affine, scan.shape, self.plane)
        size = scan.shape[0] * scan.shape[1] * scan.shape[2] // count
        wanted = _in_range(count, self.slice_range)
        wanted &= _counts(scan, axis, reverse) >= max(1, self.min_body_fraction * size)
        if item["label"] == 1:
            wanted &= _counts(self._mask(item, scan), axis, reverse) == 0
        return [int(number) for number in np.flatnonzero(wanted)]

    def _mask(self, item: Item, scan: Scan) -> Scan:
        """Mask of an item on the grid of its scan, which may be that of a template."""
        in_file, cache_dir = self.preprocessing.open_file(item["image"]), self.preprocessing.cache_dir
        mask = open_mask(item, in_file, cache_dir)
        if scan.key == in_file.key:
            return mask
        return resliced_scan(mask, cache_dir, Grid(scan.shape, scan.affine), mask=True)


def _parted(slices: list[Item], fraction: float) -> tuple[list[Item], list[Item]]:
    """Parts a scan's slices into those kept and a fraction, evenly spread; an image file is kept."""
    steps = np.floor((np.arange(len(slices) + 1) + 0.5) * fraction)
    apart = [bool(step) and "slice" in item for step, item in zip(np.diff(steps), slices, strict=True)]
    kept = [item for item, out in zip(slices, apart, strict=True) if not out]
    return kept, [item for item, out in zip(slices, apart, strict=True) if out]


def open_mask(item: Item, scan: Scan, cache_dir: str | Path) -> Scan:
    """Opens an item's mask and checks that it lies on the grid of its scan.

    Raises:
        ValueError: If it does not, or cannot be read.
    """
    mask = open_scan(item["mask"], cache_dir, mask=True)
    if mask.shape != scan.shape or not np.allclose(mask.affine, scan.affine, atol=1e-2):
        raise ValueError(
            f"{item['mask']}: is not on the grid of {item['image']} (shapes {mask.shape} and {scan.shape}, or another "
            "affine). Resample the mask to its scan."
        )
    return mask


def items_at_once(items: Sequence[Item], batch_size: int) -> int:
    """How many items make a batch: scans differ in size and come one by one, images in batches."""
    return 1 if any(is_scan(item["image"]) for item in items) else batch_size


def _in_range(count: int, slice_range: Sequence[float] | None) -> np.ndarray:
    if slice_range is None:
        return np.ones(count, dtype=bool)
    first, last = slice_range
    numbers = isinstance(first, int) and isinstance(last, int)
    if not 0 <= first <= last or not (numbers or last <= 1):
        raise ValueError(
            "slice_range must be [first, last] with 0 <= first <= last, integers or parts up to 1, got "
            f"{list(slice_range)}."
        )
    places = np.arange(count) if numbers else (np.arange(count) + 0.5) / count
    return (places >= first) & (places <= last)


def _counts(scan: Scan, axis: int, reverse: bool) -> np.ndarray:
    counts = np.array(scan.foreground[axis])
    return counts[::-1] if reverse else counts
