"""What goes to the network's grid comes back to where it was in the patient."""

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from scripts.data.planes import AXCODES
from scripts.data.scans import save_like
from scripts.transforms import CropToForegroundd, MapInverted, Preprocessing, ResizeInPlaned, ScaleToUnitd

ROOT = Path(__file__).parents[2]
SHAPE, SPACING = (44, 36, 28), np.diag([1.5, 2.0, 2.5])
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.25)
TILT = np.array([[1.0, 0, 0], [0, 1, 0.35], [0, 0, 1]])
LINEAR = {
    "straight": SPACING,
    "oblique": TURN @ SPACING,
    "tilted": TILT @ SPACING,
    "anisotropic": TURN @ np.diag([0.8, 1.0, 6.0]),
    "tilted and oblique": TURN @ TILT @ SPACING,
}
STORED = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in permutations(range(3))
    for flips in product([1, -1], repeat=3)
]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "aspect": {"keep_aspect_ratio": True, "neighbours": True},
    "fine": {"pixel_spacing": 1.2, "crop_to_foreground": True},  # larger than the network's square
    "coarse": {"pixel_spacing": 3.0},
    "crop": {"crop_to_foreground": True, "neighbours": True},
    "crop and aspect": {"keep_aspect_ratio": True, "crop_to_foreground": True},
}
POINT = np.array([27, 13, 16])  # a voxel away from all symmetries


def preprocessing(cache: Path, **options: Any) -> Preprocessing:
    given = {"intensity": ScaleToUnitd("image", [0, 1]), "image_size": 40, **options}
    return Preprocessing(cache_dir=cache, **given)


