"""What the models answer: the mask, its bands and the map of a scan, and what is said of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from requests_toolbelt.multipart import decoder

from bundle.label.app import AnomalyApp
from bundle.label.errors import OptionError
from bundle.label.inference import AnomalyMap
from bundle.label.options import result_dtype
from scripts.files import file_sha256
from scripts.model.folder import CALIBRATION, CHECKPOINT
from scripts.model.predictor import Predictor


def post(client: TestClient, model: str, image: str = "anomalous1", output: str = "json", **params: Any) -> Any:
    url = f"/infer/{model}?image={image}&output={output}"
    return client.post(url, data={"params": json.dumps(params)})


def said(client: TestClient, model: str, image: str = "anomalous1", **params: Any) -> dict[str, Any]:
    answer = post(client, model, image, **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def volume(client: TestClient, folder: Path, model: str, image: str = "anomalous1", **params: Any) -> Any:
    """The answer as nibabel reads it."""
    answer = post(client, model, image, "image", **params)
    assert answer.status_code == 200, answer.text
    file = folder / "answer.nii.gz"
    file.write_bytes(answer.content)
    return nib.load(file)


def test_the_panel_offers_what_the_model_has(client: TestClient, calibration: dict[str, Any]) -> None:
    info = client.get("/info/").json()
    rates = [f"{one['rate']:g}" for one in calibration["levels"]["mask"]["thresholds"]]
    segmentation = info["models"]["anomaly_segmentation"]
    assert segmentation["type"] == "segmentation"
    assert segmentation["labels"] == {"anomaly": 1, "anomaly, medium": 2, "anomaly, high": 3}
    assert segmentation["config"] == {
        "mask_threshold": "0",
        "false_positive_rate": ["0.4", "0.5"],
        "plane": ["axial"],
        "window": ["brain"],
        "display": ["mask", "bands"],
    }
    assert sorted(rates) == ["0.4", "0.5"]
    assert info["models"]["anomaly_map"]["type"] == "others"  # which viewers do not take for labels
    assert "Not for clinical use" in info["description"]


@pytest.mark.parametrize("image", ["normal1", "normal2", "normal4"])  # stored as RAS, LAS and PIR
def test_mask_and_map_lie_on_the_grid_of_the_scan(
    client: TestClient, studies: Path, tmp_path: Path, image: str
) -> None:
    scan = nib.load(studies / f"{image}.nii.gz")
    for model in ("anomaly_segmentation", "anomaly_map"):
        answer = volume(client, tmp_path, model, image)
        assert answer.shape == scan.shape
        assert np.allclose(answer.affine, scan.affine, atol=1e-4)


def test_the_map_is_the_models_own_and_the_mask_what_lies_above_the_calibrated_threshold(
    client: TestClient, studies: Path, model_folder: Path, calibration: dict[str, Any], tmp_path: Path
) -> None:
    found = volume(client, tmp_path, "anomaly_map")
    assert found.get_data_dtype() == np.float32
    values = found.get_fdata()
    ours = Predictor(model_folder)(studies / "anomalous1.nii.gz")
    assert np.array_equal(values, ours.anomaly_map[0].numpy())
    threshold = calibration["levels"]["mask"]["threshold"]
    mask = volume(client, tmp_path, "anomaly_segmentation")
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.get_fdata(), values > threshold)
    assert 0 < mask.get_fdata().mean() < 1


def test_bands_end_with_the_calibrated_mask_and_begin_at_higher_rates_of_false_alarms(
    client: TestClient, calibration: dict[str, Any], tmp_path: Path
) -> None:
    of_mask = calibration["levels"]["mask"]
    lower, upper = (one["threshold"] for one in of_mask["thresholds"])  # at 0.5 and 0.4
    assert lower < upper == of_mask["threshold"]
    values = volume(client, tmp_path, "anomaly_map").get_fdata()
    bands = volume(client, tmp_path, "anomaly_segmentation", display="bands").get_fdata()
    assert np.array_equal(bands, np.select([values > upper, values > lower], [2, 1], 0))
    assert said(client, "anomaly_segmentation")["band_thresholds"] == [lower, upper]
    assert said(client, "anomaly_segmentation", false_positive_rate="0.5")["band_thresholds"] == [lower]


def test_bands_of_a_typed_threshold_begin_at_multiples_of_it(client: TestClient, tmp_path: Path) -> None:
    values = volume(client, tmp_path, "anomaly_map").get_fdata()
    threshold = round(values.max() / 2.2, 3)  # so that the highest lies in the third band
    bands = volume(client, tmp_path, "anomaly_segmentation", display="bands", mask_threshold=threshold).get_fdata()
    expected = np.select([values > 2 * threshold, values > 1.5 * threshold, values > threshold], [3, 2, 1], 0)
    assert np.array_equal(bands, expected)
    assert {0, 3} <= set(np.unique(bands))
    about = said(client, "anomaly_segmentation", display="bands", mask_threshold=threshold)
    assert about["band_thresholds"] == pytest.approx([threshold, 1.5 * threshold, 2 * threshold])


def test_what_is_said_of_a_scan_agrees_with_the_calibration_and_the_map(
    client: TestClient, model_folder: Path, calibration: dict[str, Any]
) -> None:
    about = said(client, "anomaly_segmentation")
    highest = [patient["score"] for patient in calibration["scores"]]
    score = about["score"]
    assert about["p_value"] == pytest.approx((1 + sum(one >= score for one in highest)) / (1 + len(highest)))
    highest = np.sort(about["slice_scores"])[-max(1, round(len(about["slice_scores"]) / 4)) :]
    assert score == pytest.approx(highest.mean())
    assert about["top_slice"] == int(np.argmax(about["slice_scores"]))
    assert len(about["slice_scores"]) == 8
    for level, found in calibration["levels"].items():
        assert about[f"{level}_threshold"] == found["threshold"]
    assert about["abnormal"] is (score > about["scan_threshold"])
    assert about["checkpoint_sha256"] == file_sha256(model_folder / CHECKPOINT)
    assert about["untrained"] == ["test_resnet", "vmamba_pico"]
    assert about["notice"] == "For research. Not for clinical use."
    assert said(client, "anomaly_map")["slice_scores"] == about["slice_scores"]


@pytest.mark.parametrize(("factor", "abnormal"), [(1.01, False), (0.99, True)])
def test_an_image_is_judged_by_the_threshold_of_scans_and_not_by_that_of_the_mask(
    client: TestClient, model_folder: Path, calibration: dict[str, Any], factor: float, abnormal: bool
) -> None:
    score, levels = said(client, "anomaly_segmentation")["score"], calibration["levels"]
    levels["scan"]["threshold"] = factor * score
    levels["slice"]["threshold"] = 2 * score
    (model_folder / CALIBRATION).write_text(json.dumps({**calibration, "created": "later"}))
    assert client.post("/scoring/anomaly?run_sync=true").json()["scored"] == 5
    kept = client.get("/datastore/image/info?image=anomalous1").json()
    for about in (said(client, "anomaly_segmentation"), said(client, "anomaly_map"), kept):
        assert about["mask_threshold"] == levels["mask"]["threshold"] < about["score"] == score
        assert about["scan_threshold"] == factor * score
        assert about["slice_threshold"] == 2 * score
        assert about["abnormal"] is abnormal


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_a_map_asked_for_in_integers_can_be_scaled_back(client: TestClient, tmp_path: Path, dtype: str) -> None:
    values = volume(client, tmp_path, "anomaly_map").get_fdata()
    stored = volume(client, tmp_path, "anomaly_map", result_dtype=dtype)
    about = said(client, "anomaly_map", result_dtype=dtype)
    assert stored.get_data_dtype() == np.dtype(dtype)
    array = np.asanyarray(stored.dataobj)
    assert (array.min(), array.max()) == (0, 255)
    assert np.abs(about["scale"] * array + about["offset"] - values).max() <= about["scale"] * 0.501


def test_a_map_of_one_value_scales_without_a_division_by_zero(client: TestClient, app: Any) -> None:
    task: AnomalyMap = app._infers["anomaly_map"]
    prediction = app.predictor(app.datastore().get_image_uri("normal1"))
    flat = replace(prediction, anomaly_map=torch.full_like(prediction.anomaly_map, 0.25))
    array, about = task.result(flat, task.check({}), np.dtype("uint8"))
    assert not array.any()
    assert about == {"scale": 1.0, "offset": 0.25}


def test_what_viewers_ask_for_is_an_nrrd_of_the_same_mask(client: TestClient, studies: Path, tmp_path: Path) -> None:
    mask = volume(client, tmp_path, "anomaly_segmentation").get_fdata()
    asked = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    answer = post(client, "anomaly_segmentation", output="all", **asked)
    parts = decoder.MultipartDecoder(answer.content, answer.headers["content-type"]).parts
    about, image = (part.content for part in parts)
    assert json.loads(about)["p_value"] > 0
    file = tmp_path / "answer.nrrd"
    file.write_bytes(image)
    array, header = nrrd.read(str(file))
    assert np.array_equal(array, mask)
    lps = np.diag([-1, -1, 1]) @ nib.load(studies / "anomalous1.nii.gz").affine[:3]
    assert np.allclose(header["space directions"].T, lps[:, :3], atol=1e-4)
    assert np.allclose(header["space origin"], lps[:, 3], atol=1e-4)


def test_a_file_that_is_sent_is_inferred_and_not_kept(client: TestClient, studies: Path, tmp_path: Path) -> None:
    said(client, "anomaly_map")
    before, cache = sorted(studies.rglob("*")), sorted((tmp_path / "work" / "cache").iterdir())
    with (studies / "anomalous1.nii.gz").open("rb") as file:
        answer = client.post("/infer/anomaly_map?output=json", files={"file": ("scan.nii.gz", file)})
    assert answer.json()["score"] == said(client, "anomaly_map")["score"]
    assert sorted(studies.rglob("*")) == before
    assert len(cache) == 5  # the copy and the aligned one, each with a record, and where it lies in the template
    assert sorted((tmp_path / "work" / "cache").iterdir()) == cache


@pytest.mark.parametrize("chosen", [0.5, "0.5", ["0.5", "0.4"]])
def test_a_rate_of_the_drop_down_chooses_its_threshold(
    client: TestClient, calibration: dict[str, Any], chosen: Any
) -> None:
    thresholds = {one["rate"]: one["threshold"] for one in calibration["levels"]["mask"]["thresholds"]}
    about = said(client, "anomaly_segmentation", false_positive_rate=chosen)
    assert about["mask_threshold"] == thresholds[0.5]
    about = said(client, "anomaly_segmentation", false_positive_rate="0.4", mask_threshold=0)
    assert about["mask_threshold"] == thresholds[0.4]
    assert thresholds[0.5] < thresholds[0.4]


def test_a_threshold_takes_the_place_of_the_calibrated_one(client: TestClient) -> None:
    usual = said(client, "anomaly_segmentation")
    about = said(client, "anomaly_segmentation", mask_threshold="3.5", false_positive_rate="0.5")
    assert about["mask_threshold"] == 3.5
    for name in ("score", "scan_threshold", "slice_threshold", "abnormal"):  # the verdict is not the mask's
        assert about[name] == usual[name]


def test_what_the_panel_offers_is_accepted_as_it_is(client: TestClient) -> None:
    config = client.get("/info/").json()["models"]["anomaly_segmentation"]["config"]
    assert said(client, "anomaly_segmentation", **config) == said(client, "anomaly_segmentation")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"mask_threshold": -1}, "mask_threshold -1: give one above 0, or 0"),
        ({"mask_threshold": "high"}, "mask_threshold 'high' is not a number"),
        ({"mask_threshold": True}, "mask_threshold True is not a number"),
        ({"mask_threshold": "nan"}, "not a number"),
        (
            {"false_positive_rate": 0.001},
            "a false_positive_rate of 0.001. Calibrated rates: 0.4, 0.5.",
        ),
        ({"plane": "coronal"}, "plane 'coronal': the model was trained with 'axial'"),
        ({"window": "bone"}, "window 'bone': the model was trained with 'brain'"),
        ({"display": "colours"}, "display 'colours' is not one of mask, bands"),
        ({"result_extension": ".png"}, "result_extension '.png' is not one of"),
        ({"result_dtype": "float16"}, "result_dtype 'float16' is not one of"),
        ({"result_dtype": "int8"}, "result_dtype 'int8' is not one of"),
    ],
)
def test_a_wrong_option_is_refused_with_what_there_is(client: TestClient, params: Any, words: str) -> None:
    answer = post(client, "anomaly_segmentation", **params)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_a_type_of_pixels_may_be_left_out_or_named() -> None:
    assert result_dtype({}, "uint8") == np.uint8
    assert result_dtype({"result_dtype": None}, "float32") == np.float32
    with pytest.raises(OptionError, match="complex"):
        result_dtype({"result_dtype": "complex64"}, "uint8")


def test_a_result_comes_from_one_model_where_another_takes_its_place_meanwhile(
    app: AnomalyApp, studies: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, calls = model_folder / CALIBRATION, []
    content = json.loads(file.read_text())
    content["levels"]["mask"]["threshold"] *= 100

    def call(predictor: Predictor, image: str) -> Any:
        calls.append(image)
        if len(calls) == 1:
            file.write_text(json.dumps({**content, "created": "meanwhile"}))
        return predict(predictor, image)

    predict = Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", call)
    request = {"image": str(studies / "normal1.nii.gz"), "result_write_to_file": False}
    mask, about = app._infers["anomaly_segmentation"](request)
    assert len(calls) == 2
    assert about["mask_threshold"] == content["levels"]["mask"]["threshold"]
    assert not np.asarray(mask).any()


def test_without_calibration_there_is_a_map_but_no_mask(client: TestClient, model_folder: Path, tmp_path: Path) -> None:
    (model_folder / CALIBRATION).unlink()
    about = said(client, "anomaly_map")
    assert about["score"] > 0
    for name in ("scan_threshold", "slice_threshold", "mask_threshold", "p_value", "abnormal", "band_thresholds"):
        assert about[name] is None
    assert "false_positive_rate" not in client.get("/info/").json()["models"]["anomaly_map"]["config"]
    answer = post(client, "anomaly_segmentation")
    assert answer.status_code == 409
    assert "not calibrated" in answer.json()["detail"]
    assert volume(client, tmp_path, "anomaly_segmentation", mask_threshold=0.5).get_fdata().any()
    assert "Calibrated rates: none" in post(client, "anomaly_map", false_positive_rate=0.1).json()["detail"]


def test_a_calibration_of_another_checkpoint_is_named(
    client: TestClient, model_folder: Path, calibration: dict[str, Any]
) -> None:
    scorer = {**calibration["scorer"], "checkpoint": "0" * 64}
    (model_folder / CALIBRATION).write_text(json.dumps({**calibration, "scorer": scorer}))
    answer = post(client, "anomaly_segmentation")
    assert answer.status_code == 422
    assert "was made for other scores than these (checkpoint 000000000000, now" in answer.json()["detail"]


def test_weights_that_are_no_numbers_give_an_error_and_no_nan(client: TestClient, model_folder: Path) -> None:
    file = model_folder / CHECKPOINT
    content = torch.load(file, weights_only=True)
    for value in content["model"].values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    (model_folder / CALIBRATION).unlink()
    torch.save(content, file)
    answer = post(client, "anomaly_map")
    assert answer.status_code >= 400
    assert "nan" in answer.json()["detail"].lower()


def test_what_is_no_scan_is_named(client: TestClient, studies: Path) -> None:
    compressed_under_another_name = (studies / "normal1.nii.gz").read_bytes()
    for name, content in (("broken.nii.gz", b"no scan"), ("named.nii", compressed_under_another_name)):
        image = name.partition(".")[0]
        assert client.put(f"/datastore/?image={image}", files={"file": (name, content)}).status_code == 200
        answer = post(client, "anomaly_map", image)
        assert answer.status_code == 422, answer.text
        assert image in answer.json()["detail"]
    answer = client.post("/infer/anomaly_map?output=json", files={"file": ("picture.png", b"picture")})
    assert answer.status_code == 422
    assert "not a NIfTI" in answer.json()["detail"]


def test_a_path_is_no_image(client: TestClient, studies: Path) -> None:
    for path in (studies / "normal1.nii.gz", "../studies/normal1.nii.gz"):
        answer = post(client, "anomaly_map", str(path))
        assert answer.status_code == 404
        assert "give a name and not a path" in answer.json()["detail"]


def test_names_that_are_unknown_are_answered_with_those_that_are_known(client: TestClient) -> None:
    answer = post(client, "anomaly_detection")
    assert answer.status_code == 404
    assert "anomaly_map, anomaly_segmentation" in answer.json()["detail"]
    answer = post(client, "anomaly_map", "nobody")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no image 'nobody' among the studies."
    for kind, names in (("train", "anomaly"), ("scoring", "anomaly"), ("activelearning", "most_anomalous, most_unc")):
        answer = client.post(f"/{kind}/nothing")
        assert answer.status_code == 404
        assert names in answer.json()["detail"]
    assert client.post("/batch/infer/nothing").status_code == 404


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[1]", "not a JSON object")])
def test_params_that_are_no_json_object_are_refused(client: TestClient, text: str, words: str) -> None:
    answer = client.post("/infer/anomaly_map?image=normal1", data={"params": text})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_an_inference_of_nothing_is_refused(client: TestClient) -> None:
    assert client.post("/infer/anomaly_map").status_code == 422


def test_dicom_is_refused_on_studies_in_nifti(client: TestClient) -> None:
    answer = post(client, "anomaly_segmentation", output="dicom_seg")
    assert answer.status_code == 422
    assert "DICOMweb" in answer.json()["detail"]


def test_the_weights_can_be_downloaded(client: TestClient, model_folder: Path) -> None:
    assert client.get("/model/anomaly_map").content == (model_folder / CHECKPOINT).read_bytes()


def test_a_batch_labels_all_images_and_names_those_that_fail(client: TestClient, studies: Path) -> None:
    (studies / "labels").mkdir(exist_ok=True)
    answer = client.post("/batch/infer/anomaly_segmentation?run_sync=true")  # its defaults are of many GPUs
    assert answer.status_code == 200, answer.text
    results = answer.json()
    assert sorted(results) == ["anomalous1", "normal1", "normal2", "normal3", "normal4"]
    assert all(result["params"]["score"] > 0 for result in results.values())
    for name in results:
        kept = nib.load(studies / "labels" / "original" / f"{name}.nii.gz")
        assert np.array_equal(kept.shape, nib.load(studies / f"{name}.nii.gz").shape)
    (studies / "normal3.nii.gz").write_bytes(b"no scan")
    results = client.post("/batch/infer/anomaly_segmentation?run_sync=true", json={"max_batch_size": 4}).json()
    assert sorted(results) == ["anomalous1", "normal1", "normal2", "normal3"]
    assert "normal3" in results["normal3"]["error"]
    assert "error" not in results["normal2"]


def test_a_batch_with_a_wrong_option_is_refused_as_a_whole(client: TestClient) -> None:
    answer = client.post("/batch/infer/anomaly_map?run_sync=true", json={"plane": "sagittal"})
    assert answer.status_code == 422
    assert "axial" in answer.json()["detail"]


def test_the_calibration_of_the_tests_is_one(model_folder: Path) -> None:
    assert Predictor(model_folder).calibration.patients == 3
