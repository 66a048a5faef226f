"""From volumes to results in their own geometry: NIfTI and DICOM, as a radiology group uses it."""

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from sklearn.metrics import roc_auc_score

from bundle import prepare
from bundle.__main__ import main
from bundle.phantom.dicom import write_radiograph, write_series
from bundle.phantom.volumes import write_phantom_volumes
from scripts.metrics import ItemCurves
from scripts.networks.detector import Detector

CT = ("data/ct.json",)


class Scans(NamedTuple):
    root: Path
    datalist: Path
    model: Path


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """Phantom volumes, some of them as DICOM, and their datalist."""
    root = tmp_path_factory.mktemp("scans")
    write_phantom_volumes(root / "phantoms", normal=5, anomalous=2, shape=(48, 48, 10), spacing=(4, 4, 7), dicom=1)
    parser = argparse.ArgumentParser()
    prepare.configure(parser)
    datalist = root / "datalist.json"
    words = [str(root / "phantoms"), "--out", str(datalist), "--modality", "CT", "--layout", "nifti"]
    words += ["--train-fraction", "0.8", "--validation-fraction", "0.25"]
    assert prepare.run(parser.parse_args(words)) == 0
    return Scans(root, datalist, root / "model")


@pytest.fixture
def scan_args(scans: Scans) -> dict[str, Any]:
    return {"datalist": str(scans.datalist), "cache_dir": str(scans.root / "cache")}


@pytest.fixture
def trained(workflow: Callable[..., ConfigWorkflow], scans: Scans, scan_args: dict[str, Any]) -> Path:
    """The model folder of a short training, made by the first test that asks for it; not calibrated."""
    if not scans.model.exists():
        workflow("train.json", *CT, **scan_args, model_dir=str(scans.model)).run()
    return scans.model


@pytest.fixture
def calibration(trained: Path, scans: Scans) -> dict[str, str]:
    """``calibration_path`` of the model's, at rates that the one patient allows."""
    path = scans.root / "calibration.json"
    if not path.exists():
        rates = ["--slice-false-positive-rate", "0.6", "--mask-false-positive-rate", "0.5"]
        words = [str(trained), "--cache-dir", str(scans.root / "cache"), "--calibration-path", str(path)]
        assert main(["calibrate", *words, *rates]) == 0
    return {"calibration_path": str(path)}


@pytest.fixture
def infer(
    scoring: Callable[..., ConfigWorkflow], trained: Path, scans: Scans, tracking_uri: str, tmp_path: Path
) -> Callable[..., Path]:
    """Infers and gives the folder of the results."""
    store = {"tracking_uri": tracking_uri, "experiment_name": str(tmp_path), "cache_dir": str(scans.root / "cache")}

    def run(path: Path, code: int = 0, model: Path = trained, **overrides: Any) -> Path:
        values = {"input": str(path), "output_dir": str(tmp_path / "out"), **store, **overrides}
        made = scoring(model, "inference", **values)
        if code:
            with pytest.raises(SystemExit) as ended:
                made.run()
            assert ended.value.code == code
        else:
            made.run()
        return tmp_path / "out"

    return run


def test_the_datalist_has_an_item_a_scan_and_patients_in_one_split(scans: Scans) -> None:
    datalist = json.loads(scans.datalist.read_text())
    assert {split: len(datalist[split]) for split in ("training", "validation", "test")} == {
        "training": 3, "validation": 1, "test": 3,
    }  # fmt: skip
    assert [item["label"] for item in datalist["training"]] == [0, 0, 0]
    assert sorted(item["label"] for item in datalist["test"]) == [0, 1, 1]


