"""The Deploy application: what it writes, and what it says where it cannot."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from pydicom import Dataset, dcmread

from bundle.phantom.dicom import write_series
from scripts.dicom.conversion import series_name
from scripts.dicom.series import find_series

ROOT = Path(__file__).parents[3]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from RAS, and back
OBJECTS = ["segmentation.dcm", "anomaly_map.dcm", "report.dcm"]


def tilted(affine: np.ndarray) -> np.ndarray:
    """The affine with its slices shifted along the rows' direction, as by a gantry tilted by 12 degrees."""
    sheared = affine.copy()
    sheared[:3, 2] += affine[:3, 1] / 4 * 7 * np.tan(np.radians(12))
    return sheared


@pytest.fixture(scope="module")
def scans(phantom, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The phantom straight and tilted, as DICOM in one folder, and as NIfTI with other axes in one more."""
    array, affine = phantom
    folder = tmp_path_factory.mktemp("scans")
    for number, (name, grid) in enumerate({"straight": affine, "tilted": tilted(affine)}.items()):
        write_series(folder / "dicom" / name, array, grid, series=number, description=name)
        (folder / "nifti").mkdir(exist_ok=True)
        image = nib.Nifti1Image(array[::-1, :, ::-1], grid @ np.diag([-1, 1, -1, 1]) + _moved(grid, array.shape))
        nib.save(image, folder / "nifti" / f"{name}.nii.gz")
    return {"dicom": folder / "dicom", "nifti": folder / "nifti"}


def _moved(grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What flipping the first and the last axis adds to an affine."""
    moved = np.zeros((4, 4))
    moved[:3, 3] = grid[:3, 0] * (shape[0] - 1) + grid[:3, 2] * (shape[2] - 1)
    return moved


@pytest.fixture(scope="module")
def deployed(scans, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verb, as a process, makes of the DICOM series."""
    out = tmp_path_factory.mktemp("deployed")
    words = ["deploy", str(model_folder), "-i", str(scans["dicom"]), "-o", str(out)]
    done = _process("bundle", *words, "--secondary-capture", cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "stack size" not in done.stdout
    assert "2 of 2 series are scored." in done.stdout
    return out


@pytest.fixture(scope="module")
def inferred(scans, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model folder's own inference makes of all scans."""
    out = tmp_path_factory.mktemp("inferred")
    words = ["--input", str(scans["nifti"].parent), "--output_dir", str(out), "--cache_dir", str(out / "cache")]
    words += ["--tracking_uri", f"sqlite:///{out}/mlruns.db", "--config_file", "configs/inference.json"]
    done = _process("monai.bundle", "run", "inferring", *words, cwd=model_folder)
    assert done.returncode == 0, done.stdout
    return out


def _process(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, cwd=cwd, env=environment, text=True, stdout=-1, stderr=-2, check=False)


def _names(scans: dict[str, Path]) -> dict[str, str]:
    """Names in the results by description."""
    return {one.description: series_name(one) for one in find_series(scans["dicom"], progress=False).series}


def _voxels(dataset: Dataset, frames: np.ndarray, image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Stored values (frames, rows, columns), and those that a NIfTI has at their places in the patient."""
    stored = dataset.pixel_array if "PixelData" in dataset else _floats(dataset)
    count, rows, columns = stored.shape
    k, row, column = np.meshgrid(range(count), range(rows), range(columns), indexing="ij")
    lps = np.einsum("kij,krcj->krci", frames, np.stack([column, row, np.ones_like(row)], -1)[..., :3])
    ras = nib.affines.apply_affine(LPS, lps)
    index = nib.affines.apply_affine(np.linalg.inv(image.affine), ras)
    assert np.abs(index - np.rint(index)).max() < 1e-2
    i, j, k = np.moveaxis(np.rint(index).astype(int), -1, 0)
    return stored, np.asarray(image.dataobj)[i, j, k]


def _floats(dataset: Dataset) -> np.ndarray:
    return np.frombuffer(dataset.FloatPixelData, "<f4").reshape(dataset.NumberOfFrames, dataset.Rows, dataset.Columns)


@pytest.mark.parametrize("name", ["straight", "tilted"])
@pytest.mark.parametrize("source", ["dicom", "nifti"])
def test_map_and_mask_are_those_of_inferring_voxel_by_voxel_in_the_patient(
    scans, deployed: Path, inferred: Path, frame_affines, name: str, source: str
) -> None:
    folder = deployed / _names(scans)[name]
    scores = pd.read_csv(inferred / "scores.csv").set_index("image")
    row = scores.loc[_names(scans)[name] if source == "dicom" else str(scans["nifti"] / f"{name}.nii.gz")]
    heat = dcmread(folder / "anomaly_map.dcm")
    found, expected = _voxels(heat, frame_affines(heat), nib.load(inferred / row["map"]))
    if (source, name) == ("nifti", "tilted"):  # other voxels of the same head, so it is aligned a little otherwise
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
        return
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    for axis in range(3):  # or else a flip would pass
        assert np.abs(np.flip(found, axis) - expected).max() > 0.01 * expected.max()
    segmentation = dcmread(folder / "segmentation.dcm")
    found, expected = _voxels(segmentation, frame_affines(segmentation), nib.load(inferred / row["mask"]))
    np.testing.assert_array_equal(found, expected)
    assert found.any()


@pytest.mark.parametrize("name", ["straight", "tilted"])
def test_the_volume_is_that_of_the_stored_segmentation_and_of_the_mask_of_inferring(
    scans, deployed: Path, inferred: Path, frame_affines, read_results, name: str
) -> None:
    one = next(one for one in read_results(deployed)["series"] if one["series"] == _names(scans)[name])
    segmentation = dcmread(deployed / one["series"] / "segmentation.dcm")
    frames = frame_affines(segmentation)
    across, down, step = frames[0, :, 0], frames[0, :, 1], frames[1, :, 2] - frames[0, :, 2]
    voxel = abs(np.linalg.det(np.stack([across, down, step])))
    assert one["volume_mm3"] == pytest.approx(segmentation.pixel_array.sum() * voxel, rel=1e-4)
    assert one["volume_ml"] == pytest.approx(one["volume_mm3"] / 1000, abs=1e-5)
    mask = nib.load(inferred / pd.read_csv(inferred / "scores.csv").set_index("image").loc[one["series"], "mask"])
    volume = np.asarray(mask.dataobj).sum() * abs(np.linalg.det(mask.affine[:3, :3]))
    assert one["volume_mm3"] == pytest.approx(volume, rel=1e-4)


def test_results_tell_scores_files_and_versions(scans, deployed: Path, inferred: Path, read_results) -> None:
    results = read_results(deployed)
    scores = pd.read_csv(inferred / "scores.csv").set_index("image")
    assert results["notice"] == "For research. Not for clinical use."
    assert results["model"]["method"] == "PDD"
    assert results["model"]["untrained"] == ["test_resnet", "vmamba_pico"]
    assert results["versions"]["monai-deploy-app-sdk"] == "4.0.0"
    assert (results["left_out"], results["unreadable"]) == ({}, {})
    assert {one["series"] for one in results["series"]} == set(_names(scans).values())
    for one in results["series"]:
        assert one["score"] == pytest.approx(scores.loc[one["series"], "score"], rel=1e-5)
        assert one["p_value"] == pytest.approx(scores.loc[one["series"], "p_value"])
        for level in ("scan", "slice", "mask"):
            threshold = f"{level}_threshold"
            assert one[threshold] == pytest.approx(scores.loc[one["series"], threshold])
        assert one["abnormal"] == (one["score"] > one["scan_threshold"]) == scores.loc[one["series"], "abnormal"]
        written = {str(path.relative_to(deployed)) for path in (deployed / one["series"]).iterdir()}
        assert set(one["files"]) == written
        assert {f"{one['series']}/{name}" for name in OBJECTS} < written
    assert {path.name for path in deployed.iterdir()} == {*_names(scans).values(), "results.json"}


@pytest.mark.parametrize("name", ["straight", "tilted"])
def test_the_report_tells_score_thresholds_and_the_slices_that_carry_it(
    scans, deployed: Path, inferred: Path, read_results, name: str
) -> None:
    one = next(one for one in read_results(deployed)["series"] if one["series"] == _names(scans)[name])
    told = _measurements(dcmread(deployed / one["series"] / "report.dcm"))
    assert [value for code, value, _ in told if code == "anomaly-score"] == [pytest.approx(one["score"])]
    for level in ("scan", "slice", "mask"):
        thresholds = [value for code, value, _ in told if code == f"{level}-threshold"]
        assert thresholds == [pytest.approx(one[f"{level}_threshold"])]
    headers = [dcmread(path) for path in (scans["dicom"] / name).iterdir()]
    headers.sort(key=lambda header: header.ImagePositionPatient[2])  # from inferior, as slices.csv counts
    numbers = {header.SOPInstanceUID: number for number, header in enumerate(headers)}
    slices = pd.read_csv(inferred / "slices.csv").set_index(["image", "slice"])["score"][one["series"]]
    carrying = [(numbers[uid], value) for code, value, (uid, *_) in told if code == "slice-score"]
    assert carrying[0][0] == slices.idxmax()
    assert [value for _, value in carrying] == pytest.approx([slices[number] for number, _ in carrying], rel=1e-5)


def _measurements(item: Dataset) -> list[tuple[str, float, list[str]]]:
    """Code, value and the SOPInstanceUIDs referred to of every number below an item of a report."""
    found = []
    for child in item.get("ContentSequence") or ():
        if child.ValueType == "NUM":
            code = child.ConceptNameCodeSequence[0].CodeValue
            sources = [one for one in child.get("ContentSequence") or () if one.ValueType == "IMAGE"]
            uids = [one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in sources]
            found.append((code, float(child.MeasuredValueSequence[0].NumericValue), uids or [""]))
        found += _measurements(child)
    return found


def test_all_objects_pass_the_validator(deployed: Path, errors) -> None:
    files = sorted(deployed.rglob("*.dcm"))
    assert len(files) >= 8
    assert {str(path): errors(path) for path in files} == {str(path): [] for path in files}


def test_of_a_study_of_all_sorts_the_scans_are_scored(study, deploy, deployed: Path) -> None:
    study(series=0, description="Brain")
    study(series=1, description="Bone")
    study(series=2, description="Enhanced", enhanced=True)
    study(series=3, description="Topogram")
    study(series=4, description="T1", modality="MR")
    folder = study(study=1, series=0, description="Follow up")
    report = next(deployed.rglob("report.dcm"))
    (folder / "report.dcm").write_bytes(report.read_bytes())
    found = {one.description: series_name(one) for one in find_series(folder, progress=False).series}
    run = deploy(folder)
    assert run.code == 0
    scored = {"Brain", "Bone", "Enhanced", "Follow up"}
    assert {one["series"] for one in run.results["series"]} == {found[name] for name in scored}
    assert all((run.out / found[name] / "anomaly_map.dcm").is_file() for name in scored)
    studies = {dcmread(run.out / found[name] / "report.dcm").StudyInstanceUID for name in scored}
    assert len(studies) == 2
    reasons = run.results["left_out"]
    assert reasons[found["Topogram"]] == "a localiser or screen save"
    assert reasons[found["T1"]] == "modality MR"
    assert [reason for reason in reasons.values() if "Comprehensive 3D SR" in reason]
    assert len(reasons) == 3


def test_no_wanted_series_ends_with_4_and_says_which_there_were(study, deploy, rules) -> None:
    study(series=0, description="Brain", PatientName="Secretname", PatientID="Secretid")
    run = deploy(study(series=1, description="T1", modality="MR"), "--rules", rules({"modality": "PT"}))
    assert run.code == 4
    assert run.results["series"] == []
    assert sorted(run.results["left_out"].values()) == ["modality CT", "modality MR"]
    for name, reason in run.results["left_out"].items():
        assert f"{name}: {reason}" in run.said
    assert "secret" not in run.said.lower()


def test_what_cannot_be_read_costs_the_others_nothing(study, deploy) -> None:
    study(series=0, description="Good")
    folder = study(series=1, description="Cut off")
    good, bad = find_series(folder, progress=False).series
    if good.description != "Good":
        good, bad = bad, good
    file = bad.files[3]
    file.write_bytes(file.read_bytes()[:-500])
    (folder / "rubbish.dcm").write_bytes(b"no DICOM at all")
    (folder / "._copy.dcm").write_bytes(b"of macOS")
    run = deploy(folder)
    assert run.code == 3
    assert [one["series"] for one in run.results["series"]] == [series_name(good)]
    assert (run.out / series_name(good) / "segmentation.dcm").is_file()
    assert len(run.results["unreadable"]) == 2
    assert series_name(bad) in run.results["unreadable"]
    assert file.name in run.said
    assert "rubbish.dcm" in run.said
    assert "._copy" not in run.said


def test_a_series_that_can_no_longer_be_read_keeps_no_objects_of_an_earlier_run(study, deploy) -> None:
    folder = study()
    (one,) = deploy(folder).results["series"]
    file = next(folder.iterdir())
    file.write_bytes(file.read_bytes()[:-500])
    run = deploy(folder)
    assert run.code == 3
    assert list(run.results["unreadable"]) == [one["series"]]
    assert list(run.out.rglob("*.dcm")) == []


def test_a_series_with_nothing_in_it_costs_the_others_nothing(study, deploy, phantom) -> None:
    array, affine = phantom
    folder = study(series=0)
    write_series(folder, np.full_like(array, -1000), affine, series=1, description="Blank")
    blank = next(one for one in find_series(folder, progress=False).series if one.description == "Blank")
    run = deploy(folder)
    assert run.code == 3
    assert list(run.results["unreadable"]) == [series_name(blank)]
    assert len(run.results["series"]) == 1
    assert "every voxel is -1000" in run.said


def test_nothing_of_the_patient_is_told_outside_of_dicom(study, deploy) -> None:
    folder = study(PatientName="Secretname", PatientID="Secretid", AccessionNumber="secret", description="secret")
    study(series=1, modality="MR", PatientName="Secretname", PatientID="Secretid", description="secret")
    run = deploy(folder, "--secondary-capture")
    assert run.code == 0
    told = run.said + (run.out / "results.json").read_text() + " ".join(str(path) for path in run.out.rglob("*"))
    headers = [dcmread(path) for path in folder.iterdir()]
    uids = {header[f"{level}InstanceUID"].value for header in headers for level in ("Study", "Series", "SOP")}
    assert not [word for word in ("secret", *uids) if word in told.lower()]
    written = dcmread(next(run.out.rglob("segmentation.dcm")))
    assert str(written.PatientName) == "Secretname"


def test_a_second_run_leaves_nothing_of_the_first(study, deploy) -> None:
    folder = study()
    first = deploy(folder, "--secondary-capture")
    second = deploy(folder)
    (one,) = second.results["series"]
    assert sorted(path.name for path in (second.out / one["series"]).iterdir()) == sorted(OBJECTS)
    assert len(first.results["series"][0]["files"]) > 3


def test_images_on_their_way_do_not_stay(study, deploy, model_folder: Path) -> None:
    before = sorted(model_folder.rglob("*"))
    run = deploy(study())
    assert not [path for path in run.out.rglob("*") if path.suffix not in (".dcm", ".json", "")]
    assert sorted(path for path in model_folder.rglob("*") if "__pycache__" not in path.parts) == [
        path for path in before if "__pycache__" not in path.parts
    ]


def test_what_a_killed_run_has_left_goes_with_the_next(study, deploy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".volumes").mkdir(parents=True)
    (out / ".volumes" / "ct-0123456789ab.nii").write_bytes(b"an image")
    (out / ".lock").touch()
    run = deploy(study(), out=out)
    assert run.code == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(["results.json", run.results["series"][0]["series"]])


def test_two_runs_do_not_write_to_one_folder(study, deploy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("{}")
    with FileLock(out / ".lock"):
        run = deploy(study(), out=out)
    assert run.code == 1
    assert f"Another run writes to {out}" in run.said
    assert (out / "results.json").read_text() == "{}"


def test_a_signal_ends_a_run_with_an_error_and_not_with_the_results_so_far(
    study, deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = import_module("bundle.deploy.scoring")
    read: Callable[..., Any] = scoring.read_series

    def interrupted(series: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return read(series)

    study(series=0)
    folder = study(series=1)
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(scoring, "read_series", interrupted)
    run = deploy(folder)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.code == 1
    assert not run.results
    assert re.search(r"Ended by a signal: [12] of the chosen series have no results. Run it again", run.said)
    assert not {".volumes", ".lock"} & {path.name for path in run.out.iterdir()}


def test_no_other_run_comes_between_the_objects_and_what_is_told_of_them(
    study, deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = import_module("bundle.deploy.results").Results
    write: Callable[..., Path] = results.write
    seen = []

    def watched(self: Any, folder: Path) -> Path:
        with pytest.raises(Timeout):
            FileLock(folder / ".lock", blocking=False).acquire()
        seen.append(folder)
        return write(self, folder)

    monkeypatch.setattr(results, "write", watched)
    assert deploy(study()).results["series"]
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: folder / "none", "There is no folder"),
        (lambda folder: folder, "holds no DICOM"),
    ],
)
def test_a_missing_or_empty_folder_is_named(deploy, tmp_path: Path, make, text: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    run = deploy(make(folder))
    assert run.code == 1
    assert text in run.said
    assert str(make(folder)) in run.said
    assert "Traceback" not in run.said
    assert "[error]" not in run.said


@pytest.mark.parametrize(("target", "file"), [(Dataset, "segmentation.dcm"), (nib, r"ct-\w{12}.nii")])
def test_a_full_disk_is_named_with_the_file_and_leaves_no_old_results(
    study, deploy, monkeypatch: pytest.MonkeyPatch, target: Any, file: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    folder = study()
    assert deploy(folder).code == 0
    monkeypatch.setattr(target, "save_as" if target is Dataset else "save", fail)
    run = deploy(folder)
    assert run.code == 1
    assert re.search(rf"Cannot write \S+{file}: \[Errno 28\] No space left on device. Free space", run.said)
    assert "Traceback" not in run.said
    assert not run.results


def test_an_output_that_cannot_be_written_is_named_before_anything_is_read(study, deploy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = deploy(study(), out=tmp_path / "file" / "out")
    assert run.code == 1
    assert "Cannot write to" in run.said
    assert "series are scored" not in run.said


def test_a_missing_sdk_is_named_with_the_remedy(study, deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holoscan.core", None)
    run = deploy(study())
    assert run.code == 1
    assert 'pip install -c constraints.txt -e ".[deploy]"' in run.said


def test_help_does_not_import_the_sdk() -> None:
    program = (
        "import sys; from bundle.__main__ import main\n"
        "try: main(['deploy', '--help'])\n"
        "finally: print('holoscan' in sys.modules, 'monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "exit codes" in done.stdout.lower()
    assert done.stdout.rstrip().endswith("False False")
