"""Registration and the template: known maps are found again, and scans come to lie on one another."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from scripts.data.registration import Coarse, registered
from scripts.transforms import Preprocessing, ScaleToUnitd

SHAPE = (60, 70, 50)


def head(world: np.ndarray) -> np.ndarray:
    """A shell around grey matter with a dark and a bright core, at RAS millimetres (..., 3), in [0, 1]."""
    x, y, z = np.moveaxis(world, -1, 0)
    radius = np.sqrt((x / 70) ** 2 + (y / 90) ** 2 + (z / 75) ** 2)
    value = np.where(radius < 0.85, 0.4, np.where(radius < 1, 1.0, 0.0))
    value = np.where((x / 15) ** 2 + ((y - 20) / 30) ** 2 + (z / 12) ** 2 < 1, 0.2, value)
    return np.where(((x - 25) / 12) ** 2 + ((y + 35) / 12) ** 2 + ((z - 15) / 12) ** 2 < 1, 0.7, value)


def volume(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The head moved by ``matrix``, and its affine."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -2 * (np.array(SHAPE) - 1)
    world = nib.affines.apply_affine(np.linalg.inv(matrix) @ affine, np.moveaxis(np.indices(SHAPE), 0, -1))
    return gaussian_filter(head(world), 0.7).astype(np.float32), affine


def moved(tilt: float, shift: tuple[float, float, float], scale: float = 1.0) -> np.ndarray:
    return from_matvec(scale * Rotation.from_euler("xyz", [tilt, 3, -4], degrees=True).as_matrix(), shift)


@pytest.mark.parametrize(("tilt", "shift", "scale"), [(14, (5, -8, 10), 1.05), (-12, (-6, 4, -12), 0.94)])
def test_a_known_map_is_found_again(tilt: float, shift: tuple[float, float, float], scale: float) -> None:
    true = moved(tilt, shift, scale)
    (fixed, affine), (moving, _) = volume(np.eye(4)), volume(true)
    found = registered(Coarse(fixed, affine[:3, 3]), Coarse(moving, affine[:3, 3]))
    points = np.array([[0, 0, 0], [40, 0, 0], [-40, 30, 20], [20, -60, 10], [0, 0, 55]])
    distance = np.linalg.norm(
        nib.affines.apply_affine(found.matrix, points) - nib.affines.apply_affine(true, points), axis=1
    )
    assert distance.max() < 5  # little more than a voxel, at the far ends
    assert found.correlation > 0.95


def scans(folder: Path, count: int) -> list[str]:
    """Heads at different tilts, brightnesses and coverages as NIfTI of 3 x 3 x 5 mm."""
    files, random = [], np.random.default_rng(0)
    for number in range(count):
        true = moved(random.uniform(-10, 10), tuple(random.uniform(-8, 8, 3)), random.uniform(0.95, 1.05))
        affine = np.diag([-3.0, -3, 5, 1])
        affine[:3, 3] = [100, 120, -90 + 5 * (number % 3)]
        grid = np.moveaxis(np.indices((68, 80, 38 - number % 3)), 0, -1)
        world = nib.affines.apply_affine(np.linalg.inv(true) @ affine, grid)
        array = np.round(200 * np.clip(head(world) + 0.03 * (number % 2) * (head(world) > 0), 0, 1))
        nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), folder / f"{number}.nii.gz")
        files.append(str(folder / f"{number}.nii.gz"))
    return files


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Preprocessing, list[str]]:
    folder = tmp_path_factory.mktemp("heads")
    files = scans(folder, 4)
    preprocessing = Preprocessing(ScaleToUnitd("image", [0, 200]), 128, cache_dir=folder / "cache", align=True)
    preprocessing.learn(files[:3])
    return preprocessing, files


def test_scans_come_to_lie_on_one_another(aligned: tuple[Preprocessing, list[str]]) -> None:
    preprocessing, files = aligned
    images = [preprocessing({"image": file})["image"].as_tensor()[0] for file in files]
    assert len({image.shape for image in images}) == 1
    assert images[0].shape[:2] == (128, 128)
    new = images[-1].flatten()
    for image in images[:-1]:
        assert torch.corrcoef(torch.stack([image.flatten(), new]))[0, 1] > 0.93


def test_brightness_is_that_of_the_template(aligned: tuple[Preprocessing, list[str]]) -> None:
    preprocessing, files = aligned
    matter = [preprocessing({"image": file})["image"].as_tensor()[0] for file in files]
    medians = [float(image[(image > 0.3) & (image < 0.5)].median()) for image in matter]
    assert max(medians) - min(medians) < 0.01


def test_the_region_is_what_lies_within_the_shell(aligned: tuple[Preprocessing, list[str]]) -> None:
    preprocessing, files = aligned
    assert preprocessing.template is not None
    image = preprocessing({"image": files[3]})["image"].as_tensor()[0].permute(2, 0, 1)
    places = (torch.arange(len(image)) + 0.5) / len(image)
    inside = preprocessing.template.inside(places, (128, 128))[:, 0]
    assert 0.2 < inside.float().mean() < 0.5
    assert ((image > 0.15) & (image < 0.8))[inside].float().mean() > 0.97
    middle = (slice(len(image) // 4, -len(image) // 4), slice(40, 88), slice(40, 88))
    dark = image[middle] < 0.25  # a hole of the grey
    assert dark.sum() > 100
    assert inside[middle][dark].float().mean() > 0.9


def test_a_slice_is_that_of_the_aligned_scan(aligned: tuple[Preprocessing, list[str]]) -> None:
    preprocessing, files = aligned
    whole = preprocessing({"image": files[2]})
    one = preprocessing({"image": files[2], "slice": 11})
    torch.testing.assert_close(one["image"].as_tensor()[..., 0], whole["image"].as_tensor()[..., 11])
    assert "scan" not in one
    assert whole["scan"].shape[-1] == 36
    assert preprocessing.open(files[2]).shape[2] == whole["image"].shape[-1]


def test_a_restored_template_aligns_alike(aligned: tuple[Preprocessing, list[str]], tmp_path: Path) -> None:
    preprocessing, files = aligned
    other = Preprocessing(ScaleToUnitd("image", [0, 200]), 128, cache_dir=tmp_path, align=True)
    other.load_state_dict(preprocessing.state_dict())
    mine, theirs = (each({"image": files[3]})["image"].as_tensor() for each in (preprocessing, other))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_what_is_no_head_is_said(
    aligned: tuple[Preprocessing, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = (200 * np.random.default_rng(0).random((30, 30, 10))).astype(np.uint8)
    nib.save(nib.Nifti1Image(array, np.diag([9.0, 9, 20, 1])), tmp_path / "noise.nii")
    aligned[0]({"image": str(tmp_path / "noise.nii")})
    assert "noise.nii: is unlike the scans" in caplog.text


def test_without_a_scan_there_is_no_template(tmp_path: Path) -> None:
    preprocessing = Preprocessing(ScaleToUnitd("image"), 64, cache_dir=tmp_path, align=True)
    preprocessing.learn(["image.png"])
    assert preprocessing.template is not None
    assert not preprocessing.template.known
    with pytest.raises(ValueError, match="align False"):
        preprocessing.template.learn([], tmp_path)
