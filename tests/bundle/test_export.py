"""``python -m bundle export``: the written files by each runtime, what is refused, and what INT8 leaves in float."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

import bundle.export.network
from bundle.__main__ import main
from bundle.export.int8 import FLOAT, training_images
from scripts.model.folder import ModelFolder
from tests.bare_model import ROOT, TRAIN, Bare, bare_model

SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}
Export = Callable[..., int]


@pytest.fixture
def bare(of_method: Callable[..., list[str]], bundle_args: dict[str, Any]) -> Bare:
    """A model of the method."""
    overlays = [str(ROOT / "configs" / name) for name in of_method()]
    return bare_model([TRAIN, *overlays], bundle_args)


@pytest.fixture
def model(bare: Bare, tmp_path: Path) -> Path:
    """Its model folder."""
    return bare.write(tmp_path / "model")


@pytest.fixture
def checkpoint(model: Path) -> Path:
    return model / "models" / "model.pt"


@pytest.fixture
def export(model: Path) -> Export:
    """``export("onnx", "--output", "x.onnx")``: the verb's exit code."""

    def run(kind: str, *options: str) -> int:
        return main(["export", str(model), "--format", kind, *options])

    return run


def mapped(path: Path, images: torch.Tensor) -> np.ndarray:
    """By the runtime alone, without this project's code."""
    if path.suffix == ".ts":
        with torch.no_grad():
            return torch.jit.load(path)(images).numpy()
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(str(path)).run(None, {"image": images.numpy()})[0]
    return openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images.numpy())[0]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("torchscript", "pdd"),
        ("onnx", "pdd"),
        ("openvino", "pdd"),
        ("onnx", "rd4ad"),
        ("onnx", "scrd4ad"),
        ("onnx", "memory"),
    ],
    indirect=["method"],
)
def test_the_file_maps_images_as_the_network_does_in_float64(
    kind: str, export: Export, bare: Bare, checkpoint: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(kind) == 0
    path = checkpoint.with_suffix(SUFFIXES[kind])  # its default name
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    images = torch.rand(5, 3, 64, 64)
    identities = bare.network.identities()
    with torch.no_grad():
        expected = bare.network.double()(images.double()).numpy()
    for batch in (images[:1], images[1:]):
        got, wanted = mapped(path, batch), expected[:1] if len(batch) == 1 else expected[1:]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=0, atol=facts["tolerance"] * expected.std())
    assert facts["tolerance"] == 1e-3
    assert facts["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert facts["method"].upper() == method.upper()
    assert facts["teachers"] == identities
    assert facts["input"]["image_size"] == 64
    assert facts["input"]["intensity_range"] == [0, 4095]
    assert facts["files"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"{facts['deviation']:.2g} standard deviations" in capsys.readouterr().out
    for name in facts["files"]:
        content = path.with_name(name).read_bytes()
        assert str(ROOT).encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content


def test_torchscript_holds_the_config_of_inference_as_it_was_trained(
    export: Export, model: Path, checkpoint: Path, tiny_config: dict[str, Any]
) -> None:
    assert export("torchscript") == 0
    kept = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(checkpoint.with_suffix(".ts"), _extra_files=kept)
    config = json.loads(kept["inference.json"])
    assert config["image_size"] == 64
    assert config["network_def"]["local_teacher"] == tiny_config["network_def#local_teacher"]
    inference = json.loads((ROOT / "configs" / "inference.json").read_text())
    assert config["postprocessing"] == inference["postprocessing"]
    assert config["bundle_root"] == "."  # what was said of this machine is not in it
    metadata = json.loads(kept["metadata.json"])
    assert metadata["model"] == json.loads((model / "configs" / "metadata.json").read_text())["model"]


def test_monai_deploy_finds_the_configs_in_torchscript_and_all_code_that_they_name(
    export: Export, checkpoint: Path
) -> None:
    operators = pytest.importorskip(
        "monai.deploy.operators.monai_bundle_inference_operator", reason="MONAI Deploy is for Linux alone"
    )
    assert export("torchscript") == 0
    parser = operators.get_bundle_config(str(checkpoint.with_suffix(".ts")), ["inference"])
    preprocessing, inferer = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")
    assert [type(part).__name__ for part in preprocessing.flatten().transforms][:2] == ["LoadScand", "ToPlaned"]
    assert type(inferer).__name__ == "MixedPrecisionInferer"
    assert parser.get("_meta_")["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] == "anomaly"


def test_the_deviation_is_the_largest_difference_in_standard_deviations() -> None:
    class Doubled(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 2 * image[:, :1]

    class Off(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 2 * image[:, :1] + (0.25 if len(image) == 3 else 0.0)

    # Uniform in 0..2: a standard deviation of 2 / sqrt(12).
    found = bundle.export.network.deviation(Doubled(), Off(), [3, 64, 64])
    assert found == pytest.approx(0.25 / (2 / np.sqrt(12)), rel=0.02)


def test_a_file_that_deviates_is_not_left_and_an_older_one_stays(
    export: Export, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older = checkpoint.with_suffix(".ts")
    older.write_text("older")
    monkeypatch.setattr(bundle.export.network, "deviation", lambda *_: 0.5)
    assert export("torchscript") == 1
    assert f"deviates by 0.5 standard deviations of the maps, more than 0.001: {older}" in capsys.readouterr().err
    assert older.read_text() == "older"
    assert {path.name for path in checkpoint.parent.iterdir()} == {"model.pt", "model.ts"}


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx", "onnxruntime"), ("onnx", "onnxscript"), ("openvino", "openvino")]
)
def test_a_missing_package_is_named_with_its_extra(
    kind: str, package: str, export: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert export(kind) == 1
    assert f'{package} is not installed: pip install -c constraints.txt -e ".[export]"' in capsys.readouterr().err


def test_tensorrt_without_a_gpu_is_told_so(
    export: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert export("tensorrt") == 1
    assert "TensorRT needs an NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--format", "onnx", "--int8"], "--int8 is offered for --format openvino, not onnx"),
        (["--int8"], "--int8 is offered for --format openvino, not zip"),
        (
            ["--format", "openvino", "--datalist", "mine.json"],
            "--datalist, --dataset-dir and --cache-dir are of --int8",
        ),
        (["--format", "onnx", "--output", "model.ts"], "--output model.ts: a file of --format onnx ends in .onnx"),
        (["--output", "model.onnx"], "--output model.onnx: a file of --format zip ends in .zip"),
        (["--format", "onnx", "--set", "image_size", "128"], "--set is of --config-file"),
        (["--config-file", "train.json"], "give --output FOLDER, no --format and no --int8"),
        (["--config-file", "train.json", "-o", "new", "--format", "zip"], "give --output FOLDER, no --format"),
        (["--config-file", "train.json", "-o", "new", "--int8"], "no --format and no --int8"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: list[str], text: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(model_folder), *options]) == 1
    assert text in capsys.readouterr().err


def test_configs_of_another_input_are_refused(
    export: Export, model: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 128}))
    assert export("onnx") == 1
    assert f"{checkpoint} does not fit: it was trained on images of other settings" in (said := capsys.readouterr().err)
    assert "(image_size 64, now 128)" in said
    checkpoint.unlink()
    assert export("onnx") == 1
    assert f"{model} has no trained model models/model.pt" in capsys.readouterr().err


def test_int8_takes_its_ranges_from_all_normal_training_images_as_they_are(
    model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    images = training_images(ModelFolder(model), {})
    content = json.loads(tiny_dataset.read_text())
    folder = tiny_dataset.parent / content["dataset_dir"]
    expected = [np.asarray(Image.open(folder / item["image"])).astype(float) / 4095 for item in content["training"]]
    assert len(images) == len(expected) == 16
    for image, pixels in zip(images, expected, strict=True):
        assert image.shape == (3, 64, 64)
        np.testing.assert_allclose(np.sort(image[0].numpy(), axis=None), np.sort(pixels, axis=None), atol=1e-6)
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(content | {"training": content["training"][:3], "dataset_dir": str(folder)}))
    assert len(training_images(ModelFolder(model), {"datalist": str(fewer)})) == 3


@pytest.mark.parametrize("method", ["rd4ad", "pdd"], indirect=True)
def test_int8_quantises_convolutions_but_neither_the_map_nor_the_scan(
    export: Export, bare: Bare, checkpoint: Path, method: str
) -> None:
    assert export("openvino", "--int8") == 0
    path = checkpoint.with_name("model_int8.xml")
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert facts["int8"]
    assert facts["tolerance"] is None
    model = openvino.Core().read_model(path)
    fed = [
        target.get_node()
        for node in model.get_ops()
        if node.get_type_name() == "FakeQuantize"
        for target in node.output(0).get_target_inputs()
    ]
    assert {"Convolution", "ConvolutionBackpropData"} <= {node.get_type_name() for node in fed}
    assert not [node.get_friendly_name() for node in fed if re.match("|".join(FLOAT), node.get_friendly_name())]
    in_float = [name for op in model.get_ops() if re.match("|".join(FLOAT), name := op.get_friendly_name())]
    assert any(name.startswith("anomaly_map/") for name in in_float)
    assert any(".op/" in name for name in in_float) == (method == "pdd")
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        expected = bare.network(images).numpy()
    assert np.corrcoef(mapped(path, images).ravel(), expected.ravel())[0, 1] > 0.9
