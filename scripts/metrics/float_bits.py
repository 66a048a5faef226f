"""Scores as integers of the same order: bins made by dropping trailing bits are as fine everywhere as floats are."""

from __future__ import annotations

import numpy as np


def ordered_bits(scores: np.ndarray) -> np.ndarray:
    """Returns the bits of float32 scores as int32 that sort like the scores."""
    return _flipped((scores + 0.0).view(np.int32))  # + 0.0 makes -0.0 equal to 0.0


def scores_of(bits: np.ndarray) -> np.ndarray:
    """Returns the float32 scores of `ordered_bits`."""
    return _flipped(bits).view(np.float32)


def bits_to_drop(bits: np.ndarray, most: int, at_least: int = 0) -> int:
    """Number of trailing bits to drop from `bits` (N,), `at_least` or more, so that at most `most` values differ."""
    ascending = np.sort(bits) >> at_least
    while 1 + np.count_nonzero(np.diff(ascending)) > most:
        ascending >>= 1
        at_least += 1
    return at_least


def _flipped(bits: np.ndarray) -> np.ndarray:
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
