"""A model folder as a zip: what it holds, and that every verb runs in it, and nowhere else, with the same scores."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bundle.__main__ import main
from scripts.model.predictor import Predictor

RATES = [f"--{level}-false-positive-rate=0.25" for level in ("scan", "slice", "mask")]


def run(folder: Path, module: str, *words: str) -> str:
    """A command in a model folder, which sees no other copy of its code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip").set_index("image").sort_index()


@pytest.fixture(scope="module")
def zipped(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a folder that was used."""
    used = shutil.copytree(model_folder, tmp_path_factory.mktemp("used") / "brain-1.0")
    for name in ("eval/test/scores.csv", "cache/scan.nii", "scripts/__pycache__/a.pyc", "models/.part", ".git/HEAD"):
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).write_text("not the model's")
    assert main(["export", str(used), "--format", "zip"]) == 0
    return used.with_name("brain-1.0.zip")


@pytest.fixture(scope="module")
def unpacked(zipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip, unpacked where neither training nor code are."""
    folder = tmp_path_factory.mktemp("zoo")
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    return folder / "brain-1.0"


@pytest.fixture(scope="module")
def datalist(model_folder: Path) -> Path:
    return model_folder.parent / "datalist.json"


@pytest.fixture(scope="module")
def scans(datalist: Path) -> dict[str, list[str]]:
    """Scans of each split, in order."""
    content = json.loads(datalist.read_text())
    splits = ("training", "validation", "test")
    return {name: [str(datalist.parent / item["image"]) for item in content[name]] for name in splits}


@pytest.fixture(scope="module")
def predicted(model_folder: Path, scans: dict[str, list[str]]) -> dict[str, Any]:
    """What the folder itself finds in this process, with the threads of the commands, which sums depend on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    predictor = Predictor(model_folder, "cpu")
    found = {scan: predictor(scan) for scan in [*scans["validation"], *scans["test"]]}
    torch.set_num_threads(threads)
    return found


def test_it_holds_the_files_of_the_zoo_and_nothing_of_runs_and_resuming(zipped: Path, model_folder: Path) -> None:
    with zipfile.ZipFile(zipped) as archive:
        names = set(archive.namelist())
        checkpoint = archive.read("brain-1.0/models/model.pt")
    configs = ("metadata", "train", "calibrate", "evaluate", "inference", "scoring")
    wanted = {f"configs/{name}.json" for name in configs} | {"configs/logging.conf", "docs/README.md", "LICENSE"}
    wanted |= {"docs/data_license.txt", "models/model.pt", "models/calibration.json", "bundle/__main__.py"}
    wanted |= {"scripts/networks/selective_scan/native.c"}
    assert {f"brain-1.0/{name}" for name in wanted} <= names
    assert not [name for name in names if name.split("/")[1] in ("eval", "cache") or name.endswith("last.pt")]
    assert not [name for name in names if "__pycache__" in name or "/." in name]
    files = {path.relative_to(model_folder) for path in model_folder.rglob("*") if path.is_file()}
    kept = {path for path in files if path.parts[0] not in ("eval", "cache") and "__pycache__" not in path.parts}
    assert {name for name in names if not name.endswith("/")} == {
        f"brain-1.0/{path.as_posix()}" for path in kept if path.as_posix() != "models/last.pt"
    }
    assert checkpoint == (model_folder / "models/model.pt").read_bytes()


def test_a_zip_that_is_there_is_not_replaced_and_an_error_leaves_none(
    zipped: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = zipped.read_bytes()
    assert main(["export", str(model_folder), "-o", str(zipped)]) == 1
    assert f"{zipped} exists: remove it, or name another --output" in capsys.readouterr().err
    assert zipped.read_bytes() == before

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    assert main(["export", str(model_folder), "-o", str(tmp_path / "new.zip")]) == 1
    assert "no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_inference_in_it_needs_no_datalist_and_gives_the_same_scores(
    unpacked: Path, scans: dict[str, list[str]], predicted: dict[str, Any], tmp_path: Path
) -> None:
    for file in (unpacked / "configs").glob("*.json"):
        assert str(unpacked.parent) not in file.read_text()
    gone = ["--datalist", str(tmp_path / "gone.json")]
    folder = str(Path(scans["test"][-1]).parents[1])
    given = ["--config_file", "configs/inference.json", "--input", folder, "--output_dir", str(tmp_path / "monai")]
    run(unpacked, "monai.bundle", "run", "inferring", *given, *gone)
    run(unpacked, "bundle", "infer", ".", folder, "-o", str(tmp_path / "ours"))
    for name in ("monai", "ours"):
        scores = read(tmp_path / name / "scores.csv")
        assert list(scores.index) == scans["test"][1:]
        for scan in scores.index:
            found = predicted[scan].verdict()
            assert found["abnormal"] is not None
            assert {key: scores.loc[scan, key] for key in found} == found
        slices = read(tmp_path / name / "slices.csv")
        for scan in scores.index:
            np.testing.assert_array_equal(slices.loc[scan, "score"].astype(np.float32), predicted[scan].slice_scores)


def test_an_evaluation_in_it_gives_the_same_scores(
    unpacked: Path, datalist: Path, scans: dict[str, list[str]], predicted: dict[str, Any]
) -> None:
    given = ["--config_file", "configs/evaluate.json", "--datalist", str(datalist)]
    run(unpacked, "monai.bundle", "run", "evaluating", *given)
    scores = read(unpacked / "eval/test/scores.csv")
    assert sorted(scores.index) == sorted(scans["test"])
    assert {scan: scores.loc[scan, "score"] for scan in scores.index} == {
        scan: predicted[scan].score for scan in scores.index
    }
    metrics = json.loads((unpacked / "eval/test/metrics.json").read_text())
    assert metrics["calibration"]["levels"]["mask"]["rate"] == 0.25
    assert f"| {metrics['metrics']['image_auroc']:.3f} |" in (unpacked / "docs/README.md").read_text()


def test_a_calibration_in_it_holds_the_same_scores(
    unpacked: Path, model_folder: Path, datalist: Path, scans: dict[str, list[str]], predicted: dict[str, Any]
) -> None:
    path = unpacked / "models/calibration.json"
    before = json.loads((model_folder / "models/calibration.json").read_text())
    rates = [f"--{level}_false_positive_rate=0.25" for level in ("scan", "slice", "mask")]
    given = ["--config_file", "configs/calibrate.json", "--datalist", str(datalist), *rates]
    commands = (
        ("monai.bundle", "run", "calibrating", *given),
        ("bundle", "calibrate", ".", "--datalist", str(datalist), *RATES),
    )
    for command in commands:
        path.unlink()
        run(unpacked, *command)
        again = json.loads(path.read_text())
        assert [again[key] for key in ("levels", "scores", "scorer")] == [
            before[key] for key in ("levels", "scores", "scorer")
        ]
    expected = [predicted[scan] for scan in scans["validation"]]
    assert [one["score"] for one in again["scores"]] == sorted(found.score for found in expected)
    assert [one["slices"] for one in again["scores"]] == [
        sorted(found.slice_scores) for found in sorted(expected, key=lambda found: found.score)
    ]


def test_it_exports_and_trains_another_model_folder(
    unpacked: Path, model_folder: Path, datalist: Path, tmp_path: Path
) -> None:
    assert "Written: models/model.ts" in run(unpacked, "bundle", "export", ".", "--format", "torchscript")
    again = tmp_path / "again"
    given = ["--config_file", "configs/train.json", "--model_dir", str(again), "--datalist", str(datalist)]
    run(unpacked, "monai.bundle", "run", "training", *given)
    for name in ("train", "calibrate", "evaluate", "inference"):
        ours, theirs = (json.loads((path / f"configs/{name}.json").read_text()) for path in (again, model_folder))
        assert ours.pop("tracking_uri", None) == theirs.pop("tracking_uri", None)
        assert ours == theirs
    # The same data and seed: the same model.
    new, old = (torch.load(path / "models/model.pt", weights_only=True) for path in (again, model_folder))
    templates = [states["preprocessing"].pop("template") for states in (new, old)]
    assert new["preprocessing"] == old["preprocessing"]
    assert templates[0].keys() == templates[1].keys()
    for name, value in templates[0].items():
        torch.testing.assert_close(value, templates[1][name], rtol=0, atol=0)
    assert new["model"].keys() == old["model"].keys()
    assert all(torch.equal(value, new["model"][name]) for name, value in old["model"].items())
