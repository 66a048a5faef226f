"""``python -m bundle label``: what it refuses, what it makes, and the server that it becomes."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from bundle import label
from bundle.__main__ import main
from scripts.model.folder import ModelFolder

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(process: subprocess.Popen[str], log: Path, url: str, get: Callable[[str], Any] = requests.get) -> Any:
    """The answer of a server, once it gives one."""
    for _ in range(180):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return get(url)
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def test_one_command_serves_a_folder_on_loopback(trained_model: Path, studies: Path, tmp_path: Path) -> None:
    port, work, log = free_port(), tmp_path / "work of the server", tmp_path / "log.txt"
    before = {path.name for path in studies.iterdir()}
    code = {path for path in (ROOT / "bundle").rglob("*") if "__pycache__" not in path.parts}
    words = [str(trained_model), "--studies", str(studies), "--port", str(port), "--app", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MONAI_LABEL_AUTO_UPDATE_SCORING": "true"}
    with log.open("w") as output:
        command = [sys.executable, "-m", "bundle", "label", *words]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        info = wait_for(process, log, f"{url}/info/").json()
        assert set(info["models"]) == {"anomaly_segmentation", "anomaly_map"}
        assert info["datastore"]["total"] == 5
        about = requests.post(f"{url}/infer/anomaly_segmentation?image=anomalous1&output=json", timeout=60).json()
        normal = json.loads((trained_model / "models" / "calibration.json").read_text())["scores"]
        higher = sum(patient["score"] >= about["score"] for patient in normal)
        assert about["p_value"] == (1 + higher) / (1 + len(normal))
        answer = requests.post(f"{url}/infer/anomaly_map?image=nobody", timeout=60)
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no image 'nobody' among the studies.")
        # MONAI Label scores in the background as soon as it runs, in a process of its own.
        for _ in range(120):
            task = requests.get(f"{url}/scoring/", timeout=10).json()
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                break
            time.sleep(0.5)
        assert task["status"] == "DONE", task
        chosen = {}
        for _ in range(20):  # until the server has noticed what the other process wrote
            chosen = requests.post(f"{url}/activelearning/most_anomalous", json={}, timeout=10).json()
            if "id" in chosen:
                break
            time.sleep(0.5)
        assert chosen["id"] in {"anomalous1", "normal1", "normal2", "normal3", "normal4"}
        assert requests.get(f"{url}/ohif/", timeout=10).status_code == 200
        # A page of another origin may not read what a browser fetches for it.
        answer = requests.get(f"{url}/info/", headers={"Origin": "http://elsewhere.example"}, timeout=10)
        assert "access-control-allow-origin" not in answer.headers
    finally:
        process.terminate()
        process.wait(30)
    listening = [line for line in log.read_text().splitlines() if "Uvicorn running on" in line]
    assert f"http://127.0.0.1:{port}" in listening[0]
    assert {path.name for path in studies.iterdir()} - before == {
        "datastore_v2.json",
        "labels",
        ".lock",
        ".writing.lock",
    }
    assert {path for path in (ROOT / "bundle").rglob("*") if "__pycache__" not in path.parts} == code
    assert work.stat().st_mode & 0o077 == 0  # scans of patients may lie there
    assert any((work / "tmp").iterdir())  # and there alone, as for a moment those do that are sent


def test_the_app_folder_links_to_the_model_and_can_be_made_again(model_folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        app = label.write_app(tmp_path / "app", model_folder)
    link = app / "model" / "medical_anomaly_pdd"
    assert link.is_symlink()
    assert link.resolve() == model_folder.resolve()
    assert "AnomalyApp" in (app / "main.py").read_text()
    link.unlink()
    link.mkdir()
    with pytest.raises(FileExistsError, match="is not a link to a model folder"):
        label.write_app(tmp_path / "app", model_folder)


def test_series_of_the_models_modality_are_asked_for(model_folder: Path, tmp_path: Path) -> None:
    model = ModelFolder(model_folder)
    assert label.searched_modality(model, None) == "CT"
    assert label.searched_modality(model, "MR") == "MR"
    file = model_folder / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    for named in (None, "unknown", "CT+MR"):
        file.write_text(json.dumps({**metadata, "model": {**metadata["model"], "modality": named}}))
        with pytest.raises(ValueError, match="--modality CT or MR"):
            label.searched_modality(model, None)
    found = label.settings(tmp_path, Path(sys.executable), "MR")
    assert json.loads(found["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"]) == {"Modality": "MR"}
    assert found["MONAI_LABEL_DICOMWEB_CACHE_PATH"].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["nowhere", "--studies", "."], "There is no model folder .*nowhere. Training writes one"),
        (["MODEL", "--studies", "nowhere"], "There is no folder nowhere. --studies takes a folder of NIfTI"),
    ],
)
def test_a_wrong_folder_is_named_before_anything_starts(
    words: list[str], remedy: str, model_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [str(model_folder) if word == "MODEL" else word for word in words]
    assert main(["label", *words, "--app", str(tmp_path / "app")]) == 1
    assert re.search(remedy, capsys.readouterr().err)
    assert not (tmp_path / "app").exists()


def test_a_folder_without_scans_is_warned_of(studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label.checked_studies(str(studies)) == str(studies.resolve())
    assert capsys.readouterr().err == ""
    label.checked_studies(str(tmp_path))
    assert "does not look into its subfolders" in capsys.readouterr().err


def test_a_port_that_is_in_use_is_named_before_anything_starts(
    model_folder: Path, studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        words = [str(model_folder), "--studies", str(studies), "--app", str(tmp_path / "app")]
        assert main(["label", *words, "--port", port]) == 1
        assert f"127.0.0.1:{port} cannot be served" in capsys.readouterr().err
        assert main(["label", *words, "--port", "70000"]) == 1
        assert "Name another --port" in capsys.readouterr().err
    assert not (tmp_path / "app").exists()


def test_a_folder_that_cannot_be_written_is_named(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match="the studies cannot be written"):
        label.checked_studies(str(studies))


def test_without_monai_label_its_environment_is_used_or_its_making_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert label.interpreter() == Path(sys.executable)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(label, "ENVIRONMENT", tmp_path)
    with pytest.raises(RuntimeError, match="make label"):
        label.interpreter()
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    assert label.interpreter() == python
