"""``python -m bundle label`` where MONAI Label is not installed, as in the environment of the other tests."""

import importlib.util
from pathlib import Path

import pytest

from bundle import label
from bundle.__main__ import main

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("monailabel") is not None, reason="MONAI Label is installed in this environment"
)


def test_its_environment_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label, "ENVIRONMENT", tmp_path / ".venv-label")
    assert main(["label", str(tmp_path), "--studies", str(tmp_path)]) == 1
    assert f"neither here nor in {tmp_path}/.venv-label. Install it there: make label" in capsys.readouterr().err


def test_the_python_of_its_environment_becomes_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, studies, environment = tmp_path / "a model", tmp_path / "the studies", tmp_path / ".venv-label"
    for file in ("configs/inference.json", "configs/metadata.json", "models/model.pt"):
        (model / file).parent.mkdir(parents=True, exist_ok=True)
        (model / file).write_text('{"model": {"modality": "CT"}}')
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").touch()
    studies.mkdir()
    monkeypatch.setattr(label, "ENVIRONMENT", environment)
    monkeypatch.setattr(label, "require_free", lambda host, port: None)  # others may have these ports here
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONAI_LABEL_AUTO_UPDATE_SCORING", raising=False)
    became: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *call: became.append(call))
    monkeypatch.setattr("subprocess.call", lambda *words, **options: 0)  # what would follow, had it returned
    assert main(["label", "a model", "--studies", "the studies", "--app", "the app", "--port", "8123"]) == 0
    assert "MONAI_LABEL_AUTO_UPDATE_SCORING" not in became[0][2]
    assert main(["label", str(model), "--studies", "http://127.0.0.1:9/dicom-web", "--app", "another"]) == 0
    remote = became[1][2]
    assert remote["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "false"  # not all series of an archive are fetched at once
    assert remote["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] == '{"Modality": "CT"}'
    (program, words, settings), app = became[0], str(tmp_path / "the app")
    assert program == words[0] == str(environment / "bin" / "python")
    assert words[1:6] == ["-m", "monailabel.main", "start_server", "--app", app]
    options = dict(zip(words[6::2], words[7::2], strict=True))
    assert options["--studies"] == str(studies)
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "8123")
    assert settings["PATH"].startswith(str(environment / "bin"))
    assert (Path(app) / "model" / "medical_anomaly_pdd").resolve() == model
