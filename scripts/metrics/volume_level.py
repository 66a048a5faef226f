"""Metrics of scans by their lesions: how much of them is marked, how many are found, at how many false alarms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine
from ignite.metrics import Metric
from scipy import ndimage

from .curves import DetectionCurve
from .maps import checked_pairs, regions

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # a scan, where a FROC curve is read (LUNA16)

logger = logging.getLogger(__name__)


class VolumeMetrics(Metric):
    """Dice at a threshold, and the free-response ROC of lesions, over all scans and ranks.

    - `dice`: 2 |A ∩ B| / (|A| + |B|) of the mask and the voxels above the threshold, averaged over the scans with a
      lesion.
    - `normal_scans_clean`: fraction of the scans without lesion that have no voxel above the threshold.
    - `lesion_sensitivity_at_F_fp` for F = 0.125, 0.25, 0.5, 1, 2, 4, 8 and their mean `froc`, as of LUNA16.
      A lesion is a connected region of the mask (8 neighbours in a slice, 26 in a volume). A detection is a local
      maximum of the map, the highest value within `distance` along each axis, with that value as its score; a plateau,
      judged by its first voxel, is one detection. A detection in a lesion finds it, without tolerance; lower ones in
      the same lesion count for nothing; one outside is false. Sensitivity is the part of all lesions found, against
      false detections over the number of all scans, both at every distinct score, starting from (0, 0) and
      interpolated linearly; beyond the lowest score it stays as it is.

    What is not defined, for want of lesions or of normal scans, is NaN, and logged. MONAI's FROC functions give the
    same where no score is negative or 0 and a lesion is missed; else they count missed lesions as found at score 0, or
    drop the lowest score.

    Args:
        output_transform: gives (maps, masks) from the engine's output: lists of B tensors (1,H,W) or (1,H,W,D) in the
            grid of the scan. Maps are unbounded and finite, masks hold 0 and 1.
        threshold: of the map; without one the first two metrics are left out.
        distance: in millimetres by the map's affine, in pixels where the map is not a MetaTensor.

    Raises:
        ValueError: when `distance` is negative.
    """

    def __init__(
        self, output_transform: Callable = lambda x: x, threshold: float | None = None, distance: float = 5.0
    ) -> None:
        if distance < 0:
            raise ValueError(f"distance between detections must not be negative, got {distance}")
        self.threshold, self.distance = threshold, distance
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forgets all scans."""
        self.scans: list[Scan] = []  # of this rank, in the order of updates

    def update(self, output: Sequence[Any]) -> None:
        """Adds a batch (maps, masks).

        Raises:
            ValueError: as `maps.checked_pairs`.
        """
        maps, masks = output
        for original, (scores, mask) in zip(maps, checked_pairs(maps, masks), strict=True):
            spacing = np.asarray(getattr(original, "pixdim", (1.0, 1.0, 1.0)))[: mask.ndim]
            reach = np.maximum(np.rint(self.distance / spacing), 1).astype(int)
            lesions, count = regions(mask)
            dice = None if self.threshold is None else _dice(scores > self.threshold, mask)
            self.scans.append(Scan(count, dice, *_detections(scores, lesions, reach)))

    def compute(self) -> dict[str, float]:
        """Metrics over the scans of all ranks.

        Raises:
            ValueError: when there is no scan.
        """
        scans = list(chain.from_iterable(cast(list, idist.all_gather(self.scans))))
        if not scans:
            raise ValueError("volume metrics need at least one scan, but there is none")
        with_lesion = [scan for scan in scans if scan.lesions]
        normal = [scan for scan in scans if not scan.lesions]
        metrics = {}
        if self.threshold is not None:
            metrics["dice"] = _mean(scan.dice for scan in with_lesion)
            metrics["normal_scans_clean"] = _mean(scan.dice for scan in normal)
        sensitivities = _sensitivities(scans) if with_lesion else np.full(len(FALSE_POSITIVES), np.nan)
        metrics["froc"] = float(sensitivities.mean())
        for rate, sensitivity in zip(FALSE_POSITIVES, sensitivities, strict=True):
            metrics[f"lesion_sensitivity_at_{rate:g}_fp"] = float(sensitivity)
        if undefined := ", ".join(name for name, value in metrics.items() if np.isnan(value)):
            lacking = "has a lesion" if normal else "is without lesion"
            logger.warning("Not defined, as none of the %d scans %s: %s.", len(scans), lacking, undefined)
        return metrics

    def completed(self, engine: Engine, name: str) -> None:
        """Writes the scalars, and no nested dict, to `engine.state.metrics`; `name` is not used."""
        engine.state.metrics.update(self.compute())


class Scan(NamedTuple):
    """What is kept of a scan: the number of its lesions, its Dice, and the scores (N,) of the detections that count,
    with whether they found a lesion (N,) or are false.
    """

    lesions: int
    dice: float | None
    scores: np.ndarray
    found: np.ndarray


def _dice(found: np.ndarray, mask: np.ndarray) -> float:
    """Of two masks of one shape, in [0, 1]; 1 where both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(mask)
    return 2 * np.count_nonzero(found & mask) / total if total else 1.0


def _detections(scores: np.ndarray, lesions: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The local maxima of a map that lie in no lesion, and the highest in each lesion.

    Args:
        scores: (H, W) or (H, W, D).
        lesions: the same shape, numbers from 1, 0 outside.
        reach: pixels along each axis within which a maximum is the highest.

    Returns:
        Scores (N,) and whether each found a lesion (N,), boolean.
    """
    peaks = scores == ndimage.maximum_filter(scores, size=(2 * reach + 1).tolist())
    plateaus, _ = regions(peaks)
    _, first = np.unique(plateaus[peaks], return_index=True)
    scores, lesions = scores[peaks][first], lesions[peaks][first]
    descending = np.argsort(-scores)
    scores, lesions = scores[descending], lesions[descending]
    counts = lesions == 0
    counts[np.unique(lesions, return_index=True)[1]] = True  # scores descend, so the first in a lesion is its highest
    return scores[counts], lesions[counts] > 0


def froc_points(scores: np.ndarray, found: np.ndarray, lesions: int, scans: int) -> tuple[np.ndarray, np.ndarray]:
    """The free-response ROC curve of N detections, at every distinct score from the highest on, starting at (0, 0).

    Args:
        scores: of the detections (N,).
        found: whether each found a lesion (N,), 0 or 1; several in one lesion must count once, as in `Scan`.
        lesions: number of all lesions, found or not.
        scans: number of all scans, those without a lesion included.

    Returns:
        False detections a scan and part of the lesions found, each (T + 1,) for T distinct scores.

    Raises:
        ValueError: when there is no lesion or no scan, or more lesions are found than there are.
    """
    found = np.asarray(found, dtype=np.float64)
    if lesions < 1 or scans < 1 or found.sum() > lesions:
        raise ValueError(f"FROC is not defined: {found.sum():g} of {lesions} lesions are found in {scans} scans")
    curve = DetectionCurve.from_items(np.asarray(scores), found, 1 - found, found)
    return np.append(0, curve.false_positives) / scans, np.append(0, curve.true_positives) / lesions


def _sensitivities(scans: list[Scan]) -> np.ndarray:
    """Part of the lesions found at each of FALSE_POSITIVES."""
    scores = np.concatenate([scan.scores for scan in scans])
    found = np.concatenate([scan.found for scan in scans])
    return np.interp(FALSE_POSITIVES, *froc_points(scores, found, sum(scan.lesions for scan in scans), len(scans)))


def _mean(values: Any) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")
