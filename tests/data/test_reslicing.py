"""Volumes on other grids: closed forms, the cache, and masks."""

from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.data.reslicing import Grid, resliced, resliced_scan
from scripts.data.scans import forget_scan, open_scan


def world(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """RAS coordinates of all voxels, (3, i, j, k)."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)).transpose(3, 0, 1, 2)


def test_a_linear_function_of_space_stays_itself_on_any_finer_grid() -> None:
    affine = np.array([[-2.0, 0.1, 0, 10], [0.1, 2, 0.3, -5], [0, 0, 3, 1], [0, 0, 0, 1]])
    oblique = np.array([[0.9, 0.1, 0.0, -12], [-0.1, 0.9, 0.2, 8], [0.1, 0.0, 0.9, 12], [0, 0, 0, 1]])
    function = np.array([1.0, -2.0, 0.5])
    values = np.tensordot(function, world((20, 21, 22), affine), 1)
    grid = Grid((6, 7, 8), oblique)
    expected = np.tensordot(function, world(grid.shape, oblique), 1)
    np.testing.assert_allclose(resliced(values, affine, grid), expected, rtol=1e-4, atol=1e-4)


def test_a_coarser_grid_averages_and_the_edges_repeat_outside() -> None:
    noise = np.random.default_rng(0).normal(size=(64, 64, 8))
    coarse = np.diag([8.0, 8, 1, 1])
    coarse[:2, 3] = 3.5
    assert resliced(noise, np.eye(4), Grid((8, 8, 8), coarse)).std() < 0.3
    ramp = np.arange(4.0)[:, None, None] * np.ones((4, 3, 3))
    shifted = np.eye(4)
    shifted[0, 3] = -2
    assert resliced(ramp, np.eye(4), Grid((8, 1, 1), shifted))[:, 0, 0].tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_a_scan_is_kept_on_its_new_grid_and_forgotten_with_it(tmp_path: Path) -> None:
    array, file = np.arange(60, dtype=np.int16).reshape(3, 4, 5), tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4)), file)
    half = np.diag([0.5, 1, 1, 1])
    found = resliced_scan(open_scan(file, tmp_path / "cache"), tmp_path / "cache", Grid((5, 4, 5), half))
    np.testing.assert_allclose(found.array()[1], (array[0] + array[1]) / 2)
    np.testing.assert_allclose(found.affine, half)
    assert (found.box, found.source) == ([[0, 5], [0, 4], [0, 5]], str(file))
    again = resliced_scan(open_scan(file, tmp_path / "cache"), tmp_path / "cache", Grid((5, 4, 5), half))
    assert again.path == found.path
    forget_scan(file, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_mask_keeps_every_voxel_that_it_touches(tmp_path: Path) -> None:
    array, file = np.zeros((4, 4, 4), np.uint8), tmp_path / "mask.nii"
    array[1, 1, 1] = 7
    nib.save(nib.Nifti1Image(array, np.eye(4)), file)
    shifted = np.eye(4)
    shifted[2, 3] = 0.5
    mask = resliced_scan(open_scan(file, tmp_path, mask=True), tmp_path, Grid((4, 4, 3), shifted), mask=True)
    assert np.argwhere(mask.array()).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert mask.foreground[2] == [1, 1, 0]
