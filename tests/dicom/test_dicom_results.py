"""Results as a whole: complete and valid from sources of any kind, private, atomic, and taken by an archive."""

import copy
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.tag import Tag, tag_in_exception
from pydicom.uid import ExplicitVRLittleEndian

from bundle.phantom.dicom import write_radiograph
from scripts.dicom.results import write_dicom
from scripts.dicom.series import find_series, read_series

NAMES = ["segmentation.dcm", "anomaly_map.dcm", "report.dcm", "overlay_005.dcm", "overlay_000.dcm"]
ODD: list[dict[str, Any]] = [
    dict.fromkeys(("PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "PatientBirthDate")),
    dict.fromkeys(("PatientName", "PatientID", "ReferringPhysicianName", "SpecificCharacterSet", "Manufacturer")),
    dict.fromkeys(("FrameOfReferenceUID", "PositionReferenceIndicator", "SliceThickness", "BodyPartExamined"), ""),
    {"Laterality": "", "PatientSex": "", "PatientIdentityRemoved": "YES", "DeidentificationMethod": ""},
    {"PatientSex": "unknown", "StudyDate": "yesterday", "PatientBirthDate": "1950-31-12", "PatientAge": "old"},
    {"SpecificCharacterSet": "UTF8", "PatientName": "Müller^Jürgen", "StudyDescription": "Schädel"},
    {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen", "InstitutionName": "Köln"},
    {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
    {"enhanced": True, "FrameOfReferenceUID": "", "PatientSex": None, "StudyTime": "noon"},
    {"BodyPartExamined": "KNEE", "Laterality": "L", "ImageLaterality": "L"},
]


@pytest.fixture
def write(result, algorithm, tmp_path: Path) -> Callable[..., list[Path]]:
    """``write(volume)``: all results of it."""

    def make(volume, folder: str = "results", **options: Any) -> list[Path]:
        return write_dicom(volume, result(volume), algorithm, tmp_path / folder, **options)

    return make


@pytest.mark.parametrize("options", [{}, {"modality": "MR"}, {"enhanced": True}, {"modality": "MR", "enhanced": True}])
def test_all_objects_are_valid_and_of_the_study(acquire, write, errors, options: dict) -> None:
    volume = acquire(**options, PatientWeight="70.5", PatientSize="1.8")
    paths = write(volume, secondary_capture=True)
    assert [path.name for path in paths] == NAMES
    assert {path.name: errors(path) for path in paths} == {name: [] for name in NAMES}
    source, made = volume.sources[0], [dcmread(path) for path in paths]
    for dataset in made:
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyInstanceUID",
            "StudyID",
            "StudyDescription",
            "PatientWeight",
            "PatientSize",
        ):
            assert dataset[keyword].value == source[keyword].value
        assert dataset.SeriesDescription.endswith("not for clinical use")
        assert dataset.Manufacturer
    for dataset in made[:2]:
        assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert (dataset.Rows, dataset.Columns) == volume.array.shape[1::-1]
    assert len({d.SeriesInstanceUID for d in [*made, source]}) == 5  # the overlays share theirs
    assert len({d.SOPInstanceUID for d in made}) == len(made)
    assert len({d.SeriesNumber for d in [*made, source]}) == 5


@pytest.mark.parametrize("attributes", ODD, ids=lambda attributes: ",".join(attributes))
@pytest.mark.filterwarnings("ignore")  # of pydicom, when the test writes the odd sources
def test_odd_and_incomplete_sources_still_give_valid_objects(acquire, write, errors, attributes: dict) -> None:
    volume = acquire(**attributes)
    paths = write(volume, secondary_capture=True)
    assert {path.name: errors(path) for path in paths} == {name: [] for name in NAMES}
    frames_of_reference = {dcmread(path).FrameOfReferenceUID for path in paths[:2]}
    assert len(frames_of_reference) == 1
    assert frames_of_reference != {""}
    assert {str(dcmread(path).PatientName) for path in paths} == {str(volume.sources[0].get("PatientName", ""))}


def test_sources_stay_as_they_are(acquire, write) -> None:
    volume = acquire(FrameOfReferenceUID="", PatientSex=None)
    before = [source.to_json() for source in volume.sources]
    write(volume, secondary_capture=True)
    assert [source.to_json() for source in volume.sources] == before


def test_missing_uid_is_named(acquire, write) -> None:
    volume = copy.deepcopy(acquire())
    del volume.sources[2].SOPInstanceUID
    with pytest.raises(ValueError, match="SOPInstanceUID"):
        write(volume)


def test_headers_that_highdicom_stumbles_over_are_refused_without_telling_them(acquire, write) -> None:
    volume = copy.deepcopy(acquire())
    volume.sources[0].ImageCenterPointCoordinatesSequence = [Dataset()]  # of a slide, without all that a slide has
    with pytest.raises(ValueError, match=r"headers make no DICOM results \(AttributeError\)"):
        write(volume)


def test_several_files_of_a_multi_frame_class_are_refused(acquire, write) -> None:
    with pytest.raises(ValueError, match="several files of Nuclear Medicine"):
        write(acquire(SOPClassUID="1.2.840.10008.5.1.4.1.1.20"))


@pytest.mark.parametrize("field", ["positions", "sources"])
def test_sources_that_do_not_fit_the_slices_are_refused(acquire, write, field: str) -> None:
    volume = acquire()
    with pytest.raises(ValueError, match="6 slices"):
        write(replace(volume, **{field: getattr(volume, field)[:5]}))


def test_one_slice_and_no_mask(acquire, result, algorithm, errors, tmp_path: Path) -> None:
    volume = acquire(shape=(12, 10, 1))
    paths = write_dicom(volume, result(volume, top_slices=[0], mask=None), algorithm, tmp_path / "results")
    assert {path.name: errors(path) for path in paths} == {"anomaly_map.dcm": [], "report.dcm": []}


@pytest.mark.parametrize("modality", ["DX", "CR"])
def test_a_radiograph_has_all_but_a_map(result, algorithm, errors, tmp_path: Path, modality: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 4000, (20, 30)).astype(np.uint16)
    write_radiograph(tmp_path / "scan" / "a.dcm", pixels, modality=modality, PixelSpacing=[0.2, 0.2])
    (series,) = find_series(tmp_path / "scan", progress=False).series
    volume = read_series(series)
    mask = np.zeros(volume.array.shape, np.uint8)
    mask[3, 7] = 1
    found = result(volume, top_slices=[0], anomaly_map=mask.astype(np.float32), mask=mask)
    paths = write_dicom(volume, found, algorithm, tmp_path / "out", secondary_capture=True)
    names = ["segmentation.dcm", "report.dcm", "overlay_000.dcm"]
    assert {path.name: errors(path) for path in paths} == {name: [] for name in names}
    np.testing.assert_array_equal(dcmread(paths[0]).pixel_array.squeeze().T, mask[..., 0])
    assert list(dcmread(paths[2]).PatientOrientation) == ["L", "F"]


@pytest.mark.filterwarnings("ignore")  # of pydicom, when the test writes the odd sources
def test_nothing_of_the_patient_is_printed_logged_or_warned_of(acquire, write, caplog, capfd) -> None:
    volume = acquire(
        PatientName="Secretname",
        PatientID="Secretid" * 10,
        PatientBirthDate="1950-secret",
        StudyInstanceUID="1.2.secret",
    )
    capfd.readouterr()
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write(volume, secondary_capture=True)
    said = [*capfd.readouterr(), caplog.text, *(str(each.message) for each in caught)]
    assert not any("secret" in text.lower() for text in said)


def test_a_failed_write_leaves_the_old_file_and_names_it(acquire, write, monkeypatch) -> None:
    volume = acquire()
    paths = write(volume)
    before = [path.read_bytes() for path in paths]

    def fail(self: Dataset, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Dataset, "save_as", fail)
    with pytest.raises(OSError, match=r"segmentation\.dcm.*No space left"):
        write(volume)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(os.listdir(paths[0].parent)) == sorted(path.name for path in paths)


def test_a_full_disk_is_told_in_one_line(acquire, write, monkeypatch) -> None:
    def fail(self: Dataset, path: Path, **_: Any) -> None:
        with tag_in_exception(Tag("PixelData")):  # as pydicom reports what happens to an element
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save_as", fail)
    with pytest.raises(OSError, match=r"segmentation\.dcm: .*No space left on device\. Free space") as caught:
        write(acquire())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": np.nan}, "NaN or infinite: DICOM"),
        ({"scan_threshold": np.inf}, "NaN or infinite: DICOM"),
        ({"slice_threshold": np.nan}, "NaN or infinite: DICOM"),
        ({"mask_threshold": -np.inf}, "NaN or infinite: DICOM"),
        ({"p_value": np.nan}, "NaN or infinite: DICOM"),
        ({"slice_scores": [0.5] * 5 + [np.nan]}, "NaN or infinite: DICOM"),
        ({"slice_scores": [0.5] * 5}, "5 slice scores are not one for each of 6 slices"),
        ({"top_slices": [6]}, r"Top slices \[6\] are not all among the 6 slices"),
        ({"top_slices": [-1]}, r"Top slices \[-1\] are not all among the 6 slices"),
        ({"anomaly_map": np.full((12, 10, 6), np.nan)}, "The anomaly map holds NaN"),
        ({"anomaly_map": None}, "is not on the scan's grid"),
        ({"mask": np.full((12, 10, 6), 2)}, "values other than 0 and 1"),
    ],
)
def test_nothing_is_written_of_a_result_that_dicom_cannot_hold(
    acquire, result, algorithm, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    volume = acquire()
    with pytest.raises(ValueError, match=message):
        write_dicom(volume, result(volume, **changes), algorithm, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.fixture
def storescu(program: Callable[[str], str]) -> str:
    """DCMTK's program, and not the one of the same name that pynetdicom brings."""
    for folder in os.get_exec_path():
        path = shutil.which("storescu", path=folder)
        if path and "dcmtk" in subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout:
            return path
    return program("storescu of DCMTK")


@pytest.fixture
def archive() -> Iterator[tuple[int, dict[str, Dataset]]]:
    """A storage provider on a free port of this machine, and what it has received by SOPInstanceUID."""
    pynetdicom = pytest.importorskip("pynetdicom")
    received: dict[str, Dataset] = {}

    def store(event: Any) -> int:
        received[event.dataset.SOPInstanceUID] = event.dataset
        return 0x0000

    entity = pynetdicom.AE()
    for context in pynetdicom.AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ExplicitVRLittleEndian)
    handlers = [(pynetdicom.evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    yield server.socket.getsockname()[1], received
    server.shutdown()


def test_an_archive_receives_what_was_written(acquire, write, storescu: str, archive) -> None:
    port, received = archive
    paths = write(acquire(), secondary_capture=True)
    words = ["-R", "127.0.0.1", str(port), *map(str, paths)]
    subprocess.run([storescu, *words], check=True, capture_output=True, timeout=60)
    assert len(received) == len(paths)
    for path in paths:
        sent = dcmread(path)
        assert received[sent.SOPInstanceUID].to_json() == sent.to_json()
