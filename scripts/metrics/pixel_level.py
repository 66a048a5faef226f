"""Metrics of pixels and voxels: where in the image or volume is the anomaly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine
from ignite.metrics import Metric

from .curves import DetectionCurve
from .maps import checked_pairs, regions

PIXELS_AT_ONCE = 1 << 20  # streamed pixels are folded into the bins when so many wait, and no more of them at a time


class PixelMetrics(Metric):
    """`pixel_auroc`, `pixel_ap`, `pixel_f1max` (an oracle) and `pixel_aupro` over all pixels of all images and ranks.

    Volumes count by their voxels; the regions of AUPRO are 8-connected in images and single slices, 26-connected in
    volumes. Every image needs its mask, a normal one an all-zero mask. For data without masks leave this metric out: an
    abnormal image with an all-zero mask would count as normal pixels, so a missing mask is an error and never replaced
    by zeros.

    Scores are compared as float32. `bins=None` keeps every pixel (8 bytes each, and about 100 while it computes: 2.2
    GiB for 22 M voxels) and is exact. With `bins`, memory is
    constant: scores keep only the leading bits of their float32 pattern, as many as leave at most `bins` distinct
    values in the data seen so far. Precision is therefore not spent on empty ranges, data with no more than `bins`
    distinct scores stay exact (60 ± 0.01 has about 5,000), and neither batches nor ranks change the result.
    With 65,536 bins the error against the exact form was at most 4e-5 in each metric (3.9 M pixels: Gaussian maps,
    positive or negative long-tailed ones over 20 to 80 octaves, cosine distances), and 1e-3 with 4,096. Limit: where
    half of the pixels spread evenly over 40 octaves and the others hold the anomalies within 0.1 % of one value, it
    was 6e-2; such maps need `bins=None`.

    Args:
        output_transform: gives (maps, masks) from the engine's output: tensors (B,1,H,W) or (B,1,H,W,D), or lists of B
            tensors (1,H,W) or (1,H,W,D). Maps are unbounded and finite, masks hold 0 and 1.
        bins: None for the exact form, or the largest number of thresholds to keep, at least 2.

    Raises:
        ValueError: when `bins` is less than 2.
    """

    def __init__(self, output_transform: Callable = lambda x: x, bins: int | None = None) -> None:
        if bins is not None and bins < 2:
            raise ValueError(f"bins must be at least 2, or None for the exact form, not {bins}")
        self._bins = bins
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forgets all pixels."""
        # Per pixel, shape (2,N): the score as an integer of the same order, and the size of the pixel's region or 0.
        self._waiting: list[np.ndarray] = []
        self._curve = DetectionCurve(np.empty(0, np.int32), np.empty(0), np.empty(0), np.empty(0))
        self._shift = 0  # trailing bits of the scores that are dropped

    def update(self, output: Sequence[Any]) -> None:
        """Adds a batch (maps, masks).

        Raises:
            ValueError: as `maps.checked_pairs`.
        """
        for scores, mask in checked_pairs(*output):
            self._waiting.append(np.stack((ordered(scores), _region_sizes(mask))).reshape(2, -1))
        if self._bins is not None and sum(pixels.shape[1] for pixels in self._waiting) >= PIXELS_AT_ONCE:
            self._fold()

    def compute(self) -> dict[str, float]:
        """Metrics over the pixels of all ranks.

        Raises:
            ValueError: when no mask holds an anomaly, or none holds a normal pixel.
        """
        self._fold()
        curve = self._curve
        if idist.get_world_size() > 1:
            curves, shifts = zip(*cast(list, idist.all_gather((curve, self._shift))), strict=False)
            self._shift = max(shifts)
            curve = self._binned(*(np.concatenate(part) for part in zip(*curves, strict=False)))
        if not curve.positive.any() or not curve.negative.any():
            raise ValueError(
                "pixel metrics need masks with anomalous and with normal pixels, but "
                f"{curve.positive.sum():.0f} pixels are anomalous and {curve.negative.sum():.0f} normal: "
                "give the masks of the abnormal images or leave PixelMetrics out"
            )
        return {
            "pixel_auroc": curve.auroc(),
            "pixel_ap": curve.average_precision(),
            "pixel_f1max": float(curve.f1.max()),
            "pixel_aupro": curve.aupro(),
        }

    def completed(self, engine: Engine, name: str) -> None:
        """Writes the scalars, and no nested dict, to `engine.state.metrics`; `name` is not used."""
        engine.state.metrics.update(self.compute())

    def _fold(self) -> None:
        """Moves the waiting pixels into the curve."""
        waiting = np.concatenate([np.empty((2, 0), np.int32), *self._waiting], axis=1)
        self._waiting = []
        parts = 1 if self._bins is None else waiting.shape[1] // PIXELS_AT_ONCE + 1
        for score, size in np.array_split(waiting, parts, axis=1):
            positive = (size > 0).astype(np.float64)
            pixels = score, positive, 1 - positive, positive / np.maximum(size, 1)
            self._curve = self._binned(*(np.concatenate(both) for both in zip(self._curve, pixels, strict=True)))

    def _binned(
        self, score: np.ndarray, positive: np.ndarray, negative: np.ndarray, region: np.ndarray
    ) -> DetectionCurve:
        """The curve of these pixels, with so many trailing bits of the scores dropped that `bins` suffice."""
        if self._bins is not None:
            ascending = np.sort(score) >> self._shift
            while 1 + np.count_nonzero(np.diff(ascending)) > self._bins:
                ascending >>= 1
                self._shift += 1
            score = score >> self._shift << self._shift
        return DetectionCurve.from_items(score, positive, negative, region)


def ordered(scores: np.ndarray) -> np.ndarray:
    """The bits of float32 scores as int32 that sort like the scores."""
    bits = (scores + 0.0).view(np.int32)  # + 0.0 makes -0.0 equal to 0.0
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def unordered(bits: np.ndarray) -> np.ndarray:
    """The float32 scores of which ``ordered`` made these int32."""
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(np.float32)


def _region_sizes(mask: np.ndarray) -> np.ndarray:
    """At each pixel of a mask (H,W) or (H,W,D) the number of pixels of its region, 0 outside."""
    numbered, _ = regions(mask)
    sizes = np.bincount(numbered.ravel()).astype(np.int32)
    sizes[0] = 0
    return sizes[numbered]
