"""Pixels of each item, counted at thresholds that all items share, so that any part of a test set can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .curves import DetectionCurve
from .float_bits import bits_to_drop, scores_of


class ItemCurves(NamedTuple):
    """Pixels of N items at T common thresholds.

    Attributes:
        score: Thresholds (T,), float32, descending; a pixel counts at the highest one that it reaches.
        positive: Number of anomalous pixels (N, T).
        negative: Number of normal pixels (N, T).
        region: Weight of the anomalous pixels (N, T); a pixel weighs 1 / (size of its region).
        image: Names of the items (N,).

    Example:
        >>> one = np.array([[1.0, 0.0]])
        >>> items = ItemCurves(np.array([2.0, 1.0]), one, one[:, ::-1], one, np.array(["scan.nii.gz"]))
        >>> items.curve().auroc()
        1.0
    """

    score: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    region: np.ndarray
    image: np.ndarray

    def curve(self, weights: np.ndarray | None = None) -> DetectionCurve:
        """Builds the curve of all pixels, those of each item counted `weights` (N,) times, or once without weights.

        Raises:
            ValueError: If there is not one weight for each item.
        """
        weights = np.ones(len(self.image)) if weights is None else np.asarray(weights, dtype=np.float64)
        if weights.shape != self.image.shape:
            raise ValueError(f"weights {weights.shape} must have shape {self.image.shape}: one for each item")
        parts = [weights @ part for part in (self.positive, self.negative, self.region)]
        used = parts[0] + parts[1] > 0  # a threshold without pixels has no precision
        return DetectionCurve(self.score[used], *(part[used] for part in parts))

    def save(self, path: str | Path) -> None:
        """Writes a compressed NumPy archive (.npz) with one array for each attribute."""
        np.savez_compressed(path, **self._asdict())

    @classmethod
    def load(cls, path: str | Path) -> ItemCurves:
        """Reads the archive that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not such an archive.
        """
        try:
            with np.load(path) as arrays:
                return cls(*(arrays[name] for name in cls._fields))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} does not hold the pixels of an evaluation ({error}); evaluate again") from error


class ItemCurveBuilder:
    """Collects the pixels of items, one item after the other.

    As many trailing bits of the float32 scores are dropped as leave at most `bins` thresholds over all items. Until
    then, at most `bins` counts of an item are held.

    Args:
        bins: Largest number of thresholds, at least 2.

    Raises:
        ValueError: If `bins` is less than 2.
    """

    def __init__(self, bins: int) -> None:
        if bins < 2:
            raise ValueError(f"bins of items must be at least 2, not {bins}")
        self.bins, self._shift = bins, 0
        self._items: list[DetectionCurve] = []

    def add(self, bits: np.ndarray, sizes: np.ndarray) -> None:
        """Adds an item of P pixels.

        Args:
            bits: Scores (P,) as of `float_bits.ordered_bits`.
            sizes: Size of each pixel's region (P,), in pixels, 0 outside of regions.
        """
        self._shift = bits_to_drop(bits, self.bins, self._shift)
        positive = (sizes > 0).astype(np.float64)
        weights = positive, 1 - positive, positive / np.maximum(sizes, 1)
        self._items.append(DetectionCurve.from_items(bits >> self._shift << self._shift, *weights))

    def curves(self, names: list[str]) -> ItemCurves:
        """Builds the curves of all items, named in the order in which they were added.

        Raises:
            ValueError: If there is no item, or not one name for each.
        """
        if not self._items or len(names) != len(self._items):
            raise ValueError(f"{len(names)} names for the pixels of {len(self._items)} items: each item needs one")
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
