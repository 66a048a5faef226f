"""Metrics of images: does an image, or a slice of a scan, hold an anomaly or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch

from .curves import detection_curve
from .registry import Table, measure
from .scalars import ScalarMetrics


class ImageMetrics(ScalarMetrics):
    """AUROC, AP and F1max (an oracle) with its floor, as the registry lists them, exact, over the images of all ranks.

    Any of them can be the key metric: `key_val_metric={"image_auroc": ImageMetrics(from_engine(["score", "label"]))}`.
    An item that a distributed sampler repeats to fill its last batch counts twice, so the sampler must not pad.

    Args:
        output_transform: Function from the engine's output to (scores, labels): tensors (B,), or lists of numbers
            or vectors. Scores are unbounded, labels 0 or 1.

    Example:
        >>> metric = ImageMetrics()
        >>> metric.update(([0.9, 0.2, 0.4, 0.1], [1, 0, 1, 0]))
        >>> metric.compute()["image_auroc"]
        1.0
    """

    def reset(self) -> None:
        """Forgets all items."""
        self._items = np.empty((2, 0))  # scores, labels

    def update(self, output: Sequence) -> None:
        """Adds a batch (scores, labels).

        Raises:
            ValueError: If there are not as many labels as scores.
        """
        scores, labels = (_vector(values) for values in output)
        if len(scores) != len(labels):
            raise ValueError(f"{len(scores)} image scores but {len(labels)} labels: each image needs one of each")
        self._items = np.concatenate((self._items, (scores, labels)), axis=1)

    def compute(self) -> dict[str, float]:
        """Computes the metrics over the items of all ranks.

        Raises:
            ValueError: If there is no item or one class only, a score is not finite, or a label is neither 0 nor 1.
        """
        scores, labels = np.concatenate(cast(list, idist.all_gather(self._items)), axis=1)
        try:
            curve = detection_curve(scores, labels)
        except ValueError as error:
            raise ValueError(f"image {error}") from None
        return measure(Table.IMAGE, curve)


def _vector(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().double().cpu().numpy().reshape(-1)
    return np.concatenate(
        [np.empty(0), *(_vector(value) if isinstance(value, torch.Tensor) else [value] for value in values)]
    )
