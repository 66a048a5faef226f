"""Registration of volumes of the same part of the body by an affine map."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  as its documentation has it
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_opening, label

_SPACING = 4.0  # millimetres, fine enough for a map of twelve numbers
_TILTS = (-14, 0, 14)  # degrees about the axis from left to right that a head may lie at
_LIFTS = (-20, 0, 20)  # millimetres that its top may be beyond the scan, or its hair within
_VOLUMES = (0.4, 2.5)  # of the moving body, relative to the fixed one; beyond it a map is not believed
_FADED = 0.06  # intensity, in [0, 1], up to which a voxel is no body


class Coarse(NamedTuple):
    """Body in a coarse volume, whose axes are those of RAS space.

    Attributes:
        array: Intensities in [0, 1], 0 outside the largest connected body, (i, j, k).
        origin: Centre of the first voxel in RAS millimetres, (3,).
    """

    array: NDArray[np.float32]
    origin: NDArray[np.float64]

    @property
    def affine(self) -> np.ndarray:
        """Affine from voxel indices to RAS millimetres, (4, 4)."""
        return coarse_affine(self.origin)


class Registered(NamedTuple):
    """Affine map from fixed to moving RAS millimetres, (4, 4), and the correlation of what it brings together."""

    matrix: np.ndarray
    correlation: float


def coarse_affine(origin: NDArray[np.float64]) -> np.ndarray:
    """Affine of a coarse volume with its first voxel at ``origin``, (4, 4)."""
    affine = np.diag([_SPACING, _SPACING, _SPACING, 1.0])
    affine[:3, 3] = origin
    return affine


def coarse_extent(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Origin and shape of the coarse volume that covers a box of RAS millimetres, on one lattice for all boxes."""
    first, last = np.floor(low / _SPACING), np.ceil(high / _SPACING)
    return _SPACING * (first + 0.5), tuple(int(size) for size in np.maximum(last - first, 2))


def body(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clears all but the largest connected body, such as a scanner's table: (i, j, k) in [0, 1]."""
    above = array > _FADED
    opened = binary_opening(above)
    parts, count = label(opened if opened.any() else above)
    if count > 1:
        above &= binary_dilation(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    return np.where(above, array, 0).astype(np.float32)


def registered(fixed: Coarse, moving: Coarse) -> Registered:
    """Brings ``moving`` to ``fixed``: by a similarity from several starts, then by the affine map that correlates most.

    The tops of both bodies lie near each other at first, as scans of a head differ in how far down they reach.
    """
    images = _image(fixed), _image(moving)
    mask = _mask(fixed, binary_dilation(fixed.array > 0, iterations=4))
    top, moving_top = _top(fixed), _top(moving)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(top - [0, 0, 60])
    affine.SetTranslation(moving_top - top)
    starts: list[tuple[float, Any]] = []
    for tilt, lift in itertools.product(_TILTS, _LIFTS):
        start = sitk.Similarity3DTransform()
        start.SetCenter(affine.GetCenter())
        start.SetTranslation(moving_top - top + [0, 0, lift])
        start.SetRotation((1.0, 0.0, 0.0), np.radians(tilt))
        starts.append(_descended(images, mask, start, step=4.0, steps=25, shrink=2))
    score = 0.0
    if likely := [start for start in starts if _is_likely(start[1])]:
        score, best = min(likely, key=lambda start: start[0])
        affine.SetMatrix(best.GetMatrix())
        affine.SetTranslation(best.GetTranslation())
    return _best_affine(images, mask, affine, score)


def refined(fixed: Coarse, moving: Coarse, region: NDArray[np.bool_], start: Registered) -> Registered:
    """Improves an affine map where it counts: the correlation is that in a region (i, j, k) of ``fixed``."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(start.matrix[:3, :3].ravel())
    inside = np.argwhere(region)
    centre = fixed.origin + inside.mean(0) * _SPACING
    affine.SetCenter(centre)  # so that rotations turn the region about itself
    affine.SetTranslation(start.matrix[:3, :3] @ centre + start.matrix[:3, 3] - centre)
    return _best_affine((_image(fixed), _image(moving)), _mask(fixed, region), affine, 0.0)


def _best_affine(images: tuple[Any, Any], mask: Any, affine: Any, score: float) -> Registered:
    """The affine map that correlates most of those that descent finds, and ``affine`` with its negative correlation."""
    for step in (2.0, 0.7):
        found, candidate = _descended(images, mask, sitk.AffineTransform(affine), step)
        if found < score and _is_likely(candidate):
            score, affine = found, candidate
    return Registered(_matrix(affine), -score)


def _is_likely(transform: Any) -> bool:
    """Whether a map keeps the size of a body roughly, and its axes the nearest to those of space."""
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    upright = np.array_equal(nib.io_orientation(nib.affines.from_matvec(linear)), [[0, 1], [1, 1], [2, 1]])
    return upright and _VOLUMES[0] < np.linalg.det(linear) < _VOLUMES[1]


def _descended(
    images: tuple[Any, Any], mask: Any, transform: Any, step: float, steps: int = 40, shrink: int = 1
) -> tuple[float, Any]:
    """Negative correlation after gradient descent from ``transform``, which it changes; 0 where they do not overlap."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # the same sums for any number of cores
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(mask)
    method.SetShrinkFactorsPerLevel([shrink])
    method.SetSmoothingSigmasPerLevel([shrink - 1])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, 0.02, steps, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(*images)
    except RuntimeError:  # no voxel of one falls into the other
        return 0.0, transform
    return method.GetMetricValue(), transform


def _mask(volume: Coarse, inside: NDArray[np.bool_]) -> Any:
    return sitk.Cast(_image(volume._replace(array=inside.astype(np.float32))), sitk.sitkUInt8)


def _image(volume: Coarse) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T, dtype=np.float32))  # axes in reverse
    image.SetSpacing([_SPACING] * 3)
    image.SetOrigin(volume.origin.tolist())
    return image


def _top(volume: Coarse) -> NDArray[np.float64]:
    """Middle of the body's upper 110 mm, at the height of its top."""
    inside = np.argwhere(volume.array > 0)
    if not len(inside):
        return volume.origin
    high = inside[:, 2].max()
    middle = inside[inside[:, 2] > high - 110 / _SPACING].mean(0)
    middle[2] = high
    return volume.origin + middle * _SPACING


def _matrix(transform: Any) -> np.ndarray:
    """Matrix of ``y = A (x - c) + c + t``, (4, 4)."""
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + transform.GetTranslation() - linear @ centre
    return matrix
