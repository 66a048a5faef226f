"""Scans of a phantom, acquired in any way, with a result for them; and what outside programs make of the results."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from bundle.phantom.dicom import write_series
from scripts.dicom.series import find_series, read_series
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result

SHAPE = (12, 10, 6)
SPACING = (0.7, 1.1, 3.0)
AXES = {  # RAS directions of columns, rows and slices
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
    "flipped": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
}


def grid(plane: str = "axial", turn: tuple[float, ...] = (0, 0, 0), tilt: float = 0.0) -> np.ndarray:
    """RAS affine of a plane, turned by degrees about x, y and z, its slices shifted by ``tilt`` rows a slice."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.transpose(AXES[plane])
    affine[:3, :3] *= SPACING
    affine[:3, 2] += tilt * affine[:3, 1]
    affine[:3, 3] = (31.5, -12.25, 8)
    return affine


@pytest.fixture(scope="session")
def scan_affine() -> Callable[..., np.ndarray]:
    """`grid`, as tests know it."""
    return grid


@pytest.fixture(scope="session")
def acquire(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Volume]:
    """``acquire("coronal", turn=(10, 0, 5), tilt=0.4, **options of write_series)``: the volume read from files.

    The same call gives the same volume. Its brightest voxel is (3, 7, last).
    """
    made: dict[str, Volume] = {}

    def make(plane: str = "axial", turn: tuple[float, ...] = (0, 0, 0), tilt: float = 0.0, **options: Any) -> Volume:
        key = repr((plane, turn, tilt, options))
        if key not in made:
            array = np.random.default_rng(1).integers(-1000, 2000, options.pop("shape", SHAPE)).astype(np.int16)
            array[3, 7, -1] = 3000
            folder = tmp_path_factory.mktemp("scan")
            write_series(folder, array, grid(plane, turn, tilt), **options)
            found = find_series(folder, progress=False)
            assert not found.refused
            (series,) = found.series
            made[key] = read_series(series)
        return made[key]

    return make


@pytest.fixture
def anomaly_map() -> Callable[[Volume], np.ndarray]:
    """A map on the volume's grid, below 1 but at voxel (3, 7, last)."""

    def make(volume: Volume) -> np.ndarray:
        scores = np.random.default_rng(2).random(volume.array.shape).astype(np.float32)
        scores[3, 7, -1] = 2.5
        return scores

    return make


@pytest.fixture
def result(anomaly_map: Callable[[Volume], np.ndarray]) -> Callable[..., Result]:
    """``result(volume, scan_threshold=None)``: a normal scan, though its score lies above the mask's threshold.

    Its map is `anomaly_map`, and the last slice and the first carry the score.
    """

    def make(volume: Volume, **changes: Any) -> Result:
        slices = volume.array.shape[2]
        scores = anomaly_map(volume)
        values: dict[str, Any] = {
            "score": 0.99,
            "scan_threshold": 1.2,
            "slice_threshold": 1.1,
            "mask_threshold": 0.87,
            "p_value": 0.4,
            "false_positive_rate": 0.05,
            "slice_scores": [0.5] * (slices - 1) + [0.99],
            "slice_p_values": [0.7] * (slices - 1) + [0.4],
            "top_slices": [slices - 1, 0],
            "plane": "axial",
            "anomaly_map": scores,
            "mask": (scores > 0.87).astype(np.uint8),
        }
        return Result(**(values | changes))

    return make


@pytest.fixture(scope="session")
def algorithm() -> Algorithm:
    return Algorithm("PDD", "1.2.3", "0123456789abcdef")


@pytest.fixture(scope="session")
def untrained(algorithm: Algorithm) -> Algorithm:
    """The same, with random teachers."""
    return replace(algorithm, untrained=True)


@pytest.fixture
def errors(program: Callable[[str], str]) -> Callable[[Path], list[str]]:
    """What dciodvfy finds wrong with a file."""

    def check(path: Path) -> list[str]:
        done = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        assert lines, "dciodvfy says at least what kind of object it has read"
        return [line for line in lines if line.startswith("Error")]

    return check


@pytest.fixture
def frame_affines() -> Callable[[Dataset], np.ndarray]:
    """From (column, row) of every frame to LPS mm, by equation C.7.6.2.1-1 of the standard: (frames, 3, 3)."""

    def compute(dataset: Dataset) -> np.ndarray:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
        return np.stack(
            [
                np.stack(
                    [
                        cosines[0] * between_columns,
                        cosines[1] * between_rows,
                        np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float),
                    ],
                    axis=1,
                )
                for frame in dataset.PerFrameFunctionalGroupsSequence
            ]
        )

    return compute
