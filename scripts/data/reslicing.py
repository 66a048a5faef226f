"""Volumes on other grids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from scripts.data.scans import Scan, cached, described
from scripts.files import replacing


class Grid(NamedTuple):
    """Grid of voxels in space.

    Attributes:
        shape: Number of voxels along each axis, (i, j, k).
        affine: Affine from voxel indices to RAS millimetres, (4, 4); it may shear.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray


def resliced(array: NDArray, affine: np.ndarray, grid: Grid) -> NDArray[np.float32]:
    """Interpolates a volume linearly on another grid, smoothed where that is coarser; its edges repeat outside it.

    Args:
        array: Volume, (i, j, k).
        affine: Affine of the volume, (4, 4).
        grid: The other grid.

    >>> ramp = np.arange(4.0)[:, None, None] + np.zeros((4, 2, 2))
    >>> half = np.diag([0.5, 1, 1, 1])
    >>> resliced(ramp, np.eye(4), Grid((5, 1, 1), half))[:, 0, 0].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    to_source = np.linalg.inv(affine) @ grid.affine
    sigmas = [max(0.0, (step - 1) / 2) for step in np.linalg.norm(to_source[:3, :3], axis=1)]
    smooth = gaussian_filter(np.asarray(array, np.float32), sigmas, mode="nearest")
    return affine_transform(smooth, to_source[:3, :3], to_source[:3, 3], grid.shape, order=1, mode="nearest")


def resliced_scan(scan: Scan, cache_dir: str | Path, grid: Grid, mask: bool = False) -> Scan:
    """Scan on another grid, all of which is its box; kept in the cache.

    Args:
        scan: Scan to interpolate.
        cache_dir: Folder of the cache, see ``open_scan``.
        grid: The other grid.
        mask: Whether the scan is a mask, which then holds every voxel that it touches.

    Raises:
        OSError: If ``cache_dir`` cannot be written.
    """
    kind = json.dumps([grid.shape, np.round(grid.affine, 6).tolist()])

    def convert(kept: Path) -> dict[str, object]:
        array = resliced(scan.array() != 0 if mask else scan.array(), scan.affine, grid)
        array = (array > 0).astype(np.uint8) if mask else array
        with replacing(kept) as part:
            nib.save(nib.Nifti1Image(array, grid.affine), part)
        box = [[0, size] for size in grid.shape]
        return {**described(array, grid.affine, mask), "path": str(kept.resolve()), "box": box}

    return cached(scan, cache_dir, hashlib.sha256(kind.encode()).hexdigest()[:12], convert)