def test_an_evaluation_ranks_slices_and_patients(
    scoring: Callable[..., ConfigWorkflow],
    trained: Path,
    scan_args: dict[str, Any],
    calibration: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "test"
    scoring(trained, "evaluate", **scan_args, **calibration, output_dir=str(folder)).run()
    summary = json.loads((folder / "metrics.json").read_text())
    slices, items = pd.read_csv(folder / "slices.csv"), pd.read_csv(folder / "scores.csv")
    assert summary["metrics"]["image_auroc"] == pytest.approx(roc_auc_score(slices["label"], slices["score"]))
    assert summary["metrics"]["patient_auroc"] == pytest.approx(roc_auc_score(items["label"], items["score"]))
    assert {"dice", "froc", "normal_scans_clean", "pixel_auroc", "pixel_aupro"} <= summary["metrics"].keys()
    assert (items["label"].sum(), len(items)) == (2, 3)
    assert items["p_value"].isin([0.5, 1.0]).all()
    assert slices["p_value"].between(0.5, 1).all()
    threshold = summary["calibration"]["levels"]["slice"]["threshold"]
    normal = slices["image"].isin(items[items["label"] == 0]["image"])
    assert summary["calibration"]["observed"]["slice"] == {
        "normal_patients": 1,
        "false_positive_rate": pytest.approx((slices["score"] > threshold)[normal].mean()),
        "sensitivity": pytest.approx((slices["score"] > threshold)[slices["label"] == 1].mean()),
    }
    assert ((items["lesions"] > 0) == (items["label"] == 1)).all()
    pixels = ItemCurves.load(folder / "pixels.npz")
    voxels = [np.prod(nib.load(path).shape) for path in pixels.image]
    np.testing.assert_array_equal((pixels.positive + pixels.negative).sum(axis=1), voxels)
    assert pixels.curve().auroc() == pytest.approx(summary["metrics"]["pixel_auroc"], abs=2e-3)
    assert set(pd.read_csv(folder / "detections.csv")["item"]) == set(items["image"])
    for path in items[items["label"] == 1]["image"]:
        lesion, _ = _canonical(Path(path).with_name("lesion.nii.gz"))
        of_scan = slices[slices["image"] == path].set_index("slice")["label"]
        assert set(of_scan.index[of_scan == 1]) == set(np.flatnonzero(lesion.any(axis=(0, 1))))


def test_a_nifti_gets_map_and_mask_in_its_own_grid(
    scans: Scans, infer: Callable[..., Path], calibration: dict[str, str]
) -> None:
    source = scans.root / "phantoms" / "anomalous"
    folder = infer(source, **calibration)
    table = pd.read_csv(folder / "scores.csv").set_index("image")
    threshold = json.loads((folder / "manifest.json").read_text())["mask_threshold"]
    slices = pd.read_csv(folder / "slices.csv")
    assert {Path(image).name for image in table.index} == {"ct.nii.gz"}  # the masks beside them are no scans
    for path in source.rglob("ct.nii.gz"):
        scan, row = nib.load(path), table.loc[str(path)]
        anomaly_map, mask = nib.load(folder / row["map"]), nib.load(folder / row["mask"])
        for written in (anomaly_map, mask):
            assert written.shape == scan.shape
            np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
        values = np.asarray(anomaly_map.dataobj)
        assert anomaly_map.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(mask.dataobj), values > threshold)
        assert row["p_value"] in (0.5, 1.0)
        assert row["mask_threshold"] == threshold
        assert np.isnan(row["scan_threshold"])  # which one patient does not allow
        assert np.isnan(row["abnormal"])
        of_scan = slices[slices["image"] == str(path)]
        assert (of_scan["abnormal"] == (of_scan["score"] > row["slice_threshold"])).all()
        assert slices["p_value"].dropna().between(0.5, 1).all()
        scores = slices[slices["image"] == str(path)]["score"]
        filled = slices[slices["image"] == str(path)]["p_value"].notna().sum()
        assert scores.nlargest(max(1, round(filled / 4))).mean() == pytest.approx(row["score"])
        assert row["top_slice"] == scores.argmax()
        assert len(scores) == 10
        with Image.open(folder / row["overlay"]) as picture:
            assert picture.width == 1000


def test_a_calibration_rests_on_the_pixels_slices_and_scans_of_its_patient(
    scans: Scans,
    infer: Callable[..., Path],
    calibration: dict[str, str],
) -> None:
    (item,) = json.loads(scans.datalist.read_text())["validation"]
    file = scans.datalist.parent / json.loads(scans.datalist.read_text())["dataset_dir"] / item["image"]
    folder = infer(file, **calibration)
    content = json.loads(Path(calibration["calibration_path"]).read_text())
    (row,) = pd.read_csv(folder / "scores.csv").to_dict("records")
    slices = pd.read_csv(folder / "slices.csv").dropna(subset="p_value")
    (patient,) = content["scores"]
    assert set(patient) == {"score", "slices"}
    assert patient["score"] == row["score"]  # to the last bit, as both score by the same function
    assert patient["slices"] == sorted(slices["score"])
    levels = content["levels"]
    assert levels["scan"]["threshold"] is None
    assert "needs 19 normal patients, there are 1, which support no rate below 0.5" in levels["scan"]["reason"]
    highest = sorted(slices["score"])
    allowed = int(0.2 * len(highest) + 1e-9)  # (r + 1) / 2 <= 0.6
    assert levels["slice"]["threshold"] == pytest.approx(highest[-1 - allowed], rel=1e-6)
    values = np.asarray(nib.load(folder / row["map"]).dataobj)
    scan = np.asarray(nib.load(file).dataobj)
    assert levels["mask"]["threshold"] == pytest.approx(values[values <= levels["mask"]["threshold"]].max(), rel=1e-3)
    assert 0.2 * values.size < levels["mask"]["voxels"] < (scan > -1000).sum() * 1.3
    assert not np.asarray(nib.load(folder / row["mask"]).dataobj)[scan > -200].any()  # none of the patient's own


