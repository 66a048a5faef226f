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

Workflow = Callable[..., ConfigWorkflow]


@pytest.fixture
def export(tmp_path: Path) -> Callable[[str], Path]:
    """``export("model.onnx")``: the path of the exported network of the model folder."""
    kinds = {".ts": "torchscript", ".onnx": "onnx", ".xml": "openvino"}

    def run(name: str) -> Path:
        path = tmp_path / "exported" / name
        assert main(["export", str(tmp_path / "model"), "--format", kinds[path.suffix], "--output", str(path)]) == 0
        return path

    return run


def scores(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "scores.csv").set_index("image").sort_index()


@pytest.mark.parametrize("method", ["rd4ad"], indirect=True)
def test_an_evaluation_and_an_inference_give_the_networks_scores_and_ask_for_a_calibration_of_their_own(
    workflow: Workflow, export: Callable[[str], Path], tiny_dataset: Path, tmp_path: Path, capsys: Any
) -> None:
    workflow("train.json", epochs=1).run()
    model = str(tmp_path / "model")
    rates = [f"--{level}-false-positive-rate=0.5" for level in ("scan", "slice", "mask")]
    assert main(["calibrate", model, *rates]) == 0
    assert main(["evaluate", model, "-o", str(tmp_path / "eager")]) == 0
    expected = scores(tmp_path / "eager")
    for name in ("model.onnx", "model.xml", "model.ts"):
        exported, results, calibration = export(name), tmp_path / name, str(tmp_path / f"{name}.calibration.json")
        words = ["evaluate", model, "--exported", str(exported), "-o", str(results)]
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "was made for other scores than these" in said
        assert f"runtime PyTorch, now {json.loads(exported.with_name(f'{name}.json').read_text())['format']}" in said
        own = ["--exported", str(exported), "--calibration-path", calibration]
        assert main(["calibrate", model, *own, *rates]) == 0
        assert main([*words, "--calibration-path", calibration]) == 0
        columns = ["label", "score"]
        pd.testing.assert_frame_equal(scores(results)[columns], expected[columns], rtol=1e-4)
        ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (results, tmp_path / "eager"))
        assert ours["teachers"] == theirs["teachers"]
        assert ours["metrics"]["image_auroc"] == theirs["metrics"]["image_auroc"]
    image = json.loads(tiny_dataset.read_text())["test"][0]["image"]
    path = str(tiny_dataset.parent / json.loads(tiny_dataset.read_text())["dataset_dir"] / image)
    own = ["--exported", str(tmp_path / "exported" / "model.ts"), "--calibration-path", calibration]
    assert main(["infer", model, path, "-o", str(tmp_path / "out"), *own]) == 0
    (row,) = pd.read_csv(tmp_path / "out" / "scores.csv").to_dict("records")
    (same,) = (row.score for name, row in expected.iterrows() if str(name).endswith(Path(image).name))
    assert row["score"] == pytest.approx(same, rel=1e-4)


@pytest.fixture
def exported(workflow: Workflow, export: Callable[[str], Path]) -> Path:
    """A TorchScript file of PDD after one epoch."""
    workflow("train.json", epochs=1).run()
    return export("model.ts")


def test_only_what_was_exported_is_taken(exported: Path, tmp_path: Path) -> None:
    network = ExportedDetector(exported)
    checkpoint = torch.load(tmp_path / "model" / "models" / "model.pt", weights_only=True)["model"]
    network.load_state_dict(checkpoint)
    assert [teacher["name"] for teacher in network.identities()] == ["test_resnet", "vmamba_pico"]
    assert network.identities() == json.loads(bytes(checkpoint["_extra_state"].tolist()))
    assert network.untrained_teachers() == ["test_resnet", "vmamba_pico"]

    name = next(name for name, value in checkpoint.items() if value.is_floating_point() and value.numel() > 1)
    nudged = {**checkpoint, name: checkpoint[name].clone()}
    nudged[name].view(-1)[0] = torch.nextafter(nudged[name].view(-1)[0], torch.tensor(np.inf))
    with pytest.raises(RuntimeError, match=r"exported from another checkpoint.*python -m bundle export MODEL"):
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
