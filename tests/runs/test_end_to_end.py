"""Train, evaluate and infer: what lies there afterwards, that it is right, and what a wrong input is told."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.files import file_sha256
from scripts.metrics import ItemCurves
from scripts.metrics.lesions import froc_points
from scripts.metrics.pixel_level import pixel_metrics
from scripts.networks.detector import Detector


def told(infer: Callable[..., Path], path: Any, **overrides: Any) -> str:
    """What a failing inference says: the messages of the exception and of its causes, as a traceback shows them."""
    with pytest.raises(RuntimeError) as caught:
        infer(path, **overrides)
    texts, error = [], caught.value
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_training_leaves_its_checkpoints(used: Any) -> None:
    final = torch.load(used.checkpoint, weights_only=True)
    assert set(final) == {"model", "preprocessing", "provenance", "trainer"}
    assert final["trainer"]["epoch_length"] == 4
    assert not any(name.startswith("teachers.") for name in final["model"])
    resumable = torch.load(used.model / "models" / "last.pt", weights_only=True)
    assert {*final, "optimizer", "lr_scheduler", "random"} <= set(resumable)
    assert all(torch.equal(final["model"][name], value) for name, value in resumable["model"].items())


def test_evaluation_leaves_metrics_scores_and_pictures(used: Any) -> None:
    folder = used.model / "eval" / "test"
    assert {path.name for path in folder.iterdir()} == {
        *("metrics.json", "scores.csv", "pixels.npz", "detections.csv", "roc_pr.png", "scores.png", "heat_maps.png"),
        *("best_cases.png", "worst_cases.png"),
    }
    for picture in folder.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 100
    summary = json.loads((folder / "metrics.json").read_text())
    assert summary["images"] == {"normal": 6, "anomalous": 2}
    assert [teacher["name"] for teacher in summary["teachers"]] == ["test_resnet", "vmamba_pico"]
    assert summary["model"]["method"] == "PDD"


def test_an_evaluation_says_how_often_normal_patients_were_called_anomalous(used: Any) -> None:
    folder = used.model / "eval" / "test"
    calibration = json.loads((folder / "metrics.json").read_text())["calibration"]
    table = pd.read_csv(folder / "scores.csv")
    (patient,) = json.loads((used.model / "models" / "calibration.json").read_text())["scores"]
    np.testing.assert_array_equal(table["p_value"], np.where(table["score"] <= patient["score"], 1.0, 0.5))
    patients = table.groupby("group").agg({"label": "max", "score": "max"})
    above = patients["score"] > calibration["levels"]["scan"]["threshold"]
    assert calibration["observed"]["scan"] == {
        "normal_patients": (patients["label"] == 0).sum(),
        "false_positive_rate": above[patients["label"] == 0].mean(),
        "sensitivity": above[patients["label"] == 1].mean(),
    }
    above = table["score"] > calibration["levels"]["slice"]["threshold"]
    normal = table["group"].isin(patients.index[patients["label"] == 0])
    assert calibration["observed"]["slice"]["sensitivity"] == above[table["label"] == 1].mean()
    assert calibration["observed"]["slice"]["false_positive_rate"] == pytest.approx(
        above[normal].groupby(table["group"]).mean().mean()
    )
    assert calibration["levels"]["slice"]["patients"] == 1


def test_without_a_calibration_there_are_maps_and_neither_masks_nor_verdicts(
    used: Any, infer: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "scripts.results")
    table = pd.read_csv(infer(used.inputs / "whole.png", calibration_path=str(tmp_path / "none.json")) / "scores.csv")
    empty = ["scan_threshold", "slice_threshold", "mask_threshold", "p_value", "abnormal"]
    assert list(table.columns) == ["image", "score", *empty, "map", "overlay"]
    assert table[empty].isna().all(axis=None)
    assert caplog.text.count("python -m bundle calibrate") == 1
    assert "1 scored, no verdicts, as there is no scan threshold." in caplog.text


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"amp": True}, "precision float32, now bfloat16"),
        ({"scoring#pooling": "mean"}, "pooling top_5%, now mean"),
        ({"scoring#foreground_only": True}, "foreground_only False, now True"),
        ({"preprocessing#keep_aspect_ratio": True}, "keep_aspect_ratio False, now True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_calibration_of_other_scores_is_refused_by_name(
    used: Any, infer: Callable[..., Path], overrides: dict[str, Any], reason: str
) -> None:
    text = told(infer, used.inputs / "whole.png", **overrides)
    assert f"{used.model}/models/calibration.json was made for other scores than these ({reason})" in text


def test_a_calibration_of_another_checkpoint_is_refused(used: Any, infer: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = torch.load(used.checkpoint, weights_only=True)
    torch.save(checkpoint | {"more": 1}, tmp_path / "other.pt")
    text = told(infer, used.inputs / "whole.png", ckpt_path=str(tmp_path / "other.pt"))
    assert f"checkpoint {file_sha256(used.checkpoint)[:12]}, now {file_sha256(tmp_path / 'other.pt')[:12]}" in text


def test_metrics_are_those_of_scikit_learn_on_the_scores(used: Any) -> None:
    folder = used.model / "eval" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    table = pd.read_csv(folder / "scores.csv")
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(table["label"], table["score"]), abs=1e-12)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(table["label"], table["score"]), abs=1e-12)
    assert table["score"].is_monotonic_decreasing
    assert {"pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro"} <= metrics.keys()


def test_pixels_kept_of_each_image_give_the_metrics_again(used: Any) -> None:
    folder = used.model / "eval" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    items = ItemCurves.load(folder / "pixels.npz")
    assert set(items.image) == set(pd.read_csv(folder / "scores.csv")["image"])
    for name, value in pixel_metrics(items.curve()).items():
        assert value == pytest.approx(metrics[name], abs=2e-3)


def test_detections_kept_of_each_image_give_the_froc_again(used: Any) -> None:
    folder = used.model / "eval" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    detections, scores = pd.read_csv(folder / "detections.csv"), pd.read_csv(folder / "scores.csv")
    assert set(detections["item"]) <= set(scores["image"])
    assert ((scores["lesions"] > 0) == (scores["label"] == 1)).all()
    false_positives, sensitivity = froc_points(
        detections["score"].to_numpy(), detections["found"].to_numpy(), scores["lesions"].sum(), len(scores)
    )
    for rate in (0.125, 1, 8):
        expected = metrics[f"lesion_sensitivity_at_{rate:g}_fp"]
        assert np.interp(rate, false_positives, sensitivity) == pytest.approx(expected)


def test_a_model_of_several_organs_is_measured_on_each(used: Any, scoring: Callable[..., Any], tmp_path: Path) -> None:
    content = json.loads(used.datalist.read_text())
    content["dataset_dir"] = str((used.datalist.parent / content["dataset_dir"]).resolve())
    organs = {0: ["brain", "liver", "eye"] * 2, 1: ["brain", "liver"]}
    for item in content["test"]:
        item["class"] = organs[item["label"]].pop()
    (tmp_path / "organs.json").write_text(json.dumps(content))
    values = {"datalist": str(tmp_path / "organs.json"), "output_dir": str(tmp_path / "eval" / "test")}
    values["tracking_uri"] = f"sqlite:///{tmp_path}/mlruns.db"
    model = shutil.copytree(used.model, tmp_path / "model")  # whose card gets the scores
    scoring(model, "evaluate", **values, ader=True).run()
    summary = json.loads((tmp_path / "eval" / "test" / "metrics.json").read_text())
    table = pd.read_csv(tmp_path / "eval" / "test" / "scores.csv")
    assert sorted(summary["classes"]) == ["brain", "eye", "liver"]
    for organ in ("brain", "liver"):
        of_organ = table[table["class"] == organ]
        expected = roc_auc_score(of_organ["label"], of_organ["score"])
        assert summary["classes"][organ]["image_auroc"] == pytest.approx(expected)
        assert 0 < summary["classes"][organ]["ader_pixel_auroc"] < 1
    assert summary["classes"]["eye"]["images"] == {"normal": 2, "anomalous": 0}
    assert summary["class_means"]["image_auroc"] is None  # that of the eye is not defined
    assert "ader_pixel_aupro" in summary["metrics"]


@pytest.mark.parametrize("slices", [1, 3])
def test_scores_do_not_depend_on_how_many_slices_make_a_batch(
    slices: int, used: Any, infer: Callable[..., Path]
) -> None:
    ours, theirs = (
        pd.read_csv(folder / "scores.csv", index_col="image").sort_index()
        for folder in (infer(used.datalist, slices_at_once=slices), used.model / "eval" / "test")
    )
    assert list(ours.index) == list(theirs.index)
    np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-5)


def test_inference_leaves_scores_maps_overlays_and_manifest(used: Any) -> None:
    folder = used.model / "eval" / "inference"
    table = pd.read_csv(folder / "scores.csv")
    thresholds = ["scan_threshold", "slice_threshold", "mask_threshold"]
    assert list(table.columns) == ["image", "score", *thresholds, "p_value", "abnormal", "map", "mask", "overlay"]
    assert len(table) == 3
    calibration = json.loads((used.model / "models" / "calibration.json").read_text())
    threshold = calibration["levels"]["mask"]["threshold"]
    (patient,) = calibration["scores"]
    levels = {f"{level}_threshold": found["threshold"] for level, found in calibration["levels"].items()}
    assert (table[thresholds] == pd.Series(levels)).all(axis=None)
    assert (table["abnormal"] == (table["score"] > levels["scan_threshold"])).all()
    assert f"3 scored, {table['abnormal'].sum()} abnormal." in used.printed["infer"]
    columns = ["image", "score", "p_value", "map", "mask", "overlay"]
    for image, score, p_value, anomaly_map, mask, overlay in table[columns].itertuples(index=False):
        with Image.open(image) as original, Image.open(folder / overlay) as picture:
            assert picture.size == original.size
            assert picture.mode == "RGB"
            said = json.loads(picture.text["Comment"])
            assert said == pytest.approx({**levels, "score": score, "p_value": p_value, "abnormal": said["abnormal"]})
            assert said["abnormal"] == (score > levels["scan_threshold"])
            values = tifffile.imread(folder / anomaly_map)
            with Image.open(folder / mask) as marked:
                np.testing.assert_array_equal(np.asarray(marked), np.where(values > threshold, 255, 0))
            assert values.shape == original.size[::-1]
        assert p_value == (1.0 if patient["score"] >= score else 0.5)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        # The score is the mean of the highest 5 % of the map in the network's pixels.
        assert 0.9 * score < values.max() < 1.5 * score
    assert len({*table["map"], *table["overlay"]}) == 6  # part.png and more/part.png are not written over each other


def test_an_unreadable_image_is_left_out_and_named(used: Any) -> None:
    manifest = json.loads((used.model / "eval" / "inference" / "manifest.json").read_text())
    broken = str(used.inputs / "broken.png")
    assert list(manifest["unreadable"]) == [broken]
    assert broken in manifest["unreadable"][broken]
    assert [Path(entry["image"]).name for entry in manifest["files"]].count("broken.png") == 0
    assert f"Unreadable: {broken}" in used.printed["infer"]


def test_the_manifest_says_all_that_the_results_depend_on(used: Any) -> None:
    manifest = json.loads((used.model / "eval" / "inference" / "manifest.json").read_text())
    assert manifest["scorer"]["image_size"] == 64
    assert manifest["scorer"]["precision"] == "float32"
    assert manifest["input"] == str(used.inputs)
    assert manifest["versions"]["version_torch"] == version("torch")
    assert manifest["model"]["method"] == "PDD"
    assert manifest["calibration"]["levels"]["mask"]["threshold"] == manifest["mask_threshold"]
    assert all(len(teacher["sha256"]) == 64 for teacher in manifest["teachers"])
    assert manifest["display_range"][0] < manifest["display_range"][1]


def test_inference_scores_a_datalist_as_the_evaluation_did(
    used: Any, infer: Callable[..., Path], tmp_path: Path
) -> None:
    folder = infer(used.datalist)
    ours = pd.read_csv(folder / "scores.csv", index_col="image").sort_index()
    theirs = pd.read_csv(used.model / "eval" / "test" / "scores.csv", index_col="image").sort_index()
    assert list(ours.index) == list(theirs.index)
    np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-5)


@pytest.mark.parametrize(("path", "names"), [("part.png", ["part.png"]), ("**/part.png", ["part.png", "part.png"])])
def test_input_may_be_an_image_or_a_glob(path: str, names: list[str], used: Any, infer: Callable[..., Path]) -> None:
    table = pd.read_csv(infer(used.inputs / path) / "scores.csv")
    assert [Path(image).name for image in table["image"]] == names


@pytest.mark.parametrize("keep_aspect_ratio", [False, True])
def test_a_lesion_stays_at_its_place(
    keep_aspect_ratio: bool,
    used: Any,
    infer: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Detector, "forward", lambda self, image: image[:, :1])  # the image is its own anomaly map
    checkpoint = torch.load(used.checkpoint, weights_only=True)
    checkpoint["preprocessing"]["settings"]["keep_aspect_ratio"] = keep_aspect_ratio
    torch.save(checkpoint, tmp_path / "model.pt")
    spots = {"wide": ((40, 152), (8, 130)), "high": ((90, 33), (70, 5)), "same": ((64, 64), (10, 50))}
    (tmp_path / "spots").mkdir()
    for name, (size, (row, column)) in spots.items():
        image = np.zeros(size, np.uint8)
        image[row - 3 : row + 4, column - 3 : column + 4] = 200
        Image.fromarray(image).save(tmp_path / "spots" / f"{name}.png")
    values: dict[str, Any] = {"ckpt_path": str(tmp_path / "model.pt"), "slices_at_once": 3, "calibration_path": ""}
    folder = infer(tmp_path / "spots", **values, **{"preprocessing#keep_aspect_ratio": keep_aspect_ratio})
    for name, (size, place) in spots.items():
        values = tifffile.imread(folder / "maps" / f"{name}.tiff").astype(np.float64)
        assert values.shape == size
        values[values < values.max() / 2] = 0
        rows, columns = np.indices(size)
        centre = [(axis * values).sum() / values.sum() for axis in (rows, columns)]
        np.testing.assert_allclose(centre, place, atol=0.5)


def test_nothing_to_infer(infer: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    for path, text in {
        "empty": f"{tmp_path / 'empty'} holds no image; looked for .png",
        "missing": f"There is no file or folder {tmp_path / 'missing'}",
        "bad.png": "bad.png can be scored, for 1 reasons; the first: " + str(tmp_path / "bad.png: cannot be read"),
    }.items():
        assert text in told(infer, tmp_path / path)
    assert "say what to look at with --input PATH" in told(infer, "", input=None)


def test_a_checkpoint_of_other_teachers_is_refused(used: Any, infer: Callable[..., Path]) -> None:
    teacher = {"_target_": "scripts.networks.Teacher", "name": "test_resnet", "weights": "untrained", "seed": 1}
    text = told(infer, used.inputs / "part.png", **{"network_def#local_teacher": teacher, "calibration_path": ""})
    assert "trained with teacher test_resnet (untrained, seed 0" in text
    assert "Use the same teachers as in training" in text


def test_a_checkpoint_of_other_input_settings_is_refused(used: Any, infer: Callable[..., Path]) -> None:
    overrides = {"intensity#intensity_range": [0, 255], "calibration_path": ""}
    text = told(infer, used.inputs / "part.png", **overrides)
    assert "it was trained on images of other settings (intensity_range [0, 4095], now [0, 255])" in text


def test_a_damaged_checkpoint_is_named(used: Any, infer: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(used.checkpoint.read_bytes()[:1000])
    assert f"{path} is damaged or no checkpoint" in told(
        infer, used.inputs / "part.png", ckpt_path=str(path), calibration_path=""
    )
