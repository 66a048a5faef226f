"""An exported network in the place of the one that it was made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow

from bundle.__main__ import main
from scripts.networks.exported import ExportedDetector

ROOT = Path(__file__).parents[2]
Workflow = Callable[..., ConfigWorkflow]


@pytest.fixture
def network_overrides(bundle_args: dict[str, Any]) -> dict[str, Any]:
    return {name: bundle_args.pop(name) for name in list(bundle_args) if name.startswith("network_def")}


@pytest.fixture
def build(workflow: Workflow, network_overrides: dict[str, Any]) -> Workflow:
    """As ``workflow``; with ``exported.json`` behind all other configs, nothing of the network is overridden."""

    def make(*configs: str, **overrides: Any) -> ConfigWorkflow:
        if "exported.json" not in configs:
            return workflow(*configs, **network_overrides, **overrides)
        overlay = json.loads((ROOT / "configs" / "exported.json").read_text())
        return workflow(*(name for name in configs if name != "exported.json"), **(overlay | overrides))

    return make


@pytest.fixture
def export(
    bundle_args: dict[str, Any], network_overrides: dict[str, Any], tmp_path: Path, of_method: Any
) -> Callable[[str], Path]:
    """``export("model.onnx")``: the path of the exported ``models/model.pt``."""
    kinds = {".ts": "torchscript", ".onnx": "onnx", ".xml": "openvino"}

    def run(name: str) -> Path:
        overlay = tmp_path / "tiny.json"
        overlay.write_text(json.dumps(bundle_args | network_overrides))
        path = tmp_path / "models" / name
        configs = [str(ROOT / "configs" / file) for file in of_method("train.json")]
        words = ["--format", kinds[path.suffix], "--output", str(path), "--config_file", *configs, str(overlay)]
        assert main(["export", *words]) == 0
        return path

    return run


def scores(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "scores.csv").set_index("image").sort_index()


@pytest.mark.parametrize("method", ["rd4ad"], indirect=True)
def test_an_evaluation_and_an_inference_give_the_networks_scores(
    build: Workflow, export: Callable[[str], Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    build("train.json", epochs=1).run()
    build("train.json", "evaluate.json", results_dir=str(tmp_path / "eager")).run()
    expected = scores(tmp_path / "eager")
    for name in ("model.onnx", "model.xml", "model.ts"):
        results = tmp_path / name
        more = {"exported_path": str(export(name)), "results_dir": str(results)}
        build("train.json", "evaluate.json", "exported.json", **more).run()
        pd.testing.assert_frame_equal(scores(results), expected, rtol=1e-4)
        ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (results, tmp_path / "eager"))
        assert ours["teachers"] == theirs["teachers"]
        assert ours["metrics"]["image_auroc"] == theirs["metrics"]["image_auroc"]
    image = json.loads(tiny_dataset.read_text())["test"][0]["image"]
    path = str(tiny_dataset.parent / json.loads(tiny_dataset.read_text())["dataset_dir"] / image)
    more = {"exported_path": str(tmp_path / "models" / "model.onnx"), "input": path}
    build("inference.json", "exported.json", **more).run()
    (row,) = pd.read_csv(tmp_path / "eval" / "inference" / "scores.csv").to_dict("records")
    (same,) = (row.score for name, row in expected.iterrows() if str(name).endswith(Path(image).name))
    assert row["score"] == pytest.approx(same, rel=1e-4)


@pytest.fixture
def exported(build: Workflow, export: Callable[[str], Path]) -> Path:
    """A TorchScript file of PDD after one epoch."""
    build("train.json", epochs=1).run()
    return export("model.ts")


def test_only_what_was_exported_is_taken(exported: Path) -> None:
    network = ExportedDetector(exported)
    checkpoint = torch.load(exported.with_name("model.pt"), weights_only=True)["model"]
    network.load_state_dict(checkpoint)
    assert [teacher["name"] for teacher in network.identities()] == ["test_resnet", "vmamba_pico"]
    assert network.identities() == json.loads(bytes(checkpoint["_extra_state"].tolist()))
    assert network.untrained_teachers() == ["test_resnet", "vmamba_pico"]

    name = next(name for name, value in checkpoint.items() if value.is_floating_point() and value.numel() > 1)
    nudged = {**checkpoint, name: checkpoint[name].clone()}
    nudged[name].view(-1)[0] = torch.nextafter(nudged[name].view(-1)[0], torch.tensor(np.inf))
    with pytest.raises(RuntimeError, match=r"exported from another checkpoint.*--ckpt_path"):
        network.load_state_dict(nudged)

    image = torch.rand(1, 3, 64, 64)
    assert network(image).shape == (1, 1, 64, 64)
    with pytest.raises(ValueError, match=r"images of shape \[3, 64, 64\], got \[3, 64, 32\]"):
        network(image[..., :32])
    with pytest.raises(RuntimeError, match="cannot be trained"):
        network.train()(image)

    for options, text in (({"threads": 1}, "OMP_NUM_THREADS"), ({"precision": "bf16"}, "only OpenVINO")):
        with pytest.raises(ValueError, match=text):
            ExportedDetector(exported, **options)
    exported.write_bytes(exported.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"model\.ts does not belong to .*model\.ts\.json"):
        ExportedDetector(exported)
    exported.unlink()
    with pytest.raises(FileNotFoundError, match="python -m bundle export"):
        ExportedDetector(exported)


def test_another_suffix_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"model\.pt2: the name of an exported network ends in \.ts, \.onnx, \.xml"):
        ExportedDetector("model.pt2")
