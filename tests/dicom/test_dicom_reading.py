"""Voxels and geometry of DICOM series, against the arrays and affines that were written, and against dcm2niix."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread, uid
from scipy.spatial.transform import Rotation

from bundle.phantom.dicom import write_radiograph, write_series
from scripts.dicom.series import find_series, read_series
from scripts.dicom.volume import UnreadableSeriesError, Volume

SHAPE = (12, 10, 6)
LPS = np.array([-1, -1, 1])
AXES = {  # RAS directions of columns, rows and slices, the last being the slices' normal
    "axial": np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1.0]]).T,
    "coronal": np.array([[-1, 0, 0], [0, 0, -1.0], [0, -1, 0]]).T,
    "sagittal": np.array([[0, -1, 0], [0, 0, -1.0], [1, 0, 0]]).T,
    "flipped": np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1.0]]).T,
}
TWELVE_BITS = {"BitsStored": 12, "HighBit": 11}
NO_WINDOW = {"WindowCenter": None, "WindowWidth": None}


def phantom(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 2000, SHAPE).astype(np.int16)


def affine(plane: str = "axial", angles: tuple[float, ...] = (0, 0, 0), tilt: float = 0.0) -> np.ndarray:
    """Affine of voxels of 0.7 x 1.1 x 3 mm; the tilt shears along rows, in mm for each slice."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ AXES[plane] @ np.diag([0.7, 1.1, 3])
    matrix[:3, 2] += tilt * matrix[:3, 1] / 1.1
    matrix[:3, 3] = (31.5, -12.25, 8)
    return matrix


def read(root: Path) -> Volume:
    found = find_series(root, progress=False)
    assert not found.refused
    (series,) = found.series
    return read_series(series)


def even(count: int = SHAPE[2], step: float = 3.0) -> np.ndarray:
    """Positions (k, 3) of axial slices in LPS."""
    return affine()[:3, 3] * LPS + np.arange(count)[:, None] * (0, 0, step)


@pytest.mark.parametrize("plane", AXES)
@pytest.mark.parametrize("angles", [(0, 0, 0), (17, -9, 5)])
@pytest.mark.parametrize("tilt", [0.0, 1.3])
@pytest.mark.parametrize("enhanced", [False, True])
def test_voxels_and_points_come_back(
    tmp_path: Path, plane: str, angles: tuple[float, ...], tilt: float, enhanced: bool
) -> None:
    write_series(tmp_path, phantom(), affine(plane, angles, tilt), enhanced=enhanced)
    volume = read(tmp_path)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, phantom())
    corners = np.array([*itertools.product((0, SHAPE[0]), (0, SHAPE[1]), (0, SHAPE[2]))])
    np.testing.assert_allclose(
        nib.affines.apply_affine(volume.affine, corners),
        nib.affines.apply_affine(affine(plane, angles, tilt), corners),
        atol=1e-3,
    )
    assert not volume.uneven
    assert not volume.warnings
    assert volume.positions.shape == (SHAPE[2], 3)
    assert volume.frames == ([1, 2, 3, 4, 5, 6] if enhanced else None)
    assert len(volume.sources) == (1 if enhanced else SHAPE[2])
    assert not any("PixelData" in source for source in volume.sources)


def test_slices_against_the_normal_are_turned_around(tmp_path: Path) -> None:
    backwards = affine() @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1.0]])
    write_series(tmp_path, phantom()[..., ::-1], backwards)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, phantom())
    np.testing.assert_allclose(volume.affine, affine(), atol=1e-6)
    numbers = [int(source.InstanceNumber) for source in volume.sources]
    assert numbers == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("number", [7, None])
def test_instance_numbers_do_not_matter(tmp_path: Path, number: int | None) -> None:
    write_series(tmp_path, phantom(), affine(), InstanceNumber=number)
    np.testing.assert_array_equal(read(tmp_path).array, phantom())


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("enhanced", [False, True])
def test_transfer_syntaxes(tmp_path: Path, syntax: str, enhanced: bool) -> None:
    array = np.tile(phantom(), (6, 7, 1))  # JPEG 2000 needs 64 pixels
    write_series(tmp_path, array, affine(), transfer_syntax=syntax, enhanced=enhanced)
    np.testing.assert_array_equal(read(tmp_path).array, array)


