"""Affine of a stack of slices, and irregularities in its geometry."""

from __future__ import annotations

import numpy as np
from highdicom.spatial import create_affine_matrix_from_attributes, get_normal_vector

from scripts.dicom.volume import distances_off_grid, mean_step, tolerance

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PLANES = ("sagittal", "coronal", "axial")
_GAPS_NAMED = 5


def normal_of(orientation: tuple[float, ...]) -> np.ndarray:
    """Unit normal (3,) in LPS of an ImageOrientationPatient, along which slices are sorted."""
    normal = get_normal_vector(orientation)
    return normal / np.linalg.norm(normal)


def plane_of(orientation: tuple[float, ...]) -> str:
    """Nearest of the planes axial, coronal and sagittal."""
    return _PLANES[int(np.abs(normal_of(orientation)).argmax())]


def affine_of(
    positions: np.ndarray, orientation: tuple[float, ...], spacing: tuple[float, ...], step: float | None
) -> np.ndarray:
    """Affine (4, 4) from voxel index (column, row, slice) to RAS+ mm.

    Args:
        positions: (k, 3) ImagePositionPatient, sorted along the normal.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing in mm.
        step: Slice step in mm of a single slice; None stands for 1 mm.
    """
    axes = np.reshape(orientation, (2, 3))
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    affine = create_affine_matrix_from_attributes(positions[0], axes.ravel(), spacing, step or 1.0)
    if len(positions) > 1:
        affine[:3, 2] = mean_step(positions)  # along the normal, except with a tilted gantry
    return _LPS_TO_RAS @ affine


def irregularities(positions: np.ndarray, normal: np.ndarray) -> list[str]:
    """Sentences about gaps between slices at (k, 3) positions, and about slices shifted sideways."""
    if len(positions) < 3:
        return []
    allowed = tolerance(positions)
    along = positions @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    found = []
    odd = np.flatnonzero(np.abs(steps - usual) > allowed)
    if len(odd):
        named = ", ".join(f"{k + 1} and {k + 2} ({steps[k]:.2f} mm)" for k in odd[:_GAPS_NAMED])
        more = f" and {len(odd) - _GAPS_NAMED} more" if len(odd) > _GAPS_NAMED else ""
        found.append(f"slices are uneven or missing: most lie {usual:.2f} mm apart, but not slices {named}{more}")
    share = (along - along[0]) / (along[-1] - along[0])
    sideways = np.linalg.norm(positions - positions[0] - share[:, None] * (positions[-1] - positions[0]), axis=1)
    if sideways.max() > allowed:
        found.append(f"slice {sideways.argmax() + 1} is shifted sideways by {sideways.max():.2f} mm")
    if not found and distances_off_grid(positions).max() > allowed:
        found.append(f"slice steps drift, by up to {distances_off_grid(positions).max():.2f} mm in total")
    return found
