"""Phantom DICOM: geometry against the closed form, values, repeatability, and validity by an outside program."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from bundle.phantom.dicom import write_radiograph, write_series

SHAPE = (40, 36, 3)
ARRAY = np.random.default_rng(0).integers(-1024, 3000, SHAPE).astype(np.int16)
COS, SIN = np.cos(0.3), np.sin(0.3)
# Turned about the left-right axis, anisotropic, and with a third column that is not normal to the slices.
OBLIQUE = np.array([[-2.0, 0, 0, 31], [0, -1.5 * COS, 0.9, -12], [0, -1.5 * SIN, 5, 47], [0, 0, 0, 1]])
KINDS = [("CT", False), ("CT", True), ("MR", False), ("MR", True)]


def frames(paths: list[Path]) -> list[tuple[NDArray[Any], Dataset, Dataset, list[float]]]:
    """Values (rows, columns), measures, orientation and position of every slice."""
    found = []
    for ds in map(dcmread, paths):
        if "NumberOfFrames" not in ds:
            found.append((apply_modality_lut(ds.pixel_array, ds), ds, ds, ds.ImagePositionPatient))
            continue
        shared = ds.SharedFunctionalGroupsSequence[0]
        measures, plane = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
        lut = shared.PixelValueTransformationSequence[0]
        for picture, groups in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True):
            values = picture * float(lut.RescaleSlope) + float(lut.RescaleIntercept)
            found.append((values, measures, plane, groups.PlanePositionSequence[0].ImagePositionPatient))
    return found


@pytest.mark.parametrize(("modality", "enhanced"), KINDS)
def test_a_voxel_lies_where_the_affine_says(tmp_path: Path, modality: str, enhanced: bool) -> None:
    paths = write_series(tmp_path, ARRAY, OBLIQUE, modality=modality, enhanced=enhanced)
    slices = frames(paths)
    assert len(slices) == 3
    for k, (values, measures, plane, position) in enumerate(slices):
        assert np.array_equal(values, ARRAY[:, :, k].T)
        row, column = np.array(plane.ImageOrientationPatient, float).reshape(2, 3)
        assert np.linalg.norm(row) == pytest.approx(1)
        assert np.linalg.norm(column) == pytest.approx(1)
        for i, j in [(0, 0), (39, 0), (7, 35)]:  # equation C.7.6.2.1-1 of PS3.3
            down, across = map(float, measures.PixelSpacing)
            lps = np.array(position, float) + row * across * i + column * down * j
            assert np.allclose(lps * [-1, -1, 1], (OBLIQUE @ [i, j, k, 1])[:3], atol=1e-6)
        normal = np.array([0, SIN, -COS])  # the cross product of OBLIQUE's first two columns, in RAS
        assert float(measures.SliceThickness) == pytest.approx(abs(normal @ OBLIQUE[:3, 2]))


def test_positions_replace_those_of_the_affine(tmp_path: Path) -> None:
    positions = np.array([[1, 2, 3], [1, 2, 4.5], [1, 2, 9]])
    paths = write_series(tmp_path, ARRAY, np.eye(4), positions=positions)
    assert np.array_equal([position for *_, position in frames(paths)], positions)
    assert sorted(paths) != paths


def test_identifiers_come_from_the_arguments(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [{}, {"patient": "other"}, {"study": 1}, {"series": 1}, {"first_instance": 4}]
    paths = [write_series(tmp_path / "all", ARRAY, OBLIQUE, **kind) for kind in kinds]
    again = write_series(tmp_path / "again", ARRAY, OBLIQUE)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths[0]]
    found = [dcmread(path) for group in paths for path in group]
    for keyword, distinct in [("StudyInstanceUID", 3), ("SeriesInstanceUID", 4), ("SOPInstanceUID", 15)]:
        assert len({ds[keyword].value for ds in found}) == distinct, keyword
    assert all(ds.SOPInstanceUID.is_valid and ds.SOPInstanceUID.startswith("2.25.") for ds in found)
    assert {ds.PatientID for ds in found} == {"ID-phantom", "ID-other"}


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_transfer_syntaxes_keep_the_values(tmp_path: Path, syntax: str, enhanced: bool) -> None:
    paths = write_series(tmp_path, ARRAY, OBLIQUE, transfer_syntax=syntax, enhanced=enhanced)
    assert dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(np.stack([values.T for values, *_ in frames(paths)], axis=2), ARRAY)
    plain = dcmread(write_series(tmp_path / "plain", ARRAY, OBLIQUE, enhanced=enhanced)[0])
    assert dcmread(paths[0]).SOPInstanceUID == plain.SOPInstanceUID


def test_attributes_come_last(tmp_path: Path) -> None:
    type_of_image = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    for path in write_series(tmp_path, ARRAY, OBLIQUE, InstanceNumber=7, ImageType=type_of_image, PixelSpacing=None):
        ds = dcmread(path)
        assert (ds.InstanceNumber, list(ds.ImageType), "PixelSpacing" in ds) == (7, type_of_image, False)
    with pytest.raises(ValueError, match="Colour is not a DICOM keyword"):
        write_series(tmp_path, ARRAY, OBLIQUE, Colour="red")


@pytest.mark.parametrize("modality", ["DX", "CR", "OT"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_radiographs(tmp_path: Path, program: Callable[[str], str], modality: str, photometric: str) -> None:
    picture = np.arange(60000, 60000 + 40 * 36, dtype=np.uint16).reshape(40, 36)
    path = write_radiograph(tmp_path / "x.dcm", picture, modality=modality, photometric=photometric, ViewPosition="LL")
    ds = dcmread(path)
    assert np.array_equal(ds.pixel_array, picture)
    assert (ds.Modality, ds.PhotometricInterpretation, ds.ViewPosition) == (modality, photometric, "LL")
    assert "ImagePositionPatient" not in ds
    assert errors(program("dciodvfy"), path) == []


def errors(dciodvfy: str, path: Path) -> list[str]:
    done = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]


@pytest.mark.parametrize(("modality", "enhanced"), KINDS)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda syntax: syntax.keyword)
def test_valid(tmp_path: Path, program: Callable[[str], str], modality: str, enhanced: bool, syntax: str) -> None:
    dciodvfy = program("dciodvfy")
    paths = write_series(
        tmp_path, ARRAY, OBLIQUE, modality=modality, enhanced=enhanced, transfer_syntax=syntax, patient="Zoë"
    )
    assert [errors(dciodvfy, path) for path in paths] == [[]] * len(paths)
    broken = write_series(tmp_path / "broken", ARRAY, OBLIQUE, modality=modality, enhanced=enhanced, ImageType=None)
    assert errors(dciodvfy, broken[0])


@pytest.mark.parametrize(
    ("array", "affine", "more", "text"),
    [
        (ARRAY, np.eye(4), {"modality": "PT"}, "give CT or MR"),
        (ARRAY[0], np.eye(4), {}, "three axes"),
        (ARRAY + 0.5, np.eye(4), {}, "whole int16"),
        (ARRAY.astype(int) + 40000, np.eye(4), {}, "whole int16"),
        (ARRAY, np.eye(4) + np.eye(4, k=1), {}, "right angles"),
        (ARRAY, np.eye(4), {"positions": [[0, 0, 0]]}, r"not \(3, 3\)"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, array: Any, affine: Any, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        write_series(tmp_path, array, affine, **more)
    assert not any(tmp_path.iterdir())


def test_radiographs_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give DX, CR, OT"):
        write_radiograph(tmp_path / "x.dcm", np.zeros((4, 4), np.uint16), modality="CT")
    with pytest.raises(ValueError, match="rows and columns of uint16"):
        write_radiograph(tmp_path / "x.dcm", np.full((4, 4), -1))
