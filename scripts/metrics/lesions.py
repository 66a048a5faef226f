"""Lesions of scans: their detections, their free-response ROC (FROC) curve, and the metrics computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .curves import DetectionCurve
from .maps import regions


class Scan(NamedTuple):
    """Lesions and detections of one scan.

    Attributes:
        lesions: Number of lesions.
        dice: Dice of the marked voxels and the mask, in [0, 1]; None without a threshold.
        scores: Scores (N,) of the detections that count.
        found: Whether each detection found a lesion (N,), boolean; the others are false.
    """

    lesions: int
    dice: float | None
    scores: np.ndarray
    found: np.ndarray


def mean_dice(scans: Sequence[Scan]) -> float | None:
    """Dice averaged over the scans with a lesion: NaN if there is none, None without a threshold."""
    return _mean_dice(scans, lesion=True)


def normal_scans_clean(scans: Sequence[Scan]) -> float | None:
    """Fraction of the normal scans that have no marked voxel: NaN if there is none, None without a threshold."""
    return _mean_dice(scans, lesion=False)  # which is 1 for two empty masks, else 0


def lesion_sensitivity(scans: Sequence[Scan], false_positives: Sequence[float]) -> float:
    """Fraction of all lesions found, averaged over these numbers of false positives per scan; NaN without a lesion."""
    lesions = sum(scan.lesions for scan in scans)
    if not lesions:
        return float("nan")
    scores, found = (np.concatenate([getattr(scan, part) for scan in scans]) for part in ("scores", "found"))
    return float(np.interp(false_positives, *froc_points(scores, found, lesions, len(scans))).mean())


def froc_points(scores: np.ndarray, found: np.ndarray, lesions: int, scans: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the FROC curve of N detections at every distinct score, from the highest on, starting at (0, 0).

    Args:
        scores: Scores of the detections (N,).
        found: Whether each detection found a lesion (N,), 0 or 1; a lesion must be found at most once, as in `Scan`.
        lesions: Number of all lesions, found or not.
        scans: Number of all scans, with and without a lesion.

    Returns:
        False positives per scan and fraction of the lesions found, each (T + 1,) for T distinct scores.

    Raises:
        ValueError: If there is no lesion or no scan, or more lesions are found than there are.
    """
    found = np.asarray(found, dtype=np.float64)
    if lesions < 1 or scans < 1 or found.sum() > lesions:
        raise ValueError(f"FROC is not defined: {found.sum():g} of {lesions} lesions are found in {scans} scans")
    curve = DetectionCurve.from_items(np.asarray(scores), found, 1 - found, found)
    return np.append(0, curve.false_positives) / scans, np.append(0, curve.true_positives) / lesions


def detections(scores: np.ndarray, lesions: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the local maxima of a map outside all lesions, and the highest one in each lesion.

    Args:
        scores: Anomaly map (H, W) or (H, W, D).
        lesions: Number of the lesion at each voxel, from 1, 0 outside, in the shape of the map.
        reach: Distance along each axis within which a local maximum is the highest, in voxels (2,) or (3,).

    Returns:
        Scores (N,), and whether each detection found a lesion (N,), boolean.
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


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    """Dice of two boolean arrays of one shape, in [0, 1]; 1 if both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(mask)
    return 2 * np.count_nonzero(found & mask) / total if total else 1.0


def _mean_dice(scans: Sequence[Scan], lesion: bool) -> float | None:
    if any(scan.dice is None for scan in scans):
        return None
    values = [scan.dice for scan in scans if (scan.lesions > 0) == lesion]
    return float(np.mean(values)) if values else float("nan")  # type: ignore[arg-type]
