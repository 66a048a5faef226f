"""Series found in a folder, how they are split, and what is refused or left out."""

import dataclasses
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.fileset import FileSet

from bundle.phantom.dicom import write_radiograph, write_series
from scripts.dicom.rules import Rules
from scripts.dicom.series import Found, Series, find_series, read_series

AFFINE = np.array([[-0.7, 0, 0, 31.5], [0, -1.1, 0, -12.25], [0, 0, 3, 8], [0, 0, 0, 1]])
CORONAL = np.array([[-0.7, 0, 0, 31.5], [0, 0, -3, -12.25], [0, -1.1, 0, 8], [0, 0, 0, 1]])


def phantom(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 2000, (12, 10, 6)).astype(np.int16)


def find(root: Path) -> Found:
    return find_series(root, progress=False)


def only(root: Path) -> Series:
    found = find(root)
    assert not found.refused
    (series,) = found.series
    return series


def edit(path: Path, **attributes: Any) -> None:
    dataset = dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    if "SOPInstanceUID" in attributes:
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)


def test_any_names_and_nesting_among_other_files(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", phantom(), AFFINE)
    names = ["IM 1", "ß 中文.dcm", "deep/er/1.2.840.5", "deep/NO_SUFFIX", "a.txt", "z.IMA"]
    for path, name in zip(random.Random(0).sample(paths, 6), names, strict=True):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "out" / name)
    (tmp_path / "out/README").write_text("no image")
    (tmp_path / "out/empty").touch()
    (tmp_path / "out/scan.nii").write_bytes(bytes(400))
    (tmp_path / "out/picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "out/nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "out/deep/loop").symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / "out/pipe.dcm.fifo")
    series = only(tmp_path / "out")
    assert series.n_slices == 6
    np.testing.assert_array_equal(read_series(series).array, phantom())
    order = [dcmread(path).InstanceNumber for path in series.files]
    assert order == [1, 2, 3, 4, 5, 6]


def test_a_file_and_a_dicomdir(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", phantom(), AFFINE)
    assert only(paths[0]).files == [paths[0]]
    media = FileSet()
    for path in paths:
        media.add(path)
    media.write(tmp_path / "media")
    assert only(tmp_path / "media").n_slices == 6
    assert only(tmp_path / "media" / "DICOMDIR").n_slices == 6


def test_what_is_known_of_a_series(tmp_path: Path) -> None:
    turn = np.radians(20)
    turned = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    affine = AFFINE.copy()
    affine[:3, :3] = turned @ AFFINE[:3, :3]
    write_series(tmp_path / "a", phantom(), affine, description="Brain 3 mm")
    write_series(tmp_path / "b", phantom(), CORONAL, modality="MR", patient="other", PatientID="")
    axial, coronal = find(tmp_path).series
    assert (axial.modality, axial.description, axial.n_slices) == ("CT", "Brain 3 mm", 6)
    assert (axial.orientation, coronal.orientation) == ("axial", "coronal")
    assert axial.image_type[:2] == ("ORIGINAL", "PRIMARY")
    assert axial.patient_key == "ID-phantom"
    assert coronal.patient_key == coronal.study_uid
    assert (axial.part, axial.warnings) == (0, ())


@pytest.mark.parametrize("enhanced", [False, True])
def test_text_beyond_ascii_and_a_broken_attribute(tmp_path: Path, enhanced: bool) -> None:
    for path in write_series(tmp_path, phantom(), AFFINE, enhanced=enhanced):
        dataset = dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.SeriesDescription = "Schädel"
        dataset.PatientWeight = 70
        dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"DS\x02\x0070", b"DS\x02\x00kg"))
    series = only(tmp_path)
    assert series.description == "Schädel"
    np.testing.assert_array_equal(read_series(series).array, phantom())


