"""Checkpoints: what they hold, that they are written whole or not at all, and what they refuse to be loaded into."""

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.model.checkpoints import RandomState, Restored, load_checkpoint, restore, save_atomically
from scripts.model.provenance import Provenance
from scripts.networks import PDD, RD4AD, SCRD4AD, Teacher
from scripts.transforms import Preprocessing, ScaleToUnitd, Windowedd


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_writer_that_fails_midway_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_atomically({"epoch": 1}, path)

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half a checkp")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"last\.pt: .*No space left on device.*Free space") as caught:
        save_atomically({"epoch": 2}, path)
    assert "--model_dir" in str(caught.value)
    assert load_checkpoint(path) == {"epoch": 1}
    assert files(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_writer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(content: Any, file: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(error):
        save_atomically({"epoch": 1}, tmp_path / "last.pt")
    assert files(tmp_path) == []


def test_a_checkpoint_replaces_the_old_one_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/last.pt"
    for epoch in (1, 2):
        save_atomically({"epoch": epoch, "weights": torch.full((3,), float(epoch))}, path)
    assert load_checkpoint(path)["weights"].tolist() == [2, 2, 2]
    assert files(path.parent) == ["last.pt"]


def test_last_holds_all_that_a_training_goes_on_with_and_no_code(
    workflow: Callable[..., ConfigWorkflow], tmp_path: Path
) -> None:
    training = workflow("train.json", epochs=3, learning_rate=0.01)
    training.run()
    teachers = training.parser.get_parsed_content("network_def").teachers
    last = torch.load(tmp_path / "model/models/last.pt", weights_only=True)
    identities = json.loads(bytes(last["model"]["_extra_state"].tolist()))
    assert [(each["name"], each["sha256"]) for each in identities] == [
        ("test_resnet", teachers[0].sha256),
        ("vmamba_pico", teachers[1].sha256),
    ]
    assert all(key.startswith("distiller.") for key in last["model"] if key != "_extra_state")
    trainable = [p for p in training.parser.get_parsed_content("network_def").parameters() if p.requires_grad]
    assert len(last["optimizer"]["state"]) == len(trainable)
    assert last["optimizer"]["state"][0]["step"] == 12
    assert last["lr_scheduler"]["last_epoch"] == 3
    assert last["lr_scheduler"]["T_max"] == 3
    assert last["trainer"] == {"epoch_length": 4, "iteration": 12, "max_epochs": 3}
    assert {"python", "numpy", "torch"} <= last["random"].keys()
    assert last["preprocessing"]["settings"] == {
        "image_size": 64,
        "keep_aspect_ratio": False,
        "pixel_spacing": None,
        "plane": "axial",
        "neighbours": False,
        "crop_to_foreground": False,
        "bias_correction": False,
        "align": False,
        "intensity": "ScaleToUnitd",
        "intensity_range": [0, 4095],
    }
    assert last["provenance"]["method"] == "PDD"
    assert last["provenance"]["mlflow_run_id"]
    model = torch.load(tmp_path / "model/models/model.pt", weights_only=True)
    assert model.keys() == {"model", "preprocessing", "provenance", "trainer"}
    assert all(torch.equal(value, last["model"][key]) for key, value in model["model"].items())


def test_random_state_survives_a_checkpoint(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), float(np.random.rand()), float(np.random.normal()), torch.rand(1).item()  # noqa: NPY002

    draw()  # leaves NumPy with the second half of a pair of normal numbers
    save_atomically({"random": RandomState().state_dict()}, tmp_path / "last.pt")
    expected = [draw() for _ in range(3)]
    draw()
    RandomState().load_state_dict(load_checkpoint(tmp_path / "last.pt")["random"])
    assert [draw() for _ in range(3)] == expected


def test_no_checkpoint_is_reported_with_its_path_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint .*model.pt.*Train a model first"):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.99], ids=str)
def test_a_truncated_checkpoint_is_reported_with_its_path(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "model.pt"
    save_atomically({"weights": torch.rand(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(ValueError, match="model.pt is damaged or no checkpoint"):
        load_checkpoint(path)


def test_a_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model.pt is damaged or no checkpoint"):
        load_checkpoint(tmp_path / "model.pt")


def test_images_of_other_settings_are_refused_by_name() -> None:
    trained = Preprocessing(Windowedd("image", ["brain"]), image_size=256).state_dict()
    assert trained["settings"]["windows"] == [[40, 80]]
    Preprocessing(Windowedd("image", [[40, 80]]), image_size=256, cache_dir="elsewhere").load_state_dict(trained)
    for ours, text in (
        (Preprocessing(Windowedd("image", ["brain"]), image_size=128), "image_size 256, now 128"),
        (Preprocessing(Windowedd("image", ["bone"]), image_size=256), r"windows \[\[40.0, 80.0\]\], now \[\[600.0"),
        (Preprocessing(ScaleToUnitd("image"), image_size=256), "intensity Windowedd, now ScaleToUnitd"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            ours.load_state_dict(trained)
        assert "plane" not in str(caught.value)


def detector(method: str, decoder_blocks: int = 1) -> PDD | RD4AD | SCRD4AD:
    """All with the same first teacher, as the configs have it."""
    resnet = Teacher("test_resnet", weights="untrained", levels=[1, 2, 3])
    if method == "PDD":
        return PDD(resnet, Teacher("vmamba_pico", weights="untrained", levels=[0, 1, 2]))
    return {"RD4AD": RD4AD, "SCRD4AD": SCRD4AD}[method](resnet, decoder_blocks, 1, "basic")


def told_when_loading(network: Any, path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        restore(path, {"model": network})
    return str(caught.value)


@pytest.mark.parametrize(("trained", "configured"), [("RD4AD", "SCRD4AD"), ("SCRD4AD", "RD4AD")])
def test_a_checkpoint_of_another_method_names_both(tmp_path: Path, trained: str, configured: str) -> None:
    path = tmp_path / "model.pt"
    save_atomically({"model": detector(trained).state_dict(), "provenance": {"method": trained}}, path)
    assert told_when_loading(detector(configured), path) == (
        f"{path} does not fit: its weights, trained as {trained}, are not those of the {configured} that is configured."
        " Take the configs of the model folder that it belongs to."
    )


def test_a_checkpoint_of_another_version_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    network = detector("RD4AD")
    save_atomically({"model": network.state_dict(), "input": {}, "provenance": {}}, path)
    with pytest.raises(ValueError, match="does not hold preprocessing: it is no checkpoint of this version"):
        Restored(path, network, Preprocessing(ScaleToUnitd("image"), 64), Provenance())()


def test_a_checkpoint_that_lacks_a_part_of_an_object_names_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_atomically({"preprocessing": {}}, path)
    preprocessing = Preprocessing(ScaleToUnitd("image"), 32, "axial", tmp_path)
    with pytest.raises(ValueError, match=f"^{path} does not fit: it lacks 'settings'.* Train the model again"):
        restore(path, {"preprocessing": preprocessing})


@pytest.mark.parametrize("method", ["RD4AD", "ours, deeper"])
def test_weights_of_a_network_of_another_size_are_refused_without_their_hundred_names(
    tmp_path: Path, method: str
) -> None:
    path = tmp_path / "model.pt"
    save_atomically({"model": detector("RD4AD", 4).state_dict(), "provenance": {"method": method}}, path)
    text = told_when_loading(detector("RD4AD", 1), path)
    assert text.startswith(f"{path} does not fit: its weights, trained as {method}, are not those of the RD4AD")
    assert "configs of the model folder" in text
    assert "distiller." not in text


def test_another_number_of_teachers_is_told_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_atomically({"model": detector("PDD").state_dict(), "provenance": {"method": "ours"}}, path)
    text = told_when_loading(detector("RD4AD"), path)
    assert "trained with the teachers test_resnet, vmamba_pico, but test_resnet is configured" in text
