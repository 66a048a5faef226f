"""Checkpoints of version 0.5.0: made into model folders by ``export``, and refused with the way there elsewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from bundle.__main__ import main
from scripts.data.datalist import datalist_hash
from scripts.model.folder import ModelFolder
from scripts.model.predictor import Predictor
from tests.bare_model import ROOT, TRAIN, Bare, bare_model

MAKE = "python -m bundle export CHECKPOINT --config-file configs/train.json OVERLAYS... --output models/NAME"
OLD = {  # ids of today and of 0.5.0
    "tracking#registered_model": "registered_model_name",
    "intensity#intensity_range": "intensity_range",
    "preprocessing#keep_aspect_ratio": "keep_aspect_ratio",
    "scoring#pooling": "score_pooling",
    "slices#held_out": "held_out_slices",
}


@pytest.fixture
def values(bundle_args: dict[str, Any]) -> dict[str, Any]:
    """Options that the training was given, by the ids of today."""
    more = {"preprocessing#keep_aspect_ratio": True, "scoring#pooling": "mean", "slices#held_out": 0.25, "seed": 5}
    return {**bundle_args, **more}


@pytest.fixture
def bare(values: dict[str, Any]) -> Bare:
    return bare_model([TRAIN], values)


@pytest.fixture
def overlay(values: dict[str, Any], tmp_path: Path) -> str:
    """The options as a config file of 0.5.0."""
    path = tmp_path / "old.json"
    path.write_text(json.dumps({OLD.get(name, name): value for name, value in values.items()}))
    return str(path)


def old_checkpoint(bare: Bare, path: Path, **learnt: Any) -> Path:
    """As 0.5.0 wrote it."""
    states, datalist = bare.states(), bare.config["datalist"]
    provenance = {"method": "PDD", "seed": 5, "data": "phantoms", "datalist_sha256": datalist_hash(datalist)}
    provenance |= {"training": {"patients": 8, "images": 16, "duplicates": 0}, "git_commit": "50588f8"}
    settings = {name: value for name, value in bare.preprocessing.settings.items() if name != "align"}
    parts = {"input": {**settings, **learnt}, "provenance": provenance}
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": states["model"], **parts, "trainer": states["trainer"]}, path)
    return path


@pytest.fixture
def old(bare: Bare, tmp_path: Path) -> Path:
    return old_checkpoint(bare, tmp_path / "old" / "model.pt")


@pytest.fixture
def export(old: Path, tmp_path: Path) -> Callable[..., int]:
    """``export(files)``: the verb's exit code; the folder is ``new``."""

    def run(*files: str, checkpoint: Path = old, out: str = "new", more: tuple[str, ...] = ()) -> int:
        words = ["--config-file", *files, "--output", str(tmp_path / out), *more]
        return main(["export", str(checkpoint), *words])

    return run


def test_the_folder_scores_as_the_checkpoint_did(
    export: Callable[..., int], overlay: str, bare: Bare, tiny_dataset: Path, tmp_path: Path
) -> None:
    assert export(TRAIN, overlay) == 0
    content = json.loads(tiny_dataset.read_text())
    image = tiny_dataset.parent / content["dataset_dir"] / content["test"][0]["image"]
    found, expected = Predictor(tmp_path / "new", "cpu")(image), Predictor(bare.write(tmp_path / "model"), "cpu")(image)
    assert found.score == expected.score
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    metadata = ModelFolder(tmp_path / "new").metadata["model"]
    assert (metadata["name"], metadata["version"], metadata["modality"]) == ("new", "0.5.0", "CT")
    assert (metadata["seed"], metadata["git_commit"]) == (5, "50588f8")
    assert metadata["teachers"] == bare.network.identities()
    rates = [f"--{level}-false-positive-rate=0.5" for level in ("scan", "slice", "mask")]
    assert main(["calibrate", str(tmp_path / "new"), *rates]) == 0  # on the remembered datalist


