"""Correction of the uneven brightness that the coils of an MR scanner cause."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.utils import optional_import
from numpy.typing import NDArray

from scripts.data.foreground import foreground_threshold

MISSING = "Bias field correction needs SimpleITK (pip install SimpleITK): {}"
sitk, _ = optional_import("SimpleITK", descriptor=MISSING)

_SHORTEST = 8  # voxels that an axis keeps when it is shrunk


def n4_corrected(
    array: NDArray, spacing: Sequence[float], shrink: int = 4, iterations: Sequence[int] = (50, 50, 50, 50)
) -> NDArray[np.float32]:
    """Divides a whole MR volume by its bias field, estimated by N4 in the foreground (doi 10.1109/TMI.2010.2046908).

    Args:
        array: Volume of finite numbers, (i, j, k); without a positive foreground it is returned as it is.
        spacing: Voxel spacing in millimetres, (3,).
        shrink: Factor by which each axis is shrunk for the fit, as long as the axis stays long enough; the field is
            smooth.
        iterations: Maximum number of iterations at each level of the fit, coarse to fine.

    Returns:
        Corrected volume, (i, j, k).

    Raises:
        ImportError: If SimpleITK is missing.
    """
    volume = np.asarray(array, np.float32)
    mask = volume > max(foreground_threshold(volume), 0)  # N4 takes logarithms
    if not mask.any():
        return volume
    axes = [axis for axis, size in enumerate(volume.shape) if size > 1]  # a field cannot vary along a single voxel
    image, foreground = _image(volume, spacing, axes), _image(mask.astype(np.uint8), spacing, axes)
    factors = [max(1, min(shrink, volume.shape[axis] // _SHORTEST)) for axis in axes]
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(list(iterations))
    correction.Execute(sitk.Shrink(image, factors), sitk.Shrink(foreground, factors))
    field = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image)).T
    return volume / np.exp(field.reshape(volume.shape), dtype=np.float32)


def _image(array: NDArray, spacing: Sequence[float], axes: Sequence[int]) -> Any:
    image = sitk.GetImageFromArray(array.squeeze().T)  # SimpleITK takes the axes in reverse
    image.SetSpacing([float(spacing[axis]) for axis in axes])
    return image
