"""Train, evaluate and infer with every method that reverses a teacher, by the bundle's configs in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from monai.bundle import ConfigWorkflow
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.networks import RD4AD, SCRD4AD, Teacher
from scripts.networks.detector import Detector

Workflow = Callable[..., ConfigWorkflow]
NETWORKS = {"rd4ad": RD4AD, "scrd4ad": SCRD4AD}


def highest(anomaly_map: np.ndarray) -> float:
    """Mean of the highest 5 %."""
    return float(np.sort(anomaly_map, axis=None)[-round(0.05 * anomaly_map.size) :].mean())


POOLED = {"rd4ad": highest, "scrd4ad": np.mean}  # a map to its score, as the methods' overlays have it

pytestmark = pytest.mark.parametrize("method", ["rd4ad", "scrd4ad"], indirect=True)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def trained(
    workflow: Workflow, scoring: Workflow, checkpoints: Path, method: str, tmp_path: Path
) -> Callable[..., ConfigWorkflow]:
    """``trained("evaluate")``: a config of the model folder of one epoch, initialised and not yet run."""
    path = checkpoints / method
    if not path.exists():
        workflow("train.json", epochs=1, model_dir=str(path)).run()

    def build(verb: str, **overrides: Any) -> ConfigWorkflow:
        return scoring(path, verb, **({"output_dir": str(tmp_path / "out")} | overrides))

    return build


def network(method: str) -> Detector:
    """As ``tests/conftest.py`` configures it."""
    return NETWORKS[method](Teacher("test_resnet", weights="untrained", levels=[1, 2, 3]), 1, 1, "basic")


def first_image(datalist: Path) -> str:
    content = json.loads(datalist.read_text())
    return str(datalist.parent / content["dataset_dir"] / content["test"][0]["image"])


def scores(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "scores.csv").set_index("image").sort_index()


def test_the_metrics_are_those_of_scikit_learn_on_the_scores(
    trained: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    trained("evaluate").run()
    folder = tmp_path / "out"
    summary, table = json.loads((folder / "metrics.json").read_text()), scores(folder)
    assert len(table) == 8
    metrics = summary["metrics"]
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(table["label"], table["score"]), abs=1e-12)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(table["label"], table["score"]), abs=1e-12)
    assert {"pixel_auroc", "pixel_ap", "pixel_aupro"} <= metrics.keys()
    assert summary["model"]["method"] == method.upper()
    assert [teacher["name"] for teacher in summary["teachers"]] == ["test_resnet"]


def test_scores_do_not_depend_on_how_many_slices_make_a_batch(trained: Callable[..., Any], tmp_path: Path) -> None:
    tables = {}
    for size in (1, 8):
        results = tmp_path / f"batches of {size}"
        trained("evaluate", slices_at_once=size, output_dir=str(results)).run()
        tables[size] = scores(results)
    pd.testing.assert_frame_equal(tables[1], tables[8], rtol=1e-5)


def test_an_image_scores_as_its_map_is_pooled_and_the_map_is_the_networks(
    trained: Callable[..., Any], checkpoints: Path, tiny_dataset: Path, tmp_path: Path, method: str
) -> None:
    inference = trained("inference", input=first_image(tiny_dataset))
    inference.run()
    folder = tmp_path / "out"
    (row,) = pd.read_csv(folder / "scores.csv").to_dict("records")
    saved = tifffile.imread(folder / row["map"])

    detector = network(method).eval()
    detector.load_state_dict(torch.load(checkpoints / method / "models" / "model.pt", weights_only=True)["model"])
    (item,) = inference.parser.get_parsed_content("dataset")
    with torch.inference_mode():
        ours = detector(item["image"].as_tensor()[None, ..., 0])[0, 0].numpy()
    assert row["score"] == pytest.approx(POOLED[method](ours), rel=1e-4)
    # A file's map lies as the file does; the network's image is turned.
    np.testing.assert_allclose(np.sort(saved, axis=None), np.sort(ours, axis=None), rtol=1e-3, atol=1e-6)


def test_another_methods_checkpoint_is_refused_by_its_name(
    trained: Callable[..., Any],
    checkpoints: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    method: str,
    raises_because: Callable[..., Any],
) -> None:
    (other,) = {"rd4ad", "scrd4ad"} - {method}
    path = tmp_path / "other.pt"
    evaluation = trained("evaluate", ckpt_path=str(path))
    checkpoint = torch.load(checkpoints / method / "models" / "model.pt", weights_only=True)
    checkpoint["model"] = network(other).state_dict()
    checkpoint["provenance"]["method"] = other.upper()
    torch.save(checkpoint, path)
    with raises_because(ValueError, str(path), f"trained as {other.upper()}, are not those of the {method.upper()}"):
        evaluation.run()