def test_two_series_and_two_patients_in_one_folder(tmp_path: Path) -> None:
    for number, patient in enumerate(["a", "a", "b"]):
        paths = write_series(tmp_path / "in", phantom(number), AFFINE, patient=patient, series=number)
        for path in paths:
            (tmp_path / "all").mkdir(exist_ok=True)
            path.rename(tmp_path / "all" / f"{path.name}{number}")
    found = find(tmp_path / "all").series
    assert [series.n_slices for series in found] == [6, 6, 6]
    assert sorted(series.patient_key for series in found) == ["ID-a", "ID-a", "ID-b"]
    got = {read_series(series).array.tobytes() for series in found}
    assert got == {phantom(number).tobytes() for number in range(3)}


def interleave(folder: Path, count: int = 2, **by: list[Any]) -> None:
    """Writes volumes at the same places, phantom(0), phantom(1) ... under one SeriesInstanceUID."""
    for number in range(count):
        values = {keyword: each[number] for keyword, each in by.items()}
        first = 1 + 6 * number
        write_series(folder / str(number), phantom(number), AFFINE, modality="MR", first_instance=first, **values)


@pytest.mark.parametrize(
    "by",
    [
        {"EchoNumbers": [1, 2]},
        {"EchoTime": [10, 80]},
        {"TemporalPositionIdentifier": [1, 2]},
        {"AcquisitionNumber": [1, 2]},
        {"DiffusionBValue": [0.0, 1000.0]},
        {"ImageType": [["ORIGINAL", "PRIMARY", "M"], ["DERIVED", "PRIMARY", "P"]]},
    ],
)
def test_interleaved_stacks_are_split(tmp_path: Path, by: dict[str, list[Any]]) -> None:
    interleave(tmp_path, **by)
    found = find(tmp_path)
    assert not found.refused
    assert [series.part for series in found.series] == [0, 1]
    for number, series in enumerate(found.series):
        np.testing.assert_array_equal(read_series(series).array, phantom(number))
        assert next(iter(by)) in series.warnings[0]
        assert read_series(series).warnings == list(series.warnings)


def test_two_traits_may_be_needed(tmp_path: Path) -> None:
    interleave(tmp_path, 4, EchoTime=[10, 10, 80, 80], FlipAngle=[5, 20, 5, 20])
    found = find(tmp_path)
    assert len(found.series) == 4
    assert "EchoTime and FlipAngle" in found.series[0].warnings[0]


def test_a_trait_that_differs_from_slice_to_slice_does_not_split(tmp_path: Path) -> None:
    for number, path in enumerate(write_series(tmp_path, phantom(), AFFINE)):
        edit(path, AcquisitionNumber=number)
    assert only(tmp_path).n_slices == 6


def test_enhanced_frames_are_split(tmp_path: Path) -> None:
    array = np.concatenate([phantom(0), phantom(1)], axis=-1)
    places = np.tile(np.array([-31.5, 12.25, 8]) + np.arange(6)[:, None] * (0, 0, 3), (2, 1))
    (path,) = write_series(tmp_path, array, AFFINE, modality="MR", enhanced=True, positions=places)
    dataset = dcmread(path)
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 6
    dataset.save_as(path)
    found = find(tmp_path).series
    assert [read_series(series).frames for series in found] == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    np.testing.assert_array_equal(read_series(found[1]).array, phantom(1))


def test_nothing_tells_two_images_apart(tmp_path: Path) -> None:
    interleave(tmp_path)
    write_series(tmp_path / "good", phantom(), AFFINE, series=1)
    found = find(tmp_path)
    assert len(found.series) == 1
    (reason,) = found.refused.values()
    assert "lie at the same place" in reason
    assert "slice" in reason


def test_a_copy_of_an_instance_is_dropped(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom(), AFFINE)
    shutil.copy(paths[2], tmp_path / "again")
    series = only(tmp_path)
    assert series.n_slices == 6
    assert series.warnings == (f"{max(paths[2], tmp_path / 'again')}: left out as a copy",)
    np.testing.assert_array_equal(read_series(series).array, phantom())


