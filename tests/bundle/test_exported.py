"""Which model bundle a verb takes when none is named."""

from pathlib import Path

import pytest

from bundle import exported
from bundle.__main__ import main


def test_without_a_model_the_way_to_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exported, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m bundle export --format bundle"):
        exported.default_bundle()
    (tmp_path / "models" / "medical_anomaly_pdd").mkdir(parents=True)
    assert exported.default_bundle() == tmp_path / "models" / "medical_anomaly_pdd"


def test_the_code_of_an_export_takes_its_own_model(model_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "ROOT", model_bundle)
    assert exported.default_bundle() == model_bundle


@pytest.mark.parametrize("words", [["deploy", "-i", ".", "-o", "out"], ["label", "--studies", "."]])
def test_verbs_ask_for_a_model_where_none_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exported, "ROOT", tmp_path)
    monkeypatch.setattr("bundle.label.interpreter", lambda: Path("python"))
    assert main(words) == 1
    assert f"There is no model bundle {tmp_path}/models/medical_anomaly_pdd" in capsys.readouterr().err
