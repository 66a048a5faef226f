"""Uneven volumes on an even grid, NIfTI files, and names of patients."""

import hashlib
import hmac
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.dicom.nifti import write_nifti
from scripts.dicom.privacy import group_of
from scripts.dicom.volume import Volume, mask_volume, resample_evenly

EVEN = np.array([[-0.7, 0, 0, 31.5], [0, -1.1, 0.4, -12.25], [0, 0, 3, 8], [0, 0, 0, 1.0]])  # a tilted gantry


def volume(places: list[float]) -> Volume:
    """Slices at multiples of EVEN's step; every voxel holds its position along the stack in these steps."""
    ras = EVEN[:3, 3] + np.array(places)[:, None] * EVEN[:3, 2]
    affine = EVEN.copy()
    affine[:3, 3] = ras[0]
    affine[:3, 2] = (ras[-1] - ras[0]) / (len(places) - 1)
    array = np.broadcast_to(np.array(places, np.float32), (4, 5, len(places))).copy()
    return Volume(array, affine, [], None, ras * (-1, -1, 1))


@pytest.mark.parametrize(
    "places", [[0, 1, 2, 4, 5], [2, 3, 4, 5, 6.4], [0, 1, 2.5, 3.5, 4.5, 5.5], [0, 0.3, 1.3, 2.3, 5]]
)
def test_uneven_slices_on_an_even_grid(places: list[float]) -> None:
    uneven = volume(places)
    assert uneven.uneven
    array, affine = resample_evenly(uneven.array, uneven, 1)
    np.testing.assert_allclose(affine[:3, :3], EVEN[:3, :3], atol=1e-9)
    np.testing.assert_allclose(affine[:3, 3], uneven.affine[:3, 3])
    expected = np.minimum(places[0] + np.arange(array.shape[2]), places[-1])
    np.testing.assert_allclose(array, np.broadcast_to(expected, array.shape), rtol=1e-6)
    assert abs(places[0] + array.shape[2] - 1 - places[-1]) <= 0.5
    assert array.dtype == np.float32


def test_masks_keep_dtype_and_nearest_slice() -> None:
    uneven = volume([0, 1, 2, 4.2, 5.2])
    mask = np.zeros((4, 5, 5), np.uint8)
    mask[..., 3] = 1
    resampled, _ = resample_evenly(mask, uneven, 0)
    assert resampled.dtype == np.uint8
    np.testing.assert_array_equal(resampled[0, 0], [0, 0, 0, 0, 1, 0])


def test_even_volumes_stay() -> None:
    even = volume([0, 1, 2, 3])
    array, affine = resample_evenly(even.array, even, 1)
    assert array is even.array
    assert affine is even.affine
    with pytest.raises(ValueError, match="order"):
        resample_evenly(even.array, even, 3)
    with pytest.raises(ValueError, match="shape|got"):
        resample_evenly(even.array[1:], even, 1)


def test_small_differences_are_even() -> None:
    assert not volume([0, 1, 2.005, 3]).uneven
    assert volume([0, 1, 2.02, 3]).uneven


@pytest.mark.parametrize("name", ["a.nii", "ß x.nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int16, bool])
def test_nifti_of_an_upright_volume(tmp_path: Path, name: str, dtype: type) -> None:
    affine = EVEN.copy()
    affine[1, 2] = 0
    array = (np.arange(60).reshape(3, 4, 5) % 2).astype(dtype)
    path = tmp_path / "new folder" / name
    write_nifti(array, affine, path)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    assert image.get_data_dtype() == (np.uint8 if dtype is bool else dtype)
    for stored, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(stored, affine, atol=1e-5)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [each.name for each in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    ("places", "steps"),
    [
        ([0, 1, 2, 3], 1 + 2 + 3 + 4),
        ([0, 1, 2.5, 4.5], 1 * 1 + 2 * 1.25 + 3 * 1.75 + 4 * 2),  # halfway to the neighbours
    ],
)
def test_the_volume_of_a_mask_counts_how_far_its_slices_reach(places: list[float], steps: float) -> None:
    scan = volume(places)
    mask = np.zeros((4, 5, 4), np.uint8)
    for k in range(4):
        mask[: k + 1, 2, k] = 1
    assert mask_volume(mask, scan) == pytest.approx(steps * 0.7 * 1.1 * 3)  # a tilt shears, and keeps the volume


def test_the_volume_of_a_mask_of_one_slice_is_by_its_step() -> None:
    scan = Volume(np.zeros((4, 5, 1)), EVEN, [], None, EVEN[None, :3, 3] * (-1, -1, 1))
    assert mask_volume(np.ones((4, 5, 1), bool), scan) == pytest.approx(20 * 0.7 * 1.1 * 3)


def test_nifti_of_a_tilted_volume(tmp_path: Path) -> None:
    write_nifti(np.zeros((3, 4, 5), np.float32), EVEN, tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(image.affine, EVEN, atol=1e-5)
    assert image.get_qform(coded=True) == (None, 0)


def test_nifti_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png"):
        write_nifti(np.zeros((3, 4, 5), np.float32), EVEN, tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/a.nii"):
        write_nifti(np.zeros((3, 4, 5), np.float32), EVEN, tmp_path / "file" / "a.nii")


def test_an_older_nifti_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match=r"a\.nii.*No space"):
        write_nifti(np.zeros((3, 4, 5), np.float32), EVEN, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_groups_are_keyed_hashes() -> None:
    expected = hmac.new(b"salt", "Müller".encode(), hashlib.sha256).hexdigest()[:16]
    assert group_of("Müller", "salt") == expected
    assert len({group_of(key, salt) for key in ("a", "b") for salt in ("x", "y")}) == 4
    with pytest.raises(ValueError, match="salt"):
        group_of("a", "")
