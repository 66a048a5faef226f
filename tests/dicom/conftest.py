"""Scans of a phantom, acquired in any way, with a finding in them; and what outside programs make of the results."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from bundle.phantom.dicom import write_series
from scripts.dicom.finding import Finding
from scripts.dicom.series import find_series, read_series
from scripts.dicom.volume import Volume

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
def finding() -> Callable[..., Finding]:
    """``finding(volume, threshold=None)``: one of 2.5, carried by the last slice and the first."""

    def make(volume: Volume, **changes: Any) -> Finding:
        slices = volume.array.shape[2]
        values: dict[str, Any] = {
            "anomaly_score": 2.5,
            "threshold": 0.75,
            "slice_scores": [1.0] * (slices - 1) + [2.5],
            "top_slices": [slices - 1, 0],
            "algorithm_name": "PDD",
            "algorithm_version": "1.2.3",
            "model_hash": "0123456789abcdef",
        }
        return Finding(**(values | changes))

    return make


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