def test_a_dicom_series_gets_the_map_of_its_nifti_and_dicom_objects(
    scans: Scans,
    infer: Callable[..., Path],
    calibration: dict[str, str],
    program: Callable[[str], str],
    tmp_path: Path,
) -> None:
    (subject,) = (scans.root / "phantoms" / "dicom").iterdir()
    folder = infer(subject, secondary_capture=True, **calibration)
    (row,) = pd.read_csv(folder / "scores.csv").to_dict("records")
    ours = _canonical(folder / row["map"])
    objects = {path.name: pydicom.dcmread(path) for path in (folder / row["dicom"]).iterdir()}
    assert {"segmentation.dcm", "anomaly_map.dcm", "report.dcm"} < set(objects)
    source = pydicom.dcmread(next(subject.iterdir()))
    for written in objects.values():
        assert written.StudyInstanceUID == source.StudyInstanceUID
        assert written.PatientID == source.PatientID
        assert "not for clinical use" in written.SeriesDescription.lower()
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".csv")]
    assert not any(word in text for word in (str(source.PatientName), source.PatientID) for text in texts)
    for path in (folder / row["dicom"]).iterdir():
        done = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    shutil.rmtree(folder)
    nifti = infer(scans.root / "phantoms" / "anomalous" / subject.name / "ct.nii.gz")
    (same,) = pd.read_csv(nifti / "scores.csv").to_dict("records")
    assert same["score"] == pytest.approx(row["score"], rel=1e-4)
    theirs = _canonical(nifti / same["map"])
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)