def test_different_images_of_one_uid(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom(), AFFINE)
    edit(paths[1], SOPInstanceUID=dcmread(paths[0]).SOPInstanceUID)
    found = find(tmp_path)
    assert not found.series
    assert "SOPInstanceUID" in next(iter(found.refused.values()))


def test_planes_of_a_localiser_are_split_and_left_out(tmp_path: Path) -> None:
    uid_of_all = uid.generate_uid(entropy_srcs=["all"])
    kind = {"SeriesInstanceUID": uid_of_all, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(tmp_path / "a", phantom(), AFFINE, **kind)
    write_series(tmp_path / "b", phantom(), CORONAL, first_instance=11, **kind)
    write_series(tmp_path / "c", phantom()[:8], AFFINE, first_instance=21, **kind)
    found = find(tmp_path)
    assert sorted(series.orientation for series in found.series) == ["axial", "axial", "coronal"]
    assert sorted(series.part for series in found.series) == [0, 1, 2]
    assert {Rules().why_not(series) for series in found.series} == {"a localiser or screen save"}


def test_rules(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(), AFFINE, description="T1 post contrast", modality="MR")
    series = only(tmp_path)
    for wanted in (
        Rules(),
        Rules(modality=("ct", "mr"), description="^t1.*CONTRAST", orientation="axial", min_slices=6),
    ):
        assert wanted.why_not(series) is None
    assert Rules(modality=("CT",)).why_not(series) == "modality MR"
    assert Rules(description="T2").why_not(series) == "description does not match 'T2'"
    assert Rules(orientation="sagittal").why_not(series) == "orientation axial"
    assert Rules(min_slices=7).why_not(series) == "6 slices, fewer than 7"
    with pytest.raises(ValueError, match="axail"):
        Rules(orientation="axail")
    with pytest.raises(ValueError, match="regular expression"):
        Rules(description="(")


@pytest.mark.parametrize("description", ["Scout", "AP TOPOGRAM", "3-plane localizer", "Surview"])
def test_localisers_by_description(tmp_path: Path, description: str) -> None:
    write_series(tmp_path, phantom(), AFFINE, description=description)
    assert "localiser" in str(Rules().why_not(only(tmp_path)))


def test_radiographs_are_single_items_where_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image = np.full((8, 6), 7, np.uint16)
        write_radiograph(tmp_path / name, image, SeriesInstanceUID="1.2.3", SOPInstanceUID=f"1.2.3.{ord(name)}")
    found = find(tmp_path).series
    assert [series.n_slices for series in found] == [1, 1]
    assert sorted(series.part for series in found) == [0, 1]
    assert "radiograph" in str(Rules().why_not(found[0]))
    assert Rules(modality=("DX",)).why_not(found[0]) is None


@pytest.mark.parametrize(
    ("sop_class", "name"),
    [
        (uid.SegmentationStorage, "Segmentation"),
        (uid.ParametricMapStorage, "Parametric Map"),
        (uid.ComprehensiveSRStorage, "SR"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "Presentation State"),
    ],
)
def test_objects_that_are_no_scans(tmp_path: Path, sop_class: str, name: str) -> None:
    image = {"Rows": None, "Columns": None, "PixelData": None, "PixelSpacing": None}
    write_series(tmp_path, phantom(), AFFINE, SOPClassUID=sop_class, **image)
    reasons = {Rules().why_not(series) for series in find(tmp_path).series}
    assert len(reasons) == 1
    assert name in str(reasons.pop())


def test_secondary_captures_are_left_out(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "a", np.zeros((8, 6), np.uint16), modality="OT")
    assert "Secondary Capture" in str(Rules(modality=("OT",)).why_not(only(tmp_path)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"hello", "cannot be read as DICOM|is not part of a DICOM series"),
        (bytes(128) + b"DICM" + bytes(9), "cannot be read as DICOM|is not part of a DICOM series"),
    ],
)
def test_files_that_only_look_like_dicom(tmp_path: Path, content: bytes, text: str) -> None:
    write_series(tmp_path, phantom(), AFFINE)
    (tmp_path / "bad file.dcm").write_bytes(content)
    found = find(tmp_path)
    assert len(found.series) == 1
    ((path, reason),) = found.refused.items()
    assert path == str(tmp_path / "bad file.dcm")
    assert path in reason
    assert any(each in reason for each in text.split("|"))


