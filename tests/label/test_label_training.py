"""Training on normal images, and what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bundle.label.training import install, possible_rates, split
from scripts.data.datalist import load_datalist
from scripts.files import file_sha256
from scripts.model.calibration import patients_needed
from scripts.model.folder import ModelFolder


def train(client: TestClient, **params: Any) -> Any:
    return client.post("/train/anomaly?run_sync=true", json=params)


def mark(client: TestClient, *images: str) -> None:
    for image in images:
        answer = client.put(f"/datastore/image/info?image={image}", data={"info": json.dumps({"normal": True})})
        assert answer.status_code == 200, answer.text


def about(client: TestClient) -> dict[str, Any]:
    return client.post("/infer/anomaly_segmentation?image=anomalous1&output=json").json()


def test_a_model_trained_on_marked_images_is_served_without_a_restart(
    client: TestClient, model_folder: Path, tmp_path: Path, studies: Path
) -> None:
    before, content = about(client), sorted(path for path in studies.iterdir() if path.suffix == ".gz")
    mark(client, "normal1", "normal2", "normal4")
    answer = train(client, max_epochs=2, val_split=0.4)
    assert answer.status_code == 200, answer.text
    after = about(client)
    assert after["score"] != before["score"]
    models = model_folder / "models"
    assert after["checkpoint_sha256"] == file_sha256(models / "model.pt") != before["checkpoint_sha256"]
    assert answer.json()["checkpoint_sha256"] == after["checkpoint_sha256"]
    datalist = load_datalist(tmp_path / "work" / "training" / "datalist.json")
    groups = {split: [item["group"] for item in datalist[split]] for split in ("training", "validation")}
    assert sorted(groups["training"] + groups["validation"]) == ["normal1", "normal2", "normal4"]
    assert (len(groups["training"]), len(groups["validation"])) == (2, 1)
    calibration = json.loads((models / "calibration.json").read_text())
    assert calibration["scorer"]["checkpoint"] == after["checkpoint_sha256"]
    assert calibration["levels"]["scan"]["rate"] == 0.5  # one patient can promise no less
    assert after["mask_threshold"] == calibration["levels"]["mask"]["threshold"]
    assert after["p_value"] in (0.5, 1.0)
    model = ModelFolder(model_folder).metadata["model"]
    assert model["checkpoint_sha256"] == after["checkpoint_sha256"]
    assert (model["name"], model["modality"]) == (model_folder.name, "CT")
    stats = client.get("/info/").json()["train_stats"]["anomaly"]
    assert (stats["images"], stats["validation"], stats["epochs"]) == (2, 1, 2)
    assert sorted(path for path in studies.iterdir() if path.suffix == ".gz") == content
    assert not [path for path in models.iterdir() if path.name.startswith(".")]


def test_a_training_that_fails_leaves_the_old_model(client: TestClient, model_folder: Path, studies: Path) -> None:
    before = about(client)
    (studies / "normal3.nii.gz").write_bytes(b"no scan")
    answer = train(client, all_images=True)
    assert answer.status_code == 500
    assert "the old model stays" in answer.json()["detail"]
    assert "normal3" in answer.json()["detail"]
    assert about(client) == before


def test_without_marked_images_the_remedy_is_named(client: TestClient) -> None:
    mark(client, "normal1")
    answer = train(client)
    assert answer.status_code == 422
    assert "There are 5 unlabelled images, 1 of them marked as normal: at least 2 are needed" in answer.json()["detail"]
    assert "all_images: true" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"max_epochs": 0}, "max_epochs 0"),
        ({"max_epochs": "many"}, "max_epochs 'many'"),
        ({"val_split": 0}, "val_split 0"),
        ({"all_images": "yes"}, "all_images 'yes'"),
    ],
)
def test_a_wrong_option_of_a_training_is_refused(client: TestClient, params: Any, words: str) -> None:
    answer = train(client, **params)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(("count", "part", "held_out"), [(2, 0.2, 1), (10, 0.2, 2), (3, 0.9, 2), (4, 0.01, 1)])
def test_there_is_always_one_to_train_on_and_one_to_calibrate_on(count: int, part: float, held_out: int) -> None:
    images = [f"{number}" for number in range(count)]
    training, validation = split(images, part)
    assert len(validation) == held_out
    assert sorted(training + validation) == images
    assert split(images, part) == (training, validation)


@pytest.mark.parametrize("patients", [1, 2, 3, 7, 19, 49, 198, 199, 500])
def test_rates_are_the_usual_ones_or_the_lowest_that_so_few_patients_allow(patients: int) -> None:
    rates = possible_rates(patients)
    assert all(patients_needed(rate) <= patients for rate in rates.values())
    assert rates["mask"] == (0.005 if patients >= 199 else 1 / (patients + 1))
    assert rates["scan"] == (0.05 if patients >= 19 else 1 / (patients + 1))


def test_a_model_is_replaced_whole_and_keeps_its_name(tmp_path: Path) -> None:
    new, served = tmp_path / "model", tmp_path / "head CT"
    models = ("models/model.pt", "models/last.pt", "models/calibration.json")
    for folder, text in ((served, "old"), (new, "new")):
        for name in (*models, "configs/inference.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        model = {"name": folder.name, "created": text, "checkpoint_sha256": "0" * 64}
        (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "1", "model": model}))
    (new / "models" / "last.pt").rename(new / "last.pt")

    def kept() -> dict[str, str]:
        return {p.relative_to(served).as_posix(): p.read_text() for p in sorted(served.rglob("*")) if p.is_file()}

    before = kept()
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        install(new, served)
    assert kept() == before
    (new / "last.pt").rename(new / "models" / "last.pt")
    install(new, served)
    after = kept()
    assert {name: after[name] for name in models} == dict.fromkeys(models, "new")
    assert after["configs/inference.json"] == "old"
    metadata = json.loads(after["configs/metadata.json"])
    assert metadata["model"] == {"name": "head CT", "created": "new", "checkpoint_sha256": "0" * 64}
    assert after["docs/README.md"].startswith("# head CT\n")
