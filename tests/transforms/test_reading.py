"""Whatever way a scan is stored, its slices look the same, and lie where they lay."""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from scripts.data.foreground import foreground_quantiles
from scripts.data.planes import AXCODES, plane_axis, slice_name
from scripts.data.scans import UnreadableScanError, open_scan
from scripts.transforms import LoadScand, Preprocessing, ScaleByForegroundd, ScaleToUnitd, ToPlaned, Windowedd

ROOT = Path(__file__).parents[2]

# A patient: x to the right, y to the front, z upwards, each voxel another value.
SHAPE = (6, 7, 5)
PATIENT = np.random.default_rng(0).permutation(210).reshape(SHAPE).astype(np.float32)
SPACING = np.diag([2.0, 3.0, 4.0])
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.25)
SHEAR = np.array([[1.0, 0, 0], [0, 1, 0.35], [0.1, 0, 1]])
AFFINES = {
    "straight": nib.affines.from_matvec(SPACING, [-7, 11, 20]),
    "oblique": nib.affines.from_matvec(TURN @ SPACING, [-7, 11, 20]),
    "tilted": nib.affines.from_matvec(SHEAR @ SPACING, [-7, 11, 20]),
    "anisotropic": nib.affines.from_matvec(TURN @ np.diag([0.4, 9.0, 1.0]), [100, 0, 0]),
}
STORED = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in permutations(range(3))
    for flips in product([1, -1], repeat=3)
]
# As radiologists look: the patient's right on the left or anterior on the left, anterior or superior on top.
PICTURES = {
    "axial": PATIENT[::-1, ::-1].transpose(1, 0, 2),
    "coronal": PATIENT[::-1, ::-1, ::-1].transpose(2, 0, 1),
    "sagittal": PATIENT[::-1, ::-1, ::-1].transpose(2, 1, 0),
}
AXES = {"axial": (1, 0, 2), "coronal": (2, 0, 1), "sagittal": (2, 1, 0)}  # x, y, z that a picture's axes run along


def stored(path: Path, ornt: np.ndarray, affine: np.ndarray, array: np.ndarray = PATIENT) -> str:
    """The patient with the axes of its array permuted and flipped, and the affine that says so."""
    turned = nib.orientations.apply_orientation(array, ornt)
    nib.save(nib.Nifti1Image(turned, affine @ nib.orientations.inv_ornt_aff(ornt, array.shape)), path)
    return str(path)


def place(image: Any, *pixel: int) -> np.ndarray:
    return nib.affines.apply_affine(np.asarray(image.affine), pixel)


