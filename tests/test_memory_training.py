"""Training by configs/methods/memory.json: one pass, the same from the same seed, and the maps it refers to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

Workflow = Callable[..., ConfigWorkflow]
MEMORY = pytest.mark.parametrize("method", ["memory"], indirect=True)
REFERENCE = {"_target_": "scripts.reference.MapReference", "stride": 4, "patients": 2}


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path / "models" / "model.pt", weights_only=True)


@MEMORY
def test_a_memory_holds_the_training_images_and_is_the_same_from_the_same_seed(
    workflow: Workflow, tmp_path: Path
) -> None:
    for name, seed in (("first", 3), ("same", 3), ("other", 4)):
        folder = str(tmp_path / name)
        workflow("train.json", seed=seed, model_dir=folder, **{"network_def#size": 100}).run()
    first, same, other = (stored(tmp_path / name)["model"]["bank"] for name in ("first", "same", "other"))
    assert first.shape == (100, 48 + 192 + 32 + 64)
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first, other)


@MEMORY
def test_its_folder_is_evaluated_as_any_other(
    workflow: Workflow, scoring: Callable[..., ConfigWorkflow], tmp_path: Path
) -> None:
    workflow("train.json").run()
    evaluation = scoring(tmp_path / "model", "evaluate")
    evaluation.run()
    metrics = json.loads((tmp_path / "model" / "eval" / "test" / "metrics.json").read_text())
    assert metrics["model"]["method"] == "Memory"
    assert {"image_auroc", "pixel_ap"} <= metrics["metrics"].keys()


@MEMORY
def test_the_reference_is_of_maps_that_leave_out_the_own_patient(workflow: Workflow, tmp_path: Path) -> None:
    made = workflow("train.json", reference=REFERENCE)
    made.run()
    get: Any = made.parser.get_parsed_content
    network, dataset = get("network_def").eval(), get("train#dataset")
    items = [dataset[index] for index in range(len(dataset))]
    images = torch.stack([item["image"].as_tensor() for item in items])
    with torch.no_grad():
        maps = network.maps(network.features(images), (64, 64), without=[item["group"] for item in items])
        own = network(images)
    mean = torch.nn.functional.avg_pool2d(maps.mean(0), 4)
    reference = stored(tmp_path / "model")["reference"]
    torch.testing.assert_close(reference["mean"][16], mean, rtol=1e-4, atol=1e-5)
    assert maps.mean() > 10 * own.mean()


def test_students_refer_to_patients_whom_they_were_not_trained_on(workflow: Workflow, tmp_path: Path) -> None:
    made = workflow("train.json", reference=REFERENCE, **{"slices#reference_fraction": 0.25})
    made.run()
    get: Any = made.parser.get_parsed_content
    trained, apart = (
        {item["group"] for item in get(name).data} for name in ("train#dataset", "train#reference#dataset")
    )
    assert (len(trained), len(apart)) == (6, 2)
    assert not trained & apart
    dataset = get("train#reference#dataset")
    images = torch.stack([dataset[index]["image"].as_tensor() for index in range(len(dataset))])
    with torch.no_grad():
        maps = get("network_def").eval()(images)
    mean = torch.nn.functional.avg_pool2d(maps.mean(0), 4)
    reference = stored(tmp_path / "model")["reference"]
    torch.testing.assert_close(reference["mean"][16], mean, rtol=1e-3, atol=1e-4)
    last = torch.load(tmp_path / "model" / "models" / "last.pt", weights_only=True)
    torch.testing.assert_close(last["reference"]["mean"], reference["mean"], rtol=0, atol=0)


@MEMORY
def test_there_is_no_reference_where_none_is_asked_for(workflow: Workflow, tmp_path: Path) -> None:
    workflow("train.json").run()
    assert "reference" not in stored(tmp_path / "model")
