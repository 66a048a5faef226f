"""Phantom volumes: the files, their geometry against anatomy, lesions against their masks, and the DICOM series."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut
from scipy.ndimage import binary_dilation, label

from bundle.phantom.volumes import write_phantom_volumes

SMALL: dict[str, Any] = {"normal": 4, "anomalous": 4, "shape": (64, 72, 10), "spacing": (3.0, 2.5, 8.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "set"
    write_phantom_volumes(folder, **SMALL)
    return folder


def scans(folder: Path, pattern: str = "*/sub-*") -> list[tuple[NDArray[Any], NDArray[Any], Path]]:
    """Arrays in RAS+ with their affines."""
    found = []
    for path in sorted(folder.glob(f"{pattern}/ct.nii.gz")):
        image = nib.as_closest_canonical(nib.load(path))
        found.append((np.asarray(image.dataobj), image.affine, path))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_volumes_are_of_one_grid_in_several_orientations(folder: Path) -> None:
    found = scans(folder)
    assert [path.parent.name for *_, path in found] == [f"sub-0{i}" for i in (5, 6, 7, 8, 1, 2, 3, 4)]
    for array, affine, path in found:
        assert array.dtype == np.int16
        assert array.shape == SMALL["shape"]
        assert np.allclose(np.diag(affine)[:3], SMALL["spacing"])
        assert -1024 <= array.min() < -900
        assert array.max() > 700
        header = nib.load(path).header
        assert header.get_xyzt_units()[0] == "mm"
        assert header["qform_code"] == header["sform_code"] == 1
    stored = {"".join(nib.aff2axcodes(nib.load(path).affine)) for *_, path in found}
    assert stored == {"RAS", "LAS", "PIR", "LPS"}


def test_sides_are_where_the_affine_says(folder: Path) -> None:
    """Landmarks are located in mm with the affine as stored, so that voxel order does not matter."""
    for path in folder.glob("normal/*/ct.nii.gz"):
        image = nib.load(path)
        array = np.asarray(image.dataobj)

        def middle(mask: NDArray[np.bool_], affine: NDArray[np.float64] = image.affine) -> NDArray[np.float64]:
            return (affine @ [*np.argwhere(mask).mean(axis=0), 1])[:3]

        head = middle(array > -500)
        # Of the dense spots that no bone touches the calcification is the largest.
        parts, _ = label((array > 60) & (array < 400))
        near_bone = np.unique(parts[binary_dilation(array > 600)])
        sizes = np.bincount(parts.ravel())
        sizes[near_bone] = sizes[0] = 0
        spot = middle(parts == sizes.argmax())
        assert spot[0] < head[0] - 8  # the patient's left is negative in RAS
        assert spot[1] < head[1] - 8  # behind the middle
        bone = np.argwhere(array > 600) @ image.affine[2, :3] + image.affine[2, 3]
        assert np.mean(bone > np.median(np.unique(bone))) < 0.48  # the head narrows upwards


def test_a_lesion_is_in_the_brain_in_some_slices_and_seen(folder: Path) -> None:
    for array, affine, path in scans(folder, "anomalous/sub-*"):
        image = nib.as_closest_canonical(nib.load(path.with_name("lesion.nii.gz")))
        mask = np.asarray(image.dataobj)
        assert np.array_equal(image.affine, affine)
        assert nib.load(path).affine.tolist() == nib.load(path.with_name("lesion.nii.gz")).affine.tolist()
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        slices = np.flatnonzero(mask.any(axis=(0, 1)))
        assert 2 <= len(slices) < array.shape[2]
        assert all(b - a == 1 for a, b in pairwise(slices))
        lesion, brain = np.median(array[mask == 1]), np.median(array[(array > 15) & (array < 60)])
        assert 3 < abs(lesion - brain) < 60
        assert lesion < np.percentile(array, 95)
    assert not list(folder.glob("normal/*/lesion.nii.gz"))


def test_the_dicom_series_holds_the_voxels_of_the_nifti(folder: Path) -> None:
    image = nib.load(folder / "anomalous/sub-08/ct.nii.gz")
    assert [path.name for path in (folder / "dicom").iterdir()] == ["sub-08"]
    series = sorted(map(dcmread, (folder / "dicom/sub-08").iterdir()), key=lambda ds: ds.ImagePositionPatient[2])
    array = np.stack([apply_modality_lut(ds.pixel_array, ds).T for ds in series], axis=2)
    assert np.array_equal(array, np.asarray(image.dataobj))
    for k, ds in enumerate(series):
        corner = (image.affine @ [0, 0, k, 1])[:3] * [-1, -1, 1]
        assert np.allclose(np.array(ds.ImagePositionPatient, float), corner, atol=1e-4)


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    few = SMALL | {"normal": 1, "anomalous": 1}
    for name, seed in [("one", 0), ("same", 0), ("other", 1)]:
        write_phantom_volumes(tmp_path / name, **few, seed=seed)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert not set(one.values()) & set(other.values())
    assert contents(folder)["normal/sub-01/ct.nii.gz"] == one["normal/sub-01/ct.nii.gz"]


@pytest.mark.parametrize("wrong", [{"dicom": 5}, {"normal": -1}, {"shape": (16, 64, 8)}, {"shape": (64, 64, 1)}])
def test_numbers_that_make_no_set(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ask for"):
        write_phantom_volumes(tmp_path, **(SMALL | wrong))
    assert not any(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="is not empty"):
        write_phantom_volumes(folder, **SMALL)
