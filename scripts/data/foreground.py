"""What of a volume is body rather than air, and how its intensities are distributed."""

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995)

_AIR = -1024  # Hounsfield; CT scanners pad with less, as -2000, what lies outside of their field of view
_ENOUGH = 4_000_000  # voxels for these statistics


def foreground_threshold(array: NDArray) -> float:
    """The intensity above which a voxel is foreground: a tenth of the way from the 0.5th to the 99.5th percentile.

    One rule for CT and MR: the lower end is no less than -1024, the air of CT, and no minimum, which resampling makes
    fall short of the air of MR. Nothing in a constant array is foreground. Large arrays are judged by a regular sample
    of their voxels.

    Args:
        array: volume (i, j, k) of finite numbers.
    """
    return _threshold(_sample(array))


def foreground_quantiles(array: NDArray) -> NDArray[np.float64]:
    """The ``QUANTILES`` of a volume's foreground, (15,), ascending; of all voxels where there is no foreground.

    Args:
        array: as ``foreground_threshold`` takes.
    """
    sample = _sample(array)
    foreground = sample[sample > _threshold(sample)]
    return np.quantile(foreground if foreground.size else sample, QUANTILES)


def _threshold(sample: NDArray[np.float64]) -> float:
    low, high = np.quantile(sample, (0.005, 0.995))
    low = max(low, _AIR)
    return float(low + 0.1 * (high - low))


def _sample(array: NDArray) -> NDArray[np.float64]:
    """Every n-th voxel in plane, so that each slice has its say."""
    step = int(np.ceil(np.sqrt(array.size / _ENOUGH)))
    return np.asarray(array[::step, ::step], np.float64)
