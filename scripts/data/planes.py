"""Planes that a scan is looked at in: their axes, directions and the names of their slices."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np

# Directions of rows, columns and slices as radiologists look at a plane: patient's right on the left of the picture,
# anterior or superior on top (sagittal: anterior on the left).
AXCODES = {"axial": "PLS", "coronal": "ILP", "sagittal": "IPL"}


def plane_axis(affine: np.ndarray, shape: Sequence[int], plane: str) -> tuple[int, int, bool]:
    """The array axis along which a plane's slices lie, how many there are, and whether the axis runs against them."""
    orientation = nib.io_orientation(affine)
    wanted = nib.orientations.axcodes2ornt(AXCODES[plane])[2]
    axis = int(np.flatnonzero(orientation[:, 0] == wanted[0])[0])
    return axis, shape[axis], bool(orientation[axis, 1] != wanted[1])


def slice_name(path: str, plane: str, index: int) -> str:
    """How one slice of a scan is called in messages, and told apart from the others."""
    return f"{path} ({plane} slice {index})"


def check_plane(plane: str) -> None:
    """Checks the name of a plane.

    Raises:
        ValueError: If there is no such plane.
    """
    if plane not in AXCODES:
        raise ValueError(f"plane must be {', '.join(AXCODES)}, got '{plane}'.")
