"""Series of a DICOMweb server: which are listed, what a segmentation of them says, and which labels count.

The server is Orthanc, which listens on all interfaces: it, our server and their clients run in a network of their own.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from pydicom import Dataset, dcmread

from bundle.label.segments import MANUFACTURER, labels_of, require_convertible, segment_info
from bundle.label.studies import DicomStudies, labelled_series
from bundle.phantom.dicom import write_series
from scripts.model.predictor import Predictor

ROOT = Path(__file__).parents[2]
ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
_ORTHANC, _LABEL = "http://127.0.0.1:8042", "http://127.0.0.1:8000"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@pytest.fixture(scope="module")
def namespace(program: Callable[[str], str]) -> Iterator[str]:
    """The name of a network that has nothing but loopback; made by root alone."""
    ip, name = program("ip"), f"label{uuid.uuid4().hex[:8]}"
    made = subprocess.run([ip, "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        reason = f"no network namespace can be made: {made.stderr.strip()}"
        if os.environ.get("REQUIRE_PROGRAMS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    subprocess.run([ip, "netns", "exec", name, ip, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run([ip, "netns", "delete", name], check=True)


@pytest.fixture(scope="module")
def ask(namespace: str) -> Iterator[Callable[..., requests.Response]]:
    """``requests.request`` from within the network: namespaces are of threads."""

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/var/run/netns/{namespace}") as file:
            assert libc.setns(file.fileno(), _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())

    with ThreadPoolExecutor(1, initializer=enter) as inside:
        yield lambda *words, **options: inside.submit(requests.request, *words, timeout=120, **options).result()


@contextlib.contextmanager
def running(
    namespace: str, ask: Callable[..., requests.Response], url: str, log: Path, *command: str
) -> Iterator[None]:
    """A server in the network, from its first answer on."""
    words = ["ip", "netns", "exec", namespace, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    with log.open("w") as output:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(180):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                ask("GET", url)
                break
            except requests.ConnectionError:
                time.sleep(0.5)
        else:
            raise AssertionError(log.read_text()[-3000:])
        yield
    finally:
        process.terminate()
        process.wait(30)


def save_as(dataset: Dataset, path: Path, enforce_file_format: bool = False) -> None:
    """pydicom 3's ``save_as`` in pydicom 2."""
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.is_little_endian, dataset.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    _save_as(dataset, path, write_like_original=not enforce_file_format)


_save_as = Dataset.save_as