def test_ids_of_the_old_overlays_reach_their_new_places(
    export: Callable[..., int], overlay: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    assert export(TRAIN, overlay, more=("--set", "scan_pooling", "top_5")) == 0
    train = json.loads((tmp_path / "new/configs/train.json").read_text())
    assert train["intensity"]["intensity_range"] == [0, 4095]
    assert train["preprocessing"]["keep_aspect_ratio"] is True
    assert (train["scoring"]["pooling"], train["scoring"]["scan_pooling"]) == ("mean", "top_5")
    assert train["slices"]["held_out"] == 0.25
    assert train["tracking"]["registered_model"] == ""
    assert train["datalist"] == str(tiny_dataset)
    assert not set(OLD.values()) & train.keys()


def test_the_checkpoints_input_wins_over_the_configs(
    export: Callable[..., int], values: dict[str, Any], tmp_path: Path
) -> None:
    bundle_args = {name: value for name, value in values.items() if not name.startswith("preprocessing#")}
    path = tmp_path / "less.json"
    path.write_text(json.dumps(bundle_args | {"image_size": 96}))
    assert export(TRAIN, str(path)) == 0
    inference = json.loads((tmp_path / "new/configs/inference.json").read_text())
    assert inference["image_size"] == 64
    assert inference["preprocessing"]["keep_aspect_ratio"] is True


def test_what_the_preprocessing_has_learnt_comes_along(
    export: Callable[..., int], bundle_args: dict[str, Any], tmp_path: Path
) -> None:
    values = {name: value for name, value in bundle_args.items() if not name.startswith("intensity")}
    files = [TRAIN, str(ROOT / "configs/data/mr.json"), str(ROOT / "configs/data/mr_landmarks.json")]
    bare = bare_model(files, values)
    landmarks = bare.preprocessing.landmarks
    landmarks.learn([np.linspace(0, top, len(landmarks.state_dict()["quantiles"])) for top in (1.0, 3.0)])
    learnt = landmarks.state_dict()
    checkpoint = old_checkpoint(bare, tmp_path / "mr" / "model.pt", landmarks=learnt)
    overlay = tmp_path / "mr.json"
    overlay.write_text(json.dumps(values))
    assert export(*files, str(overlay), checkpoint=checkpoint) == 0
    states = torch.load(tmp_path / "new/models/model.pt", weights_only=True)
    settings = {**bare.preprocessing.settings, "align": False}
    assert states["preprocessing"] == {"settings": settings, "landmarks": learnt}
    Predictor(tmp_path / "new", "cpu")


def test_weights_of_teachers_come_from_the_old_trainings_folder(
    export: Callable[..., int], bundle_args: dict[str, Any], tmp_path: Path
) -> None:
    weights = tmp_path / "models" / "mine.pt"
    weights.parent.mkdir()
    torch.save(timm.create_model("test_resnet", features_only=True).state_dict(), weights)
    values = bundle_args | {"network_def#local_teacher#weights": "$@bundle_root + '/models/mine.pt'"}
    checkpoint = old_checkpoint(bare_model([TRAIN], values), tmp_path / "old" / "model.pt")
    overlay = tmp_path / "weights.json"
    overlay.write_text(json.dumps(values))
    assert export(TRAIN, str(overlay), checkpoint=checkpoint) == 0
    (linked,) = (tmp_path / "new/models").glob("test_resnet-*.pt")
    assert linked.samefile(weights)
    assert Predictor(tmp_path / "new", "cpu").facts["untrained"] == ["vmamba_pico"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "was trained by other configs (intensity ScaleToUnitd, here Windowedd"),
        (["teacher.json"], "trained with teacher test_resnet"),
        (["old_train.json"], "begins with configs/train.json of this version, not with that of 0.5.0"),
    ],
)
def test_other_configs_than_the_trainings_are_refused(
    files: list[str], text: str, export: Callable[..., int], overlay: str, tmp_path: Path, capsys: Any
) -> None:
    teacher = {"network_def#local_teacher#seed": 1}
    (tmp_path / "teacher.json").write_text(json.dumps(teacher))
    (tmp_path / "old_train.json").write_text(json.dumps({"input_settings": {}}))
    more = [str(tmp_path / name) for name in files] or [str(ROOT / "configs/data/ct.json")]
    if not files:  # an overlay that is not the training's
        values = json.loads(Path(overlay).read_text())
        Path(overlay).write_text(json.dumps({name: value for name, value in values.items() if "range" not in name}))
    assert export(TRAIN, overlay, *more) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_what_is_no_checkpoint_of_it_and_a_folder_that_is_there_are_refused(
    export: Callable[..., int], old: Path, overlay: str, model_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    assert export(TRAIN, overlay, checkpoint=model_folder) == 1
    assert "is no checkpoint of version 0.5.0: it has no input" in capsys.readouterr().err
    assert export(TRAIN, overlay, checkpoint=tmp_path / "nowhere.pt") == 1
    assert f"There is no checkpoint {tmp_path / 'nowhere.pt'}" in capsys.readouterr().err
    assert export(TRAIN, overlay, out="old") == 1
    assert f"{old.parent} exists: remove it, or name another --output" in capsys.readouterr().err
    assert [path.name for path in old.parent.iterdir()] == ["model.pt"]


@pytest.fixture
def exported(old: Path, tmp_path: Path) -> Path:
    """A folder as 0.5.0 exported it: configs, which say nothing of a model, and a checkpoint."""
    folder = tmp_path / "medical_anomaly_pdd"
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "models").mkdir()
    shutil.copy(old, folder / "models" / "model.pt")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("calibrate", "MODEL"),
        ("evaluate", "MODEL"),
        ("infer", "MODEL", "scan.nii", "-o", "out"),
        ("export", "MODEL"),
        ("export", "MODEL", "--format", "onnx"),
        ("deploy", "MODEL", "-i", ".", "-o", "out"),
        ("listen", "MODEL", "--queue", "queue"),
    ],
    ids=" ".join,
)
def test_every_verb_refuses_it_and_names_the_way_to_a_model_folder(
    words: tuple[str, ...],
    old: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for model in (old, old.parent, exported):
        assert main([str(model) if word == "MODEL" else word for word in words]) == 1
        said = capsys.readouterr().err
        assert str(model) in said
        assert MAKE in said
