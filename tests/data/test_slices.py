"""Training takes the slices that were asked for, and none with an anomaly."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scripts.data.foreground import foreground_quantiles
from scripts.data.landmarks import HistogramLandmarks
from scripts.data.scans import open_scan
from scripts.data.slices import NormalSlices, items_at_once, open_mask
from scripts.transforms import LoadScand, MatchLandmarksd, Preprocessing, ScaleToUnitd

SHAPE = (10, 8, 20)


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def body(*filled: int) -> np.ndarray:
    """A scan of which slice k has ``filled[k]`` body voxels."""
    array = np.zeros((10, 8, len(filled)), np.float32)
    for index, count in enumerate(filled):
        array[..., index].flat[:count] = 100 + np.arange(count)
    return array


@pytest.fixture
def scan(tmp_path: Path) -> dict[str, Any]:
    array = np.random.default_rng(0).random(SHAPE).astype(np.float32) + 1
    array[0, 0] = 0  # air
    return {"image": write(tmp_path / "scan.nii", array), "label": 0, "group": "a"}


def read(tmp_path: Path, **options: Any) -> Preprocessing:
    given = {"intensity": ScaleToUnitd("image"), "image_size": 32, "cache_dir": tmp_path / "cache", **options}
    return Preprocessing(**given)


def numbers(tmp_path: Path, item: dict[str, Any], **options: Any) -> list[int]:
    plane = options.pop("plane", "axial")
    return [one["slice"] for one in NormalSlices(read(tmp_path, plane=plane), **options).training([item])]


@pytest.mark.parametrize(
    ("slice_range", "expected"),
    [
        (None, range(20)),
        ([3, 6], range(3, 7)),
        ([0, 0], [0]),
        ([18, 99], [18, 19]),
        ([0.0, 1.0], range(20)),
        ([0.25, 0.75], range(5, 15)),  # the slices whose middle lies between
        ([0.5, 1], range(10, 20)),
        ([0, 0.1], range(2)),
    ],
)
def test_a_range_is_of_numbers_or_of_parts(
    tmp_path: Path, scan: dict[str, Any], slice_range: Sequence[float] | None, expected: Sequence[int]
) -> None:
    assert numbers(tmp_path, scan, slice_range=slice_range) == list(expected)


@pytest.mark.parametrize("slice_range", [[6, 3], [-1, 3], [0.5, 0.2], [0.2, 20], [10.0, 60.0]])
def test_a_range_that_is_none_is_refused(tmp_path: Path, scan: dict[str, Any], slice_range: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="slice_range"):
        numbers(tmp_path, scan, slice_range=slice_range)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, [1, 2, 3, 4]), (0.1, [2, 3, 4]), (0.5, [3, 4]), (1.0, [4])])
def test_slices_of_little_body_are_left_out(tmp_path: Path, fraction: float, expected: list[int]) -> None:
    item = {"image": write(tmp_path / "scan.nii.gz", body(0, 1, 8, 40, 80)), "label": 0}
    assert numbers(tmp_path, item, min_body_fraction=fraction) == expected


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize(
    ("plane", "axis", "backwards"), [("axial", 2, False), ("coronal", 1, True), ("sagittal", 0, True)]
)
def test_slices_are_counted_as_they_are_read(tmp_path: Path, plane: str, axis: int, backwards: bool, flip: int) -> None:
    array = np.zeros((5, 6, 7), np.float32)
    array.swapaxes(0, axis)[:2] = np.random.default_rng(0).random((2, *array.swapaxes(0, axis).shape[1:])) + 1
    item = {"image": write(tmp_path / "scan.nii.gz", array, np.diag([flip, flip, flip, 1])), "label": 0}
    found = NormalSlices(read(tmp_path, plane=plane)).training([item])
    count = array.shape[axis]
    assert [one["slice"] for one in found] == ([count - 2, count - 1] if backwards == (flip > 0) else [0, 1])
    load = LoadScand("image", tmp_path / "cache", plane)
    assert all(load(one)["image"].min() > 0 for one in found)


@pytest.fixture
def patient(tmp_path: Path, scan: dict[str, Any]) -> dict[str, Any]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4, 5, 7] = mask[1, 1, 8:10] = 3
    return {**scan, "label": 1, "mask": write(tmp_path / "mask.nii.gz", mask)}


def test_abnormal_subjects_are_refused_unless_asked_for(tmp_path: Path, patient: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"1 scans.*scan\.nii.*--slices#abnormal_subjects True"):
        numbers(tmp_path, patient)


def test_of_abnormal_subjects_the_slices_without_anomaly_are_taken_with_a_warning(
    tmp_path: Path, patient: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert numbers(tmp_path, patient, abnormal_subjects=True) == [*range(7), *range(10, 20)]
    assert "1 abnormal scans" in caplog.text
    assert numbers(tmp_path, patient, abnormal_subjects=True, plane="coronal") == [0, 1, 3, 4, 5, 7]
    assert numbers(tmp_path, patient, abnormal_subjects=True, plane="sagittal") == [*range(5), 6, 7, 9]


def test_an_abnormal_subject_without_mask_is_refused(tmp_path: Path, patient: dict[str, Any]) -> None:
    del patient["mask"]
    with pytest.raises(ValueError, match=r"scan\.nii has an anomaly, and no mask"):
        numbers(tmp_path, patient, abnormal_subjects=True)


@pytest.mark.parametrize(("shape", "shift"), [((10, 8, 19), 0), (SHAPE, 0.5)], ids=["another shape", "another place"])
def test_a_mask_on_another_grid_is_refused(
    tmp_path: Path, patient: dict[str, Any], shape: tuple[int, ...], shift: float
) -> None:
    affine = np.eye(4)
    affine[1, 3] = shift
    write(tmp_path / "mask.nii.gz", np.ones(shape, np.uint8), affine)
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: is not on the grid of .*scan\.nii.*Resample"):
        numbers(tmp_path, patient, abnormal_subjects=True)
    with pytest.raises(ValueError, match="not on the grid"):
        open_mask(patient, open_scan(patient["image"], tmp_path / "cache"), tmp_path / "cache")


def test_images_stay_one_item_and_the_order_stays(tmp_path: Path, scan: dict[str, Any]) -> None:
    image = {"image": "a.png", "label": 0}
    chosen = NormalSlices(read(tmp_path), slice_range=[4, 5]).training([image, scan, image])
    assert chosen == [image, {**scan, "slice": 4}, {**scan, "slice": 5}, image]


def test_all_unreadable_scans_are_named_at_once(tmp_path: Path, scan: dict[str, Any]) -> None:
    (tmp_path / "a.nii").touch()
    (tmp_path / "b.nii").touch()
    bad = [{**scan, "image": str(tmp_path / name)} for name in ("a.nii", "b.nii")]
    with pytest.raises(ValueError, match=r"(?s)a\.nii: is empty.*b\.nii: is empty"):
        NormalSlices(read(tmp_path)).training([scan, *bad])


def test_that_no_slice_is_left_is_an_error_and_that_there_is_no_item_is_none(
    tmp_path: Path, scan: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="No slice is left"):
        numbers(tmp_path, scan, slice_range=[30, 40])
    assert NormalSlices(read(tmp_path)).training([]) == []


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.1, 2), (0.25, 5), (0.5, 10), (0.9, 18)])
def test_what_is_held_out_validates_and_is_spread(
    tmp_path: Path, scan: dict[str, Any], fraction: float, count: int
) -> None:
    other = {**scan, "image": write(tmp_path / "other.nii", body(*[9] * 20)), "group": "b"}
    image = {"image": "a.png", "label": 0}
    slices = NormalSlices(read(tmp_path), held_out=fraction)
    training = slices.training([scan, image])
    validation = slices.validation([other], [scan, image])
    assert image in training
    assert image not in validation
    assert sum(one["image"] == other["image"] for one in validation) == 20
    held_out = [one["slice"] for one in validation if one["image"] == scan["image"]]
    assert len(held_out) == count
    assert sorted(held_out + [one["slice"] for one in training if "slice" in one]) == list(range(20))
    if count > 1:
        assert np.diff(held_out).max() - np.diff(held_out).min() <= 1


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, float("nan")])
def test_a_fraction_that_is_none_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"held_out.* \[0, 1\)"):
        NormalSlices(read(tmp_path), held_out=fraction)


def test_landmarks_are_learnt_from_the_training_scans(tmp_path: Path, scan: dict[str, Any]) -> None:
    other = {**scan, "image": write(tmp_path / "other.nii.gz", body(*[60] * 5))}
    learnt, expected = HistogramLandmarks(), HistogramLandmarks()
    slices = NormalSlices(read(tmp_path, intensity=MatchLandmarksd("image", learnt)), [scan, {"image": "a.png"}, other])
    expected.learn([foreground_quantiles(nib.load(one["image"]).get_fdata()) for one in (scan, other)])
    np.testing.assert_allclose(learnt.values, expected.values)
    assert slices.training([]) == []


def test_landmarks_that_a_checkpoint_restores_are_kept(tmp_path: Path, scan: dict[str, Any]) -> None:
    learnt = HistogramLandmarks()
    learnt.learn([range(15)])
    slices = NormalSlices(read(tmp_path, intensity=MatchLandmarksd("image", learnt)))
    assert slices.validation([scan], [])
    np.testing.assert_allclose(learnt.values, np.arange(15) / 14)


def test_scans_come_one_by_one_and_images_in_batches() -> None:
    assert items_at_once([{"image": "a.png"}], 8) == 8
    assert items_at_once([{"image": "a.png"}, {"image": "b.nii.gz"}], 8) == 1


@pytest.mark.parametrize("abnormal_subjects", [False, True])
def test_anomalies_of_a_labelled_validation_split_do_not_validate(
    tmp_path: Path, scan: dict[str, Any], abnormal_subjects: bool
) -> None:
    normal = {"image": "normal.png", "label": 0, "group": "b"}
    anomaly = {"image": "anomaly.png", "label": 1, "group": "c"}
    slices = NormalSlices(read(tmp_path), abnormal_subjects=abnormal_subjects)
    assert slices.validation([normal, anomaly], [scan]) == [normal]


def patients(tmp_path: Path, count: int = 8) -> list[dict[str, Any]]:
    array = np.random.default_rng(0).random((6, 5, 3)).astype(np.float32) + 1
    images = [write(tmp_path / f"{number}.nii", array + number) for number in range(count)]
    return [{"image": image, "label": 0, "group": f"p{number}"} for number, image in enumerate(images)]


def test_patients_of_the_reference_are_not_trained_on_and_come_from_the_seed(tmp_path: Path) -> None:
    items = patients(tmp_path)

    def groups(seed: int) -> tuple[set[str], set[str]]:
        slices = NormalSlices(read(tmp_path), reference_fraction=0.25, seed=seed)
        return tuple({item["group"] for item in part(items)} for part in (slices.training, slices.reference))  # type: ignore[return-value]

    trained, apart = groups(0)
    assert len(apart) == 2
    assert trained | apart == {item["group"] for item in items}
    assert not trained & apart
    assert groups(0) == (trained, apart)
    assert any(groups(seed)[1] != apart for seed in range(1, 5))


def test_without_a_fraction_the_reference_is_of_all_that_is_trained_on(tmp_path: Path) -> None:
    slices = NormalSlices(read(tmp_path))
    assert slices.reference(patients(tmp_path)) == slices.training(patients(tmp_path))


def test_a_reference_needs_more_than_one_patient(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 training patients leaves nobody.*reference_fraction 0"):
        NormalSlices(read(tmp_path), reference_fraction=0.5).training(patients(tmp_path, 1))
    with pytest.raises(ValueError, match="reference_fraction must be in"):
        NormalSlices(read(tmp_path), reference_fraction=1.0)