def ball(affine: np.ndarray, centre: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian in millimetres on the grid of a scan."""
    voxels = np.moveaxis(np.indices(SHAPE), 0, -1)
    distance = nib.affines.apply_affine(affine, voxels) - centre
    return np.exp(-0.5 * (distance**2).sum(-1) / sigma**2).astype(np.float32)


def centre_of(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    found = np.argwhere(array > 0.02)
    weights = array[tuple(found.T)]
    return nib.affines.apply_affine(affine, (found * weights[:, None]).sum(0) / weights.sum())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("geometry", LINEAR)
@pytest.mark.parametrize("plane", AXCODES)
def test_a_point_comes_back_at_its_millimetre(
    tmp_path: Path, plane: str, geometry: str, options: dict[str, Any]
) -> None:
    affine = nib.affines.from_matvec(LINEAR[geometry], [-30, 12, 50])
    point = nib.affines.apply_affine(affine, POINT)
    spot = ball(affine, point, sigma=4.0)
    scan = spot + (spot > 1e-4) * 0.2  # a foreground around the spot
    turn = STORED[(11 * list(LINEAR).index(geometry) + 17 * list(AXCODES).index(plane) + 5) % 48]
    path = tmp_path / "scan.nii.gz"
    grid = affine @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    nib.save(nib.Nifti1Image(nib.orientations.apply_orientation(scan, turn), grid), path)
    process = preprocessing(tmp_path / "cache", plane=plane, **options)
    image = process({"image": str(path)})["image"]
    assert image.shape[:3] == (3, 40, 40)
    seen = image[1:2].as_tensor().clone()
    seen[seen < 0.3] = 0  # the spot where the network sees it
    result = MapInverted(process)({"image": image, "pred": seen})["anomaly_map"]
    source = nib.load(path)
    assert result.shape == (1, *source.shape)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    save_like(path, result[0].numpy(), tmp_path / "map.nii.gz")
    saved = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(saved.affine, source.affine)
    pixel = nib.affines.voxel_sizes(np.asarray(image.affine))[:2].min()
    assert np.linalg.norm(centre_of(saved.get_fdata(), saved.affine) - point) < 0.5 * pixel
    # The network's own grid says where in the patient its pixels lie, too.
    assert np.linalg.norm(centre_of(seen[0].numpy(), np.asarray(image.affine)) - point) < 0.5 * pixel


@pytest.mark.parametrize("turn", STORED[::3])
def test_a_map_comes_back_in_the_storage_of_the_file(tmp_path: Path, turn: np.ndarray) -> None:
    array = np.random.default_rng(0).random((5, 7, 6)).astype(np.float32)
    array = nib.orientations.apply_orientation(array, turn)
    nib.save(nib.Nifti1Image(array, nib.orientations.inv_ornt_aff(turn, (5, 7, 6))), tmp_path / "scan.nii")
    process = preprocessing(tmp_path / "cache", plane="sagittal", image_size=8, pixel_spacing=1.0)
    image = process({"image": str(tmp_path / "scan.nii")})["image"]
    result = MapInverted(process)({"image": image, "pred": image[:1].as_tensor()})["anomaly_map"]
    np.testing.assert_allclose(result[0], array, atol=1e-5)  # nothing was resampled, only turned and padded


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(12, 14), (12, 14, 1), (12, 14, 1, 1)])
def test_a_scan_of_one_slice_comes_back(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    path = tmp_path / f"scan{suffix}"
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 3, 4, 1])), path)
    process = preprocessing(tmp_path / "cache", neighbours=True, keep_aspect_ratio=True)
    image = process({"image": str(path)})["image"]
    assert image.shape == (3, 40, 40, 1)
    result = MapInverted(process)({"image": image, "pred": image[1:2].as_tensor()})["anomaly_map"]
    assert result.shape == (1, 12, 14, 1)
    save_like(path, result[0].numpy(), tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "map.nii.gz").affine, np.diag([2.0, 3, 4, 1]))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_map_of_an_image_has_its_rows_and_columns(tmp_path: Path, options: dict[str, Any]) -> None:
    picture = np.full((50, 70), 20, np.uint8)
    picture[30:36, 12:18] = 255
    Image.fromarray(picture).save(tmp_path / "image.png")
    process = preprocessing(tmp_path, intensity=ScaleToUnitd("image"), image_size=64, **options)
    image = process({"image": str(tmp_path / "image.png")})["image"]
    seen = (image[:1].as_tensor() - 0.2).clamp(min=0)
    result = MapInverted(process)({"image": image, "pred": seen})["anomaly_map"]
    assert result.shape == (1, 50, 70, 1)
    np.testing.assert_allclose(centre_of(result.numpy()[0], np.eye(4)), [32.5, 14.5, 0], atol=0.5)


def test_what_was_cropped_away_gets_zero(tmp_path: Path) -> None:
    array = np.zeros((60, 50, 9), np.float32)
    array[20:35, 10:24, 3:6] = np.random.default_rng(0).random((15, 14, 3)) + 1
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1, 1, 1])), tmp_path / "scan.nii.gz")
    process = preprocessing(tmp_path / "cache", crop_to_foreground=True)
    image = process({"image": str(tmp_path / "scan.nii.gz")})["image"]
    result = MapInverted(process)({"image": image, "pred": torch.ones(1, *image.shape[1:])})["anomaly_map"]
    expected = np.zeros(array.shape)
    expected[16:39, 6:28] = 1  # the box in all slices, and 4 pixels around it
    np.testing.assert_allclose(result[0], expected, atol=1e-6)


def test_what_is_larger_than_the_square_is_cut_off_and_gets_zero(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((20, 16, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    process = preprocessing(tmp_path / "cache", image_size=10, pixel_spacing=1.0)
    image = process({"image": str(tmp_path / "scan.nii")})["image"]
    result = MapInverted(process)({"image": image, "pred": torch.ones(1, *image.shape[1:])})["anomaly_map"]
    expected = np.zeros(array.shape)
    expected[5:15, 3:13] = 1
    np.testing.assert_array_equal(result[0], expected)


def boxed(shape: tuple[int, ...], box: list[list[float]], affine: np.ndarray) -> MetaTensor:
    corners = nib.affines.apply_affine(affine, np.array(box).T - 0.5)
    image = MetaTensor(torch.arange(np.prod(shape)).reshape(1, *shape).float(), affine=torch.from_numpy(affine))
    image.meta["foreground_box"] = corners
    return image


@pytest.mark.parametrize("margin", [0, 2, 100])
@pytest.mark.parametrize("affine", [np.eye(4), nib.affines.from_matvec(-TURN @ TILT, [1, 2, 3])])
def test_the_crop_is_the_box_and_its_margin(margin: int, affine: np.ndarray) -> None:
    image = boxed((12, 15, 4), [[3, 8], [0, 9], [1, 2]], affine)
    result = CropToForegroundd("image", margin)({"image": image})["image"]
    expected = image[:, max(3 - margin, 0) : 8 + margin, : 9 + margin]
    np.testing.assert_array_equal(result.as_tensor(), expected.as_tensor())
    corner = nib.affines.apply_affine(affine, [max(3 - margin, 0), 0, 0])
    np.testing.assert_allclose(np.asarray(result.affine)[:3, 3], corner, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (16, 16)),
        ({"keep_aspect_ratio": True}, (8, 16)),  # 24 mm x 48 mm
        ({"pixel_spacing": 2.0}, (12, 24)),
        ({"pixel_spacing": 2.0, "keep_aspect_ratio": True}, (12, 24)),
        ({"pixel_spacing": 1000.0}, (1, 1)),
    ],
)
def test_the_size_follows_the_spacing(options: dict[str, Any], expected: tuple[int, int]) -> None:
    image = MetaTensor(torch.rand(1, 24, 12, 3), affine=torch.diag(torch.tensor([1.0, 4, 2, 1])))
    assert ResizeInPlaned("image", 16, **options)({"image": image})["image"].shape == (1, *expected, 3)


def test_a_picture_that_fills_the_frame_keeps_its_rim() -> None:
    image = MetaTensor(torch.full((1, 90, 70, 2), 0.7))
    result = ResizeInPlaned("image", 32)({"image": image})["image"]
    assert result.shape == (1, 32, 32, 2)
    torch.testing.assert_close(result.as_tensor(), torch.full((1, 32, 32, 2), 0.7))


def test_threads_that_share_the_transform_resize_each_image_to_its_own_size() -> None:
    transform = ResizeInPlaned("image", 32, keep_aspect_ratio=True)
    images = [MetaTensor(torch.rand(1, 24 + 8 * (index % 5), 40, 1)) for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda image: transform({"image": image})["image"].shape[1:3], images))
    expected = [tuple(round(side * 32 / max(image.shape[1:3])) for side in image.shape[1:3]) for image in images]
    assert [tuple(size) for size in sizes] == expected


def test_resizing_leaves_the_slices_apart_and_does_not_alias() -> None:
    stripes = torch.zeros(1, 64, 64, 3)
    stripes[:, :, ::2, 1] = 1
    image = ResizeInPlaned("image", 16)({"image": MetaTensor(stripes)})["image"]
    assert image[..., 0].abs().max() == image[..., 2].abs().max() == 0
    np.testing.assert_allclose(image[0, 1:-1, 3:-3, 1], 0.5, atol=0.05)


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan")])
def test_a_spacing_that_is_none_is_refused(spacing: float) -> None:
    with pytest.raises(ValueError, match="pixel_spacing must be positive"):
        ResizeInPlaned("image", 16, pixel_spacing=spacing)
