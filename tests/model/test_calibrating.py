"""Calibration: on whom, what it collects of them, and what it tells the user."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from bundle.__main__ import main
from scripts.data.datalist import datalist_hash, load_calibration_items
from scripts.model.calibrating import Calibrating
from scripts.model.provenance import Provenance


def write_datalist(folder: Path, validation: list[tuple[str, int]], training: int = 1) -> Path:
    """Items by group and label, in this order."""
    items = [
        {"image": f"{number}.png", "group": group, "label": label} for number, (group, label) in enumerate(validation)
    ]
    for item in [*items, {"image": "train.png"}]:
        (folder / str(item["image"])).touch()
    path = folder / "datalist.json"
    trained = [{"image": "train.png", "group": "trained", "label": 0}] * training
    path.write_text(json.dumps({"training": trained, "validation": items, "labelled_validation": True}))
    return path


def test_a_patient_with_an_anomaly_is_left_out_as_a_whole_and_scans_come_by_patient(tmp_path: Path) -> None:
    path = write_datalist(tmp_path, [("b", 0), ("ill", 0), ("a", 0), ("b", 0), ("ill", 1)])
    items = load_calibration_items(path)
    assert [(item["group"], Path(item["image"]).name) for item in items] == [
        ("a", "2.png"),
        ("b", "0.png"),
        ("b", "3.png"),
    ]


@pytest.mark.parametrize("validation", [[], [("ill", 1), ("ill", 0)]])
def test_without_normal_validation_patients_the_remedy_is_named(
    validation: list[tuple[str, int]], tmp_path: Path
) -> None:
    path = write_datalist(tmp_path, validation)
    with pytest.raises(ValueError, match=f"{path}: no normal patient in validation.*--validation-fraction.*held_out"):
        load_calibration_items(path)


def item(patient: str, file: str, slices: list[float], empty: list[bool], inside: list[float]) -> dict[str, Any]:
    """Of a scan whose map has the values ``inside`` in the foreground, and one far higher outside."""
    values = torch.tensor([*inside, 100.0]).reshape(1, 1, -1, 1)
    foreground = torch.ones_like(values)
    foreground[0, 0, -1] = 0
    return {
        "image": MetaTensor(torch.zeros(1), meta={"filename_or_obj": file}),
        "group": patient,
        "score": torch.tensor(max(slices)),
        "slice_scores": torch.tensor(slices),
        "empty_slices": torch.tensor(empty),
        "anomaly_map": MetaTensor(values),
        "foreground": MetaTensor(foreground),
    }


def calibrating(folder: Path, rates: tuple[float, float, float] = (0.05, 0.05, 0.005), **facts: Any) -> Calibrating:
    path = folder / "datalist.json"
    provenance = Provenance(**({"datalist_sha256": datalist_hash(path)} if path.is_file() else {}) | facts)
    levels = dict(zip(("scan", "slice", "mask"), rates, strict=True))
    return Calibrating(folder / "calibration.json", path, provenance, {"precision": "float32"}, levels)


def run(handler: Calibrating) -> None:
    """Scores of three patients: one with two scans, one with a black image, one with one scan."""
    items = [
        item("a", "1.nii.gz", [1.0, 9.0], [False, True], [1, 2]),
        item("a", "2.nii.gz", [3.0, 4.0], [False, False], [3, 4]),
        item("b", "3.png", [0.5], [True], [0.5, 0.25]),
        item("c", "4.nii.gz", [2.0], [False], [2, 2]),
    ]
    engine = Engine(lambda engine, batch: items)
    handler.attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: setattr(engine.state, "batch", items))
    engine.run([0])


@pytest.fixture
def scores(tmp_path: Path) -> Calibrating:
    write_datalist(tmp_path, [("a", 0)])
    handler = calibrating(tmp_path, (0.5, 0.5, 0.5))
    run(handler)
    return handler


def test_scores_are_kept_by_patient_without_empty_slices_and_background(scores: Calibrating) -> None:
    assert scores.highest == {"a": 9, "b": 0.5, "c": 2}
    assert scores.slices == {"a": [1, 3, 4], "b": [0.5], "c": [2]}  # an image counts, be it black
    assert (scores.scans, scores.voxels.patients, scores.voxels.voxels) == (4, 3, 8)
    assert scores.level("scan", 0.5)["threshold"] == 2
    assert scores.level("slice", 0.25) == {
        "rate": 0.25, "threshold": 4.0, "patients": 3, "scans": 4, "slices": 5, "voxels": 8,
    }  # fmt: skip
    # (1/3 + 1) / 4 lie above 3
    assert scores.level("slice", 1 / 3)["threshold"] == 3
    assert scores.level("mask", 0.25)["threshold"] == pytest.approx(4, rel=1e-3)
    # (2/4 + 1) / 4 of pixels lie above 2
    assert scores.level("mask", 0.375)["threshold"] == pytest.approx(2, rel=1e-3)


def test_pixel_thresholds_are_kept_for_every_usual_rate_that_the_patients_allow(scores: Calibrating) -> None:
    kept = scores.level("mask", 0.375)["thresholds"]
    assert [one["rate"] for one in kept] == [0.5, 0.375]  # three patients support no rate below a quarter
    # Above 2 lie half of one patient's pixels, no more than 0.5 * 4 - 1 and 0.375 * 4 - 1; above 1 too many.
    assert [one["threshold"] for one in kept] == pytest.approx([2, 2], rel=1e-3)


def test_a_level_without_threshold_says_why(scores: Calibrating) -> None:
    level = scores.level("mask", 0.1)
    assert level["threshold"] is None
    assert level["reason"] == "a rate of 0.1 needs 9 normal patients, there are 3, which support no rate below 0.25"


def test_nothing_that_is_written_names_a_patient_or_tells_their_order(scores: Calibrating) -> None:
    assert scores.nameless() == [
        {"score": 0.5, "slices": [0.5]},
        {"score": 2.0, "slices": [2.0]},
        {"score": 9.0, "slices": [1.0, 3.0, 4.0]},
    ]


def test_what_weakens_the_promise_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_datalist(tmp_path, [("a", 0)])

    def weaknesses(**facts: Any) -> str:
        caplog.clear()
        run(calibrating(tmp_path, (0.5, 0.5, 0.5), **facts))
        return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)

    assert weaknesses() == ""
    assert "early_stop_patience" in weaknesses(early_stop_patience=5)
    assert f"was not trained on {path}" in weaknesses(datalist_sha256="0" * 64)


def test_a_training_that_may_stop_early_says_so_in_its_checkpoint() -> None:
    config = json.loads((Path(__file__).parents[2] / "configs" / "train.json").read_text())
    for patience, expected in ((0, None), (7, 7)):
        parser = ConfigParser(
            {"early_stop_patience": patience, "said": config["model_folder"]["provenance"]["early_stop_patience"]}
        )
        assert parser.get_parsed_content("said") == expected


@pytest.mark.parametrize("rate", ["0", "1", "-0.5"])
def test_a_rate_that_is_none_is_refused_before_any_work(
    rate: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(model_folder), f"--slice-false-positive-rate={rate}"]) == 1
    assert "must be between 0 and 1" in capsys.readouterr().err


def test_if_no_level_has_a_threshold_that_is_an_error_which_says_how_many_patients_it_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_datalist(tmp_path, [("a", 0)])
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="No level has a threshold: .*there are 3"):
        run(calibrating(tmp_path))
    assert caplog.text.count("there are 3") >= 3
    assert "needs 199 normal patients" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(calibrating(tmp_path, (0.25, 0.05, 0.005)))
    assert "at most 25 % have a scan that scores above 9" in caplog.text
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["levels"]["scan"]["threshold"] == 9
    assert content["scorer"] == {"precision": "float32"}
    assert np.isclose(sum(patient["score"] for patient in content["scores"]), 11.5)
