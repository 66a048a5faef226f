"""Every voxel of mask and map at the millimetre where the scan has it, read with pydicom and with dcmqi."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from scripts.dicom.derived import reference_images, save
from scripts.dicom.parametric_map import parametric_map
from scripts.dicom.segmentation import segmentation
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result

READERS = {"segmentation.dcm": "segimage2itkimage", "anomaly_map.dcm": "paramap2itkimage"}
UNEVEN = np.array([(-31.5, 12.25 + 0.3 * z, 8 + z) for z in (0, 3, 6, 11, 14, 20)])
ACQUISITIONS = [
    *(
        {"plane": plane, "turn": turn}
        for plane in ("axial", "coronal", "sagittal", "flipped")
        for turn in ((0, 0, 0), (17, -9, 5))
    ),
    {"plane": "sagittal", "turn": (4, 7, -11), "enhanced": True},
    {"enhanced": True, "modality": "MR"},
]
SHEARED = [
    {"tilt": 0.9},
    {"plane": "coronal", "turn": (3, 20, 9), "tilt": -1.2},
    {"tilt": 0.9, "enhanced": True},
    {"positions": UNEVEN},
]


@pytest.fixture
def written(
    tmp_path: Path, anomaly_map: Callable[[Volume], np.ndarray], result: Callable[..., Result], algorithm: Algorithm
):
    """Writes mask and map of a volume; gives their folder, and by file name the arrays written."""

    def write(volume: Volume) -> tuple[Path, dict[str, np.ndarray]]:
        scores = anomaly_map(volume)
        mask = (scores > 0.75).astype(np.uint8)
        images, found = reference_images(volume), result(volume, mask=mask)
        save(segmentation(volume, images, found, algorithm), tmp_path / "segmentation.dcm")
        save(parametric_map(volume, images, found, algorithm), tmp_path / "anomaly_map.dcm")
        return tmp_path, {"segmentation.dcm": mask, "anomaly_map.dcm": scores}

    return write


@pytest.mark.parametrize("acquisition", [*ACQUISITIONS, *SHEARED[:3]], ids=str)
def test_a_point_of_the_patient_comes_back(
    acquire, scan_affine, frame_affines, result, algorithm, acquisition: dict[str, Any]
) -> None:
    """From the affine that the phantom was written with, to the brightest pixel of mask and map."""
    volume = acquire(**acquisition)
    scores = volume.array.astype(np.float32)
    point = scan_affine(**{name: acquisition[name] for name in ("plane", "turn", "tilt") if name in acquisition})
    point = (point @ (3, 7, 5, 1))[:3] * (-1, -1, 1)
    images = reference_images(volume)
    mask = (scores == scores.max()).astype(np.uint8)
    found = result(volume, anomaly_map=scores, mask=mask)
    for made in (parametric_map(volume, images, found, algorithm), segmentation(volume, images, found, algorithm)):
        pixels = frames(made)
        frame, row, column = np.unravel_index(pixels.argmax(), pixels.shape)
        np.testing.assert_allclose(frame_affines(made)[frame] @ (column, row, 1), point, atol=0.01)


def frames(dataset: Dataset) -> np.ndarray:
    if "FloatPixelData" in dataset:
        shape = dataset.NumberOfFrames, dataset.Rows, dataset.Columns
        return np.frombuffer(dataset.FloatPixelData, "<f4").reshape(shape)
    return dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)


def millimetres(volume: Volume) -> np.ndarray:
    """(i, j, k, 3) LPS of all voxels, from the position of each slice and the affine's first two columns."""
    steps = (volume.affine[:3, :2] * np.array([[-1], [-1], [1]])).T
    i, j = np.meshgrid(*map(np.arange, volume.array.shape[:2]), indexing="ij")
    return (i[..., None] * steps[0] + j[..., None] * steps[1])[:, :, None] + volume.positions


@pytest.mark.parametrize("acquisition", [*ACQUISITIONS, *SHEARED], ids=str)
def test_pydicom_finds_each_voxel_in_its_place(acquire, written, frame_affines, acquisition: dict) -> None:
    volume = acquire(**acquisition)
    folder, arrays = written(volume)
    expected = millimetres(volume)
    for name, array in arrays.items():
        dataset = dcmread(folder / name)
        pixels, affines = frames(dataset), frame_affines(dataset)
        assert len(pixels) == array.shape[2]
        for picture, affine, group in zip(pixels, affines, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            k = int(np.linalg.norm(volume.positions - affine[:, 2], axis=1).argmin())
            rows, columns = np.indices(picture.shape)
            found = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ affine.T
            np.testing.assert_allclose(found.transpose(1, 0, 2), expected[:, :, k], atol=1e-4)
            np.testing.assert_array_equal(picture.T, array[:, :, k])
            source = group.DerivationImageSequence[0].SourceImageSequence[0]
            enhanced = acquisition.get("enhanced")
            assert source.ReferencedSOPInstanceUID == volume.sources[0 if enhanced else k].SOPInstanceUID
            assert source.get("ReferencedFrameNumber") == (k + 1 if enhanced else None)


@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=str)
def test_dcmqi_reads_the_same_array_in_the_same_place(
    acquire, written, program, tmp_path: Path, acquisition: dict
) -> None:
    """Not for sheared and uneven scans: dcmqi knows even grids at right angles alone, and loses slices of others."""
    volume = acquire(**acquisition)
    folder, arrays = written(volume)
    inverse = np.linalg.inv(volume.affine)
    for name, array in arrays.items():
        words = ["--inputDICOM", folder / name, "--outputDirectory", tmp_path, "-t", "nii"]
        subprocess.run([program(READERS[name]), *map(str, words)], check=True, capture_output=True)
        (path,) = tmp_path.glob("*.nii*")
        image: Any = nib.load(path)
        found = np.asarray(image.dataobj)
        index = np.indices(found.shape).reshape(3, -1)
        place = (inverse @ image.affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]  # in voxels of the scan
        nearest = place.round().astype(int)
        assert np.abs((place - nearest) * np.linalg.norm(volume.affine[:3, :3], axis=0)[:, None]).max() < 0.01
        assert (found.shape, sorted(set(map(tuple, nearest.T)))) == (array.shape, list(np.ndindex(array.shape)))
        np.testing.assert_array_equal(found[tuple(index)], array[tuple(nearest)])
        path.unlink()


@pytest.mark.parametrize("acquisition", SHEARED, ids=str)
def test_sheared_and_uneven_scans_are_valid(acquire, written, errors, acquisition: dict) -> None:
    folder, arrays = written(acquire(**acquisition))
    assert {name: errors(folder / name) for name in arrays} == {name: [] for name in arrays}


def test_some_frames_of_an_enhanced_image_are_named_by_their_own_numbers(acquire, written, frame_affines) -> None:
    whole = acquire(enhanced=True)
    chosen = [1, 3, 5]
    part = replace(whole, array=whole.array[..., chosen], frames=[2, 4, 6], positions=whole.positions[chosen])
    folder, arrays = written(part)
    for name in arrays:
        dataset = dcmread(folder / name)
        numbers = [
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            for group in dataset.PerFrameFunctionalGroupsSequence
        ]
        places = frame_affines(dataset)[:, :, 2]
        np.testing.assert_allclose(places, whole.positions[np.array(numbers) - 1], atol=1e-6)
        assert sorted(numbers) == [2, 4, 6]
