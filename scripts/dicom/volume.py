"""Series as one array in patient coordinates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydicom import Dataset


class UnreadableSeriesError(ValueError):
    """Files that cannot be read faithfully as one volume or image; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels of a series, and all that is needed to write results in the same geometry."""

    array: np.ndarray = field(repr=False)  # (i, j, k) = (column, row, slice): int16, int32 or float32, modality units
    affine: np.ndarray  # (4, 4), voxel index to RAS+ mm; with the mean slice step if slices are uneven
    sources: list[Dataset] = field(repr=False)  # without pixel data: one for each slice in order, or one for all frames
    frames: list[int] | None = field(repr=False)  # enhanced image: 1-based frame numbers in the order of slices
    positions: np.ndarray = field(repr=False)  # (k, 3) LPS mm, centre of the first voxel of every slice
    warnings: list[str] = field(default_factory=list)

    @property
    def uneven(self) -> bool:
        """Whether a slice lies off the regular grid by more than 1 % of the step and more than 0.01 mm."""
        return bool((distances_off_grid(self.positions) > tolerance(self.positions)).any())


def tolerance(positions: np.ndarray) -> float:
    """Distance in mm by which slices at these (k, 3) positions may lie off an even grid."""
    return max(0.01, 0.01 * float(np.linalg.norm(mean_step(positions))))


def mean_step(positions: np.ndarray) -> np.ndarray:
    """Mean vector (3,) in mm from slice to slice; zero for a single slice."""
    return (positions[-1] - positions[0]) / max(1, len(positions) - 1)


def distances_off_grid(positions: np.ndarray) -> np.ndarray:
    """Distances (k,) in mm of (k, 3) positions from evenly spaced ones between the first and the last."""
    even = positions[0] + np.arange(len(positions))[:, None] * mean_step(positions)
    return np.linalg.norm(positions - even, axis=1)


def mask_volume(mask: np.ndarray, volume: Volume) -> float:
    """Volume in mm³ of an (i, j, k) mask on the slices of a scan.

    A slice extends halfway to its neighbours, and the outermost slices as far out as in: with even slices, one step
    each.
    """
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    area = float(np.linalg.norm(normal))
    if len(volume.positions) == 1:
        extents = np.array([abs(volume.affine[:3, 2] @ normal) / area])
    else:
        along = volume.positions * (-1, -1, 1) @ normal / area
        middle = (along[1:] + along[:-1]) / 2
        edges = np.concatenate([[2 * along[0] - middle[0]], middle, [2 * along[-1] - middle[-1]]])
        extents = np.abs(np.diff(edges))
    return float((mask != 0).sum(axis=(0, 1)) @ extents * area)


def resample_evenly(array: np.ndarray, volume: Volume, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Resamples an array from the volume's uneven slices to an even grid, the only kind that NIfTI knows.

    The grid starts at the first slice and has the median slice step. It ends at the last slice, or less than half a
    step beyond, where the last slice is repeated. Slices shifted sideways stay unchanged.

    Args:
        array: Values (i, j, k) on the slices of the volume.
        volume: Volume with the positions of the slices.
        order: 0 for the nearest slice, which keeps the dtype; 1 for linear interpolation, which returns float32.

    Returns:
        Array (i, j, k') and its affine to RAS+ mm; both unchanged if the slices are even.

    Raises:
        ValueError: If the shapes of array and volume differ, or the order is neither 0 nor 1.
    """
    if array.shape != volume.array.shape or order not in (0, 1):
        raise ValueError(f"Give order 0 or 1 and {volume.array.shape}; got order {order} and {array.shape}.")
    if not volume.uneven:
        return array, volume.affine
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    along = (volume.positions - volume.positions[0]) * (-1, -1, 1) @ normal / np.linalg.norm(normal)
    spacing = float(np.median(np.diff(along)))
    wanted = np.arange(round(along[-1] / spacing) + 1) * spacing
    place = np.interp(wanted, along, np.arange(len(along)))  # slice index, with a fraction between two slices
    below = np.minimum(place.astype(int), len(along) - 2)
    share = (place - below).astype(np.float32)
    affine = volume.affine.copy()
    affine[:3, 2] *= spacing * (len(along) - 1) / along[-1]
    if order == 0:
        return array[..., below + (share > 0.5)], affine
    return array[..., below] * (1 - share) + array[..., below + 1] * share, affine
