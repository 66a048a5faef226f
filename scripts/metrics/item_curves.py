"""The pixels of each item, counted at thresholds that all items share: any part of a test set can be measured later."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .curves import DetectionCurve
from .float_bits import bits_to_drop, scores_of


class ItemCurves(NamedTuple):
    """What lies at each of T common thresholds, for each of N items.

    Attributes:
        score: the thresholds (T,), float32, descending; a pixel counts at the highest one that it reaches.
        positive: number of anomalous pixels (N, T).
        negative: number of normal pixels (N, T).
        region: weight of the anomalous pixels (N, T), where each weighs 1 / (size of its region).
        image: names of the items (N,).
    """

    score: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    region: np.ndarray
    image: np.ndarray

    def curve(self, weights: np.ndarray | None = None) -> DetectionCurve:
        """The curve of all pixels, each item's counted `weights` (N,) times; without weights, once.

        Raises:
            ValueError: when there is not one weight an item.
        """
        weights = np.ones(len(self.image)) if weights is None else np.asarray(weights, dtype=np.float64)
        if weights.shape != self.image.shape:
            raise ValueError(f"weights {weights.shape} must have shape {self.image.shape}, one for each item")
        parts = [weights @ part for part in (self.positive, self.negative, self.region)]
        used = parts[0] + parts[1] > 0  # where nothing lies there is no precision
        return DetectionCurve(self.score[used], *(part[used] for part in parts))

    def save(self, path: str | Path) -> None:
        """Writes a compressed NumPy archive (.npz) with an array an attribute."""
        np.savez_compressed(path, **self._asdict())

    @classmethod
    def load(cls, path: str | Path) -> ItemCurves:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is not such an archive.
        """
        try:
            with np.load(path) as arrays:
                return cls(*(arrays[name] for name in cls._fields))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} does not hold the pixels of an evaluation ({error}); evaluate again") from error


class ItemCurveBuilder:
    """Collects the pixels of items, one item after the other.

    Trailing bits of the float32 scores are dropped, as many as leave at most `bins` thresholds over all items; what is
    held of an item until then is at most `bins` counts.

    Args:
        bins: thresholds at most, at least 2.

    Raises:
        ValueError: when `bins` is less than 2.
    """

    def __init__(self, bins: int) -> None:
        if bins < 2:
            raise ValueError(f"bins of items must be at least 2, not {bins}")
        self.bins, self._shift = bins, 0
        self._items: list[DetectionCurve] = []

    def add(self, bits: np.ndarray, sizes: np.ndarray) -> None:
        """Adds an item: of each pixel (P,) the `ordered_bits` and the size of its region, 0 outside of regions."""
        self._shift = bits_to_drop(bits, self.bins, self._shift)
        positive = (sizes > 0).astype(np.float64)
        weights = positive, 1 - positive, positive / np.maximum(sizes, 1)
        self._items.append(DetectionCurve.from_items(bits >> self._shift << self._shift, *weights))

    def curves(self, names: list[str]) -> ItemCurves:
        """The curves of all items, named in the order in which they were added.

        Raises:
            ValueError: when there is no item, or not a name for each.
        """
        if not self._items or len(names) != len(self._items):
            raise ValueError(f"{len(names)} names for the pixels of {len(self._items)} items: one for each is needed")
        distinct = np.unique(np.concatenate([np.unique(item.score >> self._shift) for item in self._items]))
        shift = self._shift + bits_to_drop(distinct, self.bins)
        ascending = np.unique(distinct >> (shift - self._shift))
        shape = len(self._items), len(ascending)
        counts = np.zeros((2, *shape), np.int32)
        region = np.zeros(shape, np.float32)
        for row, item in enumerate(self._items):
            column = len(ascending) - 1 - np.searchsorted(ascending, item.score >> shift)
            for into, part in zip((*counts, region), item[1:], strict=True):
                into[row] = np.bincount(column, weights=part, minlength=len(ascending))
        return ItemCurves(scores_of(ascending[::-1] << shift), counts[0], counts[1], region, np.array(names))