def where(plane: str, pixel: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Millimetres of a pixel (row, column, slice) of ``PICTURES``."""
    backwards = {"axial": (True, True, False)}.get(plane, (True, True, True))
    voxel = np.zeros(3)
    for axis, index, back in zip(AXES[plane], pixel, backwards, strict=True):
        voxel[axis] = SHAPE[axis] - 1 - index if back else index
    return nib.affines.apply_affine(affine, voxel)


@pytest.mark.parametrize("geometry", AFFINES)
@pytest.mark.parametrize("plane", AXCODES)
def test_any_storage_gives_the_same_pictures(tmp_path: Path, plane: str, geometry: str) -> None:
    read = Compose([LoadScand("image", tmp_path / "cache", plane), ToPlaned("image", plane)])
    affine, picture = AFFINES[geometry], PICTURES[plane]
    for number, ornt in enumerate(STORED):
        path = stored(tmp_path / f"{number}.nii", ornt, affine)
        whole = read({"image": path})["image"]
        np.testing.assert_array_equal(whole[0], picture, err_msg=str(ornt))
        np.testing.assert_allclose(place(whole, 1, 2, 3), where(plane, (1, 2, 3), affine), atol=1e-4)
        scan = open_scan(path, tmp_path / "cache")
        assert plane_axis(scan.affine, scan.shape, plane)[1] == picture.shape[2]
        for index in (0, 3, picture.shape[2] - 1):
            thin = read({"image": path, "slice": index})["image"]
            np.testing.assert_array_equal(thin[0, ..., 0], picture[..., index], err_msg=str(ornt))
            np.testing.assert_allclose(place(thin, 1, 2, 0), where(plane, (1, 2, index), affine), atol=1e-4)
            assert thin.meta["filename_or_obj"] == slice_name(path, plane, index)


@pytest.mark.parametrize("plane", AXCODES)
@pytest.mark.parametrize("neighbours", [1, 2])
def test_neighbours_come_in_order_and_in_place(tmp_path: Path, plane: str, neighbours: int) -> None:
    read = Compose([LoadScand("image", tmp_path / "cache", plane, neighbours), ToPlaned("image", plane)])
    affine, picture = AFFINES["tilted"], PICTURES[plane]
    last = picture.shape[2] - 1
    for number, ornt in enumerate(STORED[::5]):
        path = stored(tmp_path / f"{number}.nii.gz", ornt, affine)
        for index in range(last + 1):
            thick = read({"image": path, "slice": index})["image"]
            around = np.clip(np.arange(index - neighbours, index + neighbours + 1), 0, last)
            np.testing.assert_array_equal(thick[0], picture[..., around])
            middle = place(thick, 1, 2, neighbours)
            np.testing.assert_allclose(middle, where(plane, (1, 2, index), affine), atol=1e-4)


def test_a_slice_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "scan.nii", STORED[0], AFFINES["straight"])
    for index in (-1, SHAPE[2]):
        with pytest.raises(ValueError, match=rf"scan\.nii \(axial slice {index}\): it has 5 slices"):
            LoadScand("image", tmp_path / "cache")({"image": path, "slice": index})


def test_metadata_is_that_of_the_whole_scan(tmp_path: Path) -> None:
    array = np.zeros((9, 8, 7), np.int16)
    array[2:5, 1:6, 3:5] = np.arange(30).reshape(3, 5, 2) + 50
    path = stored(tmp_path / "scan.nii", STORED[29], AFFINES["oblique"], array)
    for index in (None, 4):
        item = {"image": path} | ({} if index is None else {"slice": index})
        meta = LoadScand("image", tmp_path / "cache", "coronal")(item)["image"].meta
        np.testing.assert_array_equal(meta["foreground_quantiles"], foreground_quantiles(nib.load(path).get_fdata()))
        corners = nib.affines.apply_affine(np.linalg.inv(AFFINES["oblique"]), meta["foreground_box"])
        np.testing.assert_allclose(np.sort(corners, 0), [[1.5, 0.5, 2.5], [4.5, 5.5, 4.5]], atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("u1", torch.uint8), ("i2", torch.int16), ("u2", torch.int64), ("u4", torch.int64), ("u8", torch.int64),
        ("i8", torch.int64), ("f4", torch.float32), ("f8", torch.float64),
    ],
)  # fmt: skip
def test_types_are_kept_as_far_as_torch_computes_with_them(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(PATIENT.astype(dtype), AFFINES["straight"], dtype=np.dtype(dtype)), path)
    image = LoadScand("image", tmp_path / "cache")({"image": str(path)})["image"]
    assert image.dtype == expected
    assert (image.min(), image.max()) == (0, 209)
    np.testing.assert_array_equal(ToPlaned("image")({"image": image})["image"][0], PICTURES["axial"])


def test_masks_are_zero_and_one(tmp_path: Path) -> None:
    path = stored(tmp_path / "mask.nii.gz", STORED[0], AFFINES["straight"], np.where(PATIENT > 100, PATIENT, 0))
    mask = LoadScand("mask", tmp_path / "cache", masks=True)({"mask": path})["mask"]
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask[0], PATIENT > 100)


def test_an_image_is_a_volume_of_one_slice_that_lies_as_it_is_seen(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "colour.png")
    Image.fromarray(array[..., 0]).save(tmp_path / "grey.png")
    read = Compose([LoadScand("image", tmp_path), ToPlaned("image")])
    np.testing.assert_array_equal(read({"image": str(tmp_path / "grey.png")})["image"][0, ..., 0], array[..., 0])
    image = read({"image": str(tmp_path / "colour.png")})["image"]
    np.testing.assert_array_equal(image[..., 0], array.transpose(2, 0, 1))
    assert image.meta["filename_or_obj"] == str(tmp_path / "colour.png")


def test_an_image_has_no_other_plane(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png is an image, which has no coronal plane.*--plane"):
        LoadScand("image", tmp_path, "coronal")({"image": str(tmp_path / "a.png")})


@pytest.mark.parametrize("make", [lambda: LoadScand("image", "cache", "oblique"), lambda: ToPlaned("image", "oblique")])
def test_an_unknown_plane_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="axial, coronal, sagittal, got 'oblique'"):
        make()


def test_what_cannot_be_read_is_refused_and_what_is_read_passes(tmp_path: Path) -> None:
    (tmp_path / "empty.nii").touch()
    load = LoadScand("image", tmp_path / "cache")
    with pytest.raises(UnreadableScanError, match=r"empty\.nii"):
        load({"image": tmp_path / "empty.nii"})
    with pytest.raises(FileNotFoundError, match=r"absent\.nii"):
        load({"image": str(tmp_path / "absent.nii")})
    tensor = torch.ones(1)
    assert load({"image": tensor})["image"] is tensor


HEAD = np.zeros((24, 30, 11), np.float32)
HEAD[4:19, 5:28, 2:10] = np.random.default_rng(0).random((15, 23, 8)) * 100 + 20
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "aspect": {"keep_aspect_ratio": True},
    "spacing": {"pixel_spacing": 1.7},
    "coarse": {"pixel_spacing": 9.0},
    "crop": {"crop_to_foreground": True},
    "neighbours": {"neighbours": True},
    "all": {"neighbours": True, "crop_to_foreground": True, "pixel_spacing": 2.3},
    "window": {"intensity": Windowedd("image", ["brain"])},
    "windows": {"intensity": Windowedd("image", ["brain", "bone", [20, 50]])},
    "mr": {
        "intensity": ScaleByForegroundd("image"),
        "neighbours": True,
        "crop_to_foreground": True,
        "keep_aspect_ratio": True,
    },
}


def preprocessing(cache: Path, **options: Any) -> Preprocessing:
    given = {"intensity": ScaleToUnitd("image", [0, 120]), "image_size": 32, **options}
    return Preprocessing(cache_dir=cache, **given)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("plane", AXCODES)
def test_a_slice_read_alone_is_that_of_the_whole_scan(tmp_path: Path, plane: str, options: dict[str, Any]) -> None:
    path = stored(tmp_path / "scan.nii.gz", STORED[37], AFFINES["oblique"], HEAD)
    process = preprocessing(tmp_path / "cache", plane=plane, **options)
    whole = process({"image": path})["image"]
    assert whole.shape[:3] == (3, 32, 32)
    assert whole.std() > 0
    for index in (0, 1, 5, whole.shape[3] - 1):
        thin = process({"image": path, "slice": index})["image"]
        assert thin.shape == (3, 32, 32, 1)
        torch.testing.assert_close(thin[..., 0].as_tensor(), whole[..., index].as_tensor(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(place(thin, 3, 4, 0), place(whole, 3, 4, index), atol=1e-4)
