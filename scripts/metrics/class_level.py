"""Metrics of each class of images (organ) of a model for several, and their plain means: the field's "m..." columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .curves import detection_metrics
from .image_level import NAMES
from .pixel_level import PixelMetrics

Metrics = dict[str, float | None]


class ClassMetrics:
    """`image_...` of each class, and `pixel_...` where items have masks; None where a class holds normal images or
    pixels only, or anomalous ones only.

    Args:
        bins, ader: of the pixel metrics, see `PixelMetrics`.
    """

    def __init__(self, bins: int | None = None, ader: bool = False) -> None:
        self._bins, self._ader = bins, ader
        self._images: dict[str, list[tuple[float, int]]] = {}
        self._pixels: dict[str, PixelMetrics] = {}

    def add(self, name: str, scores: list[float], labels: list[int]) -> None:
        """Adds images of the class `name`."""
        self._images.setdefault(name, []).extend(zip(scores, labels, strict=True))

    def add_map(self, name: str, anomaly_map: Any, mask: Any) -> None:
        """Adds a map and its mask, (1, H, W) or (1, H, W, D), of the class `name`.

        Raises:
            ValueError: as `PixelMetrics.update`.
        """
        if name not in self._pixels:
            self._pixels[name] = PixelMetrics(bins=self._bins, ader=self._ader)
        self._pixels[name].update(([anomaly_map], [mask]))

    def compute(self) -> dict[str, dict[str, Any]]:
        """Metrics by class in alphabetical order, each with its number of `images`: `normal` and `anomalous`."""
        return {name: self._of(name) for name in sorted(self._images)}

    def _of(self, name: str) -> dict[str, Any]:
        scores, labels = np.array(self._images[name]).T
        metrics: Metrics = dict.fromkeys(f"image_{metric}" for metric in NAMES)
        if labels.min() != labels.max():
            found = detection_metrics(scores, labels)
            metrics = {f"image_{metric}": found[metric] for metric in NAMES}
        if name in self._pixels:
            try:
                pixels = self._pixels[name].compute()
            except ValueError:  # which says that there is no anomalous pixel, or no normal one
                pixels = dict.fromkeys(self._pixels[name].names, math.nan)
            metrics |= {metric: value if math.isfinite(value) else None for metric, value in pixels.items()}
        return metrics | {"images": {"normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())}}


def class_means(classes: dict[str, dict[str, Any]]) -> Metrics:
    """The plain mean of each metric over all classes, whatever their size; None where a class has none."""
    first, *_ = classes.values()
    means: Metrics = {}
    for name in first:
        if name != "images":
            values = [metrics[name] for metrics in classes.values()]
            means[name] = None if None in values else float(np.mean(values))
    return means
