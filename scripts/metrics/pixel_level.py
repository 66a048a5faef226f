"""Metrics of pixels and voxels: where in the scan is the anomaly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import ignite.distributed as idist
import numpy as np

from .ader import ader_metrics
from .curves import DetectionCurve
from .float_bits import bits_to_drop, ordered_bits, scores_of
from .item_curves import ItemCurveBuilder
from .maps import checked_pairs, regions
from .registry import Table, functions, measure
from .scalars import ScalarMetrics

PIXELS_AT_ONCE = 1 << 20  # streamed pixels are folded into the bins when so many wait, and no more of them at a time


class PixelMetrics(ScalarMetrics):
    """AUROC, AP, F1max (an oracle) and AUPRO over all pixels of all images and ranks, as the registry lists them.

    Volumes count by their voxels; the regions of AUPRO are 8-connected in images and single slices, 26-connected in
    volumes. Every image needs its mask, a normal one an all-zero mask. A missing mask is an error and never replaced by
    zeros, because the lesions of an anomalous image would then count as normal pixels: for data without masks leave
    this metric out.

    Scores are compared as float32. `bins=None` is exact and keeps every pixel (8 bytes each, and about 100 during the
    computation: 2.2 GiB for 22 M voxels). With `bins`, memory is constant: scores keep only the leading bits of their
    float32 pattern, as many as leave at most `bins` distinct values in the data seen so far. Precision is therefore not
    spent on empty ranges, data with no more than `bins` distinct scores stay exact (60 ± 0.01 has about 5,000), and
    neither batches nor ranks change the result. With 65,536 bins the error against the exact form was at most 4e-5 in
    each metric (3.9 M pixels: Gaussian maps, positive or negative long-tailed ones over 20 to 80 octaves, cosine
    distances), and 1e-3 with 4,096. There is a limit: where half of the pixels spread evenly over 40 octaves and the
    others hold the anomalies within 0.1 % of one value, the error was 6e-2; such maps need `bins=None`.

    Args:
        output_transform: Function from the engine's output to (maps, masks): tensors (B, 1, H, W) or (B, 1, H, W, D),
            or lists of B tensors (1, H, W) or (1, H, W, D). Maps are unbounded and finite, masks hold 0 and 1.
        bins: Largest number of thresholds to keep, at least 2; None for the exact form.
        ader: Whether to add the registry's table of ADer, for comparison with published tables only (see `ader`).
        item_bins: Largest number of thresholds of the curves that `items` keeps of each map of this rank, at least 2;
            None keeps no curves.

    Raises:
        ValueError: If `bins` or `item_bins` is less than 2.

    Example:
        >>> mask = np.zeros((1, 1, 4, 4))
        >>> mask[..., :2, :2] = 1
        >>> metric = PixelMetrics()
        >>> metric.update((0.5 * mask, mask))
        >>> metric.compute()
        {'pixel_auroc': 1.0, 'pixel_ap': 1.0, 'pixel_f1max': 1.0, 'pixel_aupro': 1.0}
    """

    def __init__(
        self,
        output_transform: Callable = lambda x: x,
        bins: int | None = None,
        ader: bool = False,
        item_bins: int | None = None,
    ) -> None:
        if bins is not None and bins < 2:
            raise ValueError(f"bins must be at least 2, or None for the exact form, not {bins}")
        self.bins, self.ader, self._item_bins = bins, ader, item_bins
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forgets all pixels."""
        # Of each pixel, (2, N): the score as an integer of the same order, and the size of the pixel's region or 0.
        self._waiting: list[np.ndarray] = []
        self._curve = DetectionCurve(np.empty(0, np.int32), np.empty(0), np.empty(0), np.empty(0))
        self._shift = 0  # number of trailing bits of the scores that are dropped
        self.items = None if self._item_bins is None else ItemCurveBuilder(self._item_bins)

    def update(self, output: Sequence[Any]) -> None:
        """Adds a batch (maps, masks).

        Raises:
            ValueError: If `maps.checked_pairs` refuses them.
        """
        for scores, mask in checked_pairs(*output):
            pixels = np.stack((ordered_bits(scores), _region_sizes(mask))).reshape(2, -1)
            self._waiting.append(pixels)
            if self.items is not None:
                self.items.add(*pixels)
        if self.bins is not None and sum(pixels.shape[1] for pixels in self._waiting) >= PIXELS_AT_ONCE:
            self._fold()

    def compute(self) -> dict[str, float]:
        """Computes the metrics over the pixels of all ranks.

        Raises:
            ValueError: If no mask holds an anomalous pixel, or none holds a normal one.
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
                "give the masks of the anomalous images or leave PixelMetrics out"
            )
        metrics = pixel_metrics(curve)
        if self.ader:
            floats = curve._replace(score=scores_of(curve.score).astype(np.float64))
            metrics |= measure(Table.ADER, ader_metrics(floats))
        return metrics

    @property
    def names(self) -> list[str]:
        """Names of the metrics that `compute` returns."""
        return [*functions(Table.PIXEL), *(functions(Table.ADER) if self.ader else ())]

    def _fold(self) -> None:
        """Moves waiting pixels into the curve."""
        waiting = np.concatenate([np.empty((2, 0), np.int32), *self._waiting], axis=1)
        self._waiting = []
        parts = 1 if self.bins is None else waiting.shape[1] // PIXELS_AT_ONCE + 1
        for score, size in np.array_split(waiting, parts, axis=1):
            positive = (size > 0).astype(np.float64)
            pixels = score, positive, 1 - positive, positive / np.maximum(size, 1)
            self._curve = self._binned(*(np.concatenate(both) for both in zip(self._curve, pixels, strict=True)))

    def _binned(
        self, score: np.ndarray, positive: np.ndarray, negative: np.ndarray, region: np.ndarray
    ) -> DetectionCurve:
        """Builds the curve of these pixels, with so many trailing bits of the scores dropped that `bins` suffice."""
        if self.bins is not None:
            self._shift = bits_to_drop(score, self.bins, self._shift)
            score = score >> self._shift << self._shift
        return DetectionCurve.from_items(score, positive, negative, region)


def pixel_metrics(curve: DetectionCurve) -> dict[str, float]:
    """Computes the metrics of the registry's table of pixels from a curve with both classes."""
    return measure(Table.PIXEL, curve)


def _region_sizes(mask: np.ndarray) -> np.ndarray:
    """Number of pixels of the region at each pixel of a mask (H, W) or (H, W, D), 0 outside."""
    numbered, _ = regions(mask)
    sizes = np.bincount(numbered.ravel()).astype(np.int32)
    sizes[0] = 0
    return sizes[numbered]
