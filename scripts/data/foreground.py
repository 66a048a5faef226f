"""Foreground of a volume, body rather than air, and the distribution of its intensities."""

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995)

_AIR = -1024  # Hounsfield units; outside their field of view, CT scanners pad with lower values such as -2000
_ENOUGH = 4_000_000  # voxels, enough for these statistics


def foreground_threshold(array: NDArray) -> float:
    """Intensity above which a voxel is foreground: a tenth of the way from the 0.5th to the 99.5th percentile.

    The rule fits both CT and MR. The lower end is at least -1024, the air of CT; and it is a percentile because
    resampling lowers the minimum of MR below its air. A constant array has no foreground. Large arrays are judged by a
    regular sample of their voxels.

    Args:
        array: Volume of finite numbers, (i, j, k).

    >>> foreground_threshold(np.arange(1001.0).reshape(7, 11, 13))
    104.0
    """
    return _threshold(_sample(array))


def foreground_quantiles(array: NDArray) -> NDArray[np.float64]:
    """Quantiles of the foreground at ``QUANTILES``, (15,), ascending; those of all voxels if there is no foreground.

    Args:
        array: Volume of finite numbers, (i, j, k).
    """
    sample = _sample(array)
    foreground = sample[sample > _threshold(sample)]
    return np.quantile(foreground if foreground.size else sample, QUANTILES)


def _threshold(sample: NDArray[np.float64]) -> float:
    low, high = np.quantile(sample, (0.005, 0.995))
    low = max(low, _AIR)
    return float(low + 0.1 * (high - low))


def _sample(array: NDArray) -> NDArray[np.float64]:
    """Every n-th voxel within the plane, so that each slice is represented."""
    step = int(np.ceil(np.sqrt(array.size / _ENOUGH)))
    return np.asarray(array[::step, ::step], np.float64)