@pytest.mark.parametrize("size", [200, 700, 1000])
def test_headers_cut_short(tmp_path: Path, size: int) -> None:
    path = write_series(tmp_path, phantom(), AFFINE)[0]
    path.write_bytes(path.read_bytes()[:size])
    found = find(tmp_path)
    assert list(found.refused) == [str(path)]
    assert found.series[0].n_slices == 5


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"PixelSpacing": ["1e9", "1e9"]}, "PixelSpacing"),
        ({"PixelSpacing": ["0", "1"]}, "PixelSpacing"),
        ({"PixelSpacing": ["nan", "1"]}, "PixelSpacing"),
        ({"ImagePositionPatient": ["inf", "0", "0"]}, "ImagePositionPatient"),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "ImageOrientationPatient"),
        ({"ImageOrientationPatient": ["0", "0", "0", "0", "0", "0"]}, "ImageOrientationPatient"),
        ({"Rows": 0}, "Rows"),
        ({"SeriesInstanceUID": None}, "UIDs"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_impossible_headers(tmp_path: Path, attributes: dict[str, Any], text: str) -> None:
    paths = write_series(tmp_path, phantom(), AFFINE, **attributes)
    found = find(tmp_path)
    assert not found.series
    assert sorted(found.refused) == sorted(map(str, paths))
    assert all(text in reason and path in reason for path, reason in found.refused.items())


def test_no_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Denies access by patching, as root may read everything."""
    paths = write_series(tmp_path / "a", phantom(), AFFINE)
    write_series(tmp_path / "locked", phantom(), AFFINE, series=1)
    real_open, real_scandir = open, os.scandir

    def no_open(name: Any, *args: Any, **more: Any) -> Any:
        if str(name) == str(paths[0]):
            raise PermissionError(13, "Permission denied", str(name))
        return real_open(name, *args, **more)

    def no_scandir(name: Any) -> Any:
        if str(name) == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", str(name))
        return real_scandir(name)

    monkeypatch.setattr("builtins.open", no_open)
    monkeypatch.setattr("os.scandir", no_scandir)
    found = find(tmp_path)
    assert set(found.refused) == {str(paths[0]), str(tmp_path / "locked")}
    assert all("Grant permission" in reason for reason in found.refused.values())
    assert [series.n_slices for series in found.series] == [5]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        find(tmp_path / "gone")


def test_nothing_tells_who_the_patient_is(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"PatientName": "Secret^Name", "PatientID": "SECRET " * 12, "PatientBirthDate": "19310405"}
    paths = write_series(tmp_path, phantom(), AFFINE, **secrets)
    recwarn.clear()  # writing warns
    shutil.copy(paths[2], tmp_path / "again")
    edit(paths[1], PixelSpacing=["0", "0"])
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    found = find(tmp_path)
    (series,) = found.series
    with pytest.raises(ValueError) as caught:
        read_series(series)
    good = dataclasses.replace(series, headers=series.headers[1:])
    shown = [
        *map(repr, (found, series, read_series(good))),
        *(str(caught.value), str(found.refused), str(read_series(good).warnings), str(Rules(("MR",)).why_not(series))),
        *(caplog.text, *capfd.readouterr(), *(str(warning.message) for warning in recwarn)),
    ]
    for text in shown:
        assert not any(word in text.upper() for word in ("SECRET", "19310405")), text