@pytest.mark.parametrize("kind", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "padded"])
def test_transfer_syntaxes_of_pydicoms_own_file(kind: str) -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    raw = read(folder / "MR_small.dcm")
    same = read(folder / f"MR_small_{kind}.dcm")
    np.testing.assert_array_equal(same.array, raw.array)
    np.testing.assert_array_equal(same.affine, raw.affine)


def test_frames_of_an_enhanced_image_are_sorted(tmp_path: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    write_series(tmp_path, phantom()[..., order], affine(), enhanced=True, positions=even()[order])
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, phantom())
    assert volume.frames == [2, 4, 6, 1, 5, 3]


def edit(path: Path, **attributes: Any) -> None:
    dataset = dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    array = np.abs(phantom())
    paths = write_series(tmp_path, array, affine(), modality="MR")
    slopes = np.array([0.5, 1, 1.5, 2, 0.25, 3])
    for path, slope in zip(paths, slopes, strict=True):
        edit(path, RescaleSlope=slope, RescaleIntercept=-2.5)
    volume = read(tmp_path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, array * slopes - 2.5, rtol=1e-6)


def test_every_frame_has_its_own_slope(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, phantom(), affine(), modality="MR", enhanced=True)
    dataset = dcmread(path)
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = number, 0.5, "US"
        group.PixelValueTransformationSequence = [item]
    dataset.save_as(path)
    np.testing.assert_allclose(read(tmp_path).array, phantom() * np.arange(1.0, 7) + 0.5)


def test_unsigned_values_beyond_int16(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom(), affine(), modality="MR", PixelRepresentation=0)
    volume = read(tmp_path)
    assert volume.array.dtype == np.int32
    np.testing.assert_array_equal(volume.array, phantom().astype(np.uint16))
    assert len(paths) == SHAPE[2]


def test_modality_lut(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom() % 4, affine(), modality="MR", PixelRepresentation=0)
    for path in paths:
        dataset = dcmread(path)
        item = Dataset()
        item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4, 0, 16], [5, 50, 500, 5000], "US"
        item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
        dataset.ModalityLUTSequence = [item]
        dataset.save_as(path)
    np.testing.assert_array_equal(read(tmp_path).array, np.array([5, 50, 500, 5000])[phantom() % 4])


@pytest.mark.parametrize("limit", [None, -1900 + 1024])
def test_padding_becomes_the_lowest_other_value(tmp_path: Path, limit: int | None) -> None:
    array = phantom()
    array[:3] = -2000
    array[3] = -1950
    write_series(tmp_path, array, affine(), PixelPaddingValue=-2000 + 1024, PixelPaddingRangeLimit=limit)
    padded = array == -2000 if limit is None else array < -1900
    np.testing.assert_array_equal(read(tmp_path).array, np.where(padded, array[~padded].min(), array))


def test_missing_slice(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(), affine(), positions=even(7)[[0, 1, 2, 4, 5, 6]])
    volume = read(tmp_path)
    assert volume.uneven
    assert "slices 3 and 4 (6.00 mm)" in volume.warnings[0]
    np.testing.assert_allclose(volume.affine[:3, 2], [0, 0, 18 / 5])
    np.testing.assert_array_equal(volume.array, phantom())


def test_a_slice_shifted_sideways(tmp_path: Path) -> None:
    positions = even()
    positions[2, 0] += 0.5
    write_series(tmp_path, phantom(), affine(), positions=positions)
    volume = read(tmp_path)
    assert volume.uneven
    (warning,) = volume.warnings
    assert "slice 3 is shifted sideways by 0.50 mm" in warning


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(), affine(), positions=np.round(even(step=3.001), 2))
    assert not read(tmp_path).uneven


