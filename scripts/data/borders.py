"""Borders of a radiograph, from its collimator or from digitisation."""

import numpy as np
from numpy.typing import NDArray

_MOST = 0.9  # share of a border line's pixels that are uniform; the rest may be burnt-in letters
_NEAR = 0.05  # tolerance for black and white, as a share of the image's intensity range


def borders(array: NDArray) -> tuple[int, int, int, int]:
    """Counts the rows and columns of the border: top, bottom, left, right.

    A line belongs to the border if at least nine tenths of its pixels are near black, near white, or of one and the
    same value, and if the same holds for all lines outside it. Columns are judged only between the top and the bottom
    border. An image that would be all border has none. Tilted and round borders are not found.

    Args:
        array: Image of finite numbers, (rows, columns).

    >>> image = np.zeros((6, 8))
    >>> image[2:5, 1:7] = np.arange(18).reshape(3, 6) % 7
    >>> borders(image)
    (2, 1, 1, 1)
    """
    low, high = np.percentile(array, (1, 99))  # burnt-in letters are brighter than anything in the body
    near = _NEAR * (high - low)
    rows = _content(array, low + near, high - near)
    columns = _content(array[rows[0] : rows[-1] + 1].T, low + near, high - near) if rows.size else rows
    if not columns.size:
        return 0, 0, 0, 0
    height, width = array.shape
    return int(rows[0]), height - 1 - int(rows[-1]), int(columns[0]), width - 1 - int(columns[-1])


def _content(lines: NDArray, black: float, white: float) -> NDArray[np.intp]:
    """Indices of the lines that are not uniform."""
    kinds = (lines <= black, lines >= white, lines == np.median(lines, axis=1, keepdims=True))
    return np.flatnonzero(~np.any([kind.mean(axis=1) >= _MOST for kind in kinds], axis=0))
