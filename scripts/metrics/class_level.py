"""Metrics of each class (organ) of a model for several, and their plain means: the "m..." columns of the field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .curves import detection_curve
from .pixel_level import PixelMetrics
from .registry import Table, functions, measure


class ClassMetrics:
    """Metrics of the images of each class, and of its pixels where items have masks, as the registry lists them.

    A metric is None if a class has normal images or pixels only, or anomalous ones only.

    Args:
        bins: As of `PixelMetrics`.
        ader: As of `PixelMetrics`.

    Example:
        >>> metrics = ClassMetrics()
        >>> metrics.add("brain", scores=[0.9, 0.2, 0.4], labels=[1, 0, 0])
        >>> metrics.add("liver", scores=[0.3, 0.2], labels=[0, 0])
        >>> {name: (metrics["image_auroc"], metrics["images"]) for name, metrics in metrics.compute().items()}
        {'brain': (1.0, {'normal': 2, 'anomalous': 1}), 'liver': (None, {'normal': 2, 'anomalous': 0})}
    """

    def __init__(self, bins: int | None = None, ader: bool = False) -> None:
        self._bins, self._ader = bins, ader
        self._images: dict[str, list[tuple[float, int]]] = {}
        self._pixels: dict[str, PixelMetrics] = {}

    def add(self, name: str, scores: list[float], labels: list[int]) -> None:
        """Adds images of the class `name`."""
        self._images.setdefault(name, []).extend(zip(scores, labels, strict=True))

    def add_map(self, name: str, anomaly_map: Any, mask: Any) -> None:
        """Adds an anomaly map and its mask, (1, H, W) or (1, H, W, D), of the class `name`.

        Raises:
            ValueError: If `maps.checked_pairs` refuses them.
        """
        if name not in self._pixels:
            self._pixels[name] = PixelMetrics(bins=self._bins, ader=self._ader)
        self._pixels[name].update(([anomaly_map], [mask]))

    def compute(self) -> dict[str, dict[str, Any]]:
        """Computes the metrics by class in alphabetical order; `images` counts those `normal` and `anomalous`."""
        return {name: self._of(name) for name in sorted(self._images)}

    def _of(self, name: str) -> dict[str, Any]:
        scores, labels = np.array(self._images[name]).T
        metrics: dict[str, float | None] = dict.fromkeys(functions(Table.IMAGE))
        if labels.min() != labels.max():
            metrics |= measure(Table.IMAGE, detection_curve(scores, labels))
        if name in self._pixels:
            try:
                pixels = self._pixels[name].compute()
            except ValueError:  # which says that there is no anomalous pixel, or no normal one
                pixels = dict.fromkeys(self._pixels[name].names, math.nan)
            metrics |= {metric: value if math.isfinite(value) else None for metric, value in pixels.items()}
        return metrics | {"images": {"normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())}}


def class_means(classes: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Computes the plain mean of each metric over all classes, whatever their size; None if any class has None.

    Example:
        >>> class_means({"brain": {"image_auroc": 0.75}, "liver": {"image_auroc": 0.25}})
        {'image_auroc': 0.5}
    """
    first, *_ = classes.values()
    means: dict[str, float | None] = {}
    for name in first:
        if name != "images":
            values = [metrics[name] for metrics in classes.values()]
            means[name] = None if None in values else float(np.mean(values))
    return means
