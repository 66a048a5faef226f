"""Finds the rectangle of a radiograph that its collimator, or whoever scanned it, left of the picture."""

import numpy as np
from numpy.typing import NDArray

_MOST = 0.9  # of a line's pixels; the rest may be burnt-in letters
_NEAR = 0.05  # of the picture's range of intensities


def borders(array: NDArray) -> tuple[int, int, int, int]:
    """How many rows and columns are border: top, bottom, left, right.

    A line belongs to the border if nine tenths of it are near black or near white, or have one and the same value, and
    so have all lines outside of it. Columns are judged between the top and the bottom border. A picture that would be
    border all over has none, and borders askew or round are not found.

    Args:
        array: picture (rows, columns) of finite numbers.
    """
    low, high = np.percentile(array, (1, 99))  # letters are brighter than anything in the body
    near = _NEAR * (high - low)
    rows = _content(array, low + near, high - near)
    columns = _content(array[rows[0] : rows[-1] + 1].T, low + near, high - near) if rows.size else rows
    if not columns.size:
        return 0, 0, 0, 0
    height, width = array.shape
    return int(rows[0]), height - 1 - int(rows[-1]), int(columns[0]), width - 1 - int(columns[-1])


def _content(lines: NDArray, black: float, white: float) -> NDArray[np.intp]:
    """Which lines are not uniform."""
    kinds = (lines <= black, lines >= white, lines == np.median(lines, axis=1, keepdims=True))
    return np.flatnonzero(~np.any([kind.mean(axis=1) >= _MOST for kind in kinds], axis=0))
