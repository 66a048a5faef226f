"""Metrics of scans by their lesions: how well they are marked, and how many are found at how many false positives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import ignite.distributed as idist
import numpy as np

from .lesions import Scan, detections, dice, froc_points
from .maps import checked_pairs, regions
from .registry import Table, measure
from .scalars import ScalarMetrics

__all__ = ["VolumeMetrics", "froc_points"]

logger = logging.getLogger(__name__)


class VolumeMetrics(ScalarMetrics):
    """Dice, and the free-response ROC of lesions, as the registry lists them, over the scans of all ranks.

    - `dice`: 2 |A ∩ B| / (|A| + |B|) of the mask and the voxels above the threshold, averaged over the scans with a
      lesion.
    - `normal_scans_clean`: fraction of the scans without a lesion that have no voxel above the threshold.
    - `lesion_sensitivity_at_F_fp` for F = 0.125, 0.25, 0.5, 1, 2, 4, 8 and their mean `froc`, as in LUNA16.
      A lesion is a connected region of the mask (8 neighbours in a slice, 26 in a volume). A detection is a local
      maximum of the map, the highest value within `distance` along each axis, and that value is its score; a plateau,
      judged by its first voxel, is one detection. A detection inside a lesion finds it, without tolerance; lower ones
      in the same lesion are ignored; one outside all lesions is a false positive. Sensitivity is the fraction of all
      lesions found, against false positives per scan, both at every distinct score, starting from (0, 0) and
      interpolated linearly; beyond the lowest score it stays constant.

    A metric that is not defined, for want of lesions or of normal scans, is NaN, and a warning is logged. MONAI's FROC
    functions agree where no score is negative or 0 and a lesion is missed; elsewhere they count missed lesions as found
    at score 0, or drop the lowest score.

    Args:
        output_transform: Function from the engine's output to (maps, masks): lists of B tensors (1, H, W) or
            (1, H, W, D) in the grid of the scan. Maps are unbounded and finite, masks hold 0 and 1.
        threshold: Threshold of the map; without one, `dice` and `normal_scans_clean` are left out.
        distance: Distance between detections, in millimetres by the map's affine, in pixels where the map is not a
            MetaTensor.

    Raises:
        ValueError: If `distance` is negative.

    Example:
        >>> mask = np.zeros((1, 8, 8))
        >>> mask[0, 2:4, 2:4] = 1
        >>> metric = VolumeMetrics(threshold=0.5)
        >>> metric.update(([0.9 * mask, 0 * mask], [mask, 0 * mask]))
        >>> metrics = metric.compute()
        >>> metrics["dice"], metrics["normal_scans_clean"], metrics["froc"]
        (1.0, 1.0, 1.0)
    """

    def __init__(
        self, output_transform: Callable = lambda x: x, threshold: float | None = None, distance: float = 5.0
    ) -> None:
        if distance < 0:
            raise ValueError(f"distance between detections must not be negative, got {distance}")
        self.threshold, self.distance = threshold, distance
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forgets all scans."""
        self.scans: list[Scan] = []  # of this rank, in the order of updates

    def update(self, output: Sequence[Any]) -> None:
        """Adds a batch (maps, masks).

        Raises:
            ValueError: If `maps.checked_pairs` refuses them.
        """
        maps, masks = output
        for original, (scores, mask) in zip(maps, checked_pairs(maps, masks), strict=True):
            spacing = np.asarray(getattr(original, "pixdim", (1.0, 1.0, 1.0)))[: mask.ndim]
            reach = np.maximum(np.rint(self.distance / spacing), 1).astype(int)
            lesions, count = regions(mask)
            overlap = None if self.threshold is None else dice(scores > self.threshold, mask)
            self.scans.append(Scan(count, overlap, *detections(scores, lesions, reach)))

    def compute(self) -> dict[str, float]:
        """Computes the metrics over the scans of all ranks.

        Raises:
            ValueError: If there is no scan.
        """
        scans = list(chain.from_iterable(cast(list, idist.all_gather(self.scans))))
        if not scans:
            raise ValueError("volume metrics need at least one scan, but there is none")
        metrics = measure(Table.LESION, scans)
        if undefined := ", ".join(name for name, value in metrics.items() if np.isnan(value)):
            lacking = "is without a lesion" if all(scan.lesions for scan in scans) else "has a lesion"
            logger.warning("Not defined, as none of the %d scans %s: %s.", len(scans), lacking, undefined)
        return metrics