def test_one_bad_study_does_not_stop_the_others_and_the_exit_code_says_so(
    scans: Scans, infer: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = tmp_path / "mixed ünï"
    shutil.copytree(next((scans.root / "phantoms" / "dicom").iterdir()), mixed / "good")
    (mixed / "empty.nii.gz").touch()
    whole = next((scans.root / "phantoms" / "normal").rglob("ct.nii.gz")).read_bytes()
    (mixed / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    broken = write_series(mixed / "broken", np.zeros((8, 8, 3), np.int16), np.diag([1.0, 1, 5, 1]), patient="Other")
    for path in broken:
        path.write_bytes(path.read_bytes()[:-100])
    folder = infer(mixed, code=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["files"]) == 1
    reasons = list(manifest["unreadable"].values())
    assert len(reasons) == 3
    assert all(any(str(mixed / name) in reason for reason in reasons) for name in ("empty.nii.gz", "cut.nii.gz"))
    assert "3 inputs have no results" in caplog.text
    assert "Other" not in caplog.text + json.dumps(manifest["unreadable"])


@pytest.mark.parametrize(
    ("configs", "options"),
    [
        (CT, {"plane": "coronal", "windows": ["brain", "subdural", [600, 2800]], "preprocessing#pixel_spacing": 5.0}),
        (
            ("data/mr.json", "data/mr_landmarks.json"),
            {"preprocessing#neighbours": True, "preprocessing#bias_correction": True},
        ),
        (
            ("data/mr.json",),
            {"plane": "sagittal", "slices#slice_range": [0.3, 0.7], "scoring#scan_pooling": "percentile_99"},
        ),
    ],
    ids=["windows", "landmarks", "range"],
)
def test_the_ways_of_slicing_and_scaling_train_and_infer(
    configs: tuple[str, ...],
    options: dict[str, Any],
    scans: Scans,
    scan_args: dict[str, Any],
    workflow: Callable[..., ConfigWorkflow],
    infer: Callable[..., Path],
    raises_because: Callable[..., Any],
    tmp_path: Path,
) -> None:
    model = tmp_path / "own"
    workflow("train.json", *configs, **(scan_args | {"model_dir": str(model), "epochs": 1} | options)).run()
    path = next((scans.root / "phantoms" / "anomalous").rglob("ct.nii.gz"))
    folder = infer(path, model=model)
    (row,) = pd.read_csv(folder / "scores.csv").to_dict("records")
    anomaly_map = nib.load(folder / row["map"])
    assert anomaly_map.shape == nib.load(path).shape
    values = np.asarray(anomaly_map.dataobj)
    assert np.isfinite(values).all()
    assert 0 < row["score"] <= values.max() * 2
    kept = torch.load(model / "models" / "model.pt", weights_only=True)["preprocessing"]
    if "data/mr_landmarks.json" in configs:
        landmarks = kept["landmarks"]["landmarks"]
        assert (landmarks[0], landmarks[-1]) == (0, 1)
        assert landmarks == sorted(landmarks)
    with raises_because(ValueError, "trained on images of other settings", "image_size 64, now 32"):
        infer(path, model=model, image_size=32)


def test_a_radiograph_is_scored_and_keeps_its_place_in_dicom(
    infer: Callable[..., Path], calibration: dict[str, str], tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)
    path = write_radiograph(tmp_path / "dicom" / "IM1", array, photometric="MONOCHROME1", patient="Somebody")
    folder = infer(path.parent, **calibration)
    (row,) = pd.read_csv(folder / "scores.csv").to_dict("records")
    assert nib.load(folder / row["map"]).shape == (50, 40, 1)
    assert {each.name for each in (folder / row["dicom"]).iterdir()} == {"report.dcm", "segmentation.dcm"}


def test_a_series_of_another_modality_than_the_models_is_scored_with_a_warning(
    scans: Scans, infer: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (subject,) = (scans.root / "phantoms" / "dicom").iterdir()
    scan = nib.load(scans.root / "phantoms" / "anomalous" / subject.name / "ct.nii.gz")
    shutil.copytree(subject, tmp_path / "study" / "ct")
    write_series(tmp_path / "study" / "mr", np.asarray(scan.dataobj, np.int16), scan.affine, series=7, modality="MR")
    folder = infer(tmp_path / "study")
    manifest = json.loads((folder / "manifest.json").read_text())
    (name,) = manifest["other_modality"]
    expected = f"{name}: its modality is MR, but the model was trained on CT. Do not rely on its score and verdict."
    assert name.startswith("mr-")
    assert manifest["other_modality"][name] == expected
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING" and name in one.getMessage()] == [
        expected
    ]
    assert sorted(Path(row["map"]).name[:3] for row in manifest["files"]) == ["ct-", "mr-"]


def test_no_file_name_of_a_dicom_study_goes_to_mlflow(
    scans: Scans, infer: Callable[..., Path], tracking_uri: str, tmp_path: Path
) -> None:
    (subject,) = (scans.root / "phantoms" / "dicom").iterdir()
    study = tmp_path / "DOE^JANE"
    shutil.copytree(subject, study)
    (study / "empty.dcm").touch()
    infer(study, code=3)
    client = mlflow.MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(str(tmp_path))
    (run,) = client.search_runs([experiment.experiment_id])
    logged = json.dumps(run.to_dictionary())
    for file in Path(client.download_artifacts(run.info.run_id, "")).rglob("*"):
        logged += file.name + (file.read_text() if file.suffix in (".json", ".csv") else "")
    assert "score_max" in logged
    assert "DOE" not in logged


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_lesion_keeps_its_millimetre_in_every_output(
    plane: str, trained: Path, infer: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "forward", lambda self, image: image[:, :1])  # the image is its own anomaly map
    checkpoint = torch.load(trained / "models" / "model.pt", weights_only=True)
    checkpoint["preprocessing"]["settings"]["plane"] = plane
    checkpoint["preprocessing"]["template"]["region"].zero_()  # looks everywhere
    torch.save(checkpoint, tmp_path / "model.pt")
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, -2.0, 3.0])  # oblique, as DICOM stores it
    affine[:3, 1] += [0, 0, 0.4]
    affine[:3, 3] = [30, 40, -20]
    array = np.full((40, 48, 16), -1000, np.int16)
    array[4:36, 4:44, 2:14] = 0
    array[22:27, 11:16, 6:9] = 80
    place = nib.affines.apply_affine(affine, [24, 13, 7])
    write_series(tmp_path / "dicom", array, affine)
    nib.save(nib.Nifti1Image(array[::-1].transpose(2, 0, 1), affine @ _axes()), tmp_path / "scan.nii.gz")
    for path in (tmp_path / "dicom", tmp_path / "scan.nii.gz"):
        given = {"ckpt_path": str(tmp_path / "model.pt"), "reference": None, "mask_threshold": 0.5}
        folder = infer(path, plane=plane, **given)
        (row,) = pd.read_csv(folder / "scores.csv").to_dict("records")
        for kind in ("map", "mask"):
            image = nib.load(folder / row[kind])
            values = np.asarray(image.dataobj).astype(float)
            values[values < values.max() * 0.75] = 0
            centre = np.array([(axis * values).sum() / values.sum() for axis in np.indices(values.shape)])
            np.testing.assert_allclose(nib.affines.apply_affine(image.affine, centre), place, atol=1.0)
        shutil.rmtree(folder)


def _canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine, turned to RAS."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), image.affine


def _axes() -> np.ndarray:
    """From indices of the reversed and transposed array (k, i', j) to those of the original (i, j, k)."""
    return np.array([[0.0, -1, 0, 39], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