@pytest.fixture(scope="module")
def series(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """An anomalous head as CT, the same in a multi-frame file, a localiser of it by its name and one by its kind, and a
    normal head as MR."""
    folder = tmp_path_factory.mktemp("dicom")
    ill, normal = (sorted(phantoms.glob(f"{kind}/*/ct.nii.gz"))[0] for kind in ("anomalous", "normal"))
    wanted = {
        "ct": (ill, "CT", {"SeriesDescription": "Head 5 mm"}),
        "enhanced": (ill, "CT", {"SeriesDescription": "Head 5 mm", "enhanced": True}),
        "scout": (ill, "CT", {"SeriesDescription": "Topogram 0.6"}),
        "localiser": (ill, "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        "mr": (normal, "MR", {"SeriesDescription": "T1"}),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "save_as", save_as)
        made = {}
        for number, (name, (file, modality, attributes)) in enumerate(wanted.items()):
            scan = nib.as_closest_canonical(nib.load(file))
            array = np.asanyarray(scan.dataobj)[::-1, ::-1]  # rows and columns as scanners have them
            affine = scan.affine @ np.diag([-1, -1, 1, 1])
            affine[:3, 3] = scan.affine[:3, 3] + scan.affine[:3, :3] @ (array.shape[0] - 1, array.shape[1] - 1, 0)
            made[name] = write_series(
                folder / name, array, affine, modality=modality, patient=file.parent.name, series=number, **attributes
            )
    return made


@pytest.fixture
def uids(series: dict[str, list[Path]]) -> dict[str, str]:
    return {name: str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID) for name, files in series.items()}


@pytest.fixture
def orthanc(
    namespace: str,
    ask: Callable[..., requests.Response],
    program: Callable[[str], str],
    series: dict[str, list[Path]],
    tmp_path: Path,
) -> Iterator[None]:
    config = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "Plugins": ["/usr/share/orthanc/plugins"],
        "HttpPort": 8042,
        "DicomPort": 4242,
        "RemoteAccessAllowed": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = tmp_path / "orthanc.json"
    file.write_text(json.dumps(config))
    with running(namespace, ask, f"{_ORTHANC}/system", tmp_path / "orthanc.log", program("Orthanc"), str(file)):
        for path in (path for files in series.values() for path in files):
            assert ask("POST", f"{_ORTHANC}/instances", data=path.read_bytes()).status_code == 200
        yield


def violations(program: Callable[[str], str], file: Path) -> list[str]:
    done = subprocess.run([program("dciodvfy"), str(file)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def read_by_dcmqi(program: Callable[[str], str], file: Path) -> Any:
    """The one segment as a volume."""
    words = [program("segimage2itkimage"), "--inputDICOM", str(file), "--outputDirectory", str(file.parent)]
    subprocess.run([*words, "--outputType", "nii", "--prefix", "read"], check=True, capture_output=True)
    return nib.load(next(file.parent.glob("read-1.nii*")))


@pytest.mark.usefixtures("orthanc")
def test_a_series_is_listed_inferred_and_labelled(
    namespace: str,
    ask: Callable[..., requests.Response],
    program: Callable[[str], str],
    trained_model: Path,
    phantoms: Path,
    uids: dict[str, str],
    tmp_path: Path,
) -> None:
    ill = sorted(phantoms.glob("anomalous/*/ct.nii.gz"))[0]
    words = [str(trained_model), "--studies", f"{_ORTHANC}/dicom-web", "--app", str(tmp_path / "work")]
    command = [sys.executable, "-m", "bundle", "label", *words]
    with running(namespace, ask, f"{_LABEL}/info/", tmp_path / "label.log", *command):
        ct = uids["ct"]

        def post(path: str, **params: Any) -> requests.Response:
            return ask("POST", f"{_LABEL}{path}", data={"params": json.dumps(params)})

        def open_cases() -> dict[str, int]:
            return {name: ask("GET", f"{_LABEL}/info/").json()["datastore"][name] for name in ("total", "completed")}

        # MR and localisers are left out.
        assert open_cases() == {"total": 2, "completed": 0}
        for unknown in ("1.2.3", "*", "..", uids["ct"][:-1]):
            answer = post(f"/infer/anomaly_map?image={unknown}")
            assert answer.status_code == 404, answer.text
        about = post(f"/infer/anomaly_segmentation?image={ct}&output=json").json()
        assert about["score"] == pytest.approx(Predictor(trained_model)(ill).score, rel=1e-4)  # as of the NIfTI
        # A segmentation in DICOM, as mask and in two of three bands.
        threshold = float(np.median(about["slice_scores"])) / 1.5
        for number, params in enumerate(({}, {"display": "bands", "mask_threshold": threshold})):
            answer = post(f"/infer/anomaly_segmentation?image={ct}&output=dicom_seg", **params)
            assert answer.status_code == 200, answer.text
            file = tmp_path / f"seg{number}.dcm"
            file.write_bytes(answer.content)
            segmentation = dcmread(file)
            assert violations(program, file) == []
            segments = len(segmentation.SegmentSequence)
            assert segments > 1 if number else segments == 1
            for segment in segmentation.SegmentSequence:
                for name in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
                    code = segment[name].value[0]
                    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ABNORMAL
            assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == ct
        mask = post(f"/infer/anomaly_segmentation?image={ct}&output=image", result_extension=".nii.gz").content
        (tmp_path / "mask.nii.gz").write_bytes(mask)
        ours, theirs = nib.load(tmp_path / "mask.nii.gz"), read_by_dcmqi(program, tmp_path / "seg0.dcm")
        # dcmqi leaves out the empty slices at the ends.
        first = np.rint(np.linalg.inv(ours.affine) @ theirs.affine)[:3, 3].astype(int)
        assert (first[:2] == 0).all()
        moved = ours.slicer[:, :, first[2] : first[2] + theirs.shape[2]]
        assert np.allclose(moved.affine, theirs.affine, atol=1e-3)
        assert np.array_equal(moved.get_fdata(), theirs.get_fdata())
        assert ours.get_fdata().sum() == theirs.get_fdata().sum()
        answer = post(f"/infer/anomaly_segmentation?image={ct}&output=dicom_seg", mask_threshold=1000)
        assert answer.status_code == 409
        assert "No voxel lies above the mask threshold" in answer.json()["detail"]
        assert post(f"/infer/anomaly_map?image={ct}&output=dicom_seg").status_code == 422
        # The multi-frame file has the same scores, and no segmentation that dcmqi would write.
        about_enhanced = post(f"/infer/anomaly_segmentation?image={uids['enhanced']}&output=json").json()
        assert about_enhanced["slice_scores"] == about["slice_scores"]
        answer = post(f"/infer/anomaly_segmentation?image={uids['enhanced']}&output=dicom_seg")
        assert answer.status_code == 422
        assert "multi-frame" in answer.json()["detail"]
        # Our own result in the archive does not hide the case from a reader.
        assert ask("POST", f"{_ORTHANC}/instances", data=(tmp_path / "seg0.dcm").read_bytes()).status_code == 200
        assert open_cases() == {"total": 2, "completed": 0}
        assert ask("POST", f"{_LABEL}/scoring/anomaly?run_sync=true").json()["scored"] == 2
        chosen = ask("POST", f"{_LABEL}/activelearning/most_anomalous", json={}).json()
        assert chosen["id"] in (ct, uids["enhanced"])
        assert chosen["score"] == about["score"]

        # A label that a reader saves does, and says that a reader has seen it.
        def save(label: np.ndarray) -> requests.Response:
            """As OHIF sends it."""
            voxels, named = label.astype(np.uint8).tobytes(order="F"), {"label_info": [{"name": "bleeding"}]}
            url, files = f"{_LABEL}/datastore/label?image={ct}", {"label": ("label.bin", voxels)}
            return ask("PUT", url, files=files, data={"params": json.dumps(named)})

        assert save(ours.get_fdata() * 0).status_code == 409
        assert save(ours.get_fdata()).status_code == 200
        assert open_cases() == {"total": 2, "completed": 1}
        found = ask("POST", f"{_ORTHANC}/tools/find", json={"Level": "Instance", "Query": {"Modality": "SEG"}}).json()
        files = [tmp_path / f"{name}.dcm" for name in found]
        for file, name in zip(files, found, strict=True):
            file.write_bytes(ask("GET", f"{_ORTHANC}/instances/{name}/file").content)
        (saved,) = (file for file in files if dcmread(file).SegmentSequence[0].SegmentLabel == "bleeding")
        assert len(files) == 2
        segment = dcmread(saved).SegmentSequence[0]
        assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == ABNORMAL[0]
        assert np.array_equal(read_by_dcmqi(program, saved).get_fdata(), moved.get_fdata())
        assert ask("POST", f"{_LABEL}/activelearning/most_anomalous", json={}).json()["id"] == uids["enhanced"]


def test_a_series_is_where_it_is_kept_from_the_first_time_on_and_nowhere_else(
    series: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [dcmread(file) for file in series["ct"]]
    uid = str(slices[0].SeriesInstanceUID)

    class Archive:
        base_url = "http://archive.example"

        def search_for_series(self, search_filters: dict[str, str]) -> list[dict[str, Any]]:
            return [dcmread(series["ct"][0], stop_before_pixels=True).to_json_dict()]

        def retrieve_series(self, study: str, series: str) -> list[Dataset]:
            return slices

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(Dataset, "save_as", save_as)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    studies = DicomStudies(Archive(), {}, str(tmp_path / "cache"))
    scan = studies.get_image_uri(uid)
    assert scan == studies.get_image_uri(uid)
    assert nib.load(scan).shape == (64, 64, 8)
    assert len(list(Path(scan.removesuffix(".nii.gz")).iterdir())) == 8  # of which dcmqi makes a segmentation
    assert list(temporary.iterdir()) == []


def test_a_server_that_does_not_answer_is_named(serve: Callable[..., TestClient]) -> None:
    answer = serve("http://127.0.0.1:9/dicom-web").get("/info/")
    assert answer.status_code == 502
    assert "127.0.0.1" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("shear", "moved", "even"), [(0.0, 0.0, True), (0.0, 0.05, True), (0.3, 0.0, False), (0.0, 1.0, False)]
)
def test_a_series_that_is_no_even_grid_is_told(
    shear: float, moved: float, even: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "save_as", save_as)
    affine = np.diag([-1.0, -1.0, 4.0, 1.0])
    affine[1, 2] = shear
    files = write_series(tmp_path, np.zeros((8, 8, 4), np.int16), affine)
    first = dcmread(files[1])
    first.ImagePositionPatient = [*first.ImagePositionPatient[:2], first.ImagePositionPatient[2] + moved]
    save_as(first, files[1])
    if even:
        require_convertible(tmp_path)
    else:
        with pytest.raises(ValueError, match="tilted or unevenly spaced"):
            require_convertible(tmp_path)


def segmentation(manufacturer: str, kind: str, algorithm: str) -> Dataset:
    made, segment, referenced = Dataset(), Dataset(), Dataset()
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = kind, algorithm
    referenced.SeriesInstanceUID = "1.2.3"
    made.Manufacturer, made.SegmentSequence, made.ReferencedSeriesSequence = manufacturer, [segment], [referenced]
    return made


def test_the_bundles_own_files_are_told_by_their_manufacturer() -> None:
    source = (ROOT / "scripts" / "dicom" / "derived.py").read_text()  # which needs what is not installed here
    assert f'MANUFACTURER = "{MANUFACTURER}"' in source


def test_only_what_a_reader_has_seen_is_a_label() -> None:
    assert labelled_series(segmentation("QIICR", "SEMIAUTOMATIC", "medical_anomaly_pdd")) == "1.2.3"
    assert labelled_series(segmentation("QIICR", "AUTOMATIC", "medical_anomaly_pdd")) is None
    assert labelled_series(segmentation("QIICR", "AUTOMATIC", "another")) == "1.2.3"
    assert labelled_series(segmentation(MANUFACTURER, "AUTOMATIC", "PDD")) is None
    assert labelled_series(Dataset()) is None


def test_a_label_that_does_not_fit_its_scan_is_refused(phantoms: Path, tmp_path: Path) -> None:
    scan = sorted(phantoms.glob("normal/*/ct.nii.gz"))[0]
    mask = np.zeros(nib.load(scan).shape, np.uint8)
    mask[1:3, 2, 3], mask[5, 6, 7] = 3, 1
    for name, array in (("fits", mask), ("cut", mask[:, :, :-1])):
        nib.save(nib.Nifti1Image(array, nib.load(scan).affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"label")
    assert labels_of(tmp_path / "fits.nii.gz", scan) == [1, 3]
    with pytest.raises(ValueError, match=r"has \(64, 64, 7\) voxels, but its series \(64, 64, 8\)"):
        labels_of(tmp_path / "cut.nii.gz", scan)
    with pytest.raises(ValueError, match="cannot be read"):
        labels_of(tmp_path / "broken.nii.gz", scan)
    for given in ("text", [5], {"name": "lesion"}):
        with pytest.raises(ValueError, match="label_info"):
            segment_info([1], False, given)


def test_codes_are_added_where_a_client_names_none_and_kept_where_it_does() -> None:
    own = {"name": "lesion", "color": [1, 2, 3], "segmentAttribute": {"labelID": 1}}
    assert segment_info([1], False, [own])[0]["segmentAttribute"] == {"labelID": 1}
    named = segment_info([1, 3], False, [{"name": "lesion", "color": [1.0, 2.0, 3.0, 255]}])
    attributes = [entry["segmentAttribute"] for entry in named]
    assert [attribute["labelID"] for attribute in attributes] == [1, 3]
    assert [attribute["SegmentLabel"] for attribute in attributes] == ["lesion", "anomaly, high"]
    assert attributes[0]["recommendedDisplayRGBValue"] == [1, 2, 3]
    for attribute in attributes:
        assert tuple(attribute["SegmentedPropertyTypeCodeSequence"].values()) == ABNORMAL
        assert attribute["SegmentAlgorithmType"] == "SEMIAUTOMATIC"
