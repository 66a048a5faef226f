"""Model folder and rules as the verb checks them at its start."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle import listen
from bundle.__main__ import main
from bundle.listen.settings import Settings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Folder that passes for a model folder."""
    folder = tmp_path / "model"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"model": {"modality": "CT"}}))
    (folder / "configs" / "inference.json").write_text(json.dumps({"plane": "axial"}))
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").touch()
    return folder


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Settings]]:
    """``start("model", "--rules", "rules.json")``: settings of the nodes that the verb has started, none or one."""
    started: list[Settings] = []
    monkeypatch.setattr(listen, "serve", lambda given: started.append(given) or 0)

    def run(*words: str) -> list[Settings]:
        code = main(["listen", *words, "--queue", str(tmp_path / "queue")])
        assert code == (0 if started else 1)
        return started

    return run


def test_a_node_starts_with_the_model_and_the_rules(start: Callable[..., list[Settings]], model: Path) -> None:
    rules = model / "rules.json"
    rules.write_text(json.dumps({"rules": [{"modality": "trained", "orientation": "trained"}]}))
    (settings,) = start(str(model), "--rules", str(rules), "--secondary-capture")
    assert (settings.model, settings.rules, settings.secondary_capture) == (model, rules, True)


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (".", "There is no model folder"),
        ("configs/inference.json", "is no model folder: it has no configs/inference.json"),
        ("models/model.pt", "has no trained model models/model.pt"),
    ],
)
def test_a_folder_without_a_model_is_told_before_anything_is_received(
    missing: str,
    text: str,
    start: Callable[..., list[Settings]],
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (model / missing).rename(model.parent / "elsewhere")
    assert not start(str(model))
    error = capsys.readouterr().err
    assert error.startswith("python -m bundle listen: ")
    assert str(model) in error
    assert text in error


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "There is no file of rules"),
        ({"rules": []}, 'has no list "rules" of at least one rule'),
        ({"rules": [{"modalities": "CT"}]}, "rule 1 has modalities"),
        ({"rules": [{"orientation": "oblique"}]}, "axial, coronal, sagittal"),
    ],
)
def test_wrong_rules_are_told_before_anything_is_received(
    content: object,
    text: str,
    start: Callable[..., list[Settings]],
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rules = model / "rules.json"
    if content is not None:
        rules.write_text(json.dumps(content))
    assert not start(str(model), "--rules", str(rules))
    error = capsys.readouterr().err
    assert str(rules) in error
    assert text in error


def test_without_a_model_it_says_where_to_name_one(
    start: Callable[..., list[Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not start()
    assert capsys.readouterr().err == 'python -m bundle listen: Give MODEL, or "model" in the file of --config.\n'
