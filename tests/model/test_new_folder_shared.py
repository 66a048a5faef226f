"""Trainings that share a name: each keeps a folder of its own."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.model.new_folder import NewModelFolder
from scripts.model.provenance import Provenance
from tests.conftest import CONFIGS


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], NewModelFolder]:
    """``folder()``: what one of several trainings with the same ``--model_dir`` begins with."""
    config = ConfigParser.load_config_file(str(CONFIGS / "train.json"))
    for teacher in ("local_teacher", "global_teacher"):
        config["network_def"][teacher]["weights"] = "untrained"

    def make() -> NewModelFolder:
        return NewModelFolder(tmp_path / "brain", tmp_path, None, False, Provenance(), config, {})

    return make


def saves(text: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        for name in ("model.pt", "last.pt"):
            (folder / "models" / name).write_text(text)

    return save


def test_two_trainings_of_one_name_keep_a_folder_each(
    folder: Callable[[], NewModelFolder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = folder(), folder()
    first.write(saves("first"))
    second.write(saves("second"))
    first.write(saves("first, later"))
    second.write(saves("second, later"))
    assert first.checkpoint == tmp_path / "brain/models/model.pt"
    assert first.checkpoint.read_text() == first.last.read_text() == "first, later"
    assert second.checkpoint == tmp_path / "brain-2/models/model.pt"
    assert second.checkpoint.read_text() == second.last.read_text() == "second, later"
    assert json.loads((second.path / "configs/metadata.json").read_text())["model"]["name"] == "brain-2"
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warned == [f"Another training has made {first.path} meanwhile: this one's is {second.path}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brain", "brain-2"]


def test_a_training_whose_folder_was_removed_makes_it_again(folder: Callable[[], NewModelFolder]) -> None:
    only = folder()
    only.write(saves("first"))
    only.path.rename(only.path.with_name("elsewhere"))
    only.write(saves("later"))
    assert only.path.name == "brain"
    assert only.checkpoint.read_text() == "later"
    assert (only.path / "configs/inference.json").is_file()


def test_a_place_that_cannot_be_written_is_named_before_the_training(
    folder: Callable[[], NewModelFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # for root, no mode forbids anything
    with pytest.raises(PermissionError, match=f"^{tmp_path} cannot be written: name another --model_dir"):
        folder()