@pytest.mark.parametrize(
    ("attributes", "step"),
    [
        ({"SpacingBetweenSlices": 4, "SliceThickness": 5}, 4),
        ({"SliceThickness": 5}, 5),
        ({"SpacingBetweenSlices": 0, "SliceThickness": 5}, 5),
        ({"SpacingBetweenSlices": -4, "SliceThickness": 5}, 5),
        ({"SliceThickness": None}, 1),
    ],
)
def test_one_slice(tmp_path: Path, attributes: dict[str, Any], step: float) -> None:
    write_series(tmp_path, phantom()[..., :1], affine(), **attributes)
    volume = read(tmp_path)
    assert volume.array.shape == (12, 10, 1)
    np.testing.assert_allclose(volume.affine @ [0, 0, 1, 0], [0, 0, step, 0])
    assert not volume.uneven


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_radiograph_comes_as_it_is_seen(tmp_path: Path, photometric: str) -> None:
    stored = np.arange(12 * 8, dtype=np.uint16).reshape(12, 8) * 40
    write_radiograph(tmp_path / "a", stored, photometric=photometric, **(TWELVE_BITS | NO_WINDOW))
    volume = read(tmp_path)
    seen = 4095 - stored if photometric == "MONOCHROME1" else stored
    np.testing.assert_array_equal(volume.array, seen.T[..., None])
    np.testing.assert_allclose(volume.affine, np.diag([-0.2, -0.2, 1, 1]))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_window_of_a_radiograph(tmp_path: Path, photometric: str) -> None:
    stored = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    write_radiograph(tmp_path / "a", stored, photometric=photometric, **(TWELVE_BITS | window))
    seen = np.array([[0, 0, 0.5], [1, 1, 1]]) * 4095
    expected = 4095 - seen if photometric == "MONOCHROME1" else seen
    np.testing.assert_allclose(read(tmp_path).array[..., 0].T, expected)


def unreadable(root: Path, *texts: str) -> None:
    (series,) = find_series(root, progress=False).series
    with pytest.raises(UnreadableSeriesError) as caught:
        read_series(series)
    assert all(text in str(caught.value) for text in texts), str(caught.value)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_pixels_cut_short(tmp_path: Path, syntax: str) -> None:
    path = write_series(tmp_path, np.tile(phantom(), (6, 7, 1)), affine(), transfer_syntax=syntax)[2]
    path.write_bytes(path.read_bytes()[:-100])
    unreadable(tmp_path, str(path), "Export it again")


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"PixelSpacing": None}, "PixelSpacing is missing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not a greyscale image"),
        ({"NumberOfFrames": 2}, "cannot be read"),
    ],
)
def test_unreadable_series(tmp_path: Path, attributes: dict[str, Any], text: str) -> None:
    paths = write_series(tmp_path, phantom(), affine(), **attributes)
    unreadable(tmp_path, text, str(tmp_path), paths[0].name[-10:])


def test_an_enhanced_image_with_fewer_frames_than_places(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, phantom(), affine(), enhanced=True)
    dataset = dcmread(path)
    dataset.NumberOfFrames = 4
    dataset.PixelData = dataset.PixelData[: 4 * 12 * 10 * 2]
    dataset.save_as(path)
    unreadable(tmp_path, str(path), "frames")


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (17, -9, 5)])
def test_same_as_dcm2niix(tmp_path: Path, program: Callable[[str], str], plane: str, angles: tuple[float, ...]) -> None:
    write_series(tmp_path / "in", phantom(), affine(plane, angles))
    (theirs,) = converted(program("dcm2niix"), tmp_path)
    volume = read(tmp_path / "in")
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    theirs = nib.as_closest_canonical(theirs)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)


def test_slices_of_a_tilted_gantry_same_as_dcm2niix(tmp_path: Path, program: Callable[[str], str]) -> None:
    write_series(tmp_path / "in", phantom(), affine(angles=(-20, 0, 0), tilt=3 * np.tan(np.radians(20))))
    pictures = np.asanyarray(converted(program("dcm2niix"), tmp_path)[0].dataobj)  # it keeps the untouched slices too
    np.testing.assert_array_equal(pictures[:, ::-1], read(tmp_path / "in").array)


def converted(dcm2niix: str, folder: Path) -> list[nib.Nifti1Image]:
    (folder / "out").mkdir()
    command = [dcm2niix, "-z", "n", "-b", "n", "-f", "x", "-o", str(folder / "out"), str(folder / "in")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return [nib.load(path) for path in sorted((folder / "out").glob("*.nii"), key=lambda path: len(path.name))]
